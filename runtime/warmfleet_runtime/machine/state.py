"""What the state machine knows: the runner and its engines, as frozen data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineError, StageTime, StartRecord
from warmfleet_api.vocabulary import DesiredState, EngineType, Launch, Reason, StartType, WakePolicy

FRESH_AFTER_STARTS = 2
"""Failed starts in a row after which an engine starts without what was compiled before, once: if it fails anyhow, later
starts go on with what that one compiled."""
CRASHING_AFTER_STARTS = 3
"""Failed starts in a row after which an engine is Failed; it is still tried again."""


class Phase(StrEnum):
    """Where an engine's process is in its life."""

    QUEUED = "Queued"
    """No process: waits for its turn, for memory, or for the next try; or sleeps by being stopped."""
    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"
    """Finishes the requests it has, to sleep or to stop; no new ones reach it."""
    FALLING_ASLEEP = "FallingAsleep"
    ASLEEP = "Asleep"
    WAKING = "Waking"
    STOPPING = "Stopping"
    """Signalled; its process group still exists."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the runner has, and how long it waits for processes."""

    memory_bytes: int = 0
    """0: not known, nothing is refused for it."""
    gpus: int = 0
    drain_seconds: float = 30.0
    stop_seconds: float = 10.0
    """From SIGTERM to SIGKILL."""
    sleepers: frozenset[EngineType] = frozenset()
    """Engines that sleep in place; others sleep by being stopped, and are woken by a start."""
    weights_root: str = ""
    """Folders below it are entries of the weight store; empty: there is none."""


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine: the process it is (`content`) and what it ought to be (`wanted`)."""

    content: EngineAssignment
    wanted: EngineAssignment | None
    phase: Phase = Phase.QUEUED
    attempt: int = 0
    """How many times a process was started or woken for it."""
    found_at_birth: bool = False
    """Assigned when the runner's container started."""
    failed_starts: int = 0
    retry_at: float = 0.0

    entries: tuple[str, ...] = ()
    """Keys of what it reads from the weight store."""
    missing: tuple[str, ...] = ()
    """Those of them that are not known to be in memory, and locked."""
    waits_since: float | None = None
    """While Queued: when nothing but missing entries began to keep it from starting."""
    found_at: float = 0.0
    """When none of them was missing any more."""

    # The current or last start.
    start_type: StartType | None = None
    launch: Launch | None = None
    is_start_open: bool = False
    """It has neither succeeded nor failed yet."""
    began_at: float = 0.0
    stages: tuple[StageTime, ...] = ()
    stage_since: float = 0.0
    stage_cpu_milliseconds: int = 0
    """CPU time of the attempt when the stage under way began."""
    progress_at: float = 0.0
    ready_at: float = 0.0
    weight_bytes: int = 0
    compile_cache_files: int = 0
    """Files of a compile cache from the weight store that its process began with."""
    first_request_milliseconds: int | None = None

    deadline: float = 0.0
    """While Draining, FallingAsleep and Stopping: when patience ends."""
    busy: bool = True
    wake_requested: bool = False
    is_woken: bool = False
    """While Waking: the weights are back, the warm-up is under way."""
    holds_asleep_bytes: bool = False
    """Its process sleeps, or is stopped in its sleep."""
    is_parked: bool = False
    """While Queued: asleep without a process."""
    cannot_sleep: bool = False
    """A try to put it to sleep failed: until it was Ready anew, it sleeps by being stopped."""
    awake_memory_bytes: int = 0
    """Measured when it was last Ready."""
    asleep_memory_bytes: int = 0
    """Measured when it was last Asleep."""

    refusal: EngineError | None = None
    """It can't run here at all."""
    failure: EngineError | None = None
    """Why it is being killed; the exit that follows counts as this failure."""
    error: EngineError | None = None
    """Why the last start failed."""

    @property
    def is_wanted_as_it_is(self) -> bool:
        """Whether the process it is, is the one asked for."""
        return self.wanted is not None and identity(self.wanted) == identity(self.content)

    @property
    def is_to_stay(self) -> bool:
        """Whether this process, awake or asleep, is what the runner ought to have."""
        return self.is_wanted_as_it_is and self.refusal is None

    @property
    def is_ordered_asleep(self) -> bool:
        """Whether it shall sleep until an assignment wakes it."""
        wanted = self.wanted
        return wanted is not None and wanted.state is DesiredState.ASLEEP and wanted.wake is WakePolicy.ON_ASSIGNMENT

    @property
    def sleeps_when_idle(self) -> bool:
        """Whether requests alone decide if it sleeps."""
        wanted = self.wanted
        return wanted is not None and wanted.state is DesiredState.ASLEEP and wanted.wake is WakePolicy.ON_REQUEST

    @property
    def is_wanted_awake(self) -> bool:
        """Whether it has to be brought to Ready now."""
        return self.wanted is not None and (self.wanted.state is DesiredState.READY or self.wants_to_wake)

    @property
    def wants_to_wake(self) -> bool:
        """Whether a request waits for an engine that sleeps when idle."""
        return self.sleeps_when_idle and self.wake_requested

    @property
    def is_failed(self) -> bool:
        """Whether it failed for good reason, not by a single accident; stays true until a try succeeds."""
        if self.refusal:
            return True
        if self.error is None or self.phase in {Phase.READY, Phase.DRAINING, Phase.FALLING_ASLEEP, Phase.ASLEEP}:
            return False
        return self.error.reason is not Reason.ENGINE_CRASHING or self.failed_starts >= CRASHING_AFTER_STARTS


@dataclass(frozen=True, slots=True)
class State:
    """All the machine knows."""

    limits: Limits
    born: float = 0.0
    """When the runner's container started."""
    clock_offset_seconds: float = 0.0
    """Unix time of the machine's time 0."""
    zygote_is_importing: bool = False
    """vLLM engines wait: a fork will be quicker than an exec."""
    deaths: Mapping[str, int] = field(default_factory=dict)
    """How often the container died while an engine (by `start_key`) was starting."""
    revision: int = 0
    trusted_keys: tuple[str, ...] = ()
    runner_ready_at: float | None = None
    """When the assignment had been read and the zygote imported no more."""
    engines: Mapping[str, Engine] = field(default_factory=dict)
    starts: tuple[StartRecord, ...] = ()
    """The last ones that ended, oldest first."""
    draining: bool = False
    error: str = ""
    """Why the last assignment, or a part of it, was refused."""


def new_engine(wanted: EngineAssignment, limits: Limits, *, attempt: int = 0, found_at_birth: bool = False) -> Engine:
    """Return an engine without a past; `attempt` goes on where an engine of the same id was before."""
    entries = entries_of(wanted, limits.weights_root)
    return Engine(wanted, wanted, attempt=attempt, found_at_birth=found_at_birth, entries=entries, missing=entries)


def entries_of(engine: EngineAssignment, root: str) -> tuple[str, ...]:
    """Return the keys of the entries an engine reads: of its model, its draft and its adapters below `root`.

    Folders elsewhere belong to no store, nor do those of engines that read no weights.
    """
    spec = engine.engine
    if not root or spec.type is not EngineType.VLLM:
        return ()
    draft = (spec.speculative.folder,) if spec.speculative is not None else ()
    keys: dict[str, None] = {}
    for folder in (spec.folder, *draft, *(adapter.folder for adapter in spec.adapters)):
        if folder.startswith(f"{root}/"):
            keys[folder.removeprefix(f"{root}/").partition("/")[0]] = None
    return tuple(keys)


def identity(engine: EngineAssignment) -> tuple[object, ...]:
    """What an engine's process depends on: with another identity it is another process."""
    return engine.model, engine.model_uid, engine.hash, engine.gpus, engine.engine


def start_key(engine: EngineAssignment) -> str:
    """Return the name under which the starts of an engine are known beyond the life of PID 1."""
    return f"{engine.id}/{engine.model_uid}/{engine.hash}"
