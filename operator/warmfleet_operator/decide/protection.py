"""The labels of a model's runners: which engine the Service selects, and which one a drain must not take.

One runner per model that has a Ready engine carries `warmfleet.dev/protected=true`, so that `kubectl drain`
waits until that engine is Ready elsewhere. On a cordoned node it carries it until then, at latest for
`Limits.drain_deadline_seconds` after the cordon.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.decide.fleet import Limits, Model
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.times import seconds_since
from warmfleet_operator.records import Node

_CORDON_TAINT = "node.kubernetes.io/unschedulable"


@dataclass(slots=True)
class Labels:
    """The label changes of one model's runners."""

    changes: dict[str, dict[str, str | None]] = field(default_factory=dict)
    """Runner → label → new value, None removes it. Only what differs from the pod."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Runner → why, in words."""
    recheck_seconds: float | None = None
    """When a drain deadline will pass."""

    def set(self, member: Member, label: str, value: str | None, reason: str) -> None:
        """Want a label's value on a runner."""
        if member.pod.metadata.labels.get(label) != value:
            self.changes.setdefault(member.name, {})[label] = value
            known = self.reasons.get(member.name)
            self.reasons[member.name] = f"{known}; {reason}" if known else reason


def labels_of(
    model: Model, members: Sequence[Member], nodes: Mapping[str, Node], limits: Limits, now: datetime
) -> Labels:
    """Return the label changes for runners that stay in place (none that is deleted in this round)."""
    labels = Labels()
    for member in members:
        state, reason = _serve_state(member)
        if state is not None:
            labels.set(member, names.serve_label(model.key.name), state, reason)
    last = _last_ready(members)
    if last is not None and last.is_cordoned:
        left = limits.drain_deadline_seconds - _cordoned_seconds(nodes[last.node], now)
        if left > 0:
            labels.recheck_seconds = left
        else:
            last = None
    for member in members:
        if member is last:
            labels.set(member, names.LABEL_PROTECTED, "true", "holds the model's last Ready engine")
        else:
            labels.set(member, names.LABEL_PROTECTED, None, "does not hold the model's last Ready engine any more")
    return labels


def _serve_state(member: Member) -> tuple[str | None, str]:
    """Return the serve label a runner should carry; None where nothing is known that could change it."""
    if member.lost:
        return names.SERVE_LOST, member.lost
    if member.runner.status is None:
        return None, ""
    if member.runner.status.draining:
        return EngineState.DRAINING, "the runner drains"
    if member.engine is None:
        return EngineState.STARTING, "the runner has not begun to start the engine"
    return member.engine.state, f"the engine is {member.engine.state}"


def _last_ready(members: Sequence[Member]) -> Member | None:
    """Return the Ready runner that a drain should take last: one that serves, on a node that keeps its pods."""
    return min(
        (member for member in members if member.is_ready),
        key=lambda each: (not each.is_serving, each.is_cordoned, not each.is_protected, each.age),
        default=None,
    )


def _cordoned_seconds(node: Node, now: datetime) -> float:
    """Return for how long the node has been cordoned, 0 before Kubernetes has noted the time in a taint."""
    taint = next((taint for taint in node.spec.taints if taint.key == _CORDON_TAINT), None)
    return (seconds_since(taint.time_added, now) if taint is not None else None) or 0.0
