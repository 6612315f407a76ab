"""What the nodes' weight stores say, read for others: answers to questions, and room that is left."""

from collections.abc import Iterable, Mapping

from warmfleet_api.node_cache import SeenEntry
from warmfleet_api.vocabulary import EntryState, Tier, WeightsProblem
from warmfleet_operator.decide.fleet import Cache
from warmfleet_operator.decide.weights import NeededEntry


def answer(caches: Mapping[str, Cache], asked: NeededEntry) -> SeenEntry | None:
    """Return what a source said of an entry: what any node found, else why one failed, None while all wait.

    What a WeightCache lists has been answered already, to whoever asks with the same credential. More than one node is
    asked where a folder of the nodes may be on another one; so a failure counts only where nobody found it.
    """
    known = listed(caches, asked)
    if known is not None:
        return known
    failure, key = None, asked.key
    for cache in caches.values():
        seen = cache.seen.get(key)
        if seen is None:
            continue
        if seen.state is not EntryState.FAILED:
            if seen.revision and _counts(seen, cache):
                return seen
        elif failure is None and seen.error is not None and _is_told(cache, key):
            failure = seen
    return failure


def listed(caches: Mapping[str, Cache], asked: NeededEntry) -> SeenEntry | None:
    """Return what a WeightCache has frozen of an entry; None: none lists it, or with another credential."""
    return next((found for cache in caches.values() if (found := cache.listed.get(asked)) is not None), None)


def size_bytes(caches: Mapping[str, Cache], key: str) -> int:
    """Return the size of an entry as any node has seen it; 0: nobody has."""
    return max((seen.bytes for seen in _seen(caches.values(), key)), default=0)


def digest_of(caches: Mapping[str, Cache], key: str) -> str:
    """Return the hash of what an entry holds, as the first node that has it whole says."""
    for node in sorted(caches):
        seen = caches[node].seen.get(key)
        if seen is not None and seen.digest:
            return seen.digest
    return ""


def in_memory(cache: Cache, key: str) -> bool:
    """Whether the node has the entry whole in memory."""
    seen = cache.seen.get(key)
    return seen is not None and seen.tier is Tier.MEMORY


def on_disk(cache: Cache, key: str) -> bool:
    """Whether the node has the entry whole on disk, and not in memory."""
    seen = cache.seen.get(key)
    return seen is not None and seen.tier is Tier.DISK


def room_bytes(cache: Cache) -> int:
    """Return how much memory the weights of another runner may take on a node.

    That is what neither an administrator has pinned nor runners of the node use; all else gives way. Never below 0.
    """
    used = {key for view in cache.spec.views for key in view.keys}
    taken = 0
    for wanted in cache.spec.entries:
        if wanted.tier is Tier.MEMORY and (wanted.pinned or wanted.key in used):
            seen = cache.seen.get(wanted.key)
            taken += seen.bytes if seen is not None else 0
    return max(0, cache.spec.memory.bytes - taken)


def is_missing(cache: Cache, entry: NeededEntry) -> bool:
    """Whether a folder of the nodes is not on this one."""
    seen = cache.seen.get(entry.key)
    return (
        bool(entry.folder)
        and seen is not None
        and seen.state is EntryState.FAILED
        and seen.error is not None
        and seen.error.reason is WeightsProblem.MODEL_NOT_FOUND
    )


def _counts(seen: SeenEntry, cache: Cache) -> bool:
    """Whether what a node says of an entry holds: it has it whole, or was asked and still answers for it.

    An agent that died leaves what it said to an earlier question.
    """
    return seen.tier is not Tier.REMOTE or (not cache.trouble and _is_told(cache, seen.key))


def _is_told(cache: Cache, key: str) -> bool:
    return any(entry.key == key for entry in cache.spec.entries)


def _seen(caches: Iterable[Cache], key: str) -> Iterable[SeenEntry]:
    for cache in caches:
        seen = cache.seen.get(key)
        if seen is not None:
            yield seen
