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
from warmfleet_operator.build.template import runner_name
from warmfleet_operator.decide.actions import CreateRunner, Decisions, DeleteRunner, PatchRunner
from warmfleet_operator.decide.fleet import Fleet, Limits, Model, ModelKey, Runner
from warmfleet_operator.decide.requests import amounts, requests_of
from warmfleet_operator.decide.runners import Member, member_of, node_of, owner_of
from warmfleet_operator.decide.schedule import schedule
from warmfleet_operator.records import Node, Pod


@dataclass
class World:
    """Models, nodes and runners by name (all in one namespace), strangers."""

    models: dict[str, Model] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    runners: dict[str, Runner] = field(default_factory=dict)
    strangers: dict[str, Pod] = field(default_factory=dict)
    limits: Limits = make.LIMITS
    created: int = 0

    def add(self, *parts: Model | Node | Pod) -> None:
        """Put models, nodes or strangers in place of former ones of their names."""
        for part in parts:
            if isinstance(part, Model):
                self.models[part.key.name] = part
            elif isinstance(part, Node):
                self.nodes[part.metadata.name] = part
            else:
                self.strangers[part.metadata.name] = part

    def fleet(self) -> Fleet:
        """The snapshot of now."""
        return Fleet(
            models={model.key: model for model in self.models.values()},
            nodes=dict(self.nodes),
            runners=tuple(self.runners.values()),
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
            if not self.round().actions and not self._progress():
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
        """The runners of a model as its plan sees them, terminating ones included."""
        key = ModelKey("default", model)
        return [member_of(each, self.nodes) for each in self.runners.values() if owner_of(each.pod) == key]

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
        name = runner_name(action.model.key.name, action.slot, action.attempt)
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

    def _progress(self) -> bool:
        moved = False
        for name, runner in list(self.runners.items()):
            member = member_of(runner, self.nodes)
            if member.is_terminating:
                self.reap(name)
                moved = True
            elif not member.lost and not member.is_ready and not member.pod.is_terminal:
                self.change(name, make.ready)
                moved = True
        return moved
