"""How good an outcome is: beside the lower bounds, and by class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from warmfleet_api import quantity
from warmfleet_api.vocabulary import Priority, StartType
from warmfleet_api.warm_pool import RUNNER_BYTES
from warmfleet_emulator.bounds import Job, Operation, area_bound, makespan_bound, weighted_completion_bound
from warmfleet_emulator.models import ROUTABLE_SECONDS, EmulatedModel
from warmfleet_emulator.outcome import Outcome, Start, percentile, seconds_by_class
from warmfleet_emulator.runners import DELIVERY_SECONDS, WARM_UP_SECONDS
from warmfleet_emulator.scenario import NodeBlock, Scenario

CLASS_WEIGHTS: Final[Mapping[Priority, int]] = {
    Priority.CRITICAL: 1000,
    Priority.HIGH: 100,
    Priority.NORMAL: 10,
    Priority.LOW: 1,
}
"""Classes are strict: a second of a class is worth ten of the next, so that strictness and least weighted completion
agree wherever starts take less than ten times as long as others."""
RESIDENCY_SECONDS = 10.0
"""An engine without requests gives way after so long at the earliest, or three times its wake."""
BUSY_RESIDENCY_SECONDS = 60.0
"""A busy one gives way to a higher class after so long at the earliest."""


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
        jobs = [self.job(start) for start in outcome.starts]
        released = sum(job.weight * job.release for job in jobs)
        completed = sum(job.weight * start.ready for job, start in zip(jobs, outcome.starts, strict=True))
        bound = weighted_completion_bound(jobs)
        makespan = max((start.ready for start in outcome.starts), default=0.0)
        by_class = seconds_by_class(outcome)
        return Judgement(
            policy=outcome.policy,
            starts=len(outcome.starts),
            unfinished=len(outcome.unfinished),
            makespan_seconds=makespan,
            makespan_bound_seconds=max(makespan_bound(jobs), self._areas(outcome)),
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

    def job(self, start: Start) -> Job:
        """Return a start as the bounds see it."""
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
        alone = cpu + load + after
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
            held = alone + self._held_seconds(model)
            tail = ROUTABLE_SECONDS - self._held_seconds(model)
            operations.append((f"room {pools}", Operation(held * units / capacity, held, begin, tail)))
        return Job(start.wanted, weight, path, tuple((name, each) for name, each in operations if each.amount_seconds))

    def _areas(self, outcome: Outcome) -> float:
        """Return the area bound of each kind of room, the largest."""
        holds: dict[tuple[str, ...], list[tuple[float, float, float]]] = {}
        capacities: dict[tuple[str, ...], float] = {}
        first: dict[tuple[str, ...], float] = {}
        for start in outcome.starts:
            if start.start_type is StartType.HOT:
                continue
            model = self._models[start.model]
            key = tuple(model.record.pools)
            units, capacities[key] = self._room(model)
            path = self.job(start)
            seconds = path.path_seconds - ROUTABLE_SECONDS - self._begin_seconds(start)
            holds.setdefault(key, []).append((units, seconds, self._held_seconds(model)))
            first[key] = min(first.get(key, start.wanted), start.wanted)
        return max((first[key] + area_bound(each, capacities[key]) for key, each in holds.items()), default=0.0)

    def _begin_seconds(self, start: Start) -> float:
        remote, disk = start.fetched.get("remote", 0.0), start.fetched.get("disk", 0.0)
        fetch = remote / self._most("remote") + disk / self._most("disk")
        runner = self._models[start.model].block.start.runner_seconds
        return max(fetch, DELIVERY_SECONDS if start.start_type is StartType.WARM else runner)

    def _held_seconds(self, model: EmulatedModel) -> float:
        """Return how long an engine keeps its room once it is Ready, at least, if another waits for it."""
        block = model.block
        served = block.serve_seconds or (block.requests.serve_seconds if block.requests is not None else 0.0)
        return min(served + max(RESIDENCY_SECONDS, 3 * block.start.wake_seconds), BUSY_RESIDENCY_SECONDS)

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
