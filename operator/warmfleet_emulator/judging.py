"""How good an outcome is: beside the lower bounds, and by class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from warmfleet_api import quantity
from warmfleet_api.vocabulary import Priority, StartType
from warmfleet_api.warm_pool import RUNNER_BYTES
from warmfleet_emulator.bounds import (
    Holders,
    Job,
    Operation,
    area_bound,
    makespan_bound,
    rank_bounds,
    weighted_by_rank,
    weighted_completion_bound,
)
from warmfleet_emulator.models import ROUTABLE_SECONDS, EmulatedModel
from warmfleet_emulator.outcome import Outcome, Start, percentile, seconds_by_class
from warmfleet_emulator.runners import DELIVERY_SECONDS, STOP_SECONDS, TERMINATION_SECONDS, WARM_UP_SECONDS
from warmfleet_emulator.scenario import NodeBlock, Scenario, StartBlock
from warmfleet_operator.decide.give_way import STARTS, WAKES
from warmfleet_operator.decide.stakes import IDLE_SECONDS, RESIDENCY_SECONDS

CLASS_WEIGHTS: Final[Mapping[Priority, int]] = {
    Priority.CRITICAL: 1000,
    Priority.HIGH: 100,
    Priority.NORMAL: 10,
    Priority.LOW: 1,
}
"""Classes are strict: a second of a class is worth ten of the next, so that strictness and least weighted completion
agree wherever starts take less than ten times as long as others."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The figures of one policy."""

    policy: str
    starts: int
    unfinished: int
    makespan_seconds: float
    makespan_bound_seconds: float
    weighted_completion_over_bound: float
    weighted_wait_over_bound: float
    """The same of the time from wanted to Ready: what no late beginning of a start can hide in."""
    p50_seconds: Mapping[Priority, float]
    p99_seconds: Mapping[Priority, float]
    request_p50_seconds: float
    request_p99_seconds: float
    switches: int
    preemptions: int
    rounds: int

    @property
    def makespan_over_bound(self) -> float:
        """1 is perfect."""
        return self.makespan_seconds / self.makespan_bound_seconds if self.makespan_bound_seconds else 1.0


class Judge:
    """Knows the least that each start of a scenario could take, wherever it was placed."""

    def __init__(self, scenario: Scenario, models: Mapping[str, EmulatedModel]) -> None:
        self._models = models
        self._blocks = scenario.nodes
        self._pools = {pool.name: pool for pool in scenario.pools}

    def judge(self, outcome: Outcome) -> Judgement:
        """Return the figures of an outcome."""
        jobs = self.jobs(outcome)
        released = sum(job.weight * job.release for job in jobs)
        completed = sum(job.weight * start.ready for job, start in zip(jobs, outcome.starts, strict=True))
        ranks = rank_bounds(jobs, self._holders(outcome))
        bound = max(weighted_completion_bound(jobs), weighted_by_rank(jobs, ranks))
        makespan = max((start.ready for start in outcome.starts), default=0.0)
        by_class = seconds_by_class(outcome)
        return Judgement(
            policy=outcome.policy,
            starts=len(outcome.starts),
            unfinished=len(outcome.unfinished),
            makespan_seconds=makespan,
            makespan_bound_seconds=max(makespan_bound(jobs), self._areas(outcome), *ranks[-1:]),
            weighted_completion_over_bound=completed / bound if bound else 1.0,
            weighted_wait_over_bound=(completed - released) / (bound - released) if bound > released else 1.0,
            p50_seconds={priority: percentile(times, 0.5) for priority, times in by_class.items()},
            p99_seconds={priority: percentile(times, 0.99) for priority, times in by_class.items()},
            request_p50_seconds=percentile(outcome.request_waits, 0.5),
            request_p99_seconds=percentile(outcome.request_waits, 0.99),
            switches=len(outcome.switches),
            preemptions=outcome.preemptions,
            rounds=outcome.rounds,
        )

    def jobs(self, outcome: Outcome) -> list[Job]:
        """Return the starts of an outcome as the bounds see them."""
        return [self._job(start, held) for start, held in zip(outcome.starts, self._held(outcome), strict=True)]

    def _held(self, outcome: Outcome) -> list[float]:
        """Return for how long the engine of each start keeps its room once it is Ready, at least, if others wait.

        The scheduler's rules are part of its model: an engine gives way to its own class or a lower one after its
        residency, and once it has had no requests for a while; to a higher one sooner. Its clients are served by the
        first start; a later one may be of an engine that had to go in between.
        """
        highest = min((each.record.spec.priority.rank for each in self._models.values()), default=0)
        found = []
        served: set[str] = set()
        for start in outcome.starts:
            block = self._models[start.model].block
            busy = block.serve_seconds if start.model not in served else 0.0
            served.add(start.model)
            is_own = not self._models[start.model].record.pools
            before = block.start.runner_seconds if is_own else DELIVERY_SECONDS
            whole = before + self._alone_seconds(block.start) + ROUTABLE_SECONDS
            held = busy + max(IDLE_SECONDS, WAKES * block.start.wake_seconds)
            if start.priority.rank == highest:
                # Both rules count from Ready, which requests reach a moment later.
                held = max(held, RESIDENCY_SECONDS - ROUTABLE_SECONDS, STARTS * whole - ROUTABLE_SECONDS)
            else:
                held = min(held, RESIDENCY_SECONDS - ROUTABLE_SECONDS)
            sleeps_after = self._models[start.model].record.spec.idle.after_seconds
            held = held if sleeps_after is None else min(held, busy + sleeps_after)
            # Its room is free when its pod is gone, or when it sleeps or has ended.
            found.append(held + (TERMINATION_SECONDS if is_own else min(block.start.sleep_seconds, STOP_SECONDS)))
        return found

    def _holders(self, outcome: Outcome) -> Holders | None:
        """Return of how many starts only so many can hold their room at a time; None where that is not so simple."""
        kinds = {tuple(self._models[start.model].record.pools) for start in outcome.starts}
        if len(kinds) != 1 or any(start.start_type is StartType.HOT for start in outcome.starts):
            return None
        rooms = [self._room(self._models[start.model]) for start in outcome.starts]
        units = min(units for units, _ in rooms)
        if not units:
            return None
        return Holders(
            places=int(rooms[0][1] // units),
            start_seconds=ROUTABLE_SECONDS + min(self._in_its_room(start) for start in outcome.starts),
            held_seconds=tuple(self._held(outcome)),
        )

    def _in_its_room(self, start: Start) -> float:
        """Return what a start takes at least from the moment its room is taken: a runner of its own has it first."""
        model = self._models[start.model]
        before = 0.0 if model.record.pools else model.block.start.runner_seconds
        return before + self._alone_seconds(model.block.start)

    def _alone_seconds(self, start: StartBlock) -> float:
        """Return what a start takes in a runner, on its own and at the best node."""
        load = quantity.to_bytes(start.bytes) / self._most("load")
        return start.cpu_seconds + load + start.initialize_seconds + WARM_UP_SECONDS

    def _job(self, start: Start, held_seconds: float) -> Job:
        weight = float(CLASS_WEIGHTS[start.priority])
        model = self._models[start.model]
        block = model.block.start
        if start.start_type is StartType.HOT:
            path = block.wake_seconds + WARM_UP_SECONDS + ROUTABLE_SECONDS
            return Job(start.wanted, weight, path)
        remote, disk = start.fetched.get("remote", 0.0), start.fetched.get("disk", 0.0)
        begin = self._begin_seconds(start)
        cpu, load = block.cpu_seconds, quantity.to_bytes(block.bytes) / self._most("load")
        after = block.initialize_seconds + WARM_UP_SECONDS
        alone = self._alone_seconds(block)
        path = begin + alone + ROUTABLE_SECONDS
        operations = [
            ("remote", self._shared("remote", remote, 0.0, path)),
            ("disk", self._shared("disk", disk, 0.0, path)),
            ("cpu", Operation(cpu / self._cores(), cpu, begin, load + after + ROUTABLE_SECONDS)),
            ("load", self._shared("load", float(quantity.to_bytes(block.bytes)), begin + cpu, path)),
        ]
        pools = tuple(model.record.pools)
        runners = sum(self._pools[name].spec.replicas for name in pools)
        if runners:
            operations.append((f"runners {pools}", Operation(alone / runners, alone, begin, ROUTABLE_SECONDS)))
        units, capacity = self._room(model)
        if units and capacity:
            held = alone + held_seconds
            tail = ROUTABLE_SECONDS - held_seconds
            operations.append((f"room {pools}", Operation(held * units / capacity, held, begin, tail)))
        return Job(start.wanted, weight, path, tuple((name, each) for name, each in operations if each.amount_seconds))

    def _areas(self, outcome: Outcome) -> float:
        """Return the area bound of each kind of room, the largest."""
        holds: dict[tuple[str, ...], list[tuple[float, float, float]]] = {}
        capacities: dict[tuple[str, ...], float] = {}
        first: dict[tuple[str, ...], float] = {}
        for start, held in zip(outcome.starts, self._held(outcome), strict=True):
            if start.start_type is StartType.HOT:
                continue
            model = self._models[start.model]
            key = tuple(model.record.pools)
            units, capacities[key] = self._room(model)
            seconds = self._job(start, held).path_seconds - ROUTABLE_SECONDS - self._begin_seconds(start)
            holds.setdefault(key, []).append((units, seconds, held))
            first[key] = min(first.get(key, start.wanted), start.wanted)
        return max((first[key] + area_bound(each, capacities[key]) for key, each in holds.items()), default=0.0)

    def _begin_seconds(self, start: Start) -> float:
        remote, disk = start.fetched.get("remote", 0.0), start.fetched.get("disk", 0.0)
        fetch = remote / self._most("remote") + disk / self._most("disk")
        runner = self._models[start.model].block.start.runner_seconds
        return max(fetch, DELIVERY_SECONDS if start.start_type is StartType.WARM else runner)

    def _room(self, model: EmulatedModel) -> tuple[float, float]:
        """Return what an engine of the model takes of what such engines share: GPUs, or memory without them."""
        spec, pools = model.record.spec, [self._pools[name].spec for name in model.record.pools]
        if spec.gpus:
            if pools:
                return spec.gpus, sum(pool.replicas * pool.gpus for pool in pools)
            return spec.gpus, sum(block.count * block.gpus for block in self._blocks)
        memory = quantity.to_bytes(spec.resources.memory)
        if pools:
            return memory, sum(pool.replicas * (quantity.to_bytes(pool.memory) - RUNNER_BYTES) for pool in pools)
        return memory, sum(block.count * quantity.to_bytes(block.memory) for block in self._blocks)

    def _shared(self, link: str, amount: float, head: float, path: float) -> Operation:
        seconds = amount / self._most(link)
        total = sum(block.count * self._bytes_per_second(block, link) for block in self._blocks)
        return Operation(amount / total, seconds, head, path - head - seconds)

    def _most(self, link: str) -> float:
        """Return what the best node's link carries."""
        return max(self._bytes_per_second(block, link) for block in self._blocks)

    def _bytes_per_second(self, block: NodeBlock, link: str) -> float:
        return float(quantity.to_bytes({"remote": block.remote, "disk": block.disk, "load": block.load}[link]))

    def _cores(self) -> float:
        return sum(block.count * quantity.to_millicores(block.cpu) / 1000 for block in self._blocks)
