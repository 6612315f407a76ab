"""A process that is PID 1 of its container ends when it is told to, from its first moments on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_SIGTERM_BIT = 1 << (signal.SIGTERM - 1)


def _child_of(pid: int) -> int | None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else None


def _handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) & _SIGTERM_BIT)


@pytest.mark.parametrize(
    "module",
    ["warmfleet_operator", "warmfleet_agent", "warmfleet_external_metrics", "warmfleet_router", "warmfleet_runtime"],
)
def test_a_process_that_is_told_to_end_while_it_imports_ends_at_once(module: str) -> None:
    command = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-m", module]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            until = time.monotonic() + 30
            while (child := _child_of(process.pid)) is None or not _handles_sigterm(child):
                assert time.monotonic() < until, "no handler of SIGTERM within 30 s"
                time.sleep(0.001)
            os.kill(child, signal.SIGTERM)
            output, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, output) == (0, "")
