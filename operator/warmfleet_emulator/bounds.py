"""Lower bounds: sooner than this nobody could have had these models Ready, whatever the order and the place.

A job is a start: wanted at its *release*, then a chain of operations, each of an amount on one resource. Resources are
pooled over the fleet: what several nodes have is one machine of their capacities together, on which one job gets no
more than one node could give it (its *seconds*). That only makes it easier, so the bounds hold for every placement.
Of each operation the *head* is what must pass before it (from the release), the *tail* what must pass after it.

Makespan, the largest of
* the longest path: release + head + seconds + tail;
* the preemptive Jackson bound of each resource: one machine that may interrupt, the available job with the longest
  tail first, is optimal for heads and tails (Jackson 1955, Carlier 1982);
* the area bound of the GPUs: they are held from the begin of a start until its clients are served. All that must have
  been held when the last start is Ready is at least the whole area, less what the longest holds leave for later.

Both: the bound by ranks. Of n starts that hold GPUs the one that begins last finds all others begun, and all GPUs
but its own still held at most; so the n-th that is Ready comes at least a hold and a start after the (n - G)-th.

Weighted completion, per resource Goemans' mean-busy-time bound (Goemans 1996; Queyranne 1993): the preemptive schedule
that always runs the available job of the highest weight per amount has the least weighted sum of mean busy times M.
A job that gets at most its seconds' rate ends at least half its seconds after M, and its tail later. Jobs that do not
use the resource count with their path. The bound is the largest over the resources, and over the ranks: the heaviest
jobs first.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Operation(NamedTuple):
    """What a job needs of one resource."""

    amount_seconds: float
    """Of the whole pooled resource, if the job had it for itself: amount / capacity."""
    seconds: float
    """It takes at least so long: amount / what one job can get."""
    head_seconds: float = 0.0
    """Before it, from the release."""
    tail_seconds: float = 0.0
    """After it, until the job is done. May be negative: the resource is held for longer than the job takes."""


@dataclass(frozen=True, slots=True)
class Job:
    """A start, as the bounds see it."""

    release: float
    weight: float
    path_seconds: float
    """The least it takes from its release, alone in the fleet."""
    operations: tuple[tuple[str, Operation], ...] = ()
    """By the name of the resource, at most one on each."""


def makespan_bound(jobs: Sequence[Job]) -> float:
    """Return a time before which the last job can't be done; 0 without jobs."""
    longest = max((job.release + job.path_seconds for job in jobs), default=0.0)
    return max([longest, *(_jackson(each) for each in _by_resource(jobs).values())])


def weighted_completion_bound(jobs: Sequence[Job]) -> float:
    """Return what the sum of weight x completion can't be below; completions count from time 0."""
    paths = {id(job): job.weight * (job.release + job.path_seconds) for job in jobs}
    alone = sum(paths.values())
    best = alone
    for uses in _by_resource(jobs).values():
        others = alone - sum(paths[id(job)] for job, _ in uses)
        best = max(best, others + _goemans(uses))
    return best


def _by_resource(jobs: Iterable[Job]) -> dict[str, list[tuple[Job, Operation]]]:
    found: dict[str, list[tuple[Job, Operation]]] = {}
    for job in jobs:
        for resource, operation in job.operations:
            found.setdefault(resource, []).append((job, operation))
    return found


def _jackson(uses: Sequence[tuple[Job, Operation]]) -> float:
    """Return the makespan of the preemptive schedule by longest tail."""
    waiting: list[tuple[float, int]] = []
    left = [operation.amount_seconds for _, operation in uses]
    order = sorted(range(len(uses)), key=lambda each: uses[each][0].release + uses[each][1].head_seconds)
    now = bound = 0.0
    following = 0
    while following < len(order) or waiting:
        if not waiting:
            job, operation = uses[order[following]]
            now = max(now, job.release + operation.head_seconds)
        while following < len(order):
            index = order[following]
            at = uses[index][0].release + uses[index][1].head_seconds
            if at > now:
                break
            heapq.heappush(waiting, (-uses[index][1].tail_seconds, index))
            following += 1
        index = waiting[0][1]
        until = now + left[index]
        if following < len(order):
            job, operation = uses[order[following]]
            until = min(until, job.release + operation.head_seconds)
        left[index] -= until - now
        now = until
        if left[index] <= 1e-12:
            heapq.heappop(waiting)
            bound = max(bound, now + uses[index][1].tail_seconds)
    return bound


def _goemans(uses: Sequence[tuple[Job, Operation]]) -> float:
    """Return the sum of weight x (mean busy time + half the seconds + tail), in the schedule where that is least."""
    waiting: list[tuple[float, int]] = []
    left = [operation.amount_seconds for _, operation in uses]
    busy = [0.0] * len(uses)
    """Integral of the time over which the job was run."""
    order = sorted(range(len(uses)), key=lambda each: uses[each][0].release + uses[each][1].head_seconds)
    now, following, total = 0.0, 0, 0.0
    while following < len(order) or waiting:
        if not waiting:
            job, operation = uses[order[following]]
            now = max(now, job.release + operation.head_seconds)
        while following < len(order):
            index = order[following]
            job, operation = uses[index]
            if job.release + operation.head_seconds > now:
                break
            following += 1
            if operation.amount_seconds <= 0:
                # It takes none of the resource: done as soon as it may begin.
                total += job.weight * (now + operation.seconds / 2 + operation.tail_seconds)
                continue
            heapq.heappush(waiting, (-job.weight / operation.amount_seconds, index))
        if not waiting:
            continue
        index = waiting[0][1]
        until = now + left[index]
        if following < len(order):
            job, operation = uses[order[following]]
            until = min(until, job.release + operation.head_seconds)
        busy[index] += (until * until - now * now) / 2
        left[index] -= until - now
        now = until
        if left[index] <= 1e-12:
            heapq.heappop(waiting)
            job, operation = uses[index]
            mean = busy[index] / operation.amount_seconds
            total += job.weight * (mean + operation.seconds / 2 + operation.tail_seconds)
    return total


def area_bound(holds: Sequence[tuple[float, float, float]], gpus: float) -> float:
    """Return before when the last start can't be Ready, as GPUs are held.

    Args:
        holds: of each start how many GPUs it holds (or bytes), its seconds, and the seconds it holds them afterwards.
        gpus: of the whole fleet.

    When the last start is Ready, every start has had its own seconds, and what is still held afterwards is held by at
    most `gpus` GPUs: at most the largest remainders of so many.
    """
    if not gpus:
        return 0.0
    area = sum(count * (start + after) for count, start, after in holds)
    left, room = 0.0, float(gpus)
    for count, _, after in sorted(holds, key=lambda each: -each[2]):
        part = min(count, room)
        left += part * after
        room -= part
        if room <= 0:
            break
    return max(0.0, (area - left) / gpus)


@dataclass(frozen=True, slots=True)
class Holders:
    """Starts of which only so many can hold their room at a time."""

    places: int
    """How many, at most."""
    start_seconds: float
    """The least that one of them takes from the moment it has its room."""
    held_seconds: tuple[float, ...]
    """What each keeps it for at least once it is Ready, if another waits for it; in the order of the jobs."""


def rank_bounds(jobs: Sequence[Job], holders: Holders | None = None) -> list[float]:
    """Return for each n before when n of the jobs can't be done.

    Each job takes its path. So many of the least amounts of each resource have to be carried first, where all jobs use
    it. Beyond the places, so many have given up their room before, and none before its own path and hold.
    """
    ranks = sorted(job.release + job.path_seconds for job in jobs)
    for uses in _by_resource(jobs).values():
        if len(uses) < len(jobs):
            continue
        begin = min(job.release + operation.head_seconds for job, operation in uses)
        after = min(operation.tail_seconds for _, operation in uses)
        carried = 0.0
        for number, amount in enumerate(sorted(operation.amount_seconds for _, operation in uses)):
            carried += amount
            ranks[number] = max(ranks[number], begin + carried + after)
    if holders is not None:
        shortest = min(holders.held_seconds, default=0.0)
        paths = (job.release + job.path_seconds for job in jobs)
        free = sorted(path + held for path, held in zip(paths, holders.held_seconds, strict=True))
        for number in range(holders.places, len(ranks)):
            before = number - holders.places
            freed = max(ranks[before] + shortest, free[before])
            ranks[number] = max(ranks[number], freed + holders.start_seconds)
    return ranks


def weighted_by_rank(jobs: Sequence[Job], ranks: Sequence[float]) -> float:
    """Return what the sum of weight x completion can not be below, if the n-th is not done before `ranks`[n]."""
    weights = sorted((job.weight for job in jobs), reverse=True)
    return sum(weight * rank for weight, rank in zip(weights, ranks, strict=True))
