"""From what the agent sees to what a plan and the status are made from. Pure."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from warmfleet_agent.knowledge import Knowledge
from warmfleet_agent.plan import NodeState, Plan, Transfer, Wanted
from warmfleet_agent.status import Seen, TierView, problem
from warmfleet_agent.tiers import Look
from warmfleet_agent.transfers import Moving
from warmfleet_api.agent_status import AgentStatus
from warmfleet_api.node_cache import EntryProblem, NodeCacheSpec
from warmfleet_api.vocabulary import CacheReason, EntryState, Tier, WeightsProblem

_MAX_NOTES = 8


@dataclass(frozen=True, slots=True)
class View:
    """The node at one moment."""

    node: str
    boot_id: str
    generation: int
    spec: NodeCacheSpec
    memory: Look | None = None
    disk: Look | None = None
    moving: Mapping[str, Moving] = field(default_factory=dict)
    asking: Set[str] = frozenset()
    device: str = ""
    """What code is compiled for here."""
    has_plugin: bool = False
    """Whether views are made by kubelet's calls alone: then one that is not there belongs to no pod, or not yet."""
    trouble: tuple[CacheReason, str] | None = None
    notes: tuple[str, ...] = ()


def node_state(view: View, knowledge: Knowledge) -> NodeState | None:
    """Return what a plan is made from; None without memory, where nothing can be planned."""
    if view.memory is None:
        return None
    return NodeState(
        memory=view.memory.state,
        disk=view.disk.state if view.disk is not None else None,
        wanted={
            each.key: Wanted(
                key=each.key,
                tier=each.tier,
                priority=each.priority,
                is_pinned=each.pinned,
                uses_per_day=float(each.uses_per_day),
                saves_seconds=float(each.saves_seconds),
            )
            for each in view.spec.entries
        },
        known=knowledge.answers(),
        views=wanted_views(view, knowledge),
        links=view.memory.views,
        transfers=tuple(_transfer(each) for each in view.moving.values()),
        asking=view.asking,
        problems=knowledge.failures.problems,
        uses=dict(knowledge.uses),
        parallel=view.spec.parallel,
        remote_bytes_per_second=float(knowledge.bandwidths.remote),
        disk_bytes_per_second=float(knowledge.bandwidths.disk),
    )


def wanted_views(view: View, knowledge: Knowledge) -> Mapping[str, Set[str]]:
    """Return what each runner is to see, as far as it may."""
    links = view.memory.views if view.memory is not None else {}
    wanted: dict[str, Set[str]] = {}
    for each in view.spec.views:
        if view.has_plugin and each.uid not in links:
            continue
        shown = links.get(each.uid, frozenset())
        # Who reads it goes on reading; nobody else begins.
        wanted[each.uid] = {key for key in each.keys if key in shown or key not in knowledge.denied}
    return wanted


def seen(view: View, knowledge: Knowledge, plan: Plan) -> Seen:
    """Return what the status tells of."""
    problems: dict[str, EntryProblem] = dict(knowledge.denied)
    for wait in plan.waits:
        if wait.reason is not None:
            problems[wait.key] = problem(wait.reason, wait.message)
    links = view.memory.views if view.memory is not None else {}
    return Seen(
        generation=view.generation,
        boot_id=view.boot_id,
        device=view.device,
        wanted=view.spec.entries,
        memory=view.memory.view if view.memory is not None else TierView({}),
        disk=view.disk.view if view.disk is not None else None,
        transfers={key: each.progress.transfer() for key, each in view.moving.items()},
        problems=problems,
        failed=frozenset(wait.key for wait in plan.waits if wait.state is EntryState.FAILED),
        found=knowledge.found,
        readers=_counted(key for keys in links.values() for key in keys),
        last_used=knowledge.last_used,
        bandwidths=knowledge.bandwidths,
        trouble=view.trouble,
        notes=(*view.notes, *plan.warnings, *_strangers(view, plan))[:_MAX_NOTES],
    )


def agent_status(view: View) -> AgentStatus:
    """Return what the stream says."""
    return AgentStatus(
        node=view.node,
        boot_id=view.boot_id,
        error=view.trouble[1] if view.trouble is not None else "",
        transfers=tuple(each.progress.transfer() for _, each in sorted(view.moving.items())),
        in_memory=tuple(sorted(view.memory.entries)) if view.memory is not None else (),
    )


def tier_of(view: View, key: str) -> Tier:
    """Return the nearest tier that has an entry whole."""
    if view.memory is not None and key in view.memory.entries:
        return Tier.MEMORY
    return Tier.DISK if view.disk is not None and key in view.disk.entries else Tier.REMOTE


def _strangers(view: View, plan: Plan) -> Iterable[str]:
    """Return what others put into the stores, where something waits for room: else their growth is nobody's matter."""
    if not any(wait.reason is WeightsProblem.CACHE_FULL for wait in plan.waits):
        return ()
    return [words for look in (view.memory, view.disk) if look is not None for words in look.strangers]


def _transfer(moving: Moving) -> Transfer:
    return Transfer(
        key=moving.key,
        source=moving.source,
        target=moving.target,
        bytes=moving.progress.total_bytes,
        done_bytes=moving.progress.meter.total_bytes,
        bytes_per_second=float(moving.progress.meter.bytes_per_second()),
        room_bytes=moving.room_bytes,
        is_reserved=moving.is_reserved,
    )


def _counted(keys: Iterable[str]) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for key in keys:
        counts[key] = counts.get(key, 0) + 1
    return counts
