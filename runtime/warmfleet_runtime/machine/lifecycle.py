"""One engine's life: what an event makes of it, and the step that brings it nearer to what is wanted."""

from dataclasses import replace

from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Reason, Stage
from warmfleet_runtime.machine.events import (
    Action,
    CompileCacheTaken,
    Drained,
    EngineEvent,
    Exited,
    FellAsleep,
    Heard,
    Launched,
    Outgrown,
    Progressed,
    Sleep,
    SleepFailed,
    Stop,
    WarmedUp,
    WarmUpFailed,
    Weighed,
    Woken,
)
from warmfleet_runtime.machine.starts import with_stage
from warmfleet_runtime.machine.state import Engine, Limits, Phase, new_engine

BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_MOST_SECONDS = 60.0
STABLE_SECONDS = 60.0
"""An engine that crashes sooner after Ready has failed its start: else a crash loop would look like luck."""
_COMING = frozenset({Phase.STARTING, Phase.WAKING})


# Events ------------------------------------------------------------------------------------------------------------


def on_engine_event(engine: Engine, event: EngineEvent, now: float) -> Engine:  # noqa: PLR0911 - one per event
    """Return the engine after something happened to its process."""
    match event:
        case Exited(error=error):
            return _exited(engine, error, now)
        case Outgrown(message=message) if engine.phase is not Phase.STOPPING:
            return replace(engine, failure=_crashing(message))
        case Heard(busy=busy, wake_requested=wake_requested):
            return replace(engine, busy=busy, wake_requested=wake_requested)
        case Drained() if engine.phase is Phase.DRAINING:
            return replace(engine, deadline=now)
        case FellAsleep() if engine.phase is Phase.FALLING_ASLEEP:
            return replace(engine, phase=Phase.ASLEEP, holds_asleep_bytes=True, asleep_memory_bytes=0)
        case SleepFailed(message=message) if engine.phase is Phase.FALLING_ASLEEP:
            return _would_not_sleep(engine, message)
        case SleepFailed(message=message) if engine.phase is Phase.WAKING:
            return replace(engine, failure=_crashing(f"it could not be woken and is started anew: {message}"))
        case Woken(cpu_milliseconds=cpu) if engine.phase is Phase.WAKING:
            return replace(with_stage(engine, Stage.WEIGHTS_LOADED, cpu, now), is_woken=True)
        case _ if engine.phase in _COMING:
            return _on_start_event(engine, event, now)
    return engine


def _on_start_event(engine: Engine, event: EngineEvent, now: float) -> Engine:  # noqa: PLR0911 - one per event
    """Return the engine after its start or wake came nearer to its end."""
    match event:
        case Launched(launch=launch):
            return replace(engine, launch=launch)
        case Progressed(stage=stage, cpu_milliseconds=cpu):
            return with_stage(engine, stage, cpu, now) if stage else replace(engine, progress_at=now)
        case Weighed(weight_bytes=weight_bytes) if not engine.entries:
            # Entries were weighed before, by their manifests.
            return replace(engine, weight_bytes=weight_bytes)
        case CompileCacheTaken(files=files):
            return replace(engine, compile_cache_files=files)
        case WarmedUp(first_request_milliseconds=milliseconds, cpu_milliseconds=cpu):
            return replace(
                with_stage(engine, Stage.WARMED_UP, cpu, now),
                phase=Phase.READY,
                is_start_open=False,
                ready_at=now,
                first_request_milliseconds=milliseconds,
                wake_requested=False,
                cannot_sleep=False,
                failure=None,
                error=None,
            )
        case WarmUpFailed(message=message):
            return replace(engine, failure=_crashing(message))
    return engine


def _would_not_sleep(engine: Engine, message: str) -> Engine:
    """Let the engine sleep by being stopped: its memory is wanted, and it failed at giving it back in place."""
    error = _crashing(f"it could not be put to sleep, so it was stopped, and waking it is a whole start: {message}")
    return replace(engine, cannot_sleep=True, error=error)


def _exited(engine: Engine, error: EngineError, now: float) -> Engine:
    """Queue the engine again; `settle` forgets it if it is not wanted any more."""
    was_told_to_stop = engine.failure is None and (engine.phase is Phase.STOPPING or not engine.is_wanted_as_it_is)
    queued = replace(
        engine,
        phase=Phase.QUEUED,
        is_start_open=False,
        holds_asleep_bytes=False,
        busy=True,
        failure=None,
        retry_at=now,
    )
    return queued if was_told_to_stop else failed_start(queued, engine.failure or error, now)


def failed_start(engine: Engine, error: EngineError, now: float) -> Engine:
    """Return a queued engine after a start that failed: the next try comes after a pause, each longer than the last."""
    failed_starts = engine.failed_starts + 1
    delay = min(BACKOFF_MOST_SECONDS, BACKOFF_FIRST_SECONDS * 2 ** min(failed_starts - 1, 16))
    return replace(engine, failed_starts=failed_starts, retry_at=now + delay, error=error)


# Towards what is wanted --------------------------------------------------------------------------------------------


def settle(  # noqa: PLR0911 - one per case
    engine: Engine, limits: Limits, now: float, *, gives_way: bool
) -> tuple[Engine | None, Action | None]:
    """Bring the engine one step nearer to what is wanted; None: it is gone.

    `gives_way`: it is starting only to sleep afterwards, and others need the room.
    """
    if engine.wanted and engine.is_wanted_as_it_is:
        engine = replace(engine, content=engine.wanted)
    if engine.phase is Phase.QUEUED:
        return _settle_queued(engine, limits), None
    if engine.phase is Phase.STOPPING:
        return _stop(engine, limits, now, force=True) if now >= engine.deadline else (engine, None)
    if engine.failure:
        return _stop(engine, limits, now, force=True)
    if engine.phase in _COMING and now >= _budget_end(engine):
        return _stop(replace(engine, failure=_stuck(engine)), limits, now, force=True)
    if not engine.is_to_stay:
        return _settle_leaving(engine, limits, now)
    if gives_way:
        return _stop(engine, limits, now)
    return _settle_staying(engine, limits, now)


def _settle_queued(engine: Engine, limits: Limits) -> Engine | None:
    if engine.wanted is None:
        return None
    if engine.is_wanted_as_it_is:
        return engine
    # Another engine under the same id: what the former one failed at does not count for it.
    return replace(new_engine(engine.wanted, limits, attempt=engine.attempt), refusal=engine.refusal)


def _settle_leaving(engine: Engine, limits: Limits, now: float) -> tuple[Engine, Action | None]:
    """Take an engine out that is not wanted, or wanted as another."""
    if engine.phase is Phase.READY:
        return _drain(engine, limits, now), None
    if engine.phase is Phase.DRAINING and now < engine.deadline:
        return engine, None
    return _stop(engine, limits, now)


def _settle_staying(  # noqa: PLR0911 - one per case
    engine: Engine, limits: Limits, now: float
) -> tuple[Engine, Action | None]:
    """Bring a wanted engine to the state that is wanted of it."""
    match engine.phase:
        case Phase.READY if engine.is_ordered_asleep:
            return _drain(engine, limits, now), None
        case Phase.READY if engine.sleeps_when_idle and not engine.busy and now >= _idle_end(engine):
            return _fall_asleep(engine, limits, now)
        case Phase.READY if engine.failed_starts and now >= engine.ready_at + STABLE_SECONDS:
            return replace(engine, failed_starts=0), None
        case Phase.DRAINING if not engine.is_ordered_asleep:
            return replace(engine, phase=Phase.READY), None
        case Phase.DRAINING if now >= engine.deadline:
            return _fall_asleep(engine, limits, now)
        case Phase.FALLING_ASLEEP if engine.cannot_sleep:
            return _stop(engine, limits, now, force=True)
        case Phase.FALLING_ASLEEP if now >= engine.deadline:
            seconds = engine.content.start_budget_seconds
            return _stop(_would_not_sleep(engine, f"it took more than {seconds} s"), limits, now, force=True)
    return engine, None


def _drain(engine: Engine, limits: Limits, now: float) -> Engine:
    return replace(engine, phase=Phase.DRAINING, deadline=now + limits.drain_seconds)


def _fall_asleep(engine: Engine, limits: Limits, now: float) -> tuple[Engine, Action]:
    if engine.content.engine.type not in limits.sleepers:
        return _stop(engine, limits, now)
    deadline = now + engine.content.start_budget_seconds
    return replace(engine, phase=Phase.FALLING_ASLEEP, deadline=deadline), Sleep(engine.content.id, engine.attempt)


def _stop(engine: Engine, limits: Limits, now: float, *, force: bool = False) -> tuple[Engine, Stop]:
    # A SIGKILL is repeated too: a group may gain a process while it is being killed.
    stopping = replace(engine, phase=Phase.STOPPING, deadline=now + (1.0 if force else limits.stop_seconds))
    return stopping, Stop(engine.content.id, engine.attempt, force)


def _stuck(engine: Engine) -> EngineError:
    last = engine.stages[-1].name if engine.stages else "none"
    what = "the wake" if engine.phase is Phase.WAKING else "the start"
    return _crashing(
        f"no stage of {what} progressed within {engine.content.start_budget_seconds} s (last finished: {last}); "
        "the engine was killed. See the runner's log for what it waited for"
    )


def _crashing(message: str) -> EngineError:
    return EngineError(reason=Reason.ENGINE_CRASHING, message=message)


# Time --------------------------------------------------------------------------------------------------------------


def deadline_of(engine: Engine) -> float | None:
    """When time alone changes something for the engine, if ever."""
    match engine.phase:
        case Phase.QUEUED:
            return engine.retry_at
        case Phase.STARTING | Phase.WAKING:
            return _budget_end(engine)
        case Phase.READY:
            return _ready_deadline(engine)
        case Phase.ASLEEP:
            return None
        case Phase.DRAINING | Phase.FALLING_ASLEEP | Phase.STOPPING:
            return engine.deadline


def _ready_deadline(engine: Engine) -> float | None:
    stable_at = engine.ready_at + STABLE_SECONDS if engine.failed_starts else None
    idle_at = _idle_end(engine) if engine.sleeps_when_idle and not engine.busy else None
    return min((each for each in (stable_at, idle_at) if each is not None), default=None)


def _idle_end(engine: Engine) -> float:
    """When an engine nobody asks for may sleep: one that was just woken stays up as long as after a request."""
    return engine.ready_at + engine.content.idle_seconds


def _budget_end(engine: Engine) -> float:
    return engine.progress_at + engine.content.start_budget_seconds
