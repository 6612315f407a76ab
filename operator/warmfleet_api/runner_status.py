"""What a runner says of itself, as one JSON line each: `GET /v1/status` (`?watch=1` for a stream).

A line is sent at each change and at least every `HEARTBEAT_SECONDS`. No line for `SILENT_SECONDS`:
the runner no longer counts as a replica.
"""

import msgspec

from warmfleet_api.assignment import Wire
from warmfleet_api.vocabulary import EngineState, Reason, Stage

VERSION = 1
HEARTBEAT_SECONDS = 1.0
SILENT_SECONDS = 5.0


class StageTime(Wire, frozen=True, kw_only=True):
    """A stage that was finished, and how long it took."""

    name: Stage
    milliseconds: int


class EngineError(Wire, frozen=True, kw_only=True):
    """Why an engine is Failed, or why its last start was. The message says what to do next."""

    reason: Reason
    message: str
    exit_code: int | None = None


class EngineStatus(Wire, frozen=True, kw_only=True):
    """One engine as the runner sees it."""

    id: str
    model: str
    model_uid: str = msgspec.field(name="modelUID")
    hash: str
    state: EngineState
    stage: Stage | None = None
    """While Starting: the stage under way."""
    stages: tuple[StageTime, ...] = ()
    """Stages of the current or last start, monotonic clock."""
    starts: int = 0
    """How many times this runner began to start the engine."""
    failed_starts: int = 0
    """Starts in a row that failed: never Ready, or crashed within a minute of it."""
    error: EngineError | None = None
    weight_bytes: int = 0
    memory_bytes: int = 0
    """Memory the engine's process group holds now."""
    running: int = 0
    waiting: int = 0
    first_request_milliseconds: int | None = None
    """Time to the first token of the warm-up request."""


class RunnerStatus(Wire, frozen=True, kw_only=True):
    """The whole runner. `revision` is that of the assignment it converges to, 0 before any."""

    version: int = VERSION
    pod_uid: str = msgspec.field(name="podUID")
    revision: int = 0
    draining: bool = False
    gpus: int = 0
    memory_limit_bytes: int = 0
    memory_bytes: int = 0
    error: str = ""
    """An assignment that was refused, and why."""
    engines: tuple[EngineStatus, ...] = ()


_decoder = msgspec.json.Decoder(RunnerStatus)


def decode(line: str | bytes) -> RunnerStatus:
    """Read one line of the stream.

    Raises:
        msgspec.MsgspecError: not this structure.
    """
    return _decoder.decode(line)


def encode(status: RunnerStatus) -> bytes:
    """Return the status as one line, without the newline."""
    return msgspec.json.encode(status)
