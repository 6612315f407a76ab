"""What a model's status says of its weights: what they are, where they are, how far they have come, what is the matter.

Everything is read from the nodes' weight stores anew each time; only what a source answered is kept, in the status.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from warmfleet_api import quantity
from warmfleet_api.status import MAX_WEIGHTS, MAX_WEIGHTS_NODES, ModelStatus, WeightsStatus
from warmfleet_api.vocabulary import EntryState, Reason, Tier
from warmfleet_api.weights import entry_key
from warmfleet_operator.decide.caches_view import answer, in_memory, on_disk
from warmfleet_operator.decide.canary import variant, variants
from warmfleet_operator.decide.fleet import Cache, Model
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.situation import Situation
from warmfleet_operator.decide.times import format_time, parse_time
from warmfleet_operator.decide.weights import NeededEntry, keys_of, size_bytes

FOR_A_PERSON = frozenset(
    {
        Reason.MODEL_NOT_FOUND,
        Reason.ACCESS_DENIED,
        Reason.SECRET_MISSING,
        Reason.UNSAFE_FORMAT,
        Reason.NEVER_FITS,
        Reason.FORBIDDEN_SOURCE,
        Reason.NO_WEIGHT_CACHE,
    }
)
"""Problems of weights that don't pass by themselves."""


_FETCHED = "weights: "
_MOVED_SECONDS = 5.0
_MOVED_SHARE = 0.25
"""A wait is written anew when its end moved by more than this share of what is left, and by more than those seconds."""


@dataclass(frozen=True, slots=True)
class OnTheWay:
    """What keeps a start from having its weights in memory of its node."""

    reason: Reason
    """Fetching, or what is the matter."""
    message: str
    """In words with numbers."""
    done_bytes: int = 0
    """How much of all the weights is there."""
    expected: datetime | None = None
    """When all of it is; None where nobody can tell yet."""

    @property
    def ends_by_itself(self) -> bool:
        """Whether time alone brings the weights nearer."""
        return self.reason is Reason.FETCHING

    @property
    def is_for_a_person(self) -> bool:
        """Whether it stays until somebody acts."""
        return self.reason in FOR_A_PERSON


def weights_of(situation: Situation) -> list[WeightsStatus]:
    """Return what is known of the weights.

    Of the present spec first, then of one beside which it is tried, then of former ones that runners still read.
    """
    statuses: dict[str, WeightsStatus] = {}
    for entry in (entry for each in reversed(variants(situation.model)) for entry in each.weights):
        found = _as_known(entry, situation.caches)
        if found is not None:
            statuses[found.key] = found
    engines = (member.assigned.engine for member in situation.members if member.assigned is not None)
    still_read = {key for engine in engines for key in keys_of(engine)}
    for old in situation.model.status.weights:
        if old.key in still_read and old.key not in statuses:
            statuses[old.key] = _placed(old, situation.caches)
    return list(statuses.values())[:MAX_WEIGHTS]


def model_of(situation: Situation, weights: Sequence[WeightsStatus]) -> ModelStatus | None:
    """Return the model as its source or its engines found it, else as it was known."""
    found = [member.engine.weight_bytes for member in situation.current if member.engine is not None]
    largest = max(found, default=0)
    main = next((each for each in weights if each.uri == situation.model.spec.model.uri), None)
    if main is not None and situation.model.weights:
        return ModelStatus(bytes=main.bytes or largest, revision=main.revision, digest=main.digest)
    return ModelStatus(bytes=largest) if largest else situation.model.status.model


def missing_on(model: Model, member: Member, caches: Mapping[str, Cache], now: datetime) -> OnTheWay | None:
    """Return what the start in this place waits for, None where all its weights are in memory of its node."""
    if not model.weights:
        return None
    cache = caches.get(member.node)
    if cache is None:
        return OnTheWay(Reason.NO_WEIGHT_CACHE, f"{member.node} has no weight store any more: kubectl get weightcaches")
    missing = [entry for entry in model.weights if not in_memory(cache, entry.key)]
    if not missing:
        return None
    for entry in missing:
        seen = cache.seen.get(entry.key)
        if seen is not None and seen.state is EntryState.FAILED and seen.error is not None:
            return OnTheWay(Reason(seen.error.reason), f"{entry.uri} on {cache.node}: {seen.error.message}")
    if cache.trouble:
        # The node answers for it, not the source: for the model it passes by itself.
        return OnTheWay(Reason.FETCHING, f"the weight store of {cache.node} does not work: {cache.trouble}")
    return _progress(model, missing, cache, now)


def wait_of(situation: Situation, now: datetime) -> OnTheWay | None:
    """Return what the start that is under way waits for of its weights; None where they are there, or none is."""
    member = situation.starting
    if member is None:
        return None
    wait = missing_on(variant(situation.model, member.hash), member, situation.caches, now)
    return _as_written(wait, situation, now) if wait is not None else None


def _as_written(wait: OnTheWay, situation: Situation, now: datetime) -> OnTheWay:
    """Return the wait as the status has it already, unless it moved enough to be written anew."""
    written, whole = situation.model.status.pending_start, size_bytes(situation.model.weights)
    if written is None or not wait.ends_by_itself or not written.blocker.startswith(_FETCHED):
        return wait
    expected = parse_time(written.weights_time)
    if (expected is None) != (wait.expected is None) or wait.done_bytes < written.fetched_bytes:
        return wait
    if expected is not None and wait.expected is not None:
        left_seconds = abs((wait.expected - now).total_seconds())
        moved = abs((wait.expected - expected).total_seconds()) > max(_MOVED_SECONDS, _MOVED_SHARE * left_seconds)
    else:
        moved = wait.done_bytes - written.fetched_bytes > _MOVED_SHARE * whole
    return wait if moved else OnTheWay(wait.reason, written.blocker, written.fetched_bytes, expected)


def _progress(model: Model, missing: Sequence[NeededEntry], cache: Cache, now: datetime) -> OnTheWay:
    whole = size_bytes(model.weights)
    left = done = speed = 0
    seconds: float | None = 0.0
    for entry in missing:
        transfer = cache.transfers.get(entry.key)
        if transfer is not None and transfer.target is Tier.MEMORY:
            done += min(transfer.done_bytes, entry.bytes)
            speed += transfer.bytes_per_second
        known = transfer.seconds_left if transfer is not None and transfer.target is Tier.MEMORY else None
        seconds = max(seconds, known) if seconds is not None and known is not None else None
        left += entry.bytes
    done = whole - left + done
    said = f"{_FETCHED}{quantity.format_bytes(done)} of {quantity.format_bytes(whole)} in memory of {cache.node}"
    if speed:
        said += f", {quantity.format_bytes(speed)}/s"
    waits = next((seen.error for entry in missing if (seen := cache.seen.get(entry.key)) and seen.error), None)
    if waits is not None:
        return OnTheWay(Reason(waits.reason), f"{said}: {waits.message}", done)
    if seconds is None:
        return OnTheWay(Reason.FETCHING, said, done)
    expected = now + timedelta(seconds=seconds)
    return OnTheWay(Reason.FETCHING, f"{said}, until {format_time(expected)}", done, expected)


def where(model: Model, caches: Mapping[str, Cache]) -> tuple[list[str], list[str]]:
    """Return the nodes that have all of the weights in memory, and those that have all of them, but not in memory."""
    memory, disk = [], []
    for name, cache in sorted(caches.items()):
        if all(in_memory(cache, entry.key) for entry in model.weights):
            memory.append(name)
        elif all(in_memory(cache, entry.key) or on_disk(cache, entry.key) for entry in model.weights):
            disk.append(name)
    return memory, disk


def _as_known(entry: NeededEntry, caches: Mapping[str, Cache]) -> WeightsStatus | None:
    """Return the status of an entry; None while its source has not answered. The answer is frozen here."""
    revision, size = entry.revision, entry.bytes
    if not entry.is_known:
        found = answer(caches, entry)
        if found is None or found.error is not None or not found.revision:
            return None
        revision, size = found.revision, found.bytes
    return _placed(
        WeightsStatus(
            key=entry_key(entry.uri, revision, entry.scope),
            uri=entry.uri,
            requested=entry.requested,
            revision=revision,
            bytes=size,
            digest=entry.digest,
        ),
        caches,
    )


def _placed(weights: WeightsStatus, caches: Mapping[str, Cache]) -> WeightsStatus:
    """Return the same with the nodes that have it now, and its digest once one has it whole."""
    key, digest = weights.key, weights.digest
    if not digest:
        seen = (cache.seen.get(key) for cache in caches.values())
        digest = next((each.digest for each in seen if each is not None and each.digest), "")
    return weights.model_copy(
        update={
            "digest": digest,
            "memory_nodes": _first(name for name, cache in caches.items() if in_memory(cache, key)),
            "disk_nodes": _first(name for name, cache in caches.items() if on_disk(cache, key)),
        }
    )


def _first(nodes: Iterable[str]) -> list[str]:
    return sorted(nodes)[:MAX_WEIGHTS_NODES]
