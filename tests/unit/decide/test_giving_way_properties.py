"""What holds of sleep, wakes and preemptions after any number of rounds, whatever happens in between."""

from collections import Counter
from dataclasses import replace
from datetime import timedelta

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from support import make
from support.sleepers import Sleepers, held_awake
from warmfleet_api import quantity
from warmfleet_api.status import PendingStart
from warmfleet_api.vocabulary import Priority, Stage, StartType
from warmfleet_api.warm_pool import RUNNER_BYTES
from warmfleet_operator.decide.actions import Decisions
from warmfleet_operator.decide.fleet import Demand, PoolKey, Runner
from warmfleet_operator.decide.runners import node_of, owner_of
from warmfleet_operator.decide.schedule import schedule

NODES = ("a", "b")
GPU_MIB = 80 * 1024
POOLS = {
    "cpu": {"memory": "5Gi", "maxEngines": 4},
    "gpu": {"memory": "33Gi", "gpus": 2, "maxEngines": 5},
}
HOMES = {"own": [], "cpu": ["cpu"], "gpu": ["gpu"]}
names = st.sampled_from(["red", "green", "blue", "white", "black"])
classes = st.sampled_from(list(Priority))


class AnySleepers(RuleBasedStateMachine):
    """Five models, two pools, two nodes; after each event rounds are decided, checked and carried out."""

    @initialize(pools=st.lists(st.sampled_from(["cpu", "gpu"]), min_size=1, unique=True))
    def begin(self, pools: list[str]) -> None:
        self.world = Sleepers(limits=replace(make.LIMITS, unscheduled_seconds=0))
        for name in NODES:
            self.world.add(make.node(name, gpus=3, gpu_memory_mib=GPU_MIB, memory="80Gi"))
        for name in pools:
            self.world.add(make.pool(name, replicas=1, **POOLS[name]))  # type: ignore[arg-type]
        self.world.settle()

    @rule(
        name=names,
        home=st.sampled_from(sorted(HOMES)),
        gpus=st.sampled_from([0, 1, 1, 2, 64]),
        memory=st.sampled_from(["1Gi", "2Gi", "4Gi"]),
        gpu_memory=st.sampled_from([None, "30Gi", "70Gi", "500Gi"]),
        priority=classes,
        policy=st.sampled_from(["Yield", "Keep"]),
        deadline=st.sampled_from([None, 1, 600]),
    )
    def a_model_is_applied(  # noqa: PLR0917 - hypothesis gives them by name
        self,
        name: str,
        home: str,
        gpus: int,
        memory: str,
        gpu_memory: str | None,
        priority: Priority,
        policy: str,
        deadline: int | None,
    ) -> None:
        assume(name not in self.world.models)
        gpus = 0 if home == "cpu" else max(1, gpus) if home == "gpu" else gpus
        cold_start = {} if deadline is None else {"coldStart": {"deadlineSeconds": deadline}}
        resources = {"gpus": gpus, "memory": memory} | ({"gpuMemory": gpu_memory} if gpu_memory and gpus else {})
        pools = {"pools": HOMES[home]} if HOMES[home] else {}
        self.world.add(
            make.model(name, resources=resources, priority=priority, idle={"policy": policy}, **cold_start, **pools)  # type: ignore[arg-type]
        )
        self._rounds()

    @rule(name=names)
    def a_model_is_deleted(self, name: str) -> None:
        self.world.models.pop(name, None)
        self._rounds()

    @rule(name=names, priority=classes)
    def its_priority_changes(self, name: str, priority: Priority) -> None:
        assume(name in self.world.models)
        model = self.world.models[name]
        spec = model.spec.model_copy(update={"priority": priority})
        self.world.models[name] = replace(model, spec=spec)
        self._rounds()

    @rule(name=names, seconds=st.sampled_from([0.0, 5.0, 30.0, 1e9]))
    def it_is_idle(self, name: str, seconds: float) -> None:
        self.world.idle[name] = seconds
        self._rounds()

    @rule(name=names)
    def it_is_busy(self, name: str) -> None:
        self.world.idle.pop(name, None)
        self._rounds()

    @rule(name=names)
    def it_falls_asleep(self, name: str) -> None:
        self.world.demand.pop(name, None)
        self.world.sleep(name)
        self._rounds()

    @rule(name=names, hours=st.integers(-5, 5))
    def it_is_wanted(self, name: str, hours: int) -> None:
        self.world.demand[name] = Demand(held=1, deadline=self.world.now + timedelta(hours=hours))
        self.world.wake(name)
        self._rounds()

    @rule(name=names, seconds=st.integers(-100_000, 100_000))
    def it_waits_since(self, name: str, seconds: int) -> None:
        assume(name in self.world.models)
        pending = PendingStart(
            position=1,
            of=1,
            start_type=StartType.WARM,
            stage=Stage.QUEUED,
            queued_time=make.ago(seconds),
            summary="waits",
        )
        model = self.world.models[name]
        self.world.models[name] = replace(model, status=model.status.model_copy(update={"pending_start": pending}))
        self._rounds()

    @rule(data=st.data())
    def a_runner_obeys(self, data: st.DataObject) -> None:
        found = [name for name, _ in self.world.pooled()]
        assume(found)
        self.world.obey(data.draw(st.sampled_from(found)))
        self._rounds()

    @rule()
    def everything_gets_further(self) -> None:
        for name, _ in list(self.world.pooled()):
            self.world.obey(name)
        for name, runner in list(self.world.runners.items()):
            if runner.pod.metadata.deletion_timestamp is not None:
                self.world.reap(name)
            elif not isinstance(owner_of(runner.pod), PoolKey):
                self.world.change(name, make.ready)
        self._rounds()

    @rule(name=st.sampled_from(NODES))
    def a_node_goes(self, name: str) -> None:
        self.world.nodes.pop(name, None)
        self._rounds()

    @rule(name=st.sampled_from(NODES))
    def a_node_comes(self, name: str) -> None:
        self.world.add(make.node(name, gpus=3, gpu_memory_mib=GPU_MIB, memory="80Gi"))
        self._rounds()

    @rule(hours=st.integers(-48, 48), awake=st.sampled_from([0.0, 59.0, 61.0, 1e6]))
    def the_clock_jumps(self, hours: int, awake: float) -> None:
        self.world.now = make.NOW + timedelta(hours=hours)
        self.world.awake_seconds = awake
        self._rounds()

    def teardown(self) -> None:
        """Whatever happened: in the end each model serves, sleeps, or waits and says for what."""
        if not hasattr(self, "world"):
            return
        for name in NODES:
            self.world.add(make.node(name, gpus=3, gpu_memory_mib=GPU_MIB, memory="80Gi"))
        for name, runner in list(self.world.runners.items()):
            if runner.status is not None:
                self.world.change(name, lambda each: replace(each, silent_seconds=0.2))
        self.world.awake_seconds, self.world.idle = 0.0, {}
        self.world.settle()
        decisions = schedule(self.world.fleet(), self.world.now)
        for name, model in self.world.models.items():
            if model.status.dormant is None:
                assert self.world.serving(name) or decisions.waiting[model.key].blocker

    def _rounds(self) -> None:
        """Decide until nothing is left to do before somebody obeys."""
        for _ in range(8):
            if not self._checked().actions:
                return
        raise AssertionError("still acting in the ninth round")

    def _checked(self) -> Decisions:
        world = self.world
        fleet = world.fleet()
        decisions = schedule(fleet, world.now)
        assert schedule(fleet, world.now) == decisions, "the same fleet gives the same plan"
        for each in decisions.preemptions:
            winner, victim = world.models[each.winner.name], world.models[each.victim.name]
            assert victim.spec.priority.rank > winner.spec.priority.rank, each.reason
        for key in decisions.yields:
            model = world.models[key.name]
            assert model.spec.idle.policy == "Yield", key
            assert world.idle.get(key.name, 0) >= 10, key
            assert key.name not in world.demand, key
        before = dict(world.pooled())
        world.round()
        for name, runner in world.pooled():
            if name in before and runner.assignment != before[name].assignment:
                check_account(world, runner)
            if runner.assignment is not None:
                present = Counter((each.model, each.model_uid, each.hash) for each in runner.assignment.engines)
                assert not present or max(present.values()) == 1, "two engines of one spec in one runner"
        assert world.over_committed() == {}
        for wait in decisions.waiting.values():
            assert wait.blocker
            assert wait.available_seconds is None or wait.available_seconds >= 0
        return decisions


def check_account(world: Sleepers, runner: Runner) -> None:
    """No GPU has two engines awake, and no memory is given twice, those that are only ending included."""
    assert runner.assignment is not None
    limits = runner.pod.spec.containers[0].resources.limits
    node = world.nodes.get(node_of(runner.pod))
    told = {each.id: each for each in runner.status.engines} if runner.status is not None else {}
    awake: Counter[int] = Counter()
    gpu_bytes: Counter[int] = Counter()
    memory = 0
    for engine in runner.assignment.engines:
        ordered = engine.wake == "OnAssignment" and engine.state == "Asleep"
        # Whether the runner has obeyed an order of an earlier revision too: it then said that the engine sleeps.
        is_awake = held_awake(engine, told.get(engine.id), obeys=True)
        share = engine.awake_bytes if is_awake else engine.asleep_bytes
        assert not ordered or engine.asleep_bytes <= max(engine.awake_bytes, 2 * 1024**3 * len(engine.gpus))
        memory += 0 if engine.gpus else share
        for gpu in engine.gpus:
            awake[gpu] += is_awake
            gpu_bytes[gpu] += share // len(engine.gpus)
    for id_, each in told.items():
        if id_ not in {engine.id for engine in runner.assignment.engines}:
            memory += 0 if each.gpus else each.awake_bytes
            for gpu in each.gpus:
                awake[gpu] += 1
                gpu_bytes[gpu] += each.awake_bytes // len(each.gpus)
    assert not awake or max(awake.values()) <= 1, f"two engines awake on a GPU: {awake}"
    assert memory <= quantity.to_bytes(limits["memory"]) - RUNNER_BYTES
    assert node is None or all(each <= GPU_MIB * 1024**2 for each in gpu_bytes.values())


AnySleepers.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestAnySleepers = AnySleepers.TestCase
