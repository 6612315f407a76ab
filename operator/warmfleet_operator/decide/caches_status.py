"""The status of one WeightCache. Pure; the same facts at a later time give an equal status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from warmfleet_api import names, quantity
from warmfleet_api.status import Condition
from warmfleet_api.vocabulary import CacheConditionType, CacheReason, EntryState
from warmfleet_api.weight_cache import CachedModelStatus, WeightCacheStatus
from warmfleet_operator.decide.caches import CachesPlan, CachesView
from warmfleet_operator.decide.caches_agents import outdated
from warmfleet_operator.decide.caches_groups import Group
from warmfleet_operator.decide.caches_lines import Line
from warmfleet_operator.decide.caches_view import in_memory, on_disk
from warmfleet_operator.decide.fleet import Cache
from warmfleet_operator.decide.times import format_time

_NAMED = 5
"""How many nodes or models a message names."""
_MAX_TEXT = 512
Finding = tuple[str, CacheReason, str]
"""Status, reason and message of a condition."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the status of one WeightCache is written from."""

    view: CachesView
    plan: CachesPlan
    group: Group
    nodes: Sequence[str]
    working: Sequence[str]
    """Nodes whose agent works."""
    models: Sequence[tuple[Line, CachedModelStatus]]
    summary: str


def cache_status(
    view: CachesView, plan: CachesPlan, group: Group, now: datetime, short: Mapping[str, int] = MappingProxyType({})
) -> WeightCacheStatus:
    """Return the status a WeightCache should have now; `short` are bytes that nodes lack for a new memory.size."""
    nodes = plan.membership.nodes_of(group)
    caches = {node: view.fleet.caches[node] for node in nodes if node in view.fleet.caches}
    working = [node for node in nodes if node in caches and not caches[node].trouble]
    models = [(line, _model(line, caches)) for line in plan.lines[group.name]]
    facts = _Facts(view, plan, group, nodes, working, models, _summary(models, len(nodes))[:_MAX_TEXT])
    findings = {
        CacheConditionType.READY: _ready(facts),
        CacheConditionType.FITS: _lacks_memory(group, short) or _fits(group, plan.lines[group.name]),
    }
    return WeightCacheStatus(
        observed_generation=group.metadata.generation,
        conditions=conditions_of(group.status.conditions, group.metadata.generation, findings, now),
        nodes=len(nodes),
        ready_nodes=len(working),
        models=[model for _, model in models],
        summary=facts.summary,
    )


def _model(line: Line, caches: Mapping[str, Cache]) -> CachedModelStatus:
    entry = line.entry
    return CachedModelStatus(
        name=line.model.name,
        uri=entry.uri,
        requested=entry.requested,
        key=entry.key,
        revision=entry.revision,
        bytes=entry.bytes,
        digest=entry.digest,
        memory_nodes=sum(in_memory(cache, entry.key) for cache in caches.values()),
        disk_nodes=sum(on_disk(cache, entry.key) for cache in caches.values()),
        problem=_problem(line, caches)[:_MAX_TEXT],
    )


def _problem(line: Line, caches: Mapping[str, Cache]) -> str:
    """Return why an entry is not where it should be: as the first node says it that failed."""
    if not line.model.preload:
        return ""
    for node in sorted(caches):
        seen = caches[node].seen.get(line.entry.key)
        if seen is not None and seen.state is EntryState.FAILED and seen.error is not None:
            return f"{seen.error.reason} on {node}: {seen.error.message}"
    return ""


def _summary(models: Sequence[tuple[Line, CachedModelStatus]], nodes: int) -> str:
    wanted = [model for line, model in models if line.model.preload]
    if not wanted:
        return "no model is preloaded; nodes keep what ModelDeployments ask for"
    there = sum(model.memory_nodes >= nodes > 0 for model in wanted)
    return f"{there} of {len(wanted)} preloaded models in memory on all {nodes} nodes"


def _ready(facts: _Facts) -> Finding:
    """Return whether all agents keep what they should: the first thing that a person may have to see to."""
    found = _disputed(facts) or _without_agents(facts) or _not_preloaded(facts)
    nodes = len(facts.nodes)
    working = f"{nodes} of {nodes} agents work{_outdated(facts)}; {facts.summary}"
    return found or ("True", CacheReason.AGENTS_READY, working)


def _outdated(facts: _Facts) -> str:
    """Say how many agents are of a former spec: they work, but not yet as the WeightCache says."""
    name = facts.group.name
    old = outdated(facts.view, facts.group, facts.nodes)
    if not old:
        return ""
    labels = f"{names.LABEL_CACHE}={name},{names.LABEL_TEMPLATE_HASH}!={facts.view.agent_hashes[name]}"
    return (
        f", {len(old)} of them as a former spec or version says ({_list(old)}): they are replaced one at a time;"
        f" all at once: kubectl -n {names.AGENT_NAMESPACE} delete pods -l {labels}"
    )


def _disputed(facts: _Facts) -> Finding | None:
    name = facts.group.name
    if name in facts.view.unusable:
        return "False", CacheReason.UNUSABLE_FOLDERS, facts.view.unusable[name]
    disputed = facts.plan.membership.conflicts.get(name)
    if disputed:
        return "False", CacheReason.CONFLICT, _conflict(facts.plan, facts.group, disputed)
    return None


def _without_agents(facts: _Facts) -> Finding | None:
    if not facts.nodes:
        return "False", CacheReason.NO_NODES, _no_nodes(facts.group)
    missing = [node for node in facts.nodes if node not in facts.working]
    if not missing:
        return None
    why = {node: trouble.words for node, trouble in facts.view.troubles.items()}
    told = _list([f"{node} ({why.get(node, 'its agent has not reported yet')})" for node in missing])
    look = f"kubectl -n {names.AGENT_NAMESPACE} get pods -o wide -l {names.LABEL_CACHE}={facts.group.name}"
    message = f"{len(missing)} of {len(facts.nodes)} nodes have no agent that works: {told}; try: {look}"
    return "False", CacheReason.AGENTS_MISSING, message


def _not_preloaded(facts: _Facts) -> Finding | None:
    failed = [f"{model.name}: {model.problem}" for _, model in facts.models if model.problem]
    if failed:
        return "False", CacheReason.PRELOAD_FAILED, f"{facts.summary}; {_list(failed)}"
    nodes = len(facts.nodes)
    if any(line.model.preload and line.fits and model.memory_nodes < nodes for line, model in facts.models):
        return "False", CacheReason.PRELOADING, f"{facts.summary}; progress: kubectl get nodecaches"
    return None


def _conflict(plan: CachesPlan, group: Group, disputed: Mapping[str, str]) -> str:
    others = sorted(
        name
        for name, nodes in plan.membership.conflicts.items()
        if name != group.name and nodes.keys() & disputed.keys()
    )
    told = _list([f"{node} (kept by {keeper})" for node, keeper in sorted(disputed.items())])
    return (
        f"{len(disputed)} nodes are named by WeightCache {_list(others)} too: {told}; "
        "change the nodeSelector of one of them so that each node has one"
    )


def _no_nodes(group: Group) -> str:
    if not group.spec.node_selector:
        return "every node is named by another WeightCache, or has a taint that spec.tolerations do not cover"
    selector = ",".join(f"{key}={value}" for key, value in sorted(group.spec.node_selector.items()))
    return f"no node has these labels and only taints that spec.tolerations cover; try: kubectl get nodes -l {selector}"


def _lacks_memory(group: Group, short: Mapping[str, int]) -> Finding | None:
    """Return what keeps memory.size from growing on some nodes."""
    if not short:
        return None
    told = _list([f"{node} ({quantity.format_bytes(lack)} more)" for node, lack in sorted(short.items())])
    size = quantity.format_bytes(quantity.to_bytes(group.spec.memory.size))
    message = (
        f"memory.size grew to {size}, but pods take what it needs on {told}; move pods away from there or lower "
        "memory.size; until then these nodes keep the former size"
    )
    return "False", CacheReason.NODE_MEMORY_TAKEN, message


def _fits(group: Group, lines: Sequence[Line]) -> Finding:
    """Return whether the preloaded models fit together into memory.size, and which do not."""
    wanted = [line for line in lines if line.model.preload]
    size, shown = quantity.to_bytes(group.spec.memory.size), quantity.format_bytes
    known = sum(line.entry.bytes for line in wanted)
    too_much = [f"{line.model.name} ({shown(line.entry.bytes)})" for line in wanted if not line.fits]
    if too_much:
        free = size - sum(line.entry.bytes for line in wanted if line.fits)
        message = (
            f"{_list(too_much)} can't be kept in the {shown(free)} that others leave of memory.size {shown(size)}; all "
            f"take {shown(known)}, {shown(known - size)} too much: raise memory.size, or set preload: false"
        )
        return "False", CacheReason.PRELOAD_EXCEEDS_SIZE, message
    unknown = [line.model.name for line in wanted if not line.entry.is_known]
    if unknown:
        others = f"the {len(wanted) - len(unknown)} others take {shown(known)} of {shown(size)}"
        return "Unknown", CacheReason.SIZES_UNKNOWN, f"the sizes of {_list(unknown)} are not known yet; {others}"
    return "True", CacheReason.FITS, f"{len(wanted)} preloaded models take {shown(known)} of {shown(size)}"


def conditions_of(
    former: Sequence[Condition], generation: int, findings: Mapping[CacheConditionType, Finding], now: datetime
) -> list[Condition]:
    """Return the conditions; one whose status is unchanged keeps the time of its last transition."""
    before = {condition.type: condition for condition in former}
    conditions = []
    for kind, (status, reason, message) in findings.items():
        old = before.get(kind)
        unchanged = old is not None and old.status == status
        conditions.append(
            Condition.model_validate(
                {
                    "type": kind.value,
                    "status": status,
                    "observed_generation": generation,
                    "last_transition_time": old.last_transition_time if old and unchanged else format_time(now),
                    "reason": reason.value,
                    "message": message[:4096],
                }
            )
        )
    return conditions


def _list(items: Sequence[str]) -> str:
    more = f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return ", ".join(items[:_NAMED]) + more
