"""Which bytes of a file are there: half-open ranges, merged and in order."""

from bisect import bisect_left, bisect_right

Range = tuple[int, int]


class Ranges:
    """A set of bytes. Not thread-safe."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __iter__(self) -> "zip[Range]":
        return zip(self._starts, self._ends, strict=True)

    def add(self, start: int, end: int) -> None:
        """Add the bytes from `start` up to, not including, `end`."""
        if start >= end:
            return
        # Neighbours that touch the new range, at either side, become one with it.
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    @property
    def bytes(self) -> int:
        """How many there are."""
        return sum(self._ends) - sum(self._starts)

    def missing(self, size: int) -> tuple[Range, ...]:
        """Return the ranges below `size` that are not there."""
        found, position = [], 0
        for start, end in self:
            if start >= size:
                break
            if start > position:
                found.append((position, start))
            position = end
        if position < size:
            found.append((position, size))
        return tuple(found)
