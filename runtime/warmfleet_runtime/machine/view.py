"""The state machine's state as the runner's status."""

from collections.abc import Mapping
from dataclasses import dataclass

from warmfleet_api.runner_status import CompileCacheOffer, EngineStatus, RunnerStatus, ZygoteStatus
from warmfleet_api.vocabulary import EngineState, Stage
from warmfleet_runtime.machine.state import Engine, Phase, State

START_STAGES = (Stage.ENGINE_FORKED, Stage.WEIGHTS_LOADED, Stage.CACHE_ALLOCATED, Stage.WARMED_UP)
"""The stages every start of a process passes; others (Compiled) are told when an engine had them."""


@dataclass(frozen=True, slots=True)
class Load:
    """What an engine was last measured to take of the machine."""

    cpu_millicores: int | None = None
    gpu_percent: int | None = None


_UNMEASURED = Load()


def runner_status(
    state: State,
    pod_uid: str,
    *,
    memory_bytes: int = 0,
    engine_memory_bytes: Mapping[str, int] | None = None,
    engine_loads: Mapping[str, Load] | None = None,
    zygote: ZygoteStatus | None = None,
    offers: tuple[CompileCacheOffer, ...] = (),
) -> RunnerStatus:
    """Return the status of the runner, its measured memory included."""
    memory, loads = engine_memory_bytes or {}, engine_loads or {}
    return RunnerStatus(
        pod_uid=pod_uid,
        revision=state.revision,
        draining=state.draining,
        gpus=state.limits.gpus,
        memory_limit_bytes=state.limits.memory_bytes,
        memory_bytes=memory_bytes,
        error=state.error,
        zygote=zygote,
        engines=tuple(
            _engine_status(engine, memory.get(key, 0), loads.get(key, _UNMEASURED))
            for key, engine in sorted(state.engines.items())
        ),
        offers=offers,
    )


def is_startup_over(state: State, now: float) -> bool:
    """Whether the kubelet's startup probe may pass: the first start of every engine is decided, or is late.

    Only a start without progress may fail, and the state machine alone judges that, engine by engine. So a start that
    takes three quarters of the budget the probe was computed from ends the probe, not the container.
    """
    return state.revision > 0 and all(
        engine.ready_at > 0
        or engine.is_failed
        or engine.is_parked
        or now - state.born >= 0.75 * engine.content.start_budget_seconds
        for engine in state.engines.values()
    )


def can_take_engines(state: State) -> bool:
    """Whether a new engine would be started as quickly as the runner can."""
    return state.revision > 0 and not state.zygote_is_importing and not state.draining


def engine_state(engine: Engine) -> EngineState:  # noqa: PLR0911 - one per case
    """Return the state the engine shows to the world."""
    if engine.is_failed:
        return EngineState.FAILED
    match engine.phase:
        case Phase.READY:
            return EngineState.READY
        case Phase.DRAINING | Phase.FALLING_ASLEEP:
            return EngineState.DRAINING
        case Phase.ASLEEP:
            return EngineState.ASLEEP
        case Phase.QUEUED if engine.is_parked:
            return EngineState.ASLEEP
        case Phase.STOPPING if engine.failure is None:
            return EngineState.DRAINING
        case _:
            return EngineState.STARTING


def wakes_on_request(engine: Engine) -> bool:
    """Whether a request does well to wait for the engine: it is asleep, and will be woken for it.

    A start after a failed one is no such case: nobody knows whether it succeeds.
    """
    if not engine.is_to_stay or engine.is_ordered_asleep:
        return False
    if engine.is_parked or engine.phase in {Phase.FALLING_ASLEEP, Phase.ASLEEP, Phase.WAKING}:
        return True
    is_between = engine.phase in {Phase.QUEUED, Phase.STARTING, Phase.STOPPING}
    return engine.sleeps_when_idle and is_between and not engine.failed_starts


def _engine_status(engine: Engine, memory_bytes: int, load: Load) -> EngineStatus:
    state = engine_state(engine)
    return EngineStatus(
        id=engine.content.id,
        model=engine.content.model,
        model_uid=engine.content.model_uid,
        hash=engine.content.hash,
        gpus=engine.content.gpus,
        awake_bytes=engine.content.awake_bytes,
        state=state,
        stage=_stage_under_way(engine) if state is EngineState.STARTING else None,
        stages=engine.stages,
        starts=engine.attempt,
        failed_starts=engine.failed_starts,
        error=engine.refusal or engine.error,
        weight_bytes=engine.weight_bytes,
        waits_for=engine.missing if engine.waits_since is not None else (),
        launch=engine.launch,
        start_type=engine.start_type,
        memory_bytes=memory_bytes,
        awake_memory_bytes=engine.awake_memory_bytes,
        asleep_memory_bytes=engine.asleep_memory_bytes,
        first_request_milliseconds=engine.first_request_milliseconds,
        compile_cache_files=engine.compile_cache_files,
        cpu_millicores=load.cpu_millicores,
        gpu_percent=load.gpu_percent,
    )


def _stage_under_way(engine: Engine) -> Stage:
    if engine.phase is Phase.WAKING:
        return Stage.WARMED_UP if engine.is_woken else Stage.WEIGHTS_LOADED
    if engine.phase is not Phase.STARTING:
        is_waiting = engine.waits_since is not None and engine.missing
        return Stage.WEIGHTS_IN_MEMORY if is_waiting else Stage.QUEUED
    finished = [START_STAGES.index(each.name) for each in engine.stages if each.name in START_STAGES]
    return START_STAGES[min(max(finished, default=-1) + 1, len(START_STAGES) - 1)]
