"""Whether the weights of a changed spec are near before its former spec gives up a place. Pure.

`rollout.maxUnavailable` lets a replica of the former spec go before its successor serves. It goes no sooner than the
successor's weights are on its node, in memory, or on disk where memory can't hold both specs: so the model is away for
a start and not for a fetch, and a revision that nobody can fetch takes nobody's place. `caches.py` has them brought.
"""

from collections.abc import Mapping

from warmfleet_api.node_cache import TierSpec
from warmfleet_api.vocabulary import Tier
from warmfleet_operator.decide.caches_view import in_memory, on_disk
from warmfleet_operator.decide.canary import unavailable
from warmfleet_operator.decide.fleet import Cache, Model
from warmfleet_operator.decide.weights import size_bytes


def gives_places(model: Model) -> bool:
    """Whether replicas of a former spec may go before their successors serve."""
    return model.stable is None and unavailable(model) > 0


def is_preloaded(model: Model, node: str, caches: Mapping[str, Cache]) -> bool:
    """Whether a node has what the spec reads as near as it can while the former spec is still there."""
    if not model.weights:
        return True
    cache = caches.get(node)
    if cache is None or cache.trouble or not model.knows_weights:
        return False
    if all(in_memory(cache, entry.key) for entry in model.weights):
        return True
    if _fits(model, cache, cache.spec.memory, Tier.MEMORY):
        return False
    there = all(in_memory(cache, entry.key) or on_disk(cache, entry.key) for entry in model.weights)
    return there or not _fits(model, cache, cache.spec.disk, Tier.DISK)


def _fits(model: Model, cache: Cache, tier: TierSpec | None, kind: Tier) -> bool:
    """Whether a tier has room for the weights beside all else that the node is told to keep there."""
    if tier is None:
        return False
    own = {entry.key for entry in model.weights}
    others = (entry.key for entry in cache.spec.entries if entry.tier is kind and entry.key not in own)
    taken = sum(seen.bytes for key in others if (seen := cache.seen.get(key)) is not None)
    return taken + size_bytes(model.weights) <= tier.bytes
