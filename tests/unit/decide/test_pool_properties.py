"""What holds with pools after any number of rounds, whatever people, nodes, runners and engines do in between."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from support import make
from support.world import World
from warmfleet_api import quantity
from warmfleet_api.vocabulary import EngineState
from warmfleet_api.warm_pool import RUNNER_BYTES
from warmfleet_operator.decide.actions import Decisions, PatchRunner
from warmfleet_operator.decide.fleet import PoolKey, Runner
from warmfleet_operator.decide.runners import Member, owner_of
from warmfleet_operator.decide.schedule import schedule

NODES = ("a", "b", "c")
MAX_ENGINES = 3
POOLS: dict[str, dict[str, Any]] = {
    "cpu": {"memory": "4Gi", "maxEngines": MAX_ENGINES},
    "gpu": {"memory": "9Gi", "gpus": 4, "maxEngines": MAX_ENGINES},
}
HOMES: dict[str, list[str]] = {"own": [], "cpu": ["cpu"], "gpu": ["gpu"], "both": ["gpu", "cpu"], "nowhere": ["else"]}


def _tells(state: EngineState) -> Callable[[Runner], Runner]:
    def tell(runner: Runner) -> Runner:
        if runner.assignment is None:
            return runner
        return make.tells(runner, {engine.id: state for engine in runner.assignment.engines})

    return tell


EVENTS: dict[str, Callable[[Runner], Runner]] = {
    "is up, with all its engines Ready": make.up,
    "has engines that start": _tells(EngineState.STARTING),
    "has engines that fail": _tells(EngineState.FAILED),
    "falls silent": lambda runner: make.silent(runner) if runner.status else runner,
    "is evicted": make.ended,
    "is deleted by somebody": make.terminating,
}
models = st.sampled_from(["red", "green", "blue", "white"])
pools = st.sampled_from(sorted(POOLS))


class AnyFleetWithPools(RuleBasedStateMachine):
    """Four models, two pools, three nodes; after each event rounds are decided, checked and carried out."""

    @initialize()
    def begin(self) -> None:
        self.world = World(limits=replace(make.LIMITS, unscheduled_seconds=0))
        for name in NODES:
            self.world.add(make.node(name, gpus=8))

    @rule(
        name=models,
        home=st.sampled_from(sorted(HOMES)),
        gpus=st.integers(0, 2),
        memory=st.sampled_from(["512Mi", "1Gi", "2Gi"]),
        replicas=st.integers(0, 2),
        priority=st.sampled_from(["High", "Normal", "Low"]),
    )
    def a_model_is_applied(  # noqa: PLR0917 - hypothesis gives them by name
        self, name: str, home: str, gpus: int, memory: str, replicas: int, priority: str
    ) -> None:
        fields = {"pools": HOMES[home]} if HOMES[home] else {}
        self.world.add(
            make.model(name, gpus=gpus, memory=memory, replicas=replicas, priority=priority, **fields)  # type: ignore[arg-type]
        )
        self._rounds()

    @rule(name=models)
    def a_model_is_deleted(self, name: str) -> None:
        self.world.models.pop(name, None)
        self._rounds()

    @rule(name=models)
    def a_model_is_made_anew(self, name: str) -> None:
        assume(name in self.world.models)
        model = self.world.models[name]
        uid = model.metadata.uid + "-anew"
        self.world.models[name] = replace(model, metadata=make.record(name, {}, uid=uid[:200]).metadata)
        self._rounds()

    @rule(name=pools, replicas=st.integers(0, 2), version=st.integers(1, 2))
    def a_pool_is_applied(self, name: str, replicas: int, version: int) -> None:
        self.world.add(make.pool(name, replicas=replicas, cpu=str(version), **POOLS[name]))
        self._rounds()

    @rule(name=pools)
    def a_pool_is_deleted(self, name: str) -> None:
        self.world.pools.pop(name, None)
        self._rounds()

    @rule(data=st.data(), event=st.sampled_from(sorted(EVENTS)))
    def a_runner(self, data: st.DataObject, event: str) -> None:
        pooled = sorted(name for name, each in self.world.runners.items() if isinstance(owner_of(each.pod), PoolKey))
        assume(pooled)
        name = data.draw(st.sampled_from(pooled))
        assume(not self.world.runners[name].pod.is_terminal)
        self.world.change(name, EVENTS[event])
        self._rounds()

    @rule()
    def everything_gets_one_step_further(self) -> None:
        self.world.progress()
        self._rounds()

    @rule(name=st.sampled_from(NODES), condition=st.sampled_from([{}, {"ready": False}, {"cordoned_seconds": 5}]))
    def a_node_is(self, name: str, condition: dict[str, object]) -> None:
        self.world.add(make.node(name, gpus=8, **condition))  # type: ignore[arg-type]
        self._rounds()

    def teardown(self) -> None:
        """Whatever happened: with healthy nodes and engines all that fits gets served, and then nothing moves."""
        if not hasattr(self, "world"):
            return
        for name in NODES:
            self.world.add(make.node(name, gpus=8))
        for name, runner in list(self.world.runners.items()):
            if runner.status is not None:
                self.world.change(name, lambda each: replace(each, silent_seconds=0.2))
        self.world.settle()
        waiting = schedule(self.world.fleet(), make.NOW).waiting
        for name, model in self.world.models.items():
            assert len(self.world.serving(name)) == model.spec.replicas or model.key in waiting
        for name, pool in self.world.pools.items():
            found = [each for each in self.world.runners.values() if owner_of(each.pod) == pool.key]
            assert len(found) == pool.spec.replicas or any(_engines(each) for each in found), name

    def _rounds(self) -> None:
        """Decide until nothing is left to do: every decision follows from the cluster, so it must come to rest."""
        for _ in range(6):
            if not self._checked().actions:
                return
        raise AssertionError("still acting in the seventh round")

    def _checked(self) -> Decisions:
        world = self.world
        fleet = world.fleet()
        decisions = schedule(fleet, make.NOW)
        assert schedule(fleet, make.NOW) == decisions, "the same fleet gives the same plan"
        served = {name: len(_own_serving(world, name)) for name in world.models}
        world.carry_out(decisions)
        assert world.over_committed() == {}
        for runner in world.runners.values():
            _is_not_over_committed(runner)
        patched = [action for action in decisions.actions if isinstance(action, PatchRunner)]
        assert len({patch.pod.metadata.uid for patch in patched}) == len(patched), "one change per runner and round"
        if not any("makes room" in patch.reason for patch in patched) and not _stopped(world):
            for name, model in world.models.items():
                assert len(_own_serving(world, name)) >= min(served[name], model.spec.replicas), f"{name} serves less"
        return decisions


def _own_serving(world: World, name: str) -> list[Member]:
    """Return those that serve this very object: the engines of a namesake that was deleted go at once."""
    return [member for member in world.serving(name) if member.model_uid == world.models[name].metadata.uid]


def _engines(runner: Runner) -> int:
    return len(runner.assignment.engines) if runner.assignment is not None else 0


def _stopped(world: World) -> bool:
    """Whether a pool was told to have no runners, or is gone: its engines end with it."""
    names = {name for name, pool in world.pools.items() if pool.spec.replicas}
    owners = (owner_of(runner.pod) for runner in world.runners.values())
    return any(isinstance(owner, PoolKey) and owner.name not in names for owner in owners)


def _is_not_over_committed(runner: Runner) -> None:
    owner = owner_of(runner.pod)
    if runner.assignment is None or not isinstance(owner, PoolKey):
        return
    limits = runner.pod.spec.containers[0].resources.limits
    engines = runner.assignment.engines
    room = quantity.to_bytes(limits["memory"]) - RUNNER_BYTES
    assert sum(engine.awake_bytes for engine in engines if not engine.gpus) <= room
    gpus = Counter(gpu for engine in engines for gpu in engine.gpus)
    assert not gpus or (max(gpus.values()) == 1 and max(gpus) < int(limits["nvidia.com/gpu"]))
    assert len(engines) <= MAX_ENGINES
    assert len({engine.id for engine in engines}) == len(engines)
    present = Counter((engine.model, engine.model_uid, engine.hash) for engine in engines)
    assert not present or max(present.values()) == 1, "two engines of one spec in one runner"


AnyFleetWithPools.TestCase.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestAnyFleetWithPools = AnyFleetWithPools.TestCase


def test_the_account_notices_two_engines_on_one_gpu() -> None:
    """The control: an assignment nobody should decide is seen by the same check."""
    pool = make.pool("gpu", **POOLS["gpu"])
    red, blue = make.model("red", gpus=1, pools=["gpu"]), make.model("blue", gpus=1, pools=["gpu"])
    runner = make.hosting(make.hosting(make.pool_runner(pool, "a"), red), blue)
    try:
        _is_not_over_committed(runner)
    except AssertionError:
        return
    raise AssertionError("two engines on GPU 0 went unnoticed")
