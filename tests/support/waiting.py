"""Bounded waits that say what they waited for and what was there instead."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")
POLL_SECONDS = 0.25
PATIENCE = 4.0
"""How many times its bound a wait goes on for before it fails.

Bounds are written for two cores that have nothing else to do. Shared ones took up to three times as long, and a bound
only ends what hangs: what must be quick is measured by a benchmark.
"""


def wait_for(
    what: str,
    condition: Callable[[], Found | None],
    bound_seconds: float,
    explain: Callable[[], str] = lambda: "",
    *,
    poll_seconds: float = POLL_SECONDS,
) -> Found:
    """Poll `condition` until it returns something true, and return that.

    Raises:
        AssertionError: `PATIENCE` times `bound_seconds` passed; the message carries `explain()`.
    """
    bound_seconds *= PATIENCE
    deadline = time.monotonic() + bound_seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {bound_seconds:g} s in vain: {what}\n{explain()}")
        time.sleep(poll_seconds)


def stays_true(what: str, condition: Callable[[], bool], seconds: float, explain: Callable[[], str]) -> None:
    """Poll `condition` for `seconds` and fail as soon as it is false."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), f"did not stay so for {seconds:g} s: {what}\n{explain()}"
        time.sleep(POLL_SECONDS)
