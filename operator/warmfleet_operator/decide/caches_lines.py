"""The models of a WeightCache's list: which state of each is frozen, and which fit into memory together."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from warmfleet_api import quantity
from warmfleet_api.weight_cache import CachedModel, WeightCacheStatus
from warmfleet_api.weights import entry_key
from warmfleet_operator.decide.caches_groups import Group
from warmfleet_operator.decide.caches_view import answer, digest_of, size_bytes
from warmfleet_operator.decide.fleet import Cache
from warmfleet_operator.decide.weights import NeededEntry


@dataclass(frozen=True, slots=True)
class Line:
    """One model of a WeightCache's list, as far as it is known."""

    model: CachedModel
    entry: NeededEntry
    fits: bool = True
    """Whether it fits into memory beside those before it."""


def lines_of(group: Group, caches: Mapping[str, Cache], nodes: Collection[str]) -> tuple[Line, ...]:
    """Return the models of a WeightCache as far as they are known, and which of the preloaded fit together."""
    own = {node: caches[node] for node in nodes if node in caches}
    lines = [Line(model, _entry_of(model, group.status, own)) for model in group.spec.models]
    free = quantity.to_bytes(group.spec.memory.size)
    too_much = set()
    for line in sorted(lines, key=lambda each: each.model.priority.rank):
        if line.model.preload and line.entry.is_known:
            if line.entry.bytes <= free:
                free -= line.entry.bytes
            else:
                too_much.add(line.model.name)
    return tuple(Line(line.model, line.entry, line.model.name not in too_much) for line in lines)


def _entry_of(model: CachedModel, status: WeightCacheStatus, caches: Mapping[str, Cache]) -> NeededEntry:
    requested, scope = model.revision or "", model.secret_ref.namespace if model.secret_ref is not None else ""
    asked = NeededEntry(uri=model.uri, requested=requested, scope=scope, secret=model.secret_ref)
    revision, digest, size = "", "", 0
    for known in status.models:
        same = (known.name, known.uri, known.requested) == (model.name, model.uri, requested)
        if same and known.revision and known.key == entry_key(model.uri, known.revision, scope):
            revision, digest, size = known.revision, known.digest, known.bytes
    if not revision:
        found = answer(caches, asked.key)
        if found is None or not found.revision or not found.bytes:
            return asked
        revision, size = found.revision, found.bytes
    key = entry_key(model.uri, revision, scope)
    return NeededEntry(
        uri=model.uri,
        requested=requested,
        scope=scope,
        secret=model.secret_ref,
        revision=revision,
        bytes=size or size_bytes(caches, key),
        digest=digest or digest_of(caches, key),
    )
