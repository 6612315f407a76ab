"""Policies: when waiting requests go to the engine, beside whether there is room.

They hold Normal and Low alone: Critical and High have sequences reserved in order to start at once.
"""

from dataclasses import dataclass

from warmfleet_api.assignment import Batching
from warmfleet_api.vocabulary import BatchingPolicy, Priority

HELD_FROM = Priority.NORMAL.rank
"""Classes of this rank and below are held."""
ALL = 1 << 30


@dataclass(frozen=True, slots=True)
class Crowd:
    """What the policy looks at: requests of the classes it holds."""

    waiting: int
    first_arrived: float
    """Of those that wait."""
    running: int
    room: int
    """What the engine runs of them at once."""
    arrivals_per_second: float


@dataclass(frozen=True, slots=True)
class Gate:
    """How many may go now, and when to ask again if nothing happens before."""

    released: int
    opens: float | None = None


OPEN = Gate(ALL)
"""Nothing is held."""


def gate(batching: Batching, crowd: Crowd, now: float) -> Gate:
    """Return how many requests a policy lets through. It is asked again after so many went, until it says 0."""
    if batching.policy is BatchingPolicy.CONTINUOUS:
        return OPEN
    if not crowd.waiting:
        return Gate(0)
    if batching.policy is BatchingPolicy.STATIC and crowd.running:
        return Gate(0)  # the end of a running request asks again
    size = min(batching.max_size or crowd.room, crowd.room)
    wait = batching.max_wait_milliseconds / 1000
    if batching.policy is BatchingPolicy.DYNAMIC:
        wait = dynamic_wait(wait, size, crowd.arrivals_per_second)
    opens = crowd.first_arrived + wait
    if crowd.waiting >= size or opens <= now:
        return Gate(size)
    return Gate(0, opens)


def dynamic_wait(most_seconds: float, size: int, arrivals_per_second: float) -> float:
    """Return how long the first of a batch waits: as long as it takes to fill it, not at all if nobody is expected.

    Under little load waiting only costs; under much the batch is full before its time.
    """
    if arrivals_per_second * most_seconds < 1:
        return 0.0
    return min(most_seconds, (size - 1) / arrivals_per_second)
