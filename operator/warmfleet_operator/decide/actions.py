"""What the fleet pass may do to the cluster, as plain data; `apply.py` carries it out.

Each action carries its reason in words: it becomes an event or a log line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from warmfleet_api.assignment import Assignment
from warmfleet_api.vocabulary import Priority, Reason, StartType
from warmfleet_operator.decide.fleet import ModelKey, Owner, OwnerKey
from warmfleet_operator.records import Pod


@dataclass(frozen=True, slots=True)
class CreateRunner:
    """Create a runner of a model or of a pool, with its first assignment and labels.

    It is pinned to its node. One without a node is a claim (`claims.py`).
    """

    owner: Owner
    slot: int
    attempt: int
    node: str
    assignment: Assignment
    start_budget_seconds: int
    reason: str
    sees_weights: bool = False
    """Whether it gets the volume that the node's weight store fills. On a node without one its pod would hang."""
    standby: StartType | None = None
    """As what it stands by, or stood by until now; None: neither."""
    priority: Priority | None = None
    """Class of a claim, None of all others: Kubernetes tries claims in this order."""


@dataclass(frozen=True, slots=True)
class DeleteRunner:
    """Delete a runner (uid and resourceVersion as preconditions)."""

    pod: Pod
    reason: str


@dataclass(frozen=True, slots=True)
class PatchRunner:
    """Change a runner by one JSON patch that tests uid and the annotation's former value.

    `assignment` None leaves the annotation as it is (it is still tested). A label set to None is removed.
    """

    pod: Pod
    assignment: Assignment | None
    labels: Mapping[str, str | None]
    reason: str


Action = CreateRunner | DeleteRunner | PatchRunner


class Waiting(NamedTuple):
    """A start that could not be given a place in this round."""

    owner: OwnerKey
    position: int
    """1 is next; 0 for one that never fits, or whose weights are not known: it is not in the queue."""
    of: int
    reason: Reason
    """As in `placement.NoPlace`."""
    blocker: str
    """In words with numbers, e.g. `needs 2 nvidia.com/gpu, at most 1 free on n2`."""
    advice: str = ""
    """What a person may change about it, where the reason alone does not tell."""
    is_of_weights: bool = False
    """Whether weights are what it has no place for, or what nobody knows yet."""
    start_type: StartType | None = None
    """How it will start there; None: nobody can tell yet."""
    place: str = ""
    """Node or runner whose room it waits for; empty: none is known."""
    available_seconds: float | None = None
    """In how long that room is expected to be free; None: nobody can tell, as with `FloorsHeld`."""


class Forecast(NamedTuple):
    """When a start that waits or is under way is expected to be done."""

    ready_seconds: float | None
    """From now; None where nobody can tell when there will be room."""
    start_type: StartType
    reason: str
    """Where the time goes, in words: `room in 12 s, then 3.1 s Warm on n2`."""
    misses_deadline_seconds: float | None = None
    """By how much it is later than its deadline; None: it is not, or has none."""


@dataclass(frozen=True, slots=True)
class Preemption:
    """An engine that has to give way though it is not idle."""

    victim: ModelKey
    winner: OwnerKey
    runner: str
    reason: str
    """In words, for the event on the victim."""


class StandingBy(NamedTuple):
    """What stands by for a model's replicas."""

    nodes: tuple[str, ...] = ()
    """Where, those included that are not ready yet."""
    ready: int = 0
    """How many of them could take over now."""
    missing: str = ""
    """Why there are not as many as are wanted, and what to do about it; empty: there are."""


class Promotion(NamedTuple):
    """A standby that takes over for a lost replica."""

    model: ModelKey
    reason: str
    """In words, for the event."""


@dataclass(frozen=True, slots=True)
class Decisions:
    """The outcome of one round of `schedule()`."""

    actions: tuple[Action, ...] = ()
    waiting: Mapping[OwnerKey, Waiting] = field(default_factory=dict)
    """Models that wait for a place, and pools that wait for one for a runner."""
    yields: Mapping[ModelKey, str] = field(default_factory=dict)
    """Models without requests that shall sleep to make room, with for whom and why: their status becomes dormant, and
    the round after that acts on it. A model whose status says dormant wants no engine awake."""
    preemptions: tuple[Preemption, ...] = ()
    """Those that the actions carry out."""
    standbys: Mapping[ModelKey, StandingBy] = field(default_factory=dict)
    """Of every model that wants standbys, and replicas, and is awake."""
    promotions: tuple[Promotion, ...] = ()
    """Those that the actions carry out."""
    forecasts: Mapping[ModelKey, Forecast] = field(default_factory=dict)
    """Of every model with a start that waits or is under way."""
    fragmentation: float = 0.0
    """Share of the free room that starts of waiting or usual sizes can't use, 0 to 1 (`fragmentation.py`)."""
    recheck_seconds: float | None = None
    """When time alone may change the outcome: run again after this many seconds."""
