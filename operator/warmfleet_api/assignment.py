"""The assignment: the whole set of engines a runner is told to host, as its pod carries it.

The operator writes it as JSON into the annotation `warmfleet.dev/assignment`; the kubelet hands it to
the runner as a file. It is the durable record of each decision: after a restart the operator rebuilds
its ledger from assignments alone.
"""

from typing import Literal

import msgspec

from warmfleet_api.vocabulary import DesiredState, EngineType

VERSION = 1
MAX_BYTES = 64 * 1024
"""Limit of the encoded assignment, well below the 256 KiB Kubernetes allows all annotations together."""


class AssignmentError(ValueError):
    """An assignment can't be read, or is too large to be written."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Base of the frozen wire structures: camelCase on the wire, defaults left out."""


class SimulatedFault(Wire, frozen=True, kw_only=True):
    """A fault the Simulated engine shows."""

    kind: Literal["CrashAtStart", "HangAtStart", "CrashAfterSeconds", "FailRequests"]
    after_seconds: int = 0


class SimulatedEngine(Wire, frozen=True, kw_only=True):
    """How the Simulated engine behaves; all times are what a real engine would take."""

    load_milliseconds: int = 200
    initialize_milliseconds: int = 100
    first_token_milliseconds: int = 20
    tokens_per_second: int = 100
    memory: int = 0
    """Bytes the engine says it holds awake."""
    fault: SimulatedFault | None = None


class EnvVar(Wire, frozen=True, kw_only=True):
    """One environment variable of an engine."""

    name: str
    value: str = ""


class EngineSpec(Wire, frozen=True, kw_only=True):
    """What to run: everything an engine's start depends on, and no secret."""

    type: EngineType
    uri: str
    served_names: tuple[str, ...]
    max_model_len: int | None = None
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    simulated: SimulatedEngine | None = None


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


class Assignment(Wire, frozen=True, kw_only=True):
    """All engines of one runner. Revisions only grow: the runner refuses a lower one."""

    version: int
    revision: int
    engines: tuple[EngineAssignment, ...] = ()


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
