"""What several starts share: a link, or the cores of a node. Each gets an equal part of it, up to what one can take."""

from collections.abc import Callable
from dataclasses import dataclass, field

from warmfleet_emulator.clock import Clock, Event

_NOTHING = 1e-6
"""Bytes or seconds that count as done: rounding."""


@dataclass(slots=True)
class _Flow:
    left: float
    done: Callable[[], None]
    total: float


@dataclass(slots=True)
class Shared:
    """A resource with a capacity per second, in bytes or seconds of processors."""

    clock: Clock
    capacity: float
    most: float = float("inf")
    """What one flow takes at most per second."""
    carried: float = 0.0
    """All it has carried so far."""
    _flows: dict[str, _Flow] = field(default_factory=dict)
    _since: float = 0.0
    _next: Event | None = None

    def begin(self, key: str, amount: float, done: Callable[[], None]) -> None:
        """Begin to carry an amount; `done` is called when all of it was carried.

        Raises:
            ValueError: something of that key is being carried.
        """
        if key in self._flows:
            raise ValueError(f"{key} is being carried already")
        self._settle()
        self._flows[key] = _Flow(max(amount, 0.0), done, amount)
        self._arm()

    def end(self, key: str) -> None:
        """Carry it no more, if it still is."""
        self._settle()
        self._flows.pop(key, None)
        self._arm()

    def carried_of(self, key: str) -> float:
        """Return how much of that was carried so far."""
        self._settle()
        return self._flows[key].total - self._flows[key].left

    @property
    def rate(self) -> float:
        """What each flow gets per second."""
        return min(self.most, self.capacity / max(1, len(self._flows)))

    def __contains__(self, key: str) -> bool:
        return key in self._flows

    def _settle(self) -> None:
        passed = self.clock.now - self._since
        self._since = self.clock.now
        if passed <= 0:
            return
        moved = self.rate * passed
        for flow in self._flows.values():
            self.carried += min(moved, flow.left)
            flow.left = max(0.0, flow.left - moved)

    def _arm(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._flows:
            least = min(flow.left for flow in self._flows.values())
            self._next = self.clock.later(least / self.rate, self._finish)

    def _finish(self) -> None:
        self._settle()
        tolerance = max(_NOTHING, self.rate * 1e-9)
        done = [key for key, flow in self._flows.items() if flow.left <= tolerance]
        callbacks = [self._flows.pop(key).done for key in done]
        self._arm()
        for callback in callbacks:
            callback()
