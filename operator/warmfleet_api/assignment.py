"""The assignment: the whole set of engines a runner is told to host, as its pod carries it.

The operator writes it as JSON into the annotation `warmfleet.dev/assignment`; the kubelet hands it to
the runner as a file. It is the durable record of each decision: after a restart the operator rebuilds
its ledger from assignments alone.
"""

from typing import Annotated, Literal

import msgspec

from warmfleet_api import names
from warmfleet_api.vocabulary import BatchingPolicy, DesiredState, EngineType, Priority, WakePolicy, WarmupMode

VERSION = 1
MAX_BYTES = 64 * 1024
"""Limit of the encoded assignment, well below the 256 KiB Kubernetes allows all annotations together."""


class AssignmentError(ValueError):
    """An assignment can't be read, or is too large to be written."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of the frozen wire structures: camelCase on the wire, defaults left out."""


class SimulatedFault(Wire, frozen=True, kw_only=True):
    """A fault the Simulated engine shows."""

    kind: Literal["CrashAtStart", "HangAtStart", "CrashAfterSeconds", "FailRequests", "FailSleep", "HangAtWake"]
    after_seconds: int = 0


class SimulatedEngine(Wire, frozen=True, kw_only=True):
    """How the Simulated engine behaves; all times are what a real engine would take."""

    load_milliseconds: int = 200
    initialize_milliseconds: int = 100
    first_token_milliseconds: int = 20
    tokens_per_second: int = 100
    sleep_milliseconds: int = 50
    wake_milliseconds: int = 100
    memory: int = 0
    """Bytes the engine says it holds awake."""
    asleep_memory: int = 0
    """Bytes it says it holds asleep."""
    holds_memory: bool = False
    """It does hold them, beside what its process needs."""
    fault: SimulatedFault | None = None


class EnvVar(Wire, frozen=True, kw_only=True):
    """One environment variable of an engine."""

    name: str
    value: str = ""


class Parallelism(Wire, frozen=True, kw_only=True):
    """How one engine is spread over its GPUs (or processes)."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1


class Speculative(Wire, frozen=True, kw_only=True):
    """Speculative decoding with a draft model."""

    uri: str
    folder: str
    """Where the draft model is in the runner."""
    tokens: int


class LoraAdapter(Wire, frozen=True, kw_only=True):
    """A LoRA adapter, served under its own name."""

    name: str
    uri: str
    folder: str
    """Where the adapter is in the runner."""


class EngineSpec(Wire, frozen=True, kw_only=True):
    """What to run: everything an engine's start depends on, and no secret."""

    type: EngineType
    uri: str
    folder: str = names.WEIGHTS_DIRECTORY
    """Where the model is in the runner."""
    served_names: tuple[str, ...]
    max_model_len: int | None = None
    parallelism: Parallelism = Parallelism()
    quantization: str | None = None
    speculative: Speculative | None = None
    adapters: tuple[LoraAdapter, ...] = ()
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    simulated: SimulatedEngine | None = None


class Batching(Wire, frozen=True, kw_only=True):
    """When waiting requests go to the engine; the sizes are those of Static, Dynamic and SizeOrWait."""

    policy: BatchingPolicy = BatchingPolicy.CONTINUOUS
    max_size: int | None = None
    """Requests of one batch. Default: what the engine runs at once."""
    max_wait_milliseconds: int = 50
    """How long the first request of a batch waits for others."""


class AdmissionLimits(Wire, frozen=True, kw_only=True):
    """What one tenant and one session may hold at once, queued and running together. 0: no limit."""

    sequences_per_tenant: int = 0
    tokens_per_tenant: int = 0
    """Prompt and asked-for answer together: their share of the KV cache."""
    sequences_per_session: int = 0
    tokens_per_session: int = 0


class Serving(Wire, frozen=True, kw_only=True):
    """How requests are admitted to an engine. A change of it restarts nothing."""

    priority: Priority = Priority.NORMAL
    """Class of the model: that of trusted requests which name none."""
    max_requests: int = 256
    """Requests that may wait."""
    timeout_seconds: int = 30
    """How long a request may wait."""
    batching: Batching = Batching()
    merge_window_milliseconds: int = 0
    """Identical requests of one tenant within this time share a generation; 0: never."""
    limits: AdmissionLimits = AdmissionLimits()


class Warmup(Wire, frozen=True, kw_only=True):
    """What an engine answers before it is Ready. A change of it restarts nothing."""

    mode: WarmupMode = WarmupMode.FULL
    requests: int = 1
    prompts: tuple[str, ...] = ()
    """Seed the prefix cache."""


class EngineAssignment(Wire, frozen=True, kw_only=True):
    """One engine of an assignment."""

    id: str
    """Unique in the runner, stable over restarts; names the engine's socket and log."""
    model: str
    """Name of the ModelDeployment, in the runner's namespace."""
    model_uid: str = msgspec.field(name="modelUID")
    """An engine whose ModelDeployment is gone or recreated is told by this."""
    hash: str
    state: DesiredState = DesiredState.READY
    wake: WakePolicy = WakePolicy.ON_ASSIGNMENT
    """While Asleep is wanted: who may wake it."""
    idle_seconds: int = 30
    """With `wake: OnRequest`: it sleeps after this long without a request."""
    gpus: tuple[int, ...] = ()
    """Indices into the runner's own GPUs."""
    awake_bytes: int = 0
    """Memory the ledger reserves for the awake engine, all its GPUs together (memory limit without GPUs)."""
    asleep_bytes: int = 0
    order: int = 0
    """Engines start by ascending order after a container restart."""
    start_budget_seconds: int = 60
    """The engine is Failed if no stage of its start progresses for this long."""
    engine: EngineSpec
    serving: Serving = Serving()
    warmup: Warmup = Warmup()


class Assignment(Wire, frozen=True, kw_only=True):
    """All engines of one runner. Revisions only grow: the runner refuses a lower one."""

    version: int
    revision: int
    engines: tuple[EngineAssignment, ...] = ()
    trusted_keys: Annotated[tuple[str, ...], msgspec.Meta(max_length=2)] = ()
    """Ed25519 public keys (base64, raw): whoever signs with one of them may name class and tenant of a request."""


_decoder = msgspec.json.Decoder(Assignment)


def encode(assignment: Assignment) -> str:
    """Return the annotation's value.

    Raises:
        AssignmentError: it would be over `MAX_BYTES`.
    """
    encoded = msgspec.json.encode(assignment, order="deterministic")
    if len(encoded) > MAX_BYTES:
        raise AssignmentError(
            f"assignment of {len(encoded)} bytes is over the limit of {MAX_BYTES}; shorten engine.args or engine.env"
        )
    return encoded.decode()


def decode(value: str | bytes) -> Assignment:
    """Read an annotation's value or the downward-API file.

    Raises:
        AssignmentError: not JSON, not this structure, or a version this code does not know.
    """
    try:
        assignment = _decoder.decode(value)
    except msgspec.MsgspecError as error:
        raise AssignmentError(f"unreadable assignment: {error}") from error
    if assignment.version != VERSION:
        raise AssignmentError(f"assignment version {assignment.version} is not known here (known: {VERSION})")
    return assignment
