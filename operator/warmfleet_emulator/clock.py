"""Simulated time: what happens when, and nothing in between."""

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

SAME_INSTANT_SECONDS = 1e-9
"""Events that are closer happen at once: sums of floats are not exact."""


@dataclass(slots=True)
class Event:
    """Something that will happen, unless it is cancelled."""

    time: float
    act: Callable[[], None]
    is_cancelled: bool = False

    def cancel(self) -> None:
        """Let it not happen."""
        self.is_cancelled = True


@dataclass(slots=True)
class Clock:
    """Seconds since the begin of the simulation, and what is to come."""

    now: float = 0.0
    _events: list[tuple[float, int, Event]] = field(default_factory=list)
    _count: "itertools.count[int]" = field(default_factory=itertools.count)

    def at(self, time: float, act: Callable[[], None]) -> Event:
        """Let something happen at a time, now at the earliest; of equal times in the order of the calls."""
        event = Event(max(time, self.now), act)
        heapq.heappush(self._events, (event.time, next(self._count), event))
        return event

    def later(self, seconds: float, act: Callable[[], None]) -> Event:
        """Let something happen in so many seconds."""
        return self.at(self.now + seconds, act)

    def advance(self, until: float) -> bool:
        """Let all that happens at the next instant happen; return whether there was one, not later than `until`."""
        while self._events and self._events[0][2].is_cancelled:
            heapq.heappop(self._events)
        if not self._events or self._events[0][0] > until:
            return False
        self.now = self._events[0][0]
        while self._events and self._events[0][0] <= self.now + SAME_INSTANT_SECONDS:
            _, _, event = heapq.heappop(self._events)
            if not event.is_cancelled:
                event.act()
        return True
