"""What holds after any number of rounds, whatever people, nodes and engines do in between."""

from collections.abc import Callable
from dataclasses import replace

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from support import make
from support.world import World
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.decide.actions import CreateRunner, Decisions, DeleteRunner
from warmfleet_operator.decide.fleet import Model, Runner
from warmfleet_operator.decide.needs import need_of
from warmfleet_operator.decide.schedule import schedule
from warmfleet_operator.records import Node

NODES: dict[str, dict[str, object]] = {
    "a": {"gpus": 4, "zone": "1"},
    "b": {"gpus": 2, "zone": "2"},
    "c": {"gpus": 1, "zone": "2"},
}
CONDITIONS: dict[str, dict[str, object]] = {
    "well": {},
    "not Ready": {"ready": False},
    "cordoned": {"cordoned_seconds": 5},
    "cordoned for long": {"cordoned_seconds": make.LIMITS.drain_deadline_seconds + 1},
}
EVENTS: dict[str, Callable[[Runner], Runner]] = {
    "is bound": make.scheduled,
    "is refused by the Kubernetes scheduler": make.unschedulable,
    "starts": lambda runner: make.says(runner, EngineState.STARTING),
    "gets Ready": make.ready,
    "fails": lambda runner: make.says(runner, EngineState.FAILED, failed_starts=1),
    "falls silent": lambda runner: make.silent(runner) if runner.status else runner,
    "is evicted": make.ended,
    "is deleted by somebody": make.terminating,
}
names = st.sampled_from(["red", "green", "blue"])


class AnyFleet(RuleBasedStateMachine):
    """Three models on three nodes; after each event one round is decided, checked and carried out."""

    @initialize()
    def begin(self) -> None:
        self.world = World(limits=replace(make.LIMITS, unscheduled_seconds=0))
        for name in NODES:
            self._set_node(name, "well")

    @rule(
        name=names,
        gpus=st.integers(0, 2),
        replicas=st.integers(0, 3),
        priority=st.sampled_from(["Critical", "High", "Normal", "Low"]),
        version=st.integers(1, 3),
    )
    def a_model_is_applied(self, name: str, gpus: int, replicas: int, priority: str, version: int) -> None:
        self.world.add(make.model(name, gpus=gpus, replicas=replicas, priority=priority, cpu=str(version)))
        self._round()

    @rule(name=names)
    def a_model_is_deleted(self, name: str) -> None:
        self.world.models.pop(name, None)
        self._round()

    @rule(data=st.data(), event=st.sampled_from(sorted(EVENTS)))
    def a_runner(self, data: st.DataObject, event: str) -> None:
        name = self._some_runner(data)
        assume(not self.world.runners[name].pod.is_terminal)
        self.world.change(name, EVENTS[event])
        self._round()

    @rule()
    def all_runners_get_ready(self) -> None:
        for name, runner in list(self.world.runners.items()):
            if not runner.pod.is_terminal:
                self.world.change(name, make.ready)
        self._round()

    @rule(data=st.data())
    def a_terminating_runner_is_gone(self, data: st.DataObject) -> None:
        name = self._some_runner(data)
        assume(self.world.runners[name].pod.metadata.deletion_timestamp is not None)
        self.world.reap(name)
        self._round()

    @rule(name=st.sampled_from(sorted(NODES)), condition=st.sampled_from(sorted(CONDITIONS)))
    def a_node_is(self, name: str, condition: str) -> None:
        self._set_node(name, condition)
        self._round()

    @rule(name=st.sampled_from(sorted(NODES)))
    def a_node_goes(self, name: str) -> None:
        self.world.nodes.pop(name, None)
        self._round()

    def teardown(self) -> None:
        """Whatever happened: with healthy nodes and engines all that fits gets served, and then nothing moves."""
        if not hasattr(self, "world"):
            return
        for name in NODES:
            self._set_node(name, "well")
        for name, runner in list(self.world.runners.items()):
            if runner.status is not None:
                self.world.change(name, lambda each: replace(each, silent_seconds=0.2))
        self.world.settle()
        waiting = schedule(self.world.fleet(), make.NOW).waiting
        for name, model in self.world.models.items():
            assert len(self.world.serving(name)) == model.spec.replicas or model.key in waiting

    def _some_runner(self, data: st.DataObject) -> str:
        assume(self.world.runners)
        return data.draw(st.sampled_from(sorted(self.world.runners)))

    def _set_node(self, name: str, condition: str) -> None:
        node: Node = make.node(name, **NODES[name], **CONDITIONS[condition])  # type: ignore[arg-type]
        self.world.add(node)

    def _round(self) -> None:
        """Decide until nothing is left to do: at once, or one round after a label let an engine serve."""
        for _ in range(3):
            served = {name: len(self.world.serving(name)) for name in self.world.models}
            if not self._checked(served).actions:
                return
            if served == {name: len(self.world.serving(name)) for name in self.world.models}:
                assert self._checked(served).actions == (), "a second round over the same cluster does nothing"
        raise AssertionError("still acting in the fourth round")

    def _checked(self, served: dict[str, int]) -> Decisions:
        world = self.world
        fleet = world.fleet()
        decisions = schedule(fleet, make.NOW)
        assert schedule(fleet, make.NOW) == decisions, "the same fleet gives the same plan"
        _strict_classes(decisions, world.models)
        world.carry_out(decisions)
        assert world.over_committed() == {}
        for name, model in world.models.items():
            assert len(world.serving(name)) >= min(served[name], model.spec.replicas), f"{name} serves less than before"
            _no_more_than_one_is_protected(world, name)
        return decisions


def _strict_classes(decisions: Decisions, models: dict[str, Model]) -> None:
    """No start is given a place while an equal one of a higher class waits."""
    owners = [action.owner for action in decisions.actions if isinstance(action, CreateRunner)]
    created = [owner for owner in owners if isinstance(owner, Model)]
    for key in decisions.waiting:
        waits = models[key.name]
        for model in created:
            if need_of(model.spec) == need_of(waits.spec):
                assert model.spec.priority.rank <= waits.spec.priority.rank


def _no_more_than_one_is_protected(world: World, name: str) -> None:
    kept = [member for member in world.members(name) if not member.is_terminating]
    protected = [member for member in kept if member.is_protected]
    ready = [member for member in kept if member.is_ready]
    overdue = [
        member
        for member in ready
        if member.leaves and world.nodes[member.node].spec.taints[-1].time_added != make.ago(5)
    ]
    assert len(protected) <= 1
    assert all(member.is_ready for member in protected)
    assert protected or not ready or overdue, f"{name} has Ready engines and none is protected"


AnyFleet.TestCase.settings = settings(max_examples=80, stateful_step_count=25, deadline=None)
TestAnyFleet = AnyFleet.TestCase


def test_the_properties_notice_a_plan_that_takes_the_last_serving_runner() -> None:
    """The control: a deletion nobody should decide is seen by the same comparison."""
    world = World()
    world.add(make.node("a"), make.model("red"))
    world.settle()
    victim = world.serving("red")[0]
    world.carry_out(Decisions(actions=(DeleteRunner(victim.pod, "a mistake"),)))
    assert len(world.serving("red")) < 1
