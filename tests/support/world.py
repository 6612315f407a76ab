"""A model of a cluster that carries out decisions, for properties over many rounds.

It stands in for nothing in production: it only does what `apply.py` asks of the API server, at once and
without fail, and lets tests play kubelets, engines and people in between.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec

from support import make
from warmfleet_api import assignment as wire
from warmfleet_api import names
from warmfleet_api.vocabulary import DesiredState, EngineState
from warmfleet_operator.build.template import runner_name
from warmfleet_operator.decide.actions import CreateRunner, Decisions, DeleteRunner, PatchRunner
from warmfleet_operator.decide.fleet import Fleet, Limits, Model, ModelKey, Pool, Runner
from warmfleet_operator.decide.requests import amounts, requests_of
from warmfleet_operator.decide.runners import Member, member_of, members_of, node_of, owner_of, why_lost
from warmfleet_operator.decide.schedule import HANDOVER_SECONDS, schedule
from warmfleet_operator.records import Node, Pod


@dataclass
class World:
    """Models, pools, nodes and runners by name (all in one namespace), strangers."""

    models: dict[str, Model] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    runners: dict[str, Runner] = field(default_factory=dict)
    strangers: dict[str, Pod] = field(default_factory=dict)
    limits: Limits = make.LIMITS
    created: int = 0

    def add(self, *parts: Model | Pool | Node | Pod) -> None:
        """Put models, pools, nodes or strangers in place of former ones of their names."""
        for part in parts:
            if isinstance(part, Model):
                self.models[part.key.name] = part
            elif isinstance(part, Pool):
                self.pools[part.key.name] = part
            elif isinstance(part, Node):
                self.nodes[part.metadata.name] = part
            else:
                self.strangers[part.metadata.name] = part

    def fleet(self) -> Fleet:
        """The snapshot of now."""
        return Fleet(
            models={model.key: model for model in self.models.values()},
            nodes=dict(self.nodes),
            pools={pool.key: pool for pool in self.pools.values()},
            runners=tuple(_handed_over(runner) for runner in self.runners.values()),
            strangers=tuple(self.strangers.values()),
            limits=self.limits,
        )

    def round(self) -> Decisions:
        """Decide once and carry it out."""
        decisions = schedule(self.fleet(), make.NOW)
        self.carry_out(decisions)
        return decisions

    def settle(self, rounds: int = 50) -> None:
        """Let every runner get Ready, every deletion end and every decision be carried out until nothing is left."""
        for _ in range(rounds):
            if not self.round().actions and not self.progress():
                return
        raise AssertionError(f"still acting after {rounds} rounds: {schedule(self.fleet(), make.NOW).actions}")

    def carry_out(self, decisions: Decisions) -> None:
        """Do what was decided. A deleted runner stays, terminating, until it is reaped."""
        for action in decisions.actions:
            match action:
                case CreateRunner():
                    self._create(action)
                case DeleteRunner():
                    self.change(action.pod.metadata.name, make.terminating)
                case PatchRunner():
                    self._patch(action)

    def change(self, name: str, how: Callable[[Runner], Runner]) -> None:
        """Change one runner."""
        self.runners[name] = how(self.runners[name])

    def reap(self, name: str) -> None:
        """Let a terminating runner be gone."""
        del self.runners[name]

    def members(self, model: str) -> list[Member]:
        """The places of a model as its plan sees them, terminating ones included."""
        key = ModelKey("default", model)
        found = (member for each in self.runners.values() for member in members_of(each, self.nodes))
        return [member for member in found if member.model == key]

    def serving(self, model: str) -> list[Member]:
        """Those of them that serve."""
        return [member for member in self.members(model) if member.is_serving]

    def over_committed(self) -> dict[str, dict[str, int]]:
        """Node → resource → how much more than it has is taken by the pods on it."""
        over: dict[str, dict[str, int]] = {}
        for name, node in self.nodes.items():
            pods = [each.pod for each in self.runners.values() if node_of(each.pod) == name]
            pods += [pod for pod in self.strangers.values() if pod.spec.node_name == name]
            taken: Counter[str] = Counter()
            for pod in pods:
                taken.update({} if pod.is_terminal else requests_of(pod))
            excess = taken - Counter(amounts(node.status.allocatable))
            if excess:
                over[name] = dict(excess)
        return over

    def _create(self, action: CreateRunner) -> None:
        name = runner_name(action.owner.key.name, action.slot, action.attempt)
        assert name not in self.runners, f"{name} exists"
        self.created += 1
        pod = make.pod_of(action, uid=f"uid-{self.created}", created=make.ago(0))
        self.runners[name] = Runner(pod=pod, assignment=action.assignment)

    def _patch(self, action: PatchRunner) -> None:
        name = action.pod.metadata.name
        self.change(name, lambda runner: make.with_labels(runner, action.labels))
        if action.assignment is not None:
            body = msgspec.to_builtins(self.runners[name].pod)
            body["metadata"]["annotations"][names.ANNOTATION_ASSIGNMENT] = wire.encode(action.assignment)
            self.change(name, lambda runner: make.reassigned(replace(runner, pod=msgspec.convert(body, Pod))))

    def progress(self) -> bool:
        """Let every runner get one step further; return whether any did."""
        moved = False
        for name, runner in list(self.runners.items()):
            pod = runner.pod
            if pod.metadata.deletion_timestamp is not None:
                self.reap(name)
                moved = True
            elif why_lost(runner, node_of(pod), self.nodes.get(node_of(pod))) or pod.is_terminal:
                continue
            elif isinstance(owner_of(pod), ModelKey) and _all_awake(runner):
                if not member_of(runner, self.nodes).is_ready:
                    self.change(name, make.ready)
                    moved = True
            elif (follower := _obeying(runner)) != runner:
                self.runners[name] = follower
                moved = True
        return moved


def _all_awake(runner: Runner) -> bool:
    engines = runner.assignment.engines if runner.assignment is not None else ()
    return bool(engines) and all(each.state is DesiredState.READY for each in engines)


def _obeying(runner: Runner) -> Runner:
    """The runner as it is once its engines are awake or asleep as they are told."""
    engines = runner.assignment.engines if runner.assignment is not None else ()
    asleep = {each.id: EngineState.ASLEEP for each in engines if each.state is DesiredState.ASLEEP}
    return make.with_condition(make.tells(runner, asleep), "Ready", "True", seconds_ago=2)


def _handed_over(runner: Runner) -> Runner:
    """The runner as it is once every client has heard which models it serves no more."""
    labels = runner.pod.metadata.labels.items()
    draining = {
        label.removeprefix(names.SERVE_LABEL_PREFIX) for label, value in labels if value == EngineState.DRAINING
    }
    return replace(runner, unserved_seconds=dict.fromkeys(draining, HANDOVER_SECONDS))
