"""The starts that are under way: which stages they have behind them, and how long the others will take."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from warmfleet_api.vocabulary import DesiredState, EngineState, Stage, StartType
from warmfleet_operator.decide.canary import variant
from warmfleet_operator.decide.estimates import Phases
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey
from warmfleet_operator.decide.predict_stages import BEFORE_WEIGHTS, node_type, phases_of, stage_seconds
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.times import parse_time

_OVERDUE_SHARE = 0.2
"""A stage that takes longer than it should is expected to take this share of its time longer still."""
_WAITING = frozenset({None, Stage.QUEUED, Stage.WEIGHTS_IN_MEMORY})
"""Stages in which an engine has not begun to load."""


@dataclass(frozen=True, slots=True)
class Coming:
    """An engine that was given its place and that requests do not reach yet."""

    model: Model
    member: Member
    start_type: StartType
    left: Phases
    """What is left of it. The wait for its turn, for weights and links is no part."""
    has_begun: bool
    """Whether it has its runner's turn."""
    stage: Stage
    """The stage under way."""
    trouble: str = ""
    """Why nobody can tell when it is done; empty while somebody can."""


def coming(fleet: Fleet, members: Mapping[ModelKey, Sequence[Member]], now: datetime) -> Iterator[Coming]:
    """Yield the starts that are under way, in the order of models and members."""
    # A member may have been looked at rounds ago: what is counted in seconds is the fleet's own runner's to tell.
    seconds: Mapping[str, Mapping[str, float]] | None = None
    for key, group in members.items():
        for member in group:
            if member.is_serving or not member.is_alive:
                continue
            model = fleet.models.get(key)
            if model is not None and model.stable is not None:
                model = variant(model, member.hash)
            if model is not None and _is_coming(model, member):
                if seconds is None:
                    seconds = {runner.pod.metadata.uid: runner.stage_seconds for runner in fleet.runners}
                yield _coming(fleet, model, member, seconds.get(member.pod.metadata.uid, {}), now)


def _is_coming(model: Model, member: Member) -> bool:
    """Whether an engine that does not serve yet is to."""
    if member.serve_label == EngineState.READY or member.hash != model.hash or not member.node:
        return False
    engine, assigned = member.engine, member.assigned
    if engine is not None and engine.state is EngineState.DRAINING:
        return False
    return assigned is not None and assigned.state is DesiredState.READY


def _coming(fleet: Fleet, model: Model, member: Member, seen: Mapping[str, float], now: datetime) -> Coming:
    engine = member.engine
    start_type = _start_type(member)
    stages = stage_seconds(fleet.estimates, model, start_type, node_type(fleet.nodes.get(member.node)))
    if engine is not None and engine.state is EngineState.FAILED:
        why = engine.error.message if engine.error is not None else "nobody knows why"
        return Coming(model, member, start_type, phases_of({}), False, Stage.QUEUED, f"its start failed: {why}")
    done, elapsed = _done(member, start_type, seen, now)
    left = {stage: seconds for stage, seconds in stages.items() if stage not in done}
    under_way = next(iter(left), Stage.ROUTABLE)
    if under_way in left and elapsed:
        left[under_way] = max(left[under_way] - elapsed, _OVERDUE_SHARE * elapsed)
    return Coming(
        model=model,
        member=member,
        start_type=start_type,
        left=phases_of(left),
        has_begun=_has_begun(member),
        stage=under_way if _has_begun(member) or not member.pool else Stage.QUEUED,
    )


def _start_type(member: Member) -> StartType:
    """Return how it starts: as its runner says, else woken if it sleeps in place, else by whose runner it is."""
    engine = member.engine
    if engine is not None and engine.state is EngineState.ASLEEP:
        return StartType.HOT
    if engine is not None and engine.state is EngineState.STARTING and engine.start_type is StartType.HOT:
        return StartType.HOT
    return StartType.WARM if member.pool else StartType.COLD


def _has_begun(member: Member) -> bool:
    engine = member.engine
    return engine is not None and (
        engine.state is EngineState.READY or (engine.state is EngineState.STARTING and engine.stage not in _WAITING)
    )


def _done(
    member: Member, start_type: StartType, lasted: Mapping[str, float], now: datetime
) -> tuple[set[Stage], float]:
    """Return the stages that are over, and for how long the one under way has lasted, as far as anybody saw it."""
    engine, pod = member.engine, member.pod
    seen = lasted.get(engine.id, 0.0) if engine is not None else 0.0
    if engine is not None and engine.state is EngineState.READY:
        return set(Stage) - {Stage.ROUTABLE}, seen
    if _has_begun(member) and engine is not None:
        behind = {stage for stage in Stage if engine.stage is not None and _ORDER[stage] < _ORDER[engine.stage]}
        return behind | {stage.name for stage in engine.stages} | BEFORE_WEIGHTS, seen
    if start_type is not StartType.COLD:
        return set(), 0.0
    scheduled = pod.condition("PodScheduled")
    if scheduled is None or scheduled.status != "True":
        return set(), _since(pod.metadata.creation_timestamp, now)
    running = next((each.state.running for each in pod.status.container_statuses if each.state.running), None)
    if running is None:
        return {Stage.RUNNER_SCHEDULED}, _since(scheduled.last_transition_time, now)
    return {Stage.RUNNER_SCHEDULED, Stage.IMAGE_PULLED}, _since(running.get("startedAt"), now)


_ORDER = {stage: index for index, stage in enumerate(Stage)}


def _since(text: str | None, now: datetime) -> float:
    moment = parse_time(text)
    return max(0.0, (now - moment).total_seconds()) if moment is not None else 0.0
