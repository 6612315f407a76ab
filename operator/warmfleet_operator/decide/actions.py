"""What the fleet pass may do to the cluster, as plain data; `apply.py` carries it out.

Each action carries its reason in words: it becomes an event or a log line.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from warmfleet_api.assignment import Assignment
from warmfleet_api.vocabulary import Reason
from warmfleet_operator.decide.fleet import Owner, OwnerKey
from warmfleet_operator.records import Pod


@dataclass(frozen=True, slots=True)
class CreateRunner:
    """Create a runner of a model or of a pool, pinned to a node, with its first assignment and labels."""

    owner: Owner
    slot: int
    attempt: int
    node: str
    assignment: Assignment
    start_budget_seconds: int
    reason: str
    sees_weights: bool = False
    """Whether it gets the volume that the node's weight store fills. On a node without one its pod would hang."""


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


@dataclass(frozen=True, slots=True)
class Waiting:
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


@dataclass(frozen=True, slots=True)
class Decisions:
    """The outcome of one round of `schedule()`."""

    actions: tuple[Action, ...] = ()
    waiting: Mapping[OwnerKey, Waiting] = field(default_factory=dict)
    """Models that wait for a place, and pools that wait for one for a runner."""
    recheck_seconds: float | None = None
    """When time alone may change the outcome: run again after this many seconds."""
