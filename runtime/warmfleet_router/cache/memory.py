"""The first tier: answers in this process, least lately used first out, bounded by count per shelf and by bytes. Pure.

A shelf is what one tenant has of one model. Where all together are too large the largest shelf gives way, so a tenant
that asks for much takes nothing from others.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from warmfleet_router.cache.entry import Entry

Shelf = tuple[str, str]
"""Tenant, and uid of the model."""


@dataclass(slots=True)
class _Shelf:
    entries: OrderedDict[bytes, Entry] = field(default_factory=OrderedDict)
    size_bytes: int = 0

    def drop(self, key: bytes | None = None) -> int:
        """Take out an entry, by default the one used least lately; return its bytes."""
        entry = self.entries.popitem(last=False)[1] if key is None else self.entries.pop(key)
        self.size_bytes -= entry.size_bytes
        return entry.size_bytes


@dataclass(slots=True)
class Memory:
    """Entries by shelf and key."""

    max_bytes: int
    size_bytes: int = 0
    evicted: int = 0
    """How many gave way to others so far."""
    _shelves: dict[Shelf, _Shelf] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(each.entries) for each in self._shelves.values())

    def get(self, shelf: Shelf, key: bytes, now: float) -> Entry | None:
        """Return an entry that is fresh; one that is not is dropped. `now` in Unix seconds."""
        found = self._shelves.get(shelf)
        entry = found.entries.get(key) if found is not None else None
        if found is None or entry is None:
            return None
        if not entry.is_fresh(now):
            self._drop(shelf, found, key)
            return None
        found.entries.move_to_end(key)
        return entry

    def put(self, shelf: Shelf, entry: Entry, max_entries: int) -> None:
        """Keep an entry, and let others go for it."""
        if entry.size_bytes > self.max_bytes:
            return
        found = self._shelves.setdefault(shelf, _Shelf())
        if entry.key in found.entries:
            self.size_bytes -= found.drop(entry.key)
        found.entries[entry.key] = entry
        found.size_bytes += entry.size_bytes
        self.size_bytes += entry.size_bytes
        while len(found.entries) > max_entries:
            self._evict(shelf, found)
        while self.size_bytes > self.max_bytes:
            largest = max(self._shelves, key=lambda each: self._shelves[each].size_bytes)
            self._evict(largest, self._shelves[largest])

    def forget(self, model_uid: str) -> None:
        """Drop all of a model."""
        for shelf in [each for each in self._shelves if each[1] == model_uid]:
            self.size_bytes -= self._shelves.pop(shelf).size_bytes

    def _evict(self, shelf: Shelf, found: _Shelf) -> None:
        self.evicted += 1
        self._drop(shelf, found)

    def _drop(self, shelf: Shelf, found: _Shelf, key: bytes | None = None) -> None:
        self.size_bytes -= found.drop(key)
        if not found.entries:
            del self._shelves[shelf]
