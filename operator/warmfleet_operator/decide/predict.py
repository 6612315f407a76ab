"""When every start that waits or is under way will be done: the plan of this round, run forward. Pure.

1. What is under way has its remaining stages left.
2. A runner carries one load at a time: its engines come one after another, in the order in which it starts them. One
   whose weights are not there yet holds up no other. A wake waits for other wakes only.
3. A node's links carry weights one entry after another, what is on its way first.
4. What waits begins when its room is free (`Waiting.available_seconds`), in the plan's order. What waits for its turn
   on a node begins when as many starts there are done as it waits for.

What can't be known stays unknown: without a time for the room there is none for the start.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush

from warmfleet_api.vocabulary import Reason, Stage, StartType
from warmfleet_operator.decide.actions import Forecast, Waiting
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey, OwnerKey
from warmfleet_operator.decide.predict_links import Links, weights_seconds
from warmfleet_operator.decide.predict_progress import Coming, coming
from warmfleet_operator.decide.predict_stages import node_type, phases
from warmfleet_operator.decide.runners import Member, node_of
from warmfleet_operator.decide.times import parse_time


@dataclass(frozen=True, slots=True)
class Placed:
    """A start that this round gave its place, so that no runner tells of it yet."""

    model: ModelKey
    start_type: StartType
    node: str
    runner: str = ""
    """Name of the runner's pod; empty: a new one."""


@dataclass(slots=True)
class _Job:
    """One start as the timelines see it."""

    model: Model
    start_type: StartType
    node: str
    where: str
    """Node or runner, in words."""
    load_seconds: float
    before_seconds: float
    tail_seconds: float
    has_begun: bool = False
    rank: tuple[int, str] = (0, "")
    stage: Stage = Stage.QUEUED
    weights_at: float = 0.0
    begun_at: float = 0.0
    done_at: float = 0.0


@dataclass(slots=True)
class _Timelines:
    """What each runner, and each node's links, are busy with."""

    fleet: Fleet
    now: datetime
    runners: dict[str, float] = field(default_factory=dict)
    """Name of a runner's pod → in how many seconds it has carried its loads."""
    wakes: dict[str, float] = field(default_factory=dict)
    nodes: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Node → when the starts that are under way there end."""
    links: dict[str, Links] = field(default_factory=dict)
    _nodes_of_runners: dict[str, str] | None = None

    def node_of(self, place: str) -> str:
        """Return the node of a place, which is a node or a runner; empty where nobody knows it."""
        if place in self.fleet.nodes or not place:
            return place
        if self._nodes_of_runners is None:
            self._nodes_of_runners = {each.pod.metadata.name: node_of(each.pod) for each in self.fleet.runners}
        return self._nodes_of_runners.get(place, "")

    def told(self, model: Model, seconds: float | None, start_type: StartType, reason: str) -> Forecast:
        """Return a forecast, with what it means for the model's deadline."""
        return Forecast(seconds, start_type, reason, _misses_seconds(self.fleet, model, seconds, self.now))

    def weights(self, job: _Job, begin: float) -> float:
        """Return in how many seconds the job's weights are in memory of its node, asked for from `begin` on."""
        if job.start_type is StartType.HOT or not job.model.weights or job.has_begun:
            return 0.0
        cache = self.fleet.caches.get(job.node)
        if cache is None:
            return begin + weights_seconds(job.model.weights, None)
        if job.node not in self.links:
            self.links[job.node] = Links(cache)
        return self.links[job.node].add(job.model.weights, begin)

    def run(self, runner: str, jobs: Sequence[_Job]) -> None:
        """Let a runner carry its present loads in their order."""
        for job in jobs:
            job.weights_at = self.weights(job, 0.0)
        for wake in sorted((job for job in jobs if job.start_type is StartType.HOT), key=_turn):
            self.carry(runner, wake, 0.0)
        queue = sorted((job for job in jobs if job.start_type is not StartType.HOT), key=_turn)
        while queue:
            free = self.runners.get(runner, 0.0)
            # The first whose weights are there when the runner is free; else the one whose weights come first.
            ready = next((job for job in queue if job.weights_at <= free + job.before_seconds), None)
            job = ready or min(queue, key=lambda each: each.weights_at)
            queue.remove(job)
            self.carry(runner, job, 0.0)

    def carry(self, runner: str, job: _Job, begin: float) -> None:
        """Let a runner carry one load more, not before `begin`; an empty name is a runner of its own."""
        busy = self.wakes if job.start_type is StartType.HOT else self.runners
        job.begun_at = max(begin, busy.get(runner, 0.0) if runner else 0.0)
        late = max(0.0, job.weights_at - job.begun_at - job.before_seconds)
        end = job.begun_at + late + job.load_seconds
        if runner:
            busy[runner] = end
        job.done_at = end + job.tail_seconds
        self.nodes[job.node].append(end)


def forecast(
    fleet: Fleet,
    members: Mapping[ModelKey, Sequence[Member]],
    waiting: Mapping[OwnerKey, Waiting],
    placed: Iterable[Placed],
    now: datetime,
) -> Mapping[ModelKey, Forecast]:
    """Return when the start of each model that has one will be done.

    Of several the one that waits counts, as in `status.pendingStart`; of those under way the first to be done.

    Args:
        members: Where each model is in runners, as the round sees it.
        waiting: The starts without a place, in the plan's order.
        placed: Those that got theirs in this round.
        now: The time of the round.
    """
    lines = _Timelines(fleet, now)
    forecasts: dict[ModelKey, Forecast] = {}
    # 1. What is under way or was just placed, runner by runner.
    by_runner: defaultdict[str, list[_Job]] = defaultdict(list)
    alone: list[_Job] = []
    for each in coming(fleet, members, now):
        if each.trouble:
            forecasts[each.model.key] = lines.told(each.model, None, each.start_type, each.trouble)
            continue
        by_runner[each.member.pod.metadata.name].append(_job_of(each))
    for place in placed:
        model = fleet.models.get(place.model)
        if model is not None:
            job = _new_job(fleet, model, place.start_type, place.node, place.runner or place.node)
            (by_runner[place.runner] if place.runner else alone).append(job)
    for runner, jobs in by_runner.items():
        lines.run(runner, jobs)
    for job in alone:
        job.weights_at = lines.weights(job, 0.0)
        lines.carry("", job, 0.0)
    under_way = [*(job for jobs in by_runner.values() for job in jobs), *alone]
    for job in sorted(under_way, key=lambda each: each.done_at, reverse=True):
        forecasts[job.model.key] = lines.told(job.model, job.done_at, job.start_type, _say(job))
    # 2. What waits, in the plan's order, each behind those before it.
    for ends in lines.nodes.values():
        heapify(ends)
    for key, wait in waiting.items():
        if isinstance(key, ModelKey) and key in fleet.models:
            forecasts[key] = _waits(lines, fleet.models[key], wait)
    return forecasts


def _waits(lines: _Timelines, model: Model, wait: Waiting) -> Forecast:
    """Return the forecast of a start without a place, and let it take its time on the timelines."""
    fleet = lines.fleet
    start_type = wait.start_type or (StartType.WARM if model.pools else StartType.COLD)
    if wait.available_seconds is None:
        return lines.told(model, None, start_type, f"nobody can tell when there is room: {wait.blocker}")
    is_node, node = wait.place in fleet.nodes, lines.node_of(wait.place)
    job = _new_job(fleet, model, start_type, node, wait.place)
    begin = wait.available_seconds
    if wait.reason is Reason.WAITING_FOR_TURN and is_node and lines.nodes[node]:
        begin = max(begin, heappop(lines.nodes[node]))
    job.weights_at = lines.weights(job, begin)
    lines.carry("" if is_node else wait.place, job, begin)
    # `carry` appended the end: as the list is a heap, it has to find its place there.
    heappush(lines.nodes[node], lines.nodes[node].pop())
    return lines.told(model, job.done_at, start_type, _say_wait(job))


def _job_of(each: Coming) -> _Job:
    assigned, member = each.member.assigned, each.member
    return _Job(
        model=each.model,
        start_type=each.start_type,
        node=member.node,
        where=member.node,
        load_seconds=each.load_seconds,
        before_seconds=each.before_seconds,
        tail_seconds=each.tail_seconds,
        has_begun=each.has_begun,
        rank=(assigned.order, assigned.id) if assigned is not None else (0, member.name),
        stage=each.stage,
    )


def _new_job(fleet: Fleet, model: Model, start_type: StartType, node: str, where: str) -> _Job:
    type_ = node_type(fleet.nodes.get(node))
    before, load, tail = phases(fleet.estimates, model, start_type, type_)
    rank = (model.spec.priority.rank, model.key.name)
    return _Job(model, start_type, node, where, before + load, before, tail, rank=rank)


def _turn(job: _Job) -> tuple[bool, tuple[int, str]]:
    """Sort the loads of a runner: the one under way, then as the runner starts them."""
    return not job.has_begun, job.rank


def _misses_seconds(fleet: Fleet, model: Model, seconds: float | None, now: datetime) -> float | None:
    """Return by how much a start is later than its deadline; None: it is not, or has none.

    One of which nobody knows the time is as late as it is already.
    """
    wanted, pending = model.spec.cold_start.deadline_seconds, model.status.pending_start
    demand = fleet.demand.get(model.key)
    deadlines = [demand.deadline] if demand is not None and demand.deadline is not None else []
    if wanted is not None:
        since = parse_time(pending.queued_time) if pending is not None else None
        deadlines.append((since or now) + timedelta(seconds=wanted))
    if not deadlines:
        return None
    late = (seconds or 0.0) - (min(deadlines) - now).total_seconds()
    return late if late > 0 else None


def _say(job: _Job) -> str:
    """Say where the time of a start with a place goes."""
    parts = []
    if job.begun_at > 0:
        parts.append(f"its turn in {job.begun_at:.1f} s")
    late = job.weights_at - job.begun_at - job.before_seconds
    if late > 0:
        parts.append(f"weights in {job.weights_at:.1f} s")
    kind = f"{job.start_type} on {job.where}"
    left = f"{job.load_seconds + job.tail_seconds:.1f} s"
    parts.append(f"{job.stage} on {job.where}, {left} left" if job.has_begun else f"{left} {kind}")
    return ", then ".join(parts)


def _say_wait(job: _Job) -> str:
    """Say where the time of a start without a place goes."""
    where = job.where or "a node"
    parts = [f"room on {where} in {job.begun_at:.1f} s"]
    if job.weights_at > job.begun_at + job.before_seconds:
        parts.append(f"weights in {job.weights_at:.1f} s")
    return ", then ".join([*parts, f"{job.load_seconds + job.tail_seconds:.1f} s {job.start_type}"])
