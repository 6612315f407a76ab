"""What a process does to itself: its place in the order of those that want a core."""

import os
import subprocess
import sys

from warmfleet_runtime.processes import ENGINE_NICENESS

SCRIPT = """
import os
from warmfleet_runtime.processes import let_front_go_first
os.setpriority(os.PRIO_PROCESS, 0, {before})
let_front_go_first()
print(os.getpriority(os.PRIO_PROCESS, 0))
"""


def niceness(before: int) -> int:
    """Return that of a process after it let the front go first; it had `before`."""
    command = [sys.executable, "-c", SCRIPT.format(before=before)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)


def test_an_engine_is_nicer_than_the_front() -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness(before=mine) == max(ENGINE_NICENESS, mine) > 0


def test_who_is_nicer_already_stays_so() -> None:
    assert niceness(before=15) == 15
