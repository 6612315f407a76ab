"""Lines that tell a waiting person what happens, with seconds, on standard error."""

import sys
import time
from collections.abc import Callable

Say = Callable[[str], None]


def to_stderr() -> Say:
    """A `Say` that prefixes each line with the seconds since this call."""
    start = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - start:6.1f} s  {line}", file=sys.stderr, flush=True)

    return say


def quiet(line: str) -> None:
    """A `Say` for tests: says nothing."""
