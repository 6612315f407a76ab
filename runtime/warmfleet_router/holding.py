"""Requests that are held for one model, in the order of their deadlines, bounded by count and bytes. Pure."""

import heapq
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


class FullError(Exception):
    """No more requests are held; the message says which bound is reached."""


@dataclass(slots=True, eq=False)
class Held(Generic[T]):
    """One request that is held."""

    deadline: float
    """Monotonic seconds: later it is not held any more."""
    order: int
    size_bytes: int
    what: T
    is_held: bool = True

    def __lt__(self, other: "Held[T]") -> bool:
        return (self.deadline, self.order) < (other.deadline, other.order)


@dataclass(slots=True)
class Budget:
    """Bytes that all models' held requests may take together."""

    bytes_left: int


@dataclass(slots=True)
class Holding(Generic[T]):
    """The held requests of one model."""

    max_requests: int
    max_bytes: int
    budget: Budget
    size_bytes: int = 0
    _count: int = 0
    _order: int = 0
    _heap: list[Held[T]] = field(default_factory=list)

    def __len__(self) -> int:
        return self._count

    def enter(self, deadline: float, size_bytes: int, what: T) -> Held[T]:
        """Hold a request.

        Raises:
            FullError: a bound is reached.
        """
        if self._count >= self.max_requests:
            raise FullError(f"{self._count} requests wait for it already, the most that are held")
        if self.size_bytes + size_bytes > self.max_bytes:
            raise FullError(f"requests of {self.size_bytes} bytes wait for it already, and {self.max_bytes} are held")
        if size_bytes > self.budget.bytes_left:
            raise FullError("requests for other models take all memory there is to hold any")
        self._order += 1
        held = Held(deadline, self._order, size_bytes, what)
        heapq.heappush(self._heap, held)
        self._count += 1
        self.size_bytes += size_bytes
        self.budget.bytes_left -= size_bytes
        return held

    def first(self) -> Held[T] | None:
        """Return the one with the earliest deadline; it stays."""
        while self._heap and not self._heap[0].is_held:
            heapq.heappop(self._heap)
        return self._heap[0] if self._heap else None

    def leave(self, held: Held[T]) -> None:
        """Hold a request no more; nothing happens if it left already."""
        if not held.is_held:
            return
        held.is_held = False
        self._count -= 1
        self.size_bytes -= held.size_bytes
        self.budget.bytes_left += held.size_bytes
        if len(self._heap) > 2 * self._count + 16:
            # Those that left from the middle must not stay in memory behind one that waits for long.
            self._heap = [each for each in self._heap if each.is_held]
            heapq.heapify(self._heap)

    def before(self, moment: float) -> list[Held[T]]:
        """Return those whose deadline is earlier than a moment."""
        return sorted(each for each in self._heap if each.is_held and each.deadline < moment)
