"""What the API tells of the fleet: exact numbers, from one snapshot and the last round's decisions. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec

from warmfleet_api import names
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.operator_api import (
    CachedEntry,
    EngineEntry,
    FleetAnswer,
    NodeEntry,
    PendingEntry,
    QueueAnswer,
    RunnerEntry,
    TierUse,
    WakeAnswer,
)
from warmfleet_api.runner_status import EngineStatus
from warmfleet_api.vocabulary import ConditionType, EngineState, Reason, Stage, Tier
from warmfleet_operator.decide.actions import Decisions, Forecast, Waiting
from warmfleet_operator.decide.fleet import Cache, Fleet, Model, ModelKey, PoolKey, Runner
from warmfleet_operator.decide.ledger_use import gpu_resources, reserved_bytes
from warmfleet_operator.decide.requests import MEMORY, amounts, requests_of
from warmfleet_operator.decide.runners import Member, members_of, node_of, owner_of, why_lost
from warmfleet_operator.decide.situation import stage_of
from warmfleet_operator.decide.standby import stands_by
from warmfleet_operator.decide.start_history import start_type
from warmfleet_operator.decide.times import format_time, parse_time
from warmfleet_operator.decide.weights import size_bytes
from warmfleet_operator.records import Node, Pod

_MIB = 1024**2


def wake_answer(key: ModelKey, model: Model | str | None, decisions: Decisions, now: datetime) -> WakeAnswer:
    """Return how far a model is from answering; `model` is a text where its spec can't be read, None where it is not.

    Args:
        key: which model.
        model: what is known of it.
        decisions: of the last round.
        now: the time of the answer.
    """
    if not isinstance(model, Model):
        state, message = (Reason.NO_ENGINE, model) if isinstance(model, str) else ("NotFound", _unknown(key))
        return WakeAnswer(namespace=key.namespace, model=key.name, state=state, message=message)
    ready = next((each for each in model.status.conditions if each.type == ConditionType.READY), None)
    pending, waiting = model.status.pending_start, decisions.waiting.get(key)
    forecast = decisions.forecasts.get(key)
    seconds = forecast.ready_seconds if forecast is not None else None
    if seconds is None and forecast is None and pending is not None and (at := parse_time(pending.ready_time)):
        seconds = max(0.0, (at - now).total_seconds())
    return WakeAnswer(
        namespace=key.namespace,
        model=key.name,
        state=ready.reason if ready is not None else Reason.QUEUED,
        position=waiting.position if waiting is not None else 0,
        of=waiting.of if waiting is not None else 0,
        start_type=forecast.start_type if forecast is not None else pending.start_type if pending is not None else None,
        ready_seconds=seconds,
        blocker=waiting.blocker if waiting is not None else pending.blocker if pending is not None else "",
        message=ready.message if ready is not None else "",
    )


def _unknown(key: ModelKey) -> str:
    return f"there is no ModelDeployment {key.name} in {key.namespace}: kubectl -n {key.namespace} get mdl"


def queue_answer(
    fleet: Fleet, decisions: Decisions, now: datetime, *, round_seconds: float | None, namespace: str = ""
) -> QueueAnswer:
    """Return all starts that wait, in the order of their turns, then those under way; of one namespace, if given."""
    members: defaultdict[ModelKey, list[Member]] = defaultdict(list)
    for runner in fleet.runners:
        for member in members_of(runner, fleet.nodes):
            members[member.model].append(member)
    waiting: list[PendingEntry] = []
    starting: list[PendingEntry] = []
    for key, model in fleet.models.items():
        if namespace and key.namespace != namespace:
            continue
        wait = decisions.waiting.get(key)
        forecast = decisions.forecasts.get(key)
        if wait is not None:
            waiting.append(_waits(model, wait, forecast, now))
        elif model.status.dormant is None:
            starting += [_starts(model, each, forecast, now) for each in members[key] if _is_on_its_way(model, each)][
                :1
            ]
    waiting.sort(key=lambda each: (each.position == 0, each.position, each.namespace, each.model))
    starting.sort(key=lambda each: (each.ready_seconds is None, each.ready_seconds, each.namespace, each.model))
    return QueueAnswer(time=format_time(now), round_seconds=round_seconds, starts=(*waiting, *starting))


def fleet_answer(fleet: Fleet, decisions: Decisions, now: datetime, *, namespace: str = "") -> FleetAnswer:
    """Return all nodes that have GPUs, runners or weights; with a namespace, runners of others are left out."""
    resources = gpu_resources(fleet)
    runners: defaultdict[str, list[Runner]] = defaultdict(list)
    used: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for runner in fleet.runners:
        runners[node_of(runner.pod)].append(runner)
        _take(used[node_of(runner.pod)], runner.pod)
    for pod in fleet.strangers:
        _take(used[pod.spec.node_name], pod)
    nodes = []
    for name, node in sorted(fleet.nodes.items()):
        capacity = amounts(node.status.allocatable)
        gpus = sum(capacity.get(resource, 0) for resource in resources)
        cache = fleet.caches.get(name)
        if not (gpus or runners[name] or cache is not None):
            continue
        shown = [each for each in runners[name] if not namespace or each.pod.metadata.namespace == namespace]
        nodes.append(
            NodeEntry(
                name=name,
                ready=node.is_ready,
                cordoned=node.is_cordoned,
                gpus=gpus,
                gpus_used=sum(used[name][resource] for resource in resources),
                gpu_memory_bytes=_gpu_memory_bytes(node),
                memory_bytes=capacity.get(MEMORY, 0),
                memory_used_bytes=used[name][MEMORY],
                runners=tuple(_runner(fleet, each, node, resources) for each in shown),
                tiers=tuple(_tiers(cache)),
                cached=tuple(_cached(cache)),
            )
        )
    return FleetAnswer(time=format_time(now), fragmentation=decisions.fragmentation, nodes=tuple(nodes))


def _waits(model: Model, wait: Waiting, forecast: Forecast | None, now: datetime) -> PendingEntry:
    return msgspec.structs.replace(
        _entry(model, forecast, now),
        position=wait.position,
        of=wait.of,
        start_type=wait.start_type or (forecast.start_type if forecast is not None else None),
        reason=wait.reason,
        blocker=wait.blocker + (f"; {wait.advice}" if wait.advice else ""),
        place=wait.place,
    )


def _starts(model: Model, member: Member, forecast: Forecast | None, now: datetime) -> PendingEntry:
    pending = model.status.pending_start
    return msgspec.structs.replace(
        _entry(model, forecast, now),
        start_type=start_type(member),
        stage=stage_of(member),
        stages=member.engine.stages if member.engine is not None else (),
        blocker=pending.blocker if pending is not None else "",
        place=f"{member.pod.metadata.name} on {member.node}",
    )


def _entry(model: Model, forecast: Forecast | None, now: datetime) -> PendingEntry:
    """Return what a start tells wherever it stands."""
    pending, wanted = model.status.pending_start, model.spec.cold_start.deadline_seconds
    queued = parse_time(pending.queued_time) if pending is not None else None
    waited = max(0.0, (now - queued).total_seconds()) if queued is not None else 0.0
    return PendingEntry(
        namespace=model.key.namespace,
        model=model.key.name,
        priority=model.spec.priority,
        stage=Stage.QUEUED,
        waited_seconds=waited,
        ready_seconds=forecast.ready_seconds if forecast is not None else None,
        forecast=forecast.reason if forecast is not None else "",
        deadline_seconds=None if wanted is None else wanted - waited,
        misses_deadline_seconds=forecast.misses_deadline_seconds if forecast is not None else None,
        fetched_bytes=pending.fetched_bytes if pending is not None else 0,
        total_bytes=size_bytes(model.weights),
    )


def _is_on_its_way(model: Model, member: Member) -> bool:
    is_of = member.model_uid == model.metadata.uid and member.hash == model.hash
    return is_of and member.is_alive and not member.is_serving and not stands_by(member, model)


def _runner(fleet: Fleet, runner: Runner, node: Node, resources: Sequence[str]) -> RunnerEntry:
    owner, requests = owner_of(runner.pod), requests_of(runner.pod)
    resource = next((each for each in resources if requests.get(each)), "")
    told = {each.id: each for each in runner.status.engines} if runner.status is not None else {}
    engines = runner.assignment.engines if runner.assignment is not None else ()
    return RunnerEntry(
        namespace=runner.pod.metadata.namespace,
        name=runner.pod.metadata.name,
        pool=owner.name if isinstance(owner, PoolKey) else "",
        gpus=requests.get(resource, 0) if resource else 0,
        gpu_resource=resource,
        memory_bytes=runner.status.memory_limit_bytes if runner.status is not None else requests.get(MEMORY, 0),
        lost=why_lost(runner, node.metadata.name, node),
        terminating=runner.pod.metadata.deletion_timestamp is not None,
        engines=tuple(_engine(fleet, runner, each, told.get(each.id)) for each in engines),
    )


def _engine(fleet: Fleet, runner: Runner, engine: EngineAssignment, told: EngineStatus | None) -> EngineEntry:
    model = fleet.models.get(ModelKey(runner.pod.metadata.namespace, engine.model))
    state = told.state if told is not None else EngineState.STARTING
    return EngineEntry(
        id=engine.id,
        model=engine.model,
        priority=model.spec.priority if model is not None else None,
        state=state,
        desired=engine.state,
        gpus=engine.gpus,
        reserved_bytes=reserved_bytes(engine, told),
        awake_bytes=(told.awake_memory_bytes if told is not None else 0) or engine.awake_bytes,
        asleep_bytes=(told.asleep_memory_bytes if told is not None else 0) or engine.asleep_bytes,
        memory_bytes=told.memory_bytes if told is not None else 0,
        running=told.running if told is not None else 0,
        waiting=told.waiting if told is not None else 0,
        idle_seconds=runner.idle_seconds.get(engine.id),
    )


def _gpu_memory_bytes(node: Node) -> int:
    mib = node.metadata.labels.get(names.NODE_LABEL_GPU_MEMORY_MIB, "")
    return int(mib) * _MIB if mib.isdecimal() else 0


def _take(used: Counter[str], pod: Pod) -> None:
    if not pod.is_terminal:
        used.update(requests_of(pod))


def _tiers(cache: Cache | None) -> Iterable[TierUse]:
    if cache is None:
        return
    for tier, status in ((Tier.MEMORY, cache.status.memory), (Tier.DISK, cache.status.disk)):
        if status is not None and status.capacity_bytes:
            yield TierUse(tier=tier, capacity_bytes=status.capacity_bytes, used_bytes=status.used_bytes)


def _cached(cache: Cache | None) -> Iterable[CachedEntry]:
    for key, seen in sorted(cache.seen.items()) if cache is not None else ():
        transfer = cache.transfers.get(key) if cache is not None else None
        fetched = transfer.done_bytes if transfer is not None else seen.fetched_bytes
        yield CachedEntry(key=key, tier=seen.tier, state=seen.state, bytes=seen.bytes, fetched_bytes=fetched)
