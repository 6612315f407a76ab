"""Bounds on waiting, looked at a few times a second: cheaper than a timer for each of many thousand connections."""

import asyncio
import math
from typing import Protocol
from weakref import WeakKeyDictionary

SECONDS = 0.1
"""Between two looks: so much later than it was due is whoever waits told."""
NEVER = math.inf


class Bounded(Protocol):
    """Waits for something, until a moment."""

    due: float
    """Of the loop's time; `NEVER`: it waits for nothing."""

    def overdue(self, now: float) -> None:
        """It has waited for long enough; called again at the next look if it leaves `due` as it is."""


class Sweep:
    """All that waits in one loop. It has to `add` and to `discard` itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._all: set[Bounded] = set()
        self._next: asyncio.TimerHandle | None = None

    def add(self, each: Bounded) -> None:
        """Look at one more."""
        self._all.add(each)
        if self._next is None:
            self._next = self._loop.call_later(SECONDS, self._look)

    def discard(self, each: Bounded) -> None:
        """Look at it no more."""
        self._all.discard(each)

    def _look(self) -> None:
        self._next = self._loop.call_later(SECONDS, self._look) if self._all else None
        now = self._loop.time()
        for each in [each for each in self._all if each.due <= now]:
            each.overdue(now)


_sweeps: WeakKeyDictionary[asyncio.AbstractEventLoop, Sweep] = WeakKeyDictionary()


def sweep_of(loop: asyncio.AbstractEventLoop) -> Sweep:
    """Return the sweep of a loop, the same each time."""
    found = _sweeps.get(loop)
    if found is None:
        found = _sweeps[loop] = Sweep(loop)
    return found
