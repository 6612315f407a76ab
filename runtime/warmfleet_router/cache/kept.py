"""All tiers as one: what is found further out comes nearer, what is kept is kept in all of them."""

import time

from warmfleet_router.cache import entry as entries
from warmfleet_router.cache.disk_tier import DiskTier
from warmfleet_router.cache.entry import Entry
from warmfleet_router.cache.guard import Guard, Tier
from warmfleet_router.cache.memory import Memory, Shelf
from warmfleet_router.cache.metrics import CacheMetrics


class Kept:
    """Memory, and behind it the tiers outside of this process. Made inside the running loop."""

    def __init__(self, memory_bytes: int, max_answer_bytes: int, outer: list[Tier], metrics: CacheMetrics) -> None:
        self.max_answer_bytes = max_answer_bytes
        self._memory = Memory(memory_bytes)
        self._guards = tuple(Guard(each, metrics) for each in outer)
        metrics.levels["memory"] = lambda: self._memory.size_bytes, lambda: self._memory.evicted
        for each in outer:
            if isinstance(each, DiskTier):
                metrics.levels["disk"] = lambda disk=each: disk.size_bytes, lambda disk=each: disk.evicted  # type: ignore[misc]

    def near(self, shelf: Shelf, key: bytes, max_age_seconds: float | None) -> Entry | None:
        """Return what memory has."""
        now = time.time()
        found = self._memory.get(shelf, key, now)
        return found if found is not None and found.is_fresh(now, max_age_seconds) else None

    async def far(
        self, shelf: Shelf, key: bytes, max_age_seconds: float | None, max_entries: int
    ) -> tuple[Entry, str] | None:
        """Return what the outer tiers have, and which of them."""
        for guard in self._guards:
            data = await guard.get(key)
            if data is None:
                continue
            found, now = entries.decode(data, key), time.time()
            if found is None or not found.is_fresh(now):
                guard.drop(key)
            elif found.is_fresh(now, max_age_seconds):
                self._memory.put(shelf, found, max_entries)
                return found, guard.name
        return None

    def put(self, shelf: Shelf, entry: Entry, max_entries: int) -> None:
        """Keep an answer."""
        self._memory.put(shelf, entry, max_entries)
        if self._guards:
            data = entries.encode(entry)
            for guard in self._guards:
                guard.put(entry.key, data, entry.expires_at - time.time())

    def forget(self, model_uid: str) -> None:
        """A model is gone: nobody will ask for its answers again."""
        self._memory.forget(model_uid)

    async def flushed(self) -> None:
        """Wait until the outer tiers have what was put."""
        for guard in self._guards:
            await guard.flushed()

    async def close(self) -> None:
        """Close all tiers."""
        for guard in self._guards:
            await guard.close()
