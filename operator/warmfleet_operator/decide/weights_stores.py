"""The nodes' weight stores as placement sees them: which may hold a model's weights, and which has them nearest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from warmfleet_api.node_cache import NodeCacheSpec
from warmfleet_api.vocabulary import EntryState, Tier
from warmfleet_operator.decide.caches_view import room_bytes
from warmfleet_operator.decide.fleet import Cache
from warmfleet_operator.decide.remembered import MOST, until_forgotten
from warmfleet_operator.decide.weights import NeededEntry, size_bytes

_NOT_THERE = 4
_ON_ITS_WAY = 3
_RANKS = {Tier.MEMORY: 1, Tier.DISK: 2}


class CacheKind(NamedTuple):
    """What decides whether a store may ever hold some weights. A fleet has few kinds: one per WeightCache."""

    memory_bytes: int
    file_roots: tuple[str, ...]


def kind_of(cache: Cache) -> CacheKind:
    """Return the kind of a store."""
    return CacheKind(cache.spec.memory.bytes, tuple(cache.spec.file_roots))


_known: dict[str, tuple[NodeCacheSpec, CacheKind]] = until_forgotten({})
"""As in `remembered.py`, and for every node in every round: so without its detours."""


def _kind_once(name: str, cache: Cache) -> CacheKind:
    known = _known.get(name)
    if known is None or known[0] is not cache.spec:
        if len(_known) >= MOST:
            _known.clear()
        known = _known[name] = cache.spec, kind_of(cache)
    return known[1]


def is_below(folder: str, roots: Iterable[str]) -> bool:
    """Whether a folder lies below one of the roots, and has no way out of it."""
    path = PurePosixPath(folder)
    return ".." not in path.parts and any(PurePosixPath(root) in path.parents for root in roots)


def may_hold(entry: NeededEntry, cache: Cache) -> bool:
    """Whether the node's administrator lets it read what the entry is copied from."""
    return not entry.folder or is_below(entry.folder, cache.spec.file_roots)


@dataclass(slots=True)
class Stores:
    """One round's view of the weight stores."""

    caches: Mapping[str, Cache]
    by_node: Mapping[str, CacheKind] = field(init=False)
    """The kind of each."""
    kinds: frozenset[CacheKind] = field(init=False)
    """All that there are."""
    _room: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.by_node = {name: _kind_once(name, cache) for name, cache in self.caches.items()}
        self.kinds = frozenset(self.by_node.values())

    def kinds_for(self, entries: Sequence[NeededEntry]) -> frozenset[CacheKind] | None:
        """Return the kinds of stores that may hold all the entries together; None where there is nothing to hold."""
        if not entries:
            return None
        size, folders = size_bytes(entries), [entry.folder for entry in entries if entry.folder]
        return frozenset(
            kind
            for kind in self.kinds
            if size <= kind.memory_bytes and all(is_below(folder, kind.file_roots) for folder in folders)
        )

    def suits(self, node: str, kinds: frozenset[CacheKind] | None) -> bool:
        """Whether the node's store is of one of these kinds; any node suits what needs none."""
        return kinds is None or self.by_node.get(node) in kinds

    def distance(self, node: str, entries: Sequence[NeededEntry]) -> tuple[int, ...]:
        """Sort nodes by how near the weights are: in memory, on disk, on their way, elsewhere; then by open memory.

        Behind all others is one whose agent does not work, or that failed to get these weights. Without entries, for a
        runner that any model may come to, a node with a store is before one without.
        """
        cache = self.caches.get(node)
        if cache is None:
            return (True,)
        if not entries:
            return (bool(cache.trouble),)
        rank, failed = _RANKS[Tier.MEMORY], False
        for entry in entries:  # no generators: this runs once per start and node
            key = entry.key
            seen = cache.seen.get(key)
            failed = failed or (seen is not None and seen.state is EntryState.FAILED)
            there = _RANKS.get(seen.tier) if seen is not None else None
            rank = max(rank, there or (_ON_ITS_WAY if key in cache.transfers else _NOT_THERE))
        return (bool(cache.trouble), failed, rank, 0 if rank == _RANKS[Tier.MEMORY] else -self._open_bytes(node))

    def fetched_from(self, node: str, entries: Sequence[NeededEntry]) -> Tier:
        """Return the farthest tier from which entries have to come into memory of a node; Memory: from none."""
        cache, farthest = self.caches.get(node), Tier.MEMORY
        if cache is None:
            return farthest
        for entry in entries:
            seen = cache.seen.get(entry.key)
            if seen is None or seen.tier not in _RANKS:
                return Tier.REMOTE
            if seen.tier is Tier.DISK:
                farthest = Tier.DISK
        return farthest

    def _open_bytes(self, node: str) -> int:
        if node not in self._room:
            self._room[node] = room_bytes(self.caches[node])
        return self._room[node]
