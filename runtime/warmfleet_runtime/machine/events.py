"""What happens to a runner (events), and what the state machine wants done (actions), as plain data.

Events about a process carry its `attempt`, so that one that arrives late can't touch its successor.
"""

from dataclasses import dataclass

from warmfleet_api.assignment import Assignment, EngineAssignment
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Stage


@dataclass(frozen=True, slots=True)
class Assigned:
    """The assignment file has new content."""

    assignment: Assignment


@dataclass(frozen=True, slots=True)
class AssignmentRefused:
    """The assignment file is missing or can't be read: the last good one stays."""

    message: str


@dataclass(frozen=True, slots=True)
class Progressed:
    """An engine's start goes on; with a stage, it has finished that stage."""

    id: str
    attempt: int
    stage: Stage | None = None


@dataclass(frozen=True, slots=True)
class Weighed:
    """An engine knows the size of its weights."""

    id: str
    attempt: int
    weight_bytes: int


@dataclass(frozen=True, slots=True)
class WarmedUp:
    """The warm-up request was answered."""

    id: str
    attempt: int
    first_request_milliseconds: int


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


EngineEvent = Progressed | Weighed | WarmedUp | WarmUpFailed | Drained | Exited
Event = Assigned | AssignmentRefused | Terminate | Tick | EngineEvent


@dataclass(frozen=True, slots=True)
class Start:
    """Start a process group for the engine."""

    engine: EngineAssignment
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


Action = Start | Stop | Finish
