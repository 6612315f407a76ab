"""When every start that waits or is under way will be done: the plan of this round, run forward. Pure.

1. What is under way has its remaining stages left.
2. A runner starts one engine at a time: its engines come one after another, in the order in which it starts them. One
   whose weights are not there yet holds up no other. A wake waits for other wakes only.
3. A node's links carry weights into its memory one entry after another, what is on its way first. From there engines
   read them over one link: those that are under way share it, what is still to come takes its turn.
4. What waits begins when its room is free (`Waiting.available_seconds`), in the plan's order; what waits for its turn
   on a node besides when the link would be free by the time it needs it.

What can't be known stays unknown: without a time for the room there is none for the start.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import heappop, heappush
from math import inf

from warmfleet_api.vocabulary import Reason, Stage, StartType
from warmfleet_operator.decide.actions import Forecast, Waiting
from warmfleet_operator.decide.estimates import Phases
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey, OwnerKey
from warmfleet_operator.decide.predict_links import Links, are_in_memory, weights_seconds, why_never
from warmfleet_operator.decide.predict_progress import Coming, coming
from warmfleet_operator.decide.predict_stages import node_type, phases
from warmfleet_operator.decide.runners import Member

_WORTH_SAYING_SECONDS = 0.1
_NOTHING_SECONDS = 1e-6
_LONGEST_SECONDS = 30 * 86_400.0
"""What takes longer by what is measured now is not measured well."""


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
    left: Phases
    has_begun: bool = False
    rank: tuple[int, str] = (0, "")
    stage: Stage = Stage.QUEUED
    weights_at: float = 0.0
    turn_at: float = 0.0
    done_at: float = 0.0
    never: str = ""
    """Why nobody can tell when it is done."""


@dataclass(slots=True)
class _Timelines:
    """What each runner, and each node's links, are busy with."""

    fleet: Fleet
    homes: Mapping[str, str]
    now: datetime
    runners: dict[str, float] = field(default_factory=dict)
    """Name of a runner's pod → in how many seconds it has carried its loads."""
    wakes: dict[str, float] = field(default_factory=dict)
    loads: dict[str, float] = field(default_factory=dict)
    """Node → in how many seconds engines there have read their weights."""
    links: dict[str, Links] = field(default_factory=dict)
    asked: Mapping[ModelKey, datetime] = field(default_factory=dict)
    """By when clients want models."""
    unknown: dict[str, str] = field(default_factory=dict)
    """What holds the room of a start → that nobody can tell when there is some: thousands wait for the same."""

    def node_of(self, place: str) -> str:
        """Return the node of a place, which is a node or a runner; empty where nobody knows it."""
        return place if place in self.fleet.nodes else self.homes.get(place, "")

    def told(self, model: Model, seconds: float | None, start_type: StartType, reason: str) -> Forecast:
        """Return a forecast, with what it means for the model's deadline."""
        if seconds is not None and not seconds <= _LONGEST_SECONDS:
            seconds, reason = None, f"longer than anybody can tell: {reason}"
        return Forecast(seconds, start_type, reason, self.misses_seconds(model, seconds or 0.0))

    def untold(self, model: Model, start_type: StartType, blocker: str) -> Forecast:
        """Return the forecast of a start for which nobody can tell when there is room."""
        reason = self.unknown.get(blocker)
        if reason is None:
            reason = self.unknown[blocker] = f"nobody can tell when there is room: {blocker}"
        return Forecast(None, start_type, reason, self.misses_seconds(model, 0.0))

    def misses_seconds(self, model: Model, seconds: float) -> float | None:
        """Return by how much a start that takes so long is later than its deadline; None: it is not, or has none.

        One of which nobody knows the time, 0.0, is as late as it is already.
        """
        due = model.due
        if due is None and (wanted := model.spec.cold_start.deadline_seconds) is not None:
            due = self.now + timedelta(seconds=wanted)
        asked = self.asked.get(model.key) if self.asked else None
        if asked is not None:
            due = min(due, asked) if due is not None else asked
        if due is None:
            return None
        late = seconds - (due - self.now).total_seconds()
        return late if late > 0 else None

    def weights(self, job: _Job, begin: float) -> float:
        """Return in how many seconds the job's weights are in memory of its node, asked for from `begin` on."""
        if job.start_type is StartType.HOT or not job.model.weights or job.has_begun:
            return 0.0
        cache = self.fleet.caches.get(job.node)
        if cache is None:
            return begin + weights_seconds(job.model.weights, None)
        if are_in_memory(job.model.weights, cache):
            return 0.0
        job.never = why_never(job.model.weights, cache)
        if job.never:
            return inf
        if job.node not in self.links:
            self.links[job.node] = Links(cache)
        return self.links[job.node].add(job.model.weights, begin)

    def run(self, by_runner: Mapping[str, Sequence[_Job]]) -> None:
        """Let runners carry their present loads, each in its own order."""
        for job in sorted((job for jobs in by_runner.values() for job in jobs), key=_turn):
            job.weights_at = self.weights(job, 0.0)
        nodes: defaultdict[str, dict[str, list[_Job]]] = defaultdict(dict)
        for runner, jobs in by_runner.items():
            queue = []
            for job in sorted(jobs, key=_turn):
                if job.start_type is StartType.HOT:
                    self.carry(runner, job, 0.0)
                elif not job.never:
                    queue.append(job)
            if queue:
                nodes[queue[0].node][runner] = queue
        for node, queues in nodes.items():
            self._share(node, queues)

    def _share(self, node: str, queues: Mapping[str, list[_Job]]) -> None:
        """Let the runners of one node carry their loads: those that read at the same time share the link."""
        arrivals: list[tuple[float, str, _Job]] = []
        reading: dict[str, tuple[float, _Job]] = {}
        """Runner → what is left for its engine to read, in seconds of the whole link."""
        now = 0.0

        def next_of(runner: str) -> None:
            job = self._next(runner, queues[runner])
            if job is not None:
                queues[runner].remove(job)
                job.turn_at = max(job.left.before_seconds, self.runners.get(runner, 0.0))
                heappush(arrivals, (max(job.turn_at, job.weights_at) + job.left.prepare_seconds, runner, job))

        for runner in queues:
            next_of(runner)
        while arrivals or reading:
            least = min((left for left, _ in reading.values()), default=inf)
            then = min(now + least * len(reading) if reading else inf, arrivals[0][0] if arrivals else inf)
            passed = (then - now) / len(reading) if reading else 0.0
            reading = {runner: (left - passed, job) for runner, (left, job) in reading.items()}
            now = then
            if arrivals and (arrivals[0][0] <= now or not reading):
                _, runner, job = heappop(arrivals)
                reading[runner] = job.left.load_seconds, job
            for runner in [runner for runner, (left, _) in reading.items() if left <= _NOTHING_SECONDS]:
                _, job = reading.pop(runner)
                self.loads[node] = now
                self.runners[runner] = now + job.left.finish_seconds
                job.done_at = self.runners[runner] + job.left.tail_seconds
                next_of(runner)

    def _next(self, runner: str, queue: Sequence[_Job]) -> _Job | None:
        """Return the first whose weights are there when the runner is free; else the one whose weights come first."""
        free = self.runners.get(runner, 0.0)
        ready = (job for job in queue if job.weights_at <= max(free, job.left.before_seconds))
        return next(ready, None) or min(queue, key=lambda each: each.weights_at, default=None)

    def carry(self, runner: str, job: _Job, begin: float) -> None:
        """Let a runner carry one load more, not before `begin`; an empty name is a runner of its own."""
        is_wake, left = job.start_type is StartType.HOT, job.left
        busy = self.wakes if is_wake else self.runners
        job.turn_at = max(begin + left.before_seconds, busy.get(runner, 0.0) if runner else 0.0)
        load_at = max(job.turn_at, job.weights_at) + left.prepare_seconds
        if not is_wake and left.load_seconds > 0:
            load_at = max(load_at, self.loads.get(job.node, 0.0))
            self.loads[job.node] = load_at + left.load_seconds
        end = load_at + left.load_seconds + left.finish_seconds
        if runner:
            busy[runner] = end
        job.done_at = end + left.tail_seconds


def forecast(  # noqa: PLR0917 - what a plan consists of
    fleet: Fleet,
    members: Mapping[ModelKey, Sequence[Member]],
    waiting: Mapping[OwnerKey, Waiting],
    placed: Iterable[Placed],
    homes: Mapping[str, str],
    now: datetime,
) -> Mapping[ModelKey, Forecast]:
    """Return when the start of each model that has one will be done.

    Of several the one that waits counts, as in `status.pendingStart`; of those under way the first to be done.

    Args:
        members: Where each model is in runners, as the round sees it.
        waiting: The starts without a place, in the plan's order.
        placed: Those that got theirs in this round.
        homes: Nodes of the runners in whose room starts wait, by the name of the pod.
        now: The time of the round.
    """
    lines = _Timelines(fleet, homes, now, asked=fleet.asked())
    forecasts: dict[ModelKey, Forecast] = {}
    # 1. What is under way or was just placed, runner by runner.
    by_runner: defaultdict[str, list[_Job]] = defaultdict(list)
    for each in coming(fleet, members, now):
        if each.trouble:
            forecasts[each.model.key] = lines.told(each.model, None, each.start_type, each.trouble)
            continue
        by_runner[each.member.pod.metadata.name].append(_job_of(each))
    for number, place in enumerate(placed):
        model = fleet.models.get(place.model)
        if model is not None:
            job = _new_job(fleet, model, place.start_type, place.node, place.node)
            job.rank = (model.spec.priority.rank, model.key.name)
            # No pod has such a name: a runner that is only to be made has no other loads.
            by_runner[place.runner or f"/{number}"].append(job)
    lines.run(by_runner)
    under_way = [job for jobs in by_runner.values() for job in jobs]
    for job in sorted(under_way, key=lambda each: (not each.never, -each.done_at)):
        seconds = None if job.never else job.done_at
        forecasts[job.model.key] = lines.told(job.model, seconds, job.start_type, _say(job))
    # 2. What waits, in the plan's order, each behind those before it.
    for key, wait in waiting.items():
        waiting_model = fleet.models.get(key) if isinstance(key, ModelKey) else None
        if waiting_model is not None:
            forecasts[waiting_model.key] = _waits(lines, waiting_model, wait)
    return forecasts


def _waits(lines: _Timelines, model: Model, wait: Waiting) -> Forecast:
    """Return the forecast of a start without a place, and let it take its time on the timelines."""
    fleet = lines.fleet
    start_type = wait.start_type or (StartType.WARM if model.pools else StartType.COLD)
    if wait.available_seconds is None:
        return lines.untold(model, start_type, wait.blocker)
    node = lines.node_of(wait.place)
    is_node = node == wait.place
    job = _new_job(fleet, model, start_type, node, wait.place)
    begin = wait.available_seconds
    if wait.reason is Reason.WAITING_FOR_TURN:
        begin = max(begin, lines.loads.get(node, 0.0) - job.left.before_seconds - job.left.prepare_seconds)
    job.weights_at = lines.weights(job, begin)
    if job.never:
        return lines.told(model, None, start_type, f"nobody can tell when its weights are there: {job.never}")
    lines.carry("" if is_node else wait.place, job, begin)
    return lines.told(model, job.done_at, start_type, _say_wait(job, begin))


def _job_of(each: Coming) -> _Job:
    assigned, member = each.member.assigned, each.member
    return _Job(
        model=each.model,
        start_type=each.start_type,
        node=member.node,
        where=member.node,
        left=each.left,
        has_begun=each.has_begun,
        rank=(assigned.order, assigned.id) if assigned is not None else (0, member.name),
        stage=each.stage,
    )


def _new_job(fleet: Fleet, model: Model, start_type: StartType, node: str, where: str) -> _Job:
    left = phases(fleet.estimates, model, start_type, node_type(fleet.nodes.get(node)))
    return _Job(model, start_type, node, where, left)


def _turn(job: _Job) -> tuple[bool, tuple[int, str]]:
    """Sort the loads of a runner: the one under way, then as the runner starts them."""
    return not job.has_begun, job.rank


def _say(job: _Job) -> str:
    """Say where the time of a start with a place goes."""
    if job.never:
        return f"nobody can tell when its weights are there: {job.never}"
    if job.has_begun:
        return f"{job.stage} on {job.where}, {job.done_at:.1f} s left"
    return f"{_waits_for(job, 0.0)}{job.left.seconds:.1f} s {job.start_type} on {job.where}"


def _say_wait(job: _Job, begin: float) -> str:
    """Say where the time of a start without a place goes."""
    where = job.where or "a node"
    return f"room on {where} in {begin:.1f} s, then {_waits_for(job, begin)}{job.left.seconds:.1f} s {job.start_type}"


def _waits_for(job: _Job, begin: float) -> str:
    """Say what holds a start up beside its own stages."""
    said = ""
    left, turn_at, weights_at = job.left, job.turn_at, job.weights_at
    if turn_at > begin + left.before_seconds:
        said = f"its turn in {turn_at:.1f} s, then "
    if weights_at > turn_at:
        said += f"weights in {weights_at:.1f} s, then "
    behind = job.done_at - max(turn_at, weights_at) - (left.seconds - left.before_seconds)
    if behind >= _WORTH_SAYING_SECONDS:
        said += f"{behind:.1f} s for other loads of {job.node}, then "
    return said
