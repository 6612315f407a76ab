"""The models of a WeightCache's list: which state of each is frozen, and which fit into memory together."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from warmfleet_api import quantity
from warmfleet_api.node_cache import SeenEntry
from warmfleet_api.vocabulary import EntryState, Tier
from warmfleet_api.weight_cache import CachedModel, CachedModelStatus, WeightCacheStatus
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


def listed(group: Group) -> Mapping[NeededEntry, SeenEntry]:
    """Return what a WeightCache has frozen, by what was asked for: nobody has to ask again with the same credential."""
    found = {}
    for model in group.spec.models:
        known = _known(model, group.status)
        if known is not None and known.bytes:
            found[_asked(model)] = SeenEntry(
                key=known.key,
                tier=Tier.REMOTE,
                state=EntryState.KNOWN,
                revision=known.revision,
                digest=known.digest,
                bytes=known.bytes,
            )
    return found


def _asked(model: CachedModel) -> NeededEntry:
    scope = model.secret_ref.namespace if model.secret_ref is not None else ""
    return NeededEntry(uri=model.uri, requested=model.revision or "", scope=scope, secret=model.secret_ref)


def _known(model: CachedModel, status: WeightCacheStatus) -> CachedModelStatus | None:
    """Return what is frozen of a model of the list, None while its source has not answered."""
    asked = _asked(model)
    for known in status.models:
        same = (known.name, known.uri, known.requested) == (model.name, asked.uri, asked.requested)
        if same and known.revision and known.key == entry_key(asked.uri, known.revision, asked.scope):
            return known
    return None


def _entry_of(model: CachedModel, status: WeightCacheStatus, caches: Mapping[str, Cache]) -> NeededEntry:
    asked, known = _asked(model), _known(model, status)
    if known is not None:
        revision, digest, size = known.revision, known.digest, known.bytes
    else:
        found = answer(caches, asked)
        if found is None or not found.revision or not found.bytes:
            return asked
        revision, digest, size = found.revision, "", found.bytes
    key = entry_key(asked.uri, revision, asked.scope)
    return replace(
        asked,
        revision=revision,
        bytes=size or size_bytes(caches, key),
        digest=digest or digest_of(caches, key),
    )
