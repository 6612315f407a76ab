"""What a runner says of itself, as one JSON line each: `GET /v1/status` (`?watch=1` for a stream).

A line is sent at each change and at least every `HEARTBEAT_SECONDS`. No line for `SILENT_SECONDS`:
the runner no longer counts as a replica.
"""

from typing import Annotated

import msgspec

from warmfleet_api.assignment import Wire
from warmfleet_api.vocabulary import EngineState, Launch, Reason, Stage, StartType, ZygoteState

VERSION = 1
HEARTBEAT_SECONDS = 1.0
SILENT_SECONDS = 5.0
KEPT_STARTS = 20


class StageTime(Wire, frozen=True, kw_only=True):
    """A stage that was finished, and how long it took."""

    name: Stage
    milliseconds: int
    cpu_milliseconds: int = 0
    """CPU time of the engine's processes meanwhile."""


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
    gpus: tuple[int, ...] = ()
    """Indices of the runner's GPUs that it has, until it is gone."""
    awake_bytes: int = 0
    """What its assignment reserves for it awake; of one that is not assigned any more, what it did."""
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
    """Size of what it reads: of its entries in the weight store, or of the weights in folders elsewhere."""
    waits_for: tuple[str, ...] = ()
    """Keys of the entries that it could be started with, if they were in memory."""
    launch: Launch | None = None
    """How its present or last process came to be."""
    start_type: StartType | None = None
    """Of the current or last start; a wake is a start too."""
    memory_bytes: int = 0
    """Memory the engine's process group holds now."""
    awake_memory_bytes: int = 0
    """Measured when it was last Ready; 0 before."""
    asleep_memory_bytes: int = 0
    """Measured when it was last Asleep; 0 before."""
    running: int = 0
    """Requests at the engine."""
    waiting: int = 0
    """Requests in its admission queue."""
    requests: int = 0
    """How many requests came for it so far; begins anew with the front. So one that came and went between two lines is
    seen."""
    first_request_milliseconds: int | None = None
    """Time to the first token of the warm-up request."""
    compile_cache_files: int = 0
    """Files of a compile cache from the weight store that its process began with."""
    window: int = 0
    """Requests it takes at once without a loss of pace, as measured; 0: not known."""
    first_token_milliseconds: int | None = None
    """From the arrival of a request that streams to its first token, the mean of the last half minute; None: there was
    none."""
    cpu_millicores: int | None = None
    """CPU its process group used lately; None: not measured yet."""
    gpu_percent: int | None = None
    """Share of the time in which its GPUs were busy lately; None: it has none, or nobody can tell."""


class ZygoteStatus(Wire, frozen=True, kw_only=True):
    """The process engines are forked from."""

    state: ZygoteState
    message: str = ""
    """Why it is Unavailable."""
    import_milliseconds: int | None = None


class StartRecord(Wire, frozen=True, kw_only=True):
    """A start that ended: one of the last `KEPT_STARTS`, which `GET /v1/starts` lists."""

    sequence: int
    """Counts the runner's starts from 1."""
    engine: str
    model: str
    model_uid: str = msgspec.field(name="modelUID")
    start_type: StartType
    launch: Launch | None = None
    """None for a wake."""
    error: EngineError | None = None
    """Why it failed; None: it succeeded."""
    milliseconds: int
    stages: tuple[StageTime, ...] = ()
    first_request_milliseconds: int | None = None
    memory_bytes: int = 0
    """What the engine held right after."""
    compile_cache_files: int = 0
    """Files of a compile cache from the weight store that it began with."""
    ended_time: str
    """RFC 3339 in UTC."""


class CompileCacheOffer(Wire, frozen=True, kw_only=True):
    """What an engine compiled, packed in the runner's outbox for the node's agent."""

    name: Annotated[str, msgspec.Meta(max_length=63)]
    """See `artifacts.cache_name`."""
    milliseconds: Annotated[int, msgspec.Meta(ge=0)]
    """How long it took to compile."""


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
    zygote: ZygoteStatus | None = None
    """None: no engine of this runner is forked."""
    engines: tuple[EngineStatus, ...] = ()
    offers: Annotated[tuple[CompileCacheOffer, ...], msgspec.Meta(max_length=64)] = ()
    """Compile caches that the weight store does not have yet."""


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
