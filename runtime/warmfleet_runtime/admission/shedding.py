"""Tenants by how much they wait: when a queue is full, the one with most requests gives way."""

from collections import Counter


class Longest:
    """Tenants by how many of their requests wait; all operations O(1)."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._tenants: dict[int, dict[str, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, tenant: str) -> int:
        """Requests of a tenant that wait."""
        return self._counts.get(tenant, 0)

    def add(self, tenant: str) -> None:
        """One more waits."""
        self._move(tenant, self.count(tenant) + 1)

    def remove(self, tenant: str) -> None:
        """One less waits."""
        self._move(tenant, self.count(tenant) - 1)

    def first(self) -> str | None:
        """Return the tenant with most."""
        return next(iter(self._tenants[self._most]), None) if self._most else None

    def _move(self, tenant: str, count: int) -> None:
        before = self.count(tenant)
        if before:
            del self._tenants[before][tenant]
            if not self._tenants[before]:
                del self._tenants[before]
        if count:
            self._counts[tenant] = count
            self._tenants.setdefault(count, {})[tenant] = None
        else:
            del self._counts[tenant]
        self._most = max(self._most, count)
        while self._most and self._most not in self._tenants:  # by one at most: counts change by one
            self._most -= 1
