"""The engines of a model, its last start that ended, and where its time went.

Kubernetes gives times in whole seconds, engines give milliseconds: the stages of the pod are exact to a second, and
what remains between them and the engine's is the runner's own start.
"""

from collections.abc import Sequence
from datetime import datetime

from warmfleet_api.status import MAX_ENGINES, EngineSummary, LastStart, StageStatus
from warmfleet_api.vocabulary import WAITS, EngineState, Launch, Reason, Stage, StartType, ZygoteState
from warmfleet_operator.decide.fleet import Model, StartTimes
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.situation import Situation, container_of
from warmfleet_operator.decide.standby import is_reserve
from warmfleet_operator.decide.times import format_time, parse_time

_MAX_TEXT = 512
_BEFORE_A_START = {EngineState.STARTING, EngineState.FAILED, EngineState.ASLEEP}


def start_type(member: Member) -> StartType:
    """Return how an engine of the member starts: by a wake, in a runner that is there, or in a new one."""
    engine = member.engine
    if engine is not None and (engine.state is EngineState.ASLEEP or engine.start_type is StartType.HOT):
        return StartType.HOT
    return StartType.WARM if member.pool else StartType.COLD


def why_executed(member: Member) -> str | None:
    """Return why an engine was executed though it should have been forked; None where it was forked, or never is."""
    zygote = member.runner.status.zygote if member.runner.status is not None else None
    executed = member.engine is not None and member.engine.launch is Launch.EXEC
    if not executed or zygote is None or zygote.state is not ZygoteState.UNAVAILABLE:
        return None
    return zygote.message or "its runner has no zygote"


def listed(situation: Situation) -> Sequence[Member]:
    """Return the runners whose engines the status lists."""
    return situation.members[:MAX_ENGINES]


def shown_state(member: Member) -> EngineState:
    """Return the state the status lists: Ready once requests reach the engine, Draining once none should."""
    if not member.is_alive:
        return EngineState.DRAINING
    if member.is_serving:
        return EngineState.READY
    if is_reserve(member):
        return EngineState.ASLEEP
    if member.engine is None or member.is_ready:
        return EngineState.STARTING
    return member.engine.state


def just_started(situation: Situation) -> list[Member]:
    """Return the runners that serve now and were not listed as Ready before."""
    before = {engine.id: engine.state for engine in situation.model.status.engines}
    return [
        member
        for member in listed(situation)
        if member.is_serving and before.get(member.name, EngineState.STARTING) in _BEFORE_A_START
    ]


def succeeded(situation: Situation, member: Member, now: datetime) -> LastStart:
    """Return the record of a start whose engine requests have just reached."""
    kind = start_type(member)
    stages = (_stages if kind is StartType.COLD else _warm_stages)(situation.model, member, now)
    milliseconds = sum(stage.milliseconds for stage in stages if stage.name not in WAITS)
    by_exec = " by exec" if why_executed(member) is not None else ""
    return LastStart(
        start_type=kind,
        result="Succeeded",
        duration_milliseconds=milliseconds,
        time=format_time(now),
        node=member.node,
        stages=stages,
        summary=f"{milliseconds / 1000:.1f} s {kind}{by_exec} on {member.node}",
    )


def failed(situation: Situation, now: datetime) -> LastStart | None:
    """Return the record of the first start that failed, None where none did or it is on record already."""
    for member in listed(situation):
        engine = member.engine
        if not member.is_alive or member.is_serving or engine is None or engine.error is None:
            continue
        error = f"{engine.error.reason}: {engine.error.message}"[:_MAX_TEXT]
        last = situation.model.status.last_start
        if last is not None and last.result == "Failed" and (last.node, last.error) == (member.node, error):
            return None
        stages = _engine_stages(member)
        milliseconds = sum(stage.milliseconds for stage in stages)
        return LastStart(
            start_type=start_type(member),
            result="Failed",
            error=error,
            duration_milliseconds=milliseconds,
            time=format_time(now),
            node=member.node,
            stages=stages,
            summary=f"{engine.error.reason} on {member.node}",
        )
    return None


def engines_of(situation: Situation) -> list[EngineSummary]:
    """Return the engines the status lists. Memory that moved by less than a tenth stays as it was written."""
    written = {engine.id: engine.memory for engine in situation.model.status.engines}
    return [
        EngineSummary(
            id=member.name,
            runner=member.pod.metadata.name,
            node=member.node,
            state=shown_state(member),
            hash=member.hash,
            gpus=len(member.assigned.gpus) if member.assigned is not None else 0,
            memory=_steady(written.get(member.name, 0), member.engine.memory_bytes if member.engine else 0),
        )
        for member in listed(situation)
    ]


def _stages(model: Model, member: Member, now: datetime) -> list[StageStatus]:
    """Return where the time of a start went. A restart inside the runner has the engine's stages only."""
    engine = _engine_stages(member)
    container = container_of(member.pod)
    created = parse_time(member.pod.metadata.creation_timestamp)
    scheduled = _transition(member, "PodScheduled")
    running = container.state.running if container is not None else None
    begun = parse_time(running.get("startedAt")) if running else None
    restarted = (container is not None and container.restart_count > 0) or (
        member.engine is not None and member.engine.starts > 1
    )
    if restarted or created is None or scheduled is None or begun is None:
        return engine
    ready = _transition(member, "Ready") or now
    pulled = _milliseconds(scheduled, begun)
    after_begin = _milliseconds(begun, now)
    routable = min(_milliseconds(ready, now), after_begin)
    # From the container's begin on: the runner's own measure of these stages lacks the begin of its process.
    engine = [stage for stage in engine if stage.name not in {Stage.QUEUED, Stage.RUNNER_READY}]
    runner = max(0, after_begin - routable - sum(stage.milliseconds for stage in engine))
    return [
        *_until_scheduled(member, wanted_since(model) or created, created, scheduled),
        StageStatus(name=Stage.IMAGE_PULLED, milliseconds=pulled),
        StageStatus(name=Stage.RUNNER_READY, milliseconds=runner),
        *engine,
        StageStatus(name=Stage.ROUTABLE, milliseconds=routable),
    ]


def _until_scheduled(member: Member, wanted: datetime, created: datetime, scheduled: datetime) -> list[StageStatus]:
    """Return what passed until the runner had its node, which a claim has to wait for."""
    is_claim = member.pod.spec.affinity is None
    until_bound = Stage.NODE_PROVISIONED if is_claim else Stage.RUNNER_SCHEDULED
    return [
        StageStatus(name=Stage.QUEUED, milliseconds=_milliseconds(wanted, created)),
        StageStatus(name=until_bound, milliseconds=_milliseconds(created, scheduled)),
    ]


def _warm_stages(model: Model, member: Member, now: datetime) -> list[StageStatus]:
    """Return where the time of a start or wake in a running runner went.

    RunnerReady is there what passes until the runner has begun with what it was told. The engine's stages alone are
    known of a restart inside the runner, of a wake by the runner itself, and of a start that another leader decided.
    """
    engine = [stage for stage in _engine_stages(member) if stage.name not in {Stage.QUEUED, Stage.RUNNER_READY}]
    told_of = member.engine
    times = member.runner.start_times.get(told_of.id, StartTimes()) if told_of is not None else StartTimes()
    is_restart = told_of is not None and told_of.starts > 1 and told_of.start_type is not StartType.HOT
    if times.assigned is None or is_restart:
        return engine
    routable = _milliseconds(times.ready or now, now)
    told = max(0, _milliseconds(times.assigned, now) - routable - sum(stage.milliseconds for stage in engine))
    queued = _milliseconds(wanted_since(model) or times.assigned, times.assigned)
    return [
        StageStatus(name=Stage.QUEUED, milliseconds=queued),
        StageStatus(name=Stage.RUNNER_READY, milliseconds=told),
        *engine,
        StageStatus(name=Stage.ROUTABLE, milliseconds=routable),
    ]


def _engine_stages(member: Member) -> list[StageStatus]:
    stages = member.engine.stages if member.engine is not None else ()
    return [StageStatus(name=stage.name, milliseconds=stage.milliseconds) for stage in stages]


def wanted_since(model: Model) -> datetime | None:
    """Return since when the start was wanted: as its wait says; else the new spec, or since it is Ready no more."""
    pending = model.status.pending_start
    if pending is not None and pending.queued_time is not None:
        return parse_time(pending.queued_time)
    if model.status.last_start is None:
        return parse_time(model.metadata.creation_timestamp)
    conditions = {condition.type: condition for condition in model.status.conditions}
    for kind, waits in (("Reconciling", "True"), ("Ready", "False")):
        condition = conditions.get(kind)
        if condition is not None and condition.status == waits and condition.reason != Reason.STOPPED:
            return parse_time(condition.last_transition_time)
    return None


def _transition(member: Member, kind: str) -> datetime | None:
    condition = member.pod.condition(kind)
    return parse_time(condition.last_transition_time) if condition is not None and condition.status == "True" else None


def _milliseconds(start: datetime, end: datetime) -> int:
    return max(0, round((end - start).total_seconds() * 1000))


def _steady(written: int, measured: int) -> int:
    return written if measured and abs(measured - written) * 10 <= written else measured
