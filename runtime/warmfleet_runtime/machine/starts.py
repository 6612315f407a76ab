"""Starts and wakes: how they begin, the stages they pass, and the record of each that ended."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import msgspec

from warmfleet_api.runner_status import KEPT_STARTS, StageTime, StartRecord
from warmfleet_api.vocabulary import Stage, StartType
from warmfleet_runtime.machine.state import Engine, Phase, State


def begun(engine: Engine, state: State, now: float) -> Engine:
    """Return the engine with a new start under way."""
    waits_since = now if engine.waits_since is None else engine.waits_since
    # Entries that were there before its turn took none of its time.
    waited = StageTime(name=Stage.WEIGHTS_IN_MEMORY, milliseconds=milliseconds(engine.found_at - waits_since))
    is_cold = _is_cold(engine)
    return replace(
        _opened(engine, now),
        phase=Phase.STARTING,
        start_type=StartType.COLD if is_cold else StartType.WARM,
        launch=None,
        compile_cache_files=0,
        began_at=state.born if is_cold else waits_since,
        stages=(*_stages_of_container(engine, state, now), *((waited,) if engine.entries else ())),
        waits_since=None,
    )


def begun_wait(engine: Engine, state: State, now: float) -> Engine:
    """Return the engine with the wait for its weights under way: the first part of a start that is to follow."""
    return replace(engine, waits_since=now, stages=_stages_of_container(engine, state, now))


def begun_wake(engine: Engine, now: float) -> Engine:
    """Return the engine with a wake under way: a start whose process is there already."""
    return replace(
        _opened(engine, now), phase=Phase.WAKING, start_type=StartType.HOT, holds_asleep_bytes=False, is_woken=False
    )


def _is_cold(engine: Engine) -> bool:
    return engine.found_at_birth and engine.attempt == 0


def _stages_of_container(engine: Engine, state: State, now: float) -> tuple[StageTime, ...]:
    """Return the stage that belongs to the start of the container, so only to what it found assigned."""
    if not _is_cold(engine):
        return ()
    ready_at = now if state.runner_ready_at is None else state.runner_ready_at
    return (StageTime(name=Stage.RUNNER_READY, milliseconds=milliseconds(ready_at - state.born)),)


def _opened(engine: Engine, now: float) -> Engine:
    return replace(
        engine,
        attempt=engine.attempt + 1,
        is_start_open=True,
        began_at=now,
        stages=(),
        stage_since=now,
        stage_cpu_milliseconds=0,
        progress_at=now,
        first_request_milliseconds=None,
        is_parked=False,
    )


def with_stage(engine: Engine, stage: Stage, cpu_milliseconds: int, now: float) -> Engine:
    """Return the engine with a stage finished; one that was finished before is not measured again."""
    if any(each.name is stage for each in engine.stages):
        return engine
    finished = StageTime(
        name=stage,
        milliseconds=milliseconds(now - engine.stage_since),
        cpu_milliseconds=max(0, cpu_milliseconds - engine.stage_cpu_milliseconds),
    )
    return replace(
        engine,
        stages=(*engine.stages, finished),
        stage_since=now,
        stage_cpu_milliseconds=cpu_milliseconds,
        progress_at=now,
    )


def recorded(state: State, before: Engine, after: Engine, now: float) -> State:
    """Take over an engine after an event; a start that ended by it is recorded."""
    state = replace(state, engines={**state.engines, after.content.id: after})
    was_ended = before.is_start_open and not after.is_start_open
    has_failed = after.failed_starts > before.failed_starts
    if not was_ended or not (has_failed or after.phase is Phase.READY):
        return state
    record = StartRecord(
        sequence=state.starts[-1].sequence + 1 if state.starts else 1,
        engine=after.content.id,
        model=after.content.model,
        model_uid=after.content.model_uid,
        start_type=before.start_type or StartType.WARM,
        launch=None if before.start_type is StartType.HOT else before.launch,
        error=after.error if has_failed else None,
        milliseconds=milliseconds(now - before.began_at),
        stages=after.stages,
        first_request_milliseconds=after.first_request_milliseconds,
        compile_cache_files=0 if before.start_type is StartType.HOT else after.compile_cache_files,
        ended_time=_time_of(state, now),
    )
    return replace(state, starts=(*state.starts, record)[-KEPT_STARTS:])


def measured(state: State, bytes_by_id: Mapping[str, int]) -> State:
    """Keep what engines hold awake and asleep; a start's record gets the first measure after it."""
    engines = dict(state.engines)
    starts = list(state.starts)
    for key, held in bytes_by_id.items():
        engine = engines.get(key)
        if engine is None:
            continue
        if engine.phase is Phase.ASLEEP:
            engines[key] = replace(engine, asleep_memory_bytes=held)
        elif engine.phase is Phase.READY:
            engines[key] = replace(engine, awake_memory_bytes=held)
            last = next((i for i in reversed(range(len(starts))) if starts[i].engine == key), None)
            if last is not None and starts[last].error is None and not starts[last].memory_bytes:
                starts[last] = msgspec.structs.replace(starts[last], memory_bytes=held)
    return replace(state, engines=engines, starts=tuple(starts))


def milliseconds(seconds: float) -> int:
    """Return whole milliseconds, never below 0."""
    return max(0, round(seconds * 1000))


def _time_of(state: State, now: float) -> str:
    moment = datetime.fromtimestamp(state.clock_offset_seconds + now, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
