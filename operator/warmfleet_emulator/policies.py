"""Other ways to decide, to compare with: they see the same fleet and act by the same actions in the same world.

* `arrival`: who came first, one start at a time on each node; who does not fit holds up all behind.
* `priority`: the same, classes first.
* `all-at-once`: whoever fits starts, however many share a link.

All put an engine away when its room is wanted and it has had no requests for a while, the least recently used first,
and keep to the scheduler's own residency, so that none gains by thrash. None sleeps, preempts, or orders by how long a
start takes.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from warmfleet_api import quantity
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.vocabulary import EngineState, Reason, StartType
from warmfleet_api.warm_pool import RUNNER_BYTES
from warmfleet_operator.decide.actions import Action, CreateRunner, Decisions, DeleteRunner, PatchRunner, Waiting
from warmfleet_operator.decide.assign import assignment_of, pooled_engine, whole
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey, OwnerKey, Pool, PoolKey, Runner
from warmfleet_operator.decide.give_way import STARTS
from warmfleet_operator.decide.needs import need_of, need_of_pool
from warmfleet_operator.decide.predict_stages import start_seconds
from warmfleet_operator.decide.requests import Amounts, amounts, requests_of
from warmfleet_operator.decide.runners import node_of, owner_of
from warmfleet_operator.decide.schedule import schedule
from warmfleet_operator.decide.stakes import IDLE_SECONDS, RESIDENCY_SECONDS
from warmfleet_operator.decide.start_budget import start_budget_seconds

_BUDGET_SECONDS = 3600
Policy = Callable[[Fleet, datetime], Decisions]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A way that needs no more than an order and a number."""

    by_class: bool
    at_once: int
    """Starts under way on one node at most; 0: any number."""

    def __call__(self, fleet: Fleet, now: datetime) -> Decisions:
        """Decide one round."""
        return _Round(fleet, self).decide()


POLICIES: Final[Mapping[str, Policy]] = {
    "ours": schedule,
    "arrival": Baseline(by_class=False, at_once=1),
    "priority": Baseline(by_class=True, at_once=1),
    "all-at-once": Baseline(by_class=True, at_once=0),
}
"""By name, ours first."""


@dataclass(slots=True)
class _Round:
    """What one round has found so far."""

    fleet: Fleet
    way: Baseline
    actions: list[Action] = field(default_factory=list)
    waiting: dict[OwnerKey, Waiting] = field(default_factory=dict)
    yields: dict[ModelKey, str] = field(default_factory=dict)
    engines: dict[str, dict[str, EngineAssignment]] = field(default_factory=dict)
    """Pod → its engines after this round."""
    taken: dict[str, Counter[str]] = field(default_factory=dict)
    under_way: Counter[str] = field(default_factory=Counter)
    """Node → starts."""
    hosts: dict[ModelKey, list[Runner]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)

    def decide(self) -> Decisions:
        self._look()
        self._fill_pools()
        wanted = [each for each in self.fleet.models.values() if self._is_wanted(each)]
        ordered = sorted(wanted, key=self._turn)
        for position, model in enumerate(ordered, start=1):
            blocker = self._start(model)
            if blocker:
                self.waiting[model.key] = Waiting(model.key, position, len(ordered), Reason.WAITING_FOR_TURN, blocker)
                if self.way.at_once:
                    break
        self._patch()
        return Decisions(tuple(self.actions), self.waiting, self.yields, recheck_seconds=1.0 if self.waiting else None)

    def _look(self) -> None:
        for node in self.fleet.nodes:
            self.taken[node] = Counter()
        for runner in self.fleet.runners:
            node = node_of(runner.pod)
            self.taken[node].update(requests_of(runner.pod))
            assigned = runner.assignment.engines if runner.assignment is not None else ()
            self.engines[runner.pod.metadata.name] = {each.id: each for each in assigned}
            if runner.pod.metadata.deletion_timestamp is not None:
                continue
            states = {each.id: each.state for each in runner.status.engines} if runner.status is not None else {}
            for engine in assigned:
                self.hosts.setdefault(ModelKey(runner.pod.metadata.namespace, engine.model), []).append(runner)
                self.under_way[node] += states.get(engine.id) not in {EngineState.READY, EngineState.DRAINING}

    def _is_wanted(self, model: Model) -> bool:
        return model.status.dormant is None and model.spec.replicas > 0 and model.key not in self.hosts

    def _turn(self, model: Model) -> tuple[int, str, str]:
        pending = model.status.pending_start
        since = (pending.queued_time if pending is not None else None) or "~"
        return (model.spec.priority.rank if self.way.by_class else 0, since, model.key.name)

    # Starts -----------------------------------------------------------------------------------------------------------

    def _start(self, model: Model) -> str:
        """Start a model, or make room for it, or say what it waits for."""
        if model.pools:
            return self._start_in_pool(model)
        return self._start_alone(model)

    def _start_in_pool(self, model: Model) -> str:
        pools = [PoolKey(model.key.namespace, name) for name in model.pools]
        runners = [each for each in self.fleet.runners if owner_of(each.pod) in pools and _takes_engines(each)]
        if not runners:
            return "no runner takes engines"
        free = [each for each in runners if self._gpus(each, model) is not None]
        able = [each for each in free if self._may_begin(node_of(each.pod))]
        if able:
            best = min(able, key=lambda each: (self._distance(node_of(each.pod), model), each.pod.metadata.name))
            gpus = self._gpus(best, model) or []
            engine = pooled_engine(model, 0, self._attempt(model), gpus)
            self.engines[best.pod.metadata.name][engine.id] = engine
            self.under_way[node_of(best.pod)] += 1
            return ""
        return "another start is under way" if free else self._put_away(runners, model)

    def _start_alone(self, model: Model) -> str:
        need = need_of(model.spec).amounts
        free = [name for name in self.fleet.nodes if self._fits(name, need)]
        able = [name for name in free if self._may_begin(name)]
        if able:
            node = min(able, key=lambda name: (self._distance(name, model), name))
            self.actions.append(
                CreateRunner(
                    owner=model,
                    slot=0,
                    attempt=self._attempt(model),
                    node=node,
                    assignment=assignment_of(model, 1),
                    start_budget_seconds=max(_BUDGET_SECONDS, start_budget_seconds(model)),
                    reason="it is its turn",
                    sees_weights=bool(model.weights),
                )
            )
            self.taken[node].update(need)
            self.under_way[node] += 1
            return ""
        own = [each for each in self.fleet.runners if isinstance(owner_of(each.pod), ModelKey)]
        return "another start is under way" if free else self._put_away(own, model)

    def _put_away(self, runners: list[Runner], model: Model) -> str:
        """Take out the engine that had no request for longest, if what goes already makes no room."""
        going = any(_is_going(each, self.engines[each.pod.metadata.name]) for each in runners)
        idle = [
            (seconds, runner, id_)
            for runner in runners
            for id_, seconds in runner.idle_seconds.items()
            if self._may_go(runner, id_, seconds)
        ]
        if going or not idle:
            return "no room"
        _, runner, id_ = max(idle, key=lambda each: (each[0], each[2]))
        engine = self.engines[runner.pod.metadata.name][id_]
        key = ModelKey(model.key.namespace, engine.model)
        self.yields[key] = f"makes room for {model.key}"
        if isinstance(owner_of(runner.pod), ModelKey):
            self.actions.append(DeleteRunner(runner.pod, self.yields[key]))
            self.deleted.add(runner.pod.metadata.name)
        del self.engines[runner.pod.metadata.name][id_]
        return f"{engine.model} goes for it"

    def _may_go(self, runner: Runner, id_: str, idle_seconds: float) -> bool:
        engine = self.engines[runner.pod.metadata.name].get(id_)
        model = self.fleet.models.get(ModelKey(runner.pod.metadata.namespace, engine.model)) if engine else None
        if model is None or idle_seconds < IDLE_SECONDS:
            return False
        start_type = StartType.COLD if isinstance(owner_of(runner.pod), ModelKey) else StartType.WARM
        start = start_seconds(self.fleet.estimates, model, start_type, None, self.fleet.caches)
        return runner.awake_seconds.get(id_, 0.0) >= max(RESIDENCY_SECONDS, STARTS * start)

    # Room -------------------------------------------------------------------------------------------------------------

    def _may_begin(self, node: str) -> bool:
        return not self.way.at_once or self.under_way[node] < self.way.at_once

    def _gpus(self, runner: Runner, model: Model) -> list[int] | None:
        """Return the GPUs of a runner that the model would get, none for one without; None where it does not fit."""
        pool = self.fleet.pools[PoolKey(model.key.namespace, owner_of(runner.pod).name)]
        name = runner.pod.metadata.name
        hosted = {each.id: (each.gpus, each.awake_bytes) for each in self.engines[name].values()}
        for told in runner.status.engines if runner.status is not None else ():
            if told.id not in hosted and runner.assignment is not None:
                return None  # it is still ending
        if len(hosted) >= pool.spec.max_engines:
            return None
        if model.spec.gpus:
            held = {gpu for gpus, _ in hosted.values() for gpu in gpus}
            free = [gpu for gpu in range(pool.spec.gpus) if gpu not in held]
            return free[: model.spec.gpus] if len(free) >= model.spec.gpus else None
        room = quantity.to_bytes(pool.spec.memory) - RUNNER_BYTES - sum(each for _, each in hosted.values())
        return [] if room >= quantity.to_bytes(model.spec.resources.memory) and not pool.spec.gpus else None

    def _fits(self, node: str, need: Amounts) -> bool:
        there = amounts(self.fleet.nodes[node].status.allocatable)
        return all(there.get(each, 0) - self.taken[node][each] >= number for each, number in need.items())

    def _distance(self, node: str, model: Model) -> int:
        cache = self.fleet.caches.get(node)
        return sum(cache is None or each.key not in cache.seen for each in model.weights)

    def _attempt(self, model: Model) -> int:
        """Return a number that no runner or engine of the model has."""
        seen = [
            each for runner in self.fleet.runners for each in _names(runner) if each.startswith(f"{model.key.name}-0-")
        ]
        return 1 + max((int(each.rpartition("-")[2]) for each in seen), default=0)

    # Pools ------------------------------------------------------------------------------------------------------------

    def _fill_pools(self) -> None:
        for key, pool in self.fleet.pools.items():
            present = sum(owner_of(each.pod) == key for each in self.fleet.runners)
            for slot in range(present, pool.spec.replicas):
                self._create_for(pool, slot)

    def _create_for(self, pool: Pool, slot: int) -> None:
        need = need_of_pool(pool.spec).amounts
        node = next((name for name in self.fleet.nodes if self._fits(name, need)), None)
        if node is not None:
            self.taken[node].update(need)
            assignment = whole(1, (), ())
            self.actions.append(
                CreateRunner(pool, slot, 1, node, assignment, _BUDGET_SECONDS, "the pool wants it", sees_weights=True)
            )

    def _patch(self) -> None:
        for runner in self.fleet.runners:
            name = runner.pod.metadata.name
            if runner.assignment is None or name in self.deleted:
                continue
            engines = tuple(self.engines[name].values())
            if engines != runner.assignment.engines:
                assignment = whole(runner.assignment.revision + 1, engines, ())
                self.actions.append(PatchRunner(runner.pod, assignment, {}, "another turn"))


def _takes_engines(runner: Runner) -> bool:
    return runner.status is not None and runner.pod.metadata.deletion_timestamp is None


def _is_going(runner: Runner, after: Mapping[str, EngineAssignment]) -> bool:
    """Whether room is about to become free in a runner, or with it."""
    if runner.pod.metadata.deletion_timestamp is not None:
        return True
    return runner.status is not None and any(each.id not in after for each in runner.status.engines)


def _names(runner: Runner) -> list[str]:
    told = runner.status.engines if runner.status is not None else ()
    assigned = runner.assignment.engines if runner.assignment is not None else ()
    return [runner.pod.metadata.name, *(each.id for each in told), *(each.id for each in assigned)]
