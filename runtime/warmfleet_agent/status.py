"""The status of the NodeCache: pure functions of what the agent sees, and of what it said before.

What moves all the time (bytes of a transfer, its speed) is in the status but makes no write of its own, see
`is_transition`; whoever wants it by the second follows the agent's stream.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from warmfleet_agent.bandwidths import Bandwidths
from warmfleet_api.agent_status import Transfer
from warmfleet_api.node_cache import (
    MAX_ENTRIES,
    EntryProblem,
    NodeCacheStatus,
    SeenEntry,
    TierStatus,
    WantedEntry,
)
from warmfleet_api.status import Condition
from warmfleet_api.vocabulary import CacheReason, EntryState, Tier, WeightsProblem
from warmfleet_api.weights import Manifest

READY = "Ready"
WORKS = "the agent works"
MILESTONES = 4
"""A transfer is written at each quarter, so that a column read by a person is not an hour old."""
MAX_WORDS = 512
_IN_MOTION = frozenset({EntryState.FETCHING, EntryState.PROMOTING})
_SHOWN = 2


@dataclass(frozen=True, slots=True)
class TierView:
    """One tier as its store has it."""

    entries: Mapping[str, Manifest]
    capacity_bytes: int = 0
    used_bytes: int = 0
    unlinked_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What a source said of an entry."""

    revision: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything the status tells of."""

    generation: int
    boot_id: str
    device: str
    wanted: Sequence[WantedEntry]
    memory: TierView
    disk: TierView | None
    transfers: Mapping[str, Transfer]
    problems: Mapping[str, EntryProblem]
    """Why entries are not where they should be."""
    failed: frozenset[str]
    """Those of them that were tried in vain; the others wait."""
    found: Mapping[str, Found]
    readers: Mapping[str, int]
    last_used: Mapping[str, float]
    """Unix seconds."""
    bandwidths: Bandwidths
    trouble: tuple[CacheReason, str] | None = None
    """Why the agent can't do its work."""
    notes: tuple[str, ...] = ()
    """What a person may want to mend, though it works."""


def node_status(seen: Seen, former: NodeCacheStatus, now: datetime) -> NodeCacheStatus:
    """Return the status."""
    entries = _entries(seen)
    wanted = {each.key for each in seen.wanted if each.tier is Tier.MEMORY}
    return NodeCacheStatus(
        observed_generation=seen.generation,
        conditions=[_ready(seen, former, now)],
        boot_id=seen.boot_id[:64],
        device=seen.device[:128],
        memory=_tier(seen.memory, seen.bandwidths.memory),
        disk=None if seen.disk is None else _tier(seen.disk, seen.bandwidths.disk),
        remote_bytes_per_second=seen.bandwidths.remote,
        entries=entries,
        in_memory=f"{len(wanted & seen.memory.entries.keys())}/{len(wanted)}",
        memory_use=_use(seen.memory),
        disk_use="" if seen.disk is None else _use(seen.disk),
        activity=activity(seen)[:MAX_WORDS],
    )


def is_transition(former: NodeCacheStatus, now: NodeCacheStatus) -> bool:
    """Whether anything changed that is worth a write."""
    return _steady(former) != _steady(now)


def newly_present(former: NodeCacheStatus, now: NodeCacheStatus) -> bool:
    """Whether an entry is in memory that was not: what a start waits for is told without delay."""

    def present(status: NodeCacheStatus) -> set[str]:
        return {each.key for each in status.entries if each.tier is Tier.MEMORY and each.state is EntryState.PRESENT}

    return bool(present(now) - present(former))


def activity(seen: Seen) -> str:
    """Return what happens now, for people."""
    moving = [_moving(each) for each in seen.transfers.values()]
    if moving:
        more = f" and {len(moving) - _SHOWN} more" if len(moving) > _SHOWN else ""
        return "; ".join(moving[:_SHOWN]) + more
    if seen.problems:
        shown = [f"{short_name(key)}: {problem.reason}" for key, problem in sorted(seen.problems.items())]
        more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
        return "; ".join(shown[:_SHOWN]) + more
    return "idle"


def short_name(key: str) -> str:
    """Return the part of a key that people read."""
    return key.rpartition("-")[0] or key


def format_size(size_bytes: int) -> str:
    """Return bytes as a quantity of Kubernetes, e.g. `96.5Gi`."""
    size = float(size_bytes)
    for unit in ("", "Ki", "Mi", "Gi"):
        if size < 1024:
            return f"{size:.4g}{unit}"
        size /= 1024
    return f"{size:.4g}Ti"


def format_speed(bytes_per_second: int) -> str:
    """Return a speed for people, e.g. `210 MB/s`."""
    if bytes_per_second >= 10**9:
        return f"{bytes_per_second / 10**9:.1f} GB/s"
    return f"{bytes_per_second / 10**6:.0f} MB/s" if bytes_per_second >= 10**6 else f"{bytes_per_second // 1000} kB/s"


def format_time(moment: datetime) -> str:
    """Return `2026-01-31T12:00:00Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _entries(seen: Seen) -> list[SeenEntry]:
    wanted = {each.key: each for each in seen.wanted}
    disk = seen.disk.entries if seen.disk is not None else {}
    # What is wanted comes first: the list has a bound.
    keys = [*wanted, *sorted((seen.memory.entries.keys() | disk.keys()) - wanted.keys())]
    return [_entry(key, wanted.get(key), seen, disk) for key in keys[:MAX_ENTRIES]]


def _entry(key: str, wanted: WantedEntry | None, seen: Seen, disk: Mapping[str, Manifest]) -> SeenEntry:
    manifest = seen.memory.entries.get(key) or disk.get(key)
    tier = Tier.MEMORY if key in seen.memory.entries else Tier.DISK if key in disk else Tier.REMOTE
    transfer, found = seen.transfers.get(key), seen.found.get(key)
    state = _state(key, wanted, tier, seen)
    used = seen.last_used.get(key)
    problem = seen.problems.get(key)
    revision = manifest.revision if manifest is not None else found.revision if found is not None else ""
    if not revision and wanted is not None:
        revision = wanted.revision or ""
    size = manifest.bytes if manifest is not None else found.bytes if found is not None else 0
    moving = state in _IN_MOTION and transfer is not None
    return SeenEntry(
        key=key,
        tier=tier,
        state=state,
        revision=revision[:128],
        digest=manifest.digest if manifest is not None else "",
        bytes=size or (transfer.bytes if transfer is not None else 0),
        fetched_bytes=transfer.done_bytes if moving and transfer is not None else 0,
        bytes_per_second=transfer.bytes_per_second if moving and transfer is not None else 0,
        readers=seen.readers.get(key, 0),
        last_used_time=format_time(datetime.fromtimestamp(used, UTC)) if used else None,
        error=None if moving or state is EntryState.KNOWN else problem,
    )


def _state(key: str, wanted: WantedEntry | None, tier: Tier, seen: Seen) -> EntryState:
    transfer = seen.transfers.get(key)
    if transfer is not None and transfer.state in _IN_MOTION:
        return transfer.state
    target = wanted.tier if wanted is not None else tier
    if tier is Tier.MEMORY or (tier is Tier.DISK and target is not Tier.MEMORY):
        return EntryState.PRESENT
    if key in seen.failed:
        return EntryState.FAILED
    if target is Tier.REMOTE and key in seen.found:
        return EntryState.KNOWN
    return EntryState.WAITING


def _tier(tier: TierView, bytes_per_second: int) -> TierStatus:
    return TierStatus(
        capacity_bytes=tier.capacity_bytes,
        used_bytes=max(0, tier.used_bytes),
        unlinked_bytes=max(0, tier.unlinked_bytes),
        bytes_per_second=bytes_per_second,
    )


def _use(tier: TierView) -> str:
    return f"{format_size(tier.used_bytes)}/{format_size(tier.capacity_bytes)}"


def _moving(transfer: Transfer) -> str:
    verb = transfer.state.value.lower() if transfer.state in _IN_MOTION else "keeping on disk"
    if not transfer.bytes:
        return f"{verb} {short_name(transfer.key)}"
    part = 100 * transfer.done_bytes // transfer.bytes
    speed = f", {format_speed(transfer.bytes_per_second)}" if transfer.bytes_per_second else ""
    return f"{verb} {short_name(transfer.key)} {part}%{speed}"


def _ready(seen: Seen, former: NodeCacheStatus, now: datetime) -> Condition:
    works = "; ".join((WORKS, *seen.notes))
    reason, message = seen.trouble or (CacheReason.AGENT_READY, works)
    status = "False" if seen.trouble else "True"
    old = next((each for each in former.conditions if each.type == READY), None)
    return Condition(
        type=READY,
        status="True" if status == "True" else "False",
        observed_generation=max(0, seen.generation),
        last_transition_time=old.last_transition_time if old and old.status == status else format_time(now),
        reason=reason,
        message=message[:4096],
    )


def _steady(status: NodeCacheStatus) -> NodeCacheStatus:
    """Return the status without what moves all the time."""
    entries = [
        each.model_copy(
            update={
                "fetched_bytes": each.fetched_bytes * MILESTONES // each.bytes if each.bytes else 0,
                "bytes_per_second": 0,
            }
        )
        for each in status.entries
    ]
    return status.model_copy(update={"entries": entries, "activity": ""})


def problem(reason: WeightsProblem, message: str) -> EntryProblem:
    """Return a problem whose words fit."""
    return EntryProblem(reason=reason, message=message if len(message) <= MAX_WORDS else message[: MAX_WORDS - 1] + "…")
