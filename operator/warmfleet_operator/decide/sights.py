"""What a runner is at first sight: its node, the places of models in it, and whether anything happens in it.

A runner is *calm* while it is up, heard of, on a node that keeps it, and each of its engines is what it is told to be
and labelled so. A calm runner is not looked at again before something of it changes, and a model whose places are all
calm and that needed nothing in the last round needs nothing in this one (`schedule.py`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from warmfleet_api import names
from warmfleet_api.runner_status import SILENT_SECONDS
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.decide.fleet import Runner
from warmfleet_operator.decide.remembered import Remembered
from warmfleet_operator.decide.runners import Member, is_pod_ready, members_of, node_of
from warmfleet_operator.records import Node


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """A runner and the places of models in it."""

    node: str
    members: tuple[Member, ...]
    is_calm: bool


_calm: Remembered[Sight] = Remembered()


def see(runner: Runner, nodes: Mapping[str, Node], retiring: Collection[str] = ()) -> Sight:
    """Look at a runner; `retiring` are names of runners that their pools want empty."""
    pod = runner.pod
    node_name = pod.spec.node_name
    node = nodes.get(node_name)
    silent = runner.silent_seconds
    is_heard = silent is not None and silent < SILENT_SECONDS
    if is_heard and not (retiring and pod.metadata.name in retiring):
        known = _calm.get(pod.metadata.uid, pod, runner.assignment, runner.status, node)
        if known is not None:
            return known
    members = tuple(members_of(runner, nodes, retiring))
    sight = Sight(node_of(pod), members, is_heard and is_pod_ready(pod) and _is_calm(runner, members))
    if sight.is_calm:
        _calm.keep(pod.metadata.uid, sight, pod, runner.assignment, runner.status, node)
    return sight


def _is_calm(runner: Runner, members: Collection[Member]) -> bool:
    status, assignment = runner.status, runner.assignment
    if status is None or assignment is None or status.draining or status.revision != assignment.revision:
        return False
    if len(status.engines) != len(assignment.engines):
        return False
    labels = sum(label.startswith(names.SERVE_LABEL_PREFIX) for label in runner.pod.metadata.labels)
    return labels == len(members) == len(assignment.engines) and all(_is_as_told(member) for member in members)


def _is_as_told(member: Member) -> bool:
    if not member.is_alive or member.is_cordoned or member.retires or member.engine is None:
        return False
    if member.is_told_to_sleep:
        return member.engine.state is EngineState.ASLEEP and member.serve_label == EngineState.ASLEEP
    return member.is_serving
