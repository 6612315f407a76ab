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
from warmfleet_operator.decide.fleet import OwnerKey, Runner
from warmfleet_operator.decide.ledger import requests_once
from warmfleet_operator.decide.requests import Amounts
from warmfleet_operator.decide.runners import Member, is_pod_ready, members_of, node_of, owner_of
from warmfleet_operator.records import Node


@dataclass(frozen=True, slots=True, eq=False)
class Sight:
    """A runner and the places of models in it."""

    owner: OwnerKey
    node: str
    members: tuple[Member, ...]
    requests: Amounts
    """What its pod takes of the node."""
    is_calm: bool


def see(runner: Runner, nodes: Mapping[str, Node], retiring: Collection[str] = ()) -> Sight:
    """Look at a runner; `retiring` are names of runners that their pools want empty."""
    pod, silent = runner.pod, runner.silent_seconds
    members = tuple(members_of(runner, nodes, retiring))
    is_up = bool(pod.spec.node_name) and pod.metadata.deletion_timestamp is None and is_pod_ready(pod)
    is_calm = silent is not None and silent < SILENT_SECONDS and is_up and _is_calm(runner, members)
    return Sight(owner_of(pod), node_of(pod), members, requests_once(pod), is_calm)


def _is_calm(runner: Runner, members: Collection[Member]) -> bool:
    status, assignment = runner.status, runner.assignment
    if status is None or assignment is None or status.draining or status.revision != assignment.revision:
        return False
    if len(status.engines) != len(assignment.engines):
        return False
    labels = sum(label.startswith(names.SERVE_LABEL_PREFIX) for label in runner.pod.metadata.labels)
    return labels == len(members) == len(assignment.engines) and all(_is_as_told(member) for member in members)


def _is_as_told(member: Member) -> bool:
    if not member.is_alive or member.leaves or member.retires or member.engine is None:
        return False
    if member.is_told_to_sleep:
        return member.engine.state is EngineState.ASLEEP and member.serve_label == EngineState.ASLEEP
    return member.is_serving
