"""The step of the state machine: `step(state, event, now)`; read it first, the rest is called from there."""

import re
from dataclasses import replace

from warmfleet_api.assignment import Assignment, EngineAssignment
from warmfleet_api.runner_status import EngineError, StageTime
from warmfleet_api.vocabulary import EngineType, Reason, Stage
from warmfleet_runtime.machine.events import (
    Action,
    Assigned,
    AssignmentRefused,
    Drained,
    EngineEvent,
    Event,
    Exited,
    Finish,
    Progressed,
    Start,
    Stop,
    Terminate,
    Tick,
    WarmedUp,
    WarmUpFailed,
    Weighed,
)
from warmfleet_runtime.machine.state import Engine, Limits, Phase, State

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Ids name sockets and logs; a unix socket's path has at most 107 characters."""
BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_MOST_SECONDS = 60.0
STABLE_SECONDS = 60.0
"""An engine that crashes sooner after Ready has failed its start: else a crash loop would look like luck."""


def step(state: State, event: Event, now: float) -> tuple[State, tuple[Action, ...]]:
    """Return the state after `event` at `now`, and what has to be done."""
    match event:
        case Assigned(assignment):
            state = _assign(state, assignment, now)
        case AssignmentRefused(message):
            state = replace(state, error=message)
        case Terminate():
            state = replace(state, draining=True)
        case Tick():
            pass
        case _:
            engine = state.engines.get(event.id)
            if engine and engine.attempt == event.attempt and engine.phase is not Phase.QUEUED:
                state = _with_engine(state, _on_engine_event(engine, event, now))
    state, stops = _settle_all(state, now)
    state, starts = _start_next(state, now)
    finish = (Finish(),) if state.draining and not state.engines else ()
    return state, (*stops, *starts, *finish)


def next_deadline(state: State, now: float) -> float | None:
    """When time alone changes something, if ever; later than `now` right after a step at `now`."""
    deadlines = (_deadline(engine) for engine in state.engines.values())
    return min((each for each in deadlines if each is not None and each > now), default=None)


# Assignments -------------------------------------------------------------------------------------------------------


def _assign(state: State, assignment: Assignment, now: float) -> State:
    if assignment.revision < state.revision:
        return replace(
            state, error=f"refused assignment revision {assignment.revision}: revision {state.revision} is in force"
        )
    wanted = {engine.id: engine for engine in assignment.engines}
    if len(wanted) != len(assignment.engines):
        return replace(state, error=f"refused assignment revision {assignment.revision}: two engines share an id")
    if bad := [key for key in wanted if not _FILE_NAME.fullmatch(key)]:
        return replace(state, error=f"refused assignment revision {assignment.revision}: {bad[0]!r} is no engine id")
    refusals = _refusals(assignment, state.limits)
    # The stage belongs to the start of the container, so only to what it found assigned.
    stages = _runner_ready(state.born, now) if state.revision == 0 else ()
    engines: dict[str, Engine] = {}
    for key in {**state.engines, **wanted}:
        engine = state.engines.get(key) or Engine(content=wanted[key], wanted=wanted[key], stages=stages)
        engines[key] = replace(engine, wanted=wanted.get(key), refusal=refusals.get(key))
    error = "; ".join(f"engine {key}: {refusal.message}" for key, refusal in sorted(refusals.items()))
    return replace(state, revision=assignment.revision, engines=engines, error=error)


def _runner_ready(born: float, now: float) -> tuple[StageTime, ...]:
    return (StageTime(name=Stage.RUNNER_READY, milliseconds=_milliseconds(now - born)),)


def _refusals(assignment: Assignment, limits: Limits) -> dict[str, EngineError]:
    """Engines that can't run here: by ascending order, those for which memory or GPUs do not suffice."""
    refusals: dict[str, EngineError] = {}
    reserved = 0
    for engine in sorted(assignment.engines, key=_order):
        # Simulated GPUs need no device; only engines without GPUs live on the memory limit.
        if engine.engine.type is not EngineType.SIMULATED and any(gpu >= limits.gpus for gpu in engine.gpus):
            message = (
                f"needs GPU {max(engine.gpus)}, this runner has {limits.gpus}; recreate the runner on another node"
            )
            refusals[engine.id] = EngineError(reason=Reason.NEVER_FITS, message=message)
            continue
        needed = 0 if engine.gpus else engine.awake_bytes
        if limits.memory_bytes and reserved + needed > limits.memory_bytes:
            message = (
                f"needs {needed} bytes of memory beside {reserved} bytes of other engines, the limit is "
                f"{limits.memory_bytes}; raise resources.memory"
            )
            refusals[engine.id] = EngineError(reason=Reason.NEVER_FITS, message=message)
            continue
        reserved += needed
    return refusals


# Engines -----------------------------------------------------------------------------------------------------------


def _on_engine_event(engine: Engine, event: EngineEvent, now: float) -> Engine:  # noqa: PLR0911 - one per event
    match event:
        case Exited(error=error):
            return _exited(engine, error, now)
        case Drained() if engine.phase is Phase.DRAINING:
            return replace(engine, deadline=now)
        case _ if engine.phase is not Phase.STARTING:
            return engine
        case Progressed(stage=stage):
            return _finish_stage(engine, stage, now) if stage else replace(engine, progress_at=now)
        case Weighed(weight_bytes=weight_bytes):
            return replace(engine, weight_bytes=weight_bytes)
        case WarmedUp(first_request_milliseconds=milliseconds):
            ready = _finish_stage(engine, Stage.WARMED_UP, now)
            return replace(
                ready,
                phase=Phase.READY,
                ready_at=now,
                first_request_milliseconds=milliseconds,
                failure=None,
                error=None,
            )
        case WarmUpFailed(message=message):
            return replace(engine, failure=EngineError(reason=Reason.ENGINE_CRASHING, message=message))
    return engine


def _finish_stage(engine: Engine, stage: Stage, now: float) -> Engine:
    if any(each.name is stage for each in engine.stages):
        return engine
    finished = StageTime(name=stage, milliseconds=_milliseconds(now - engine.stage_since))
    return replace(engine, stages=(*engine.stages, finished), stage_since=now, progress_at=now)


def _exited(engine: Engine, error: EngineError, now: float) -> Engine:
    """Queue the engine again; `_settle` forgets it if it is not wanted any more."""
    was_told_to_stop = engine.failure is None and (engine.phase is Phase.STOPPING or not engine.is_wanted_as_it_is)
    queued = replace(engine, phase=Phase.QUEUED, failure=None, retry_at=now)
    if was_told_to_stop:
        return queued
    failed_starts = engine.failed_starts + 1
    delay = min(BACKOFF_MOST_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** min(failed_starts - 1, 16))
    return replace(queued, failed_starts=failed_starts, retry_at=now + delay, error=engine.failure or error)


def _settle_all(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    """Bring every engine nearer to what is wanted; forget those that are gone."""
    engines: dict[str, Engine] = {}
    actions: list[Action] = []
    for key, engine in state.engines.items():
        settled, stop = _settle(replace(engine, wanted=None) if state.draining else engine, state.limits, now)
        if settled:
            engines[key] = settled
        if stop:
            actions.append(stop)
    return replace(state, engines=engines), tuple(actions)


def _settle(  # noqa: PLR0911 - one per case
    engine: Engine, limits: Limits, now: float
) -> tuple[Engine | None, Action | None]:
    if engine.wanted and engine.is_wanted_as_it_is:
        engine = replace(engine, content=engine.wanted)
    if engine.phase is Phase.QUEUED:
        return _settle_queued(engine), None
    runs_as_wanted = engine.is_wanted_as_it_is and not engine.refusal
    match engine.phase:
        case Phase.STARTING if engine.failure:
            return _stop(engine, limits, now, force=True)
        case Phase.STARTING if not runs_as_wanted:
            return _stop(engine, limits, now)
        case Phase.STARTING if now >= _budget_end(engine):
            return _stop(replace(engine, failure=_stuck(engine)), limits, now, force=True)
        case Phase.READY if not runs_as_wanted:
            return replace(engine, phase=Phase.DRAINING, deadline=now + limits.drain_seconds), None
        case Phase.READY if engine.failed_starts and now >= engine.ready_at + STABLE_SECONDS:
            return replace(engine, failed_starts=0), None
        case Phase.DRAINING if runs_as_wanted:
            return replace(engine, phase=Phase.READY), None
        case Phase.DRAINING if now >= engine.deadline:
            return _stop(engine, limits, now)
        case Phase.STOPPING if now >= engine.deadline:
            return _stop(engine, limits, now, force=True)
    return engine, None


def _settle_queued(engine: Engine) -> Engine | None:
    if engine.wanted is None:
        return None
    if engine.is_wanted_as_it_is:
        return engine
    # Another engine under the same id: what the former one failed at does not count for it.
    return Engine(engine.wanted, engine.wanted, attempt=engine.attempt, refusal=engine.refusal)


def _stop(engine: Engine, limits: Limits, now: float, *, force: bool = False) -> tuple[Engine, Stop]:
    # A SIGKILL is repeated too: a group may gain a process while it is being killed.
    stopping = replace(engine, phase=Phase.STOPPING, deadline=now + (1.0 if force else limits.stop_seconds))
    return stopping, Stop(engine.content.id, engine.attempt, force)


def _stuck(engine: Engine) -> EngineError:
    last = engine.stages[-1].name if engine.stages else "none"
    message = (
        f"no stage of the start progressed within {engine.content.start_budget_seconds} s (last finished: {last}); "
        "the engine was killed. See the runner's log for what it waited for"
    )
    return EngineError(reason=Reason.ENGINE_CRASHING, message=message)


def _start_next(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    """Start the first engine whose turn it is: one load at a time, and only into memory that is free."""
    if any(engine.phase is Phase.STARTING for engine in state.engines.values()):
        return state, ()
    waiting = (engine for engine in state.engines.values() if engine.phase is Phase.QUEUED and not engine.refusal)
    for engine in sorted(waiting, key=lambda each: _order(each.content)):
        if engine.retry_at <= now and _has_room(state, engine.content):
            started = replace(
                engine,
                phase=Phase.STARTING,
                attempt=engine.attempt + 1,
                stages=engine.stages if engine.attempt == 0 else (),
                stage_since=now,
                progress_at=now,
                first_request_milliseconds=None,
            )
            action = Start(engine.content, started.attempt)
            return _with_engine(state, started), (action,)
    return state, ()


def _has_room(state: State, engine: EngineAssignment) -> bool:
    """Whether what engines that still have processes hold leaves room; the assignment as a whole was checked before."""
    alive = [each.content for each in state.engines.values() if each.phase is not Phase.QUEUED]
    if engine.gpus:
        leaving = [each.content for each in state.engines.values() if each.phase in {Phase.DRAINING, Phase.STOPPING}]
        return not any(set(each.gpus) & set(engine.gpus) for each in leaving)
    held = sum(each.awake_bytes for each in alive if not each.gpus)
    return not state.limits.memory_bytes or held + engine.awake_bytes <= state.limits.memory_bytes


def _deadline(engine: Engine) -> float | None:
    match engine.phase:
        case Phase.QUEUED:
            return engine.retry_at
        case Phase.STARTING:
            return _budget_end(engine)
        case Phase.READY:
            return engine.ready_at + STABLE_SECONDS if engine.failed_starts else None
        case Phase.DRAINING | Phase.STOPPING:
            return engine.deadline


def _budget_end(engine: Engine) -> float:
    return engine.progress_at + engine.content.start_budget_seconds


def _order(engine: EngineAssignment) -> tuple[int, str]:
    return engine.order, engine.id


def _with_engine(state: State, engine: Engine) -> State:
    return replace(state, engines={**state.engines, engine.content.id: engine})


def _milliseconds(seconds: float) -> int:
    return max(0, round(seconds * 1000))
