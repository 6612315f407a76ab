"""A generation the queue holds: one request, and those merged into it."""

from dataclasses import dataclass
from enum import IntEnum

from warmfleet_runtime.admission.requests import Request


class Lane(IntEnum):
    """Which line of its class a request waits in; each has a gate of its own, so that no lane holds up another."""

    SHORT = 0
    LONG = 1
    """Its prompt is far longer than usual."""
    COLD = 2
    """Its prompt is longer than what the engine is warmed up for."""


@dataclass(slots=True, eq=False)
class Entry:
    """A generation, waiting or running."""

    request: Request
    rank: int
    """Of its class, 0 for the highest."""
    lane: Lane
    due: float
    """Orders it among the classes."""
    deadline: float
    """It has to be sent to the engine by then."""
    cost: float
    """Work expected of it, see `fairness.cost`."""
    members: set[int]
    """Requests that hear its answer; the leader's id stays the generation's, even when that one has left."""
    dispatched: float | None = None
    sequences: int = 0
    """While running: the room it takes."""
    tokens: int = 0
    """Answer tokens so far, all sequences together."""
    began: bool = False
    """Its first token has come."""

    @property
    def id(self) -> int:
        """Id of the generation: its leader's."""
        return self.request.id
