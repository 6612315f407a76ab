"""Waiting lines: earliest deadline first, and tenants in turn."""

import heapq
from collections.abc import Iterator

from warmfleet_runtime.admission.entry import Entry
from warmfleet_runtime.admission.fairness import Ledger

_SLACK = 16


class Sorted:
    """Ids in the order of their keys, equal keys by id; all operations O(log n), amortised.

    A removed id stays in the heaps until it surfaces, or until more dead than living ones are there.
    """

    def __init__(self) -> None:
        self._keys: dict[int, float] = {}
        self._lowest: list[tuple[float, int]] = []
        self._highest: list[tuple[float, int]] | None = None  # built when first asked for

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys)

    def add(self, item: int, key: float) -> None:
        """Take an id in that is not there."""
        self._keys[item] = key
        heapq.heappush(self._lowest, (key, item))
        if self._highest is not None:
            heapq.heappush(self._highest, (-key, -item))

    def remove(self, item: int) -> None:
        """Take an id out that is there."""
        del self._keys[item]
        most = 2 * len(self._keys) + _SLACK
        if len(self._lowest) > most:
            self._lowest = [(key, each) for each, key in self._keys.items()]
            heapq.heapify(self._lowest)
        if self._highest is not None and len(self._highest) > most:
            self._highest = None

    def first(self) -> tuple[float, int] | None:
        """Return the lowest key and its id."""
        heap = self._lowest
        while heap and self._keys.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0] if heap else None

    def last(self) -> tuple[float, int] | None:
        """Return the highest key and its id."""
        if self._highest is None:
            self._highest = [(-key, -each) for each, key in self._keys.items()]
            heapq.heapify(self._highest)
        heap = self._highest
        while heap and self._keys.get(-heap[0][1]) != -heap[0][0]:
            heapq.heappop(heap)
        return (-heap[0][0], -heap[0][1]) if heap else None


class Line:
    """What waits in one lane of one class: first the tenant served least, of its requests the earliest deadline."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._dues = Sorted()
        self._tenants: dict[str, Sorted] = {}
        self._turns: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._dues)

    def add(self, entry: Entry) -> None:
        """Take a request in; its tenant is in the ledger."""
        tenant = entry.request.tenant
        own = self._tenants.get(tenant)
        if own is None:
            own = self._tenants[tenant] = Sorted()
            heapq.heappush(self._turns, (self._ledger.served(tenant), tenant))
        own.add(entry.id, entry.deadline)
        self._dues.add(entry.id, entry.due)

    def remove(self, entry: Entry) -> None:
        """Take a request out that is in."""
        tenant = entry.request.tenant
        own = self._tenants[tenant]
        own.remove(entry.id)
        self._dues.remove(entry.id)
        if not own:
            del self._tenants[tenant]
            if len(self._turns) > 2 * len(self._tenants) + _SLACK:
                self._turns = [(self._ledger.served(each), each) for each in self._tenants]
                heapq.heapify(self._turns)

    @property
    def due(self) -> float | None:
        """The earliest due of all that wait."""
        first = self._dues.first()
        return first[0] if first else None

    def first(self) -> int | None:
        """Return the id of the one whose turn it is."""
        turns = self._turns
        while turns:
            served, tenant = turns[0]
            own = self._tenants.get(tenant)
            if own is None:
                heapq.heappop(turns)
            elif served < (current := self._ledger.served(tenant)):
                # What a tenant was served only grows, so a stale entry is never too far back.
                heapq.heapreplace(turns, (current, tenant))
            else:
                first = own.first()
                return first[1] if first else None
        return None

    def last_of(self, tenant: str) -> tuple[float, int] | None:
        """Return the latest deadline of a tenant's requests, and whose it is."""
        own = self._tenants.get(tenant)
        return own.last() if own else None
