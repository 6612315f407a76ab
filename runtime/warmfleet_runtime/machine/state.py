"""What the state machine knows: the runner and its engines, as frozen data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineError, StageTime
from warmfleet_api.vocabulary import Reason

CRASHING_AFTER_STARTS = 3
"""Failed starts in a row after which an engine is Failed; it is still tried again."""


class Phase(StrEnum):
    """Where an engine's process is in its life."""

    QUEUED = "Queued"
    """No process: waits for its turn, for memory, or for the next try."""
    STARTING = "Starting"
    READY = "Ready"
    DRAINING = "Draining"
    """Finishes the requests it has; no new ones reach it."""
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


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine: the process it is (`content`) and what it ought to be (`wanted`)."""

    content: EngineAssignment
    wanted: EngineAssignment | None
    phase: Phase = Phase.QUEUED
    attempt: int = 0
    """How many times a process was started for it."""
    failed_starts: int = 0
    retry_at: float = 0.0
    stages: tuple[StageTime, ...] = ()
    stage_since: float = 0.0
    progress_at: float = 0.0
    ready_at: float = 0.0
    deadline: float = 0.0
    """While Draining and Stopping: when patience ends."""
    refusal: EngineError | None = None
    """It can't run here at all."""
    failure: EngineError | None = None
    """Why it is being killed; the exit that follows counts as this failure."""
    error: EngineError | None = None
    """Why the last start failed."""
    weight_bytes: int = 0
    first_request_milliseconds: int | None = None

    @property
    def is_wanted_as_it_is(self) -> bool:
        """Whether the process it is, is the one asked for."""
        return self.wanted is not None and identity(self.wanted) == identity(self.content)

    @property
    def is_failed(self) -> bool:
        """Whether it failed for good reason, not by a single accident; stays true until a try succeeds."""
        if self.refusal:
            return True
        if self.phase in {Phase.READY, Phase.DRAINING} or self.error is None:
            return False
        return self.error.reason is not Reason.ENGINE_CRASHING or self.failed_starts >= CRASHING_AFTER_STARTS


@dataclass(frozen=True, slots=True)
class State:
    """All the machine knows."""

    limits: Limits
    born: float = 0.0
    """When the runner's container started."""
    revision: int = 0
    engines: Mapping[str, Engine] = field(default_factory=dict)
    draining: bool = False
    error: str = ""
    """Why the last assignment, or a part of it, was refused."""


def identity(engine: EngineAssignment) -> tuple[object, ...]:
    """What an engine's process depends on: with another identity it is another process."""
    return engine.model, engine.model_uid, engine.hash, engine.gpus, engine.engine
