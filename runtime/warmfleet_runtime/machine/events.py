"""What happens to a runner (events), and what the state machine wants done (actions), as plain data.

Events about a process carry its `attempt`, so that one that arrives late can't touch its successor.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from warmfleet_api.assignment import Assignment, EngineAssignment
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Launch, Stage


@dataclass(frozen=True, slots=True)
class Assigned:
    """The assignment file has new content."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class AssignmentRefused:
    """The assignment file is missing or can't be read: the last good one stays."""

    message: str


@dataclass(frozen=True, slots=True)
class ZygoteChanged:
    """Whether engines that could be forked have to wait for the zygote."""

    is_importing: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What the process groups of engines hold."""

    bytes_by_id: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class WeightsSeen:
    """What was found of the entries an engine reads. What is not `missing` stays: it is locked."""

    id: str
    entries: tuple[str, ...]
    """Keys of those that were looked for: an engine that reads others by now is not meant."""
    missing: tuple[str, ...] = ()
    """Keys of those that are not in memory."""
    weight_bytes: int = 0
    """Size of all of them, once none is missing."""
    error: EngineError | None = None
    """One can't be served."""


@dataclass(frozen=True, slots=True)
class Launched:
    """An engine's process exists."""

    id: str
    attempt: int
    launch: Launch


@dataclass(frozen=True, slots=True)
class Progressed:
    """An engine's start goes on; with a stage, it has finished that stage."""

    id: str
    attempt: int
    stage: Stage | None = None
    cpu_milliseconds: int = 0
    """CPU time of the engine's processes since the attempt began."""


@dataclass(frozen=True, slots=True)
class Weighed:
    """An engine knows the size of its weights."""

    id: str
    attempt: int
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class CompileCacheTaken:
    """An engine begins with what others compiled."""

    id: str
    attempt: int
    files: int


@dataclass(frozen=True, slots=True)
class WarmedUp:
    """The warm-up request was answered."""

    id: str
    attempt: int
    first_request_milliseconds: int
    cpu_milliseconds: int = 0
    """CPU time of the engine's processes since the attempt began."""


@dataclass(frozen=True, slots=True)
class WarmUpFailed:
    """The engine answers, but not the warm-up request."""

    id: str
    attempt: int
    message: str


@dataclass(frozen=True, slots=True)
class Drained:
    """A Draining engine has no request left."""

    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Heard:
    """What requests do to an engine."""

    id: str
    attempt: int
    busy: bool
    """It has requests, or had one lately."""
    wake_requested: bool
    """A request waits for it to wake."""


@dataclass(frozen=True, slots=True)
class FellAsleep:
    """The engine sleeps in place: its awake memory is free."""

    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Woken:
    """The engine has its weights again; it may be warmed up."""

    id: str
    attempt: int
    cpu_milliseconds: int = 0
    """CPU time of the engine's processes since the attempt began."""


@dataclass(frozen=True, slots=True)
class SleepFailed:
    """The engine can't be put to sleep, or woken."""

    id: str
    attempt: int
    message: str


@dataclass(frozen=True, slots=True)
class Outgrown:
    """The engine must end, or the kernel would end all of the runner."""

    id: str
    attempt: int
    message: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The whole process group of an engine is gone (or could not be started)."""

    id: str
    attempt: int
    error: EngineError


@dataclass(frozen=True, slots=True)
class Terminate:
    """The runner shall end: drain everything."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


EngineEvent = (
    Launched
    | Progressed
    | Weighed
    | CompileCacheTaken
    | WarmedUp
    | WarmUpFailed
    | Drained
    | Heard
    | FellAsleep
    | Woken
    | SleepFailed
    | Outgrown
    | Exited
)
Event = Assigned | AssignmentRefused | ZygoteChanged | Measured | WeightsSeen | Terminate | Tick | EngineEvent


@dataclass(frozen=True, slots=True)
class Start:
    """Start a process group for the engine."""

    engine: EngineAssignment
    attempt: int
    is_fresh: bool = False
    """Without anything that was compiled before: the last starts failed, and that may be why."""


@dataclass(frozen=True, slots=True)
class Sleep:
    """Put the engine to sleep in place; `FellAsleep` or `SleepFailed` is to follow."""

    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Wake the engine, whose process goes on as a new attempt: what is told of the former one counts no more."""

    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Signal the engine's process group: SIGTERM, or SIGKILL if `force`."""

    id: str
    attempt: int
    force: bool


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing is left to do: the runner may exit."""


Action = Start | Sleep | Wake | Stop | Finish
