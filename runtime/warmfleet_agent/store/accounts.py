"""Where a store's bytes are: what entries and drafts take in blocks, and what nobody accounts for."""

import os
import threading
from dataclasses import dataclass

from warmfleet_agent.store.errors import NoSpaceError


@dataclass(frozen=True, slots=True)
class Usage:
    """Where a store's bytes are, as blocks of its file system."""

    capacity_bytes: int
    entry_bytes: int
    draft_bytes: int
    """Reserved for entries that are not whole yet."""
    unlinked_bytes: int
    """Evicted, but still mapped by a reader; or not of this store at all."""
    free_bytes: int
    """What may still be reserved: below the capacity, and there. Below 0 after the store was made smaller."""


class Accounts:
    """What each entry and draft takes. Thread-safe."""

    def __init__(self, root: int, capacity_bytes: int, *, is_alone: bool) -> None:
        """`root`: the store's open folder. `is_alone`: its file system holds nothing else."""
        self._root = root
        self._capacity_bytes = capacity_bytes
        self._is_alone = is_alone
        self._lock = threading.RLock()
        self._entries: dict[str, int] = {}
        self._drafts: dict[str, int] = {}

    def resize(self, capacity_bytes: int) -> None:
        """Take another capacity."""
        with self._lock:
            self._capacity_bytes = capacity_bytes

    def promise(self, key: str, needed_bytes: int) -> None:
        """Count a draft's space before it is taken, so that two at once don't get the same.

        Raises:
            NoSpaceError: it is not free.
        """
        with self._lock:
            usage = self.usage()
            if needed_bytes > usage.free_bytes:
                raise _no_space(key, needed_bytes, usage.free_bytes, usage)
            self._drafts[key] = needed_bytes

    def reserved(self, key: str, allocated_bytes: int) -> None:
        """Count what a draft takes now that its blocks are there: more than was thought, where pages are larger.

        Raises:
            NoSpaceError: that is more than is free.
        """
        with self._lock:
            self._drafts[key] = allocated_bytes
            usage = self.usage()
            if usage.free_bytes < 0:
                raise _no_space(key, allocated_bytes, max(0, usage.free_bytes + allocated_bytes), usage)

    def kept(self, key: str, allocated_bytes: int) -> None:
        """Count a draft that was found."""
        with self._lock:
            self._drafts[key] = allocated_bytes

    def committed(self, key: str, allocated_bytes: int) -> None:
        """Count an entry, and its draft no more."""
        with self._lock:
            self._drafts.pop(key, None)
            self._entries[key] = allocated_bytes

    def dropped(self, key: str) -> None:
        """Count a draft no more."""
        with self._lock:
            self._drafts.pop(key, None)

    def evicted(self, key: str) -> None:
        """Count an entry no more."""
        with self._lock:
            self._entries.pop(key, None)

    def draft_bytes(self, key: str) -> int:
        """Return what a draft takes."""
        with self._lock:
            return self._drafts[key]

    def usage(self) -> Usage:
        """Compare with the file system."""
        with self._lock:
            entry_bytes, draft_bytes = sum(self._entries.values()), sum(self._drafts.values())
            system = os.fstatvfs(self._root)
            used_bytes = (system.f_blocks - system.f_bfree) * system.f_frsize
            unlinked_bytes = max(0, used_bytes - entry_bytes - draft_bytes) if self._is_alone else 0
            below_capacity = self._capacity_bytes - entry_bytes - draft_bytes - unlinked_bytes
            return Usage(
                capacity_bytes=self._capacity_bytes,
                entry_bytes=entry_bytes,
                draft_bytes=draft_bytes,
                unlinked_bytes=unlinked_bytes,
                free_bytes=min(below_capacity, system.f_bavail * system.f_frsize),
            )


def _no_space(key: str, needed_bytes: int, free_bytes: int, usage: Usage) -> NoSpaceError:
    others = f"; {usage.unlinked_bytes} are mapped after eviction or not the store's" if usage.unlinked_bytes else ""
    return NoSpaceError(f"{key} needs {needed_bytes} bytes, {free_bytes} of {usage.capacity_bytes} are free{others}")
