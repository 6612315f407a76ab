"""When weights will be in memory of a node: from where they are, what is on its way, and how fast the node's links are.

A link carries one entry after another in this account: entries that share it end no sooner together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from warmfleet_api.vocabulary import Tier
from warmfleet_operator.decide.fleet import Cache
from warmfleet_operator.decide.start_budget import ASSUMED_BYTES_PER_SECOND, ASSUMED_REMOTE_BYTES_PER_SECOND
from warmfleet_operator.decide.weights import NeededEntry, size_bytes


def weights_seconds(entries: Sequence[NeededEntry], cache: Cache | None) -> float:
    """Return in how long all entries are in memory of the node, if nothing else is asked of it from now on.

    Where the node has no store that tells, all comes from afar at an assumed speed.
    """
    if cache is None:
        return size_bytes(entries) / ASSUMED_REMOTE_BYTES_PER_SECOND
    if len(entries) == 1 and not cache.transfers:  # as usual, and asked once per node and start: no account is needed
        (entry,) = entries
        seen = cache.seen.get(entry.key)
        tier = seen.tier if seen is not None else Tier.REMOTE
        if tier is Tier.MEMORY:
            return 0.0
        return entry.bytes / _bytes_per_second(cache, Tier.DISK if tier is Tier.DISK else Tier.REMOTE)
    if are_in_memory(entries, cache):
        return 0.0
    return Links(cache).add(entries)


def are_in_memory(entries: Iterable[NeededEntry], cache: Cache) -> bool:
    """Whether nothing of it is still to come."""
    for entry in entries:  # no generator: this is asked thousands of times in a round
        seen = cache.seen.get(entry.key)
        if seen is None or seen.tier is not Tier.MEMORY:
            return False
    return True


def why_never(entries: Sequence[NeededEntry], cache: Cache) -> str:
    """Return why nobody can tell when the entries are in memory of the node, in words; empty where somebody can."""
    missing = [entry for entry in entries if entry.key not in cache.transfers and not are_in_memory((entry,), cache)]
    for entry in missing:
        seen = cache.seen.get(entry.key)
        if seen is not None and seen.error is not None:
            return f"{entry.uri} on {cache.node}: {seen.error.message}"
    if missing and cache.trouble:
        return f"the weight store of {cache.node} does not work: {cache.trouble}"
    own = {entry.key for entry in entries}
    used = {key for view in cache.spec.views for key in view.keys} - own
    kept = (each.key for each in cache.spec.entries if each.key not in own and (each.pinned or each.key in used))
    taken = sum(seen.bytes for key in kept if (seen := cache.seen.get(key)) is not None)
    if missing and size_bytes(missing) > cache.spec.memory.bytes - taken:
        return f"the weight store of {cache.node} is full of weights that others read"
    return ""


@dataclass(slots=True)
class Links:
    """The links of one node into its memory, with what they are to carry. Grows as starts are added, in their order."""

    cache: Cache
    _arrivals: dict[str, float] = field(default_factory=dict)
    """Key → in how many seconds the entry is in memory."""
    _busy: dict[Tier, float] = field(default_factory=lambda: {Tier.REMOTE: 0.0, Tier.DISK: 0.0})
    """For how long each link carries what is on its way, or was added."""

    def __post_init__(self) -> None:
        for key, transfer in self.cache.transfers.items():
            if transfer.source not in self._busy:
                continue
            left = max(0, transfer.bytes - transfer.done_bytes)
            # What has not moved yet, or moves at a crawl for a moment, comes as fast as others did.
            speed = transfer.bytes_per_second or _bytes_per_second(self.cache, transfer.source)
            seconds = left / speed
            if transfer.target is Tier.DISK:
                seconds += transfer.bytes / _bytes_per_second(self.cache, Tier.DISK)
            self._arrivals[key] = seconds
            self._busy[transfer.source] = max(self._busy[transfer.source], left / speed)

    def add(self, entries: Iterable[NeededEntry], begin_seconds: float = 0.0) -> float:
        """Ask for entries from then on; return in how many seconds from now all of them are in memory."""
        return max((self._arrival(entry, begin_seconds) for entry in entries), default=0.0)

    def _arrival(self, entry: NeededEntry, begin_seconds: float) -> float:
        key = entry.key
        seen = self.cache.seen.get(key)
        if seen is not None and seen.tier is Tier.MEMORY:
            return 0.0
        if key not in self._arrivals:
            source = seen.tier if seen is not None and seen.tier in self._busy else Tier.REMOTE
            begin = max(begin_seconds, self._busy[source])
            self._arrivals[key] = self._busy[source] = begin + entry.bytes / _bytes_per_second(self.cache, source)
        return self._arrivals[key]


def _bytes_per_second(cache: Cache, source: Tier) -> float:
    status, limit = cache.status, cache.spec.bytes_per_second
    if source is Tier.DISK:
        return (status.disk.bytes_per_second if status.disk is not None else 0) or ASSUMED_BYTES_PER_SECOND
    measured = status.remote_bytes_per_second or ASSUMED_REMOTE_BYTES_PER_SECOND
    return min(measured, limit) if limit else measured
