"""Work that waits in one class: how much of it is due before a given time, and how much each tenant has."""

from collections import Counter

_CELLS = 64


class Backlog:
    """Sums of work, in `fairness.cost` units; times are rounded to cells of a 64th of the longest wait."""

    def __init__(self, longest_wait_seconds: float) -> None:
        self._cell_seconds = max(longest_wait_seconds, 1.0) / _CELLS
        self._cells: dict[int, float] = {}
        self._counts: Counter[int] = Counter()
        self.of_tenant: Counter[str] = Counter()
        """Work by tenant, rounded to whole units."""
        self.total = 0.0

    def add(self, tenant: str, due: float, work: float) -> None:
        """Count a request that waits."""
        cell = int(due / self._cell_seconds)
        self._cells[cell] = self._cells.get(cell, 0.0) + work
        self._counts[cell] += 1
        self.of_tenant[tenant] += round(work)
        self.total += work

    def remove(self, tenant: str, due: float, work: float) -> None:
        """Count it no more."""
        cell = int(due / self._cell_seconds)
        self._counts[cell] -= 1
        self._cells[cell] -= work
        if not self._counts[cell]:  # nothing is left of rounding errors either
            del self._counts[cell], self._cells[cell]
        self.of_tenant[tenant] -= round(work)
        if not self.of_tenant[tenant]:
            del self.of_tenant[tenant]
        self.total = self.total - work if self._cells else 0.0

    def before(self, due: float) -> float:
        """Return the work due earlier, to a cell."""
        last = int(due / self._cell_seconds)
        return sum(work for cell, work in self._cells.items() if cell <= last)
