"""The labels of runners: which engines the Services select, and which runners a drain must not take.

One runner per model that has a Ready engine carries `warmfleet.dev/protected=true`, so that `kubectl drain`
waits until that engine is Ready elsewhere. On a cordoned node it carries it until then, at latest for
`Limits.drain_deadline_seconds` after the cordon.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.decide.edits import Edit
from warmfleet_operator.decide.fleet import Limits
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.times import seconds_since
from warmfleet_operator.records import AUTOSCALER_TAINT, Node

_CORDON_TAINT = "node.kubernetes.io/unschedulable"
_BEST_FIRST = (
    EngineState.READY,
    EngineState.ASLEEP,
    EngineState.STARTING,
    EngineState.DRAINING,
    EngineState.FAILED,
)
"""Of several engines of a model in one runner the label shows the best: requests go to that one."""


def label_engines(edit: Edit, shown: Mapping[str, Sequence[Member]]) -> None:
    """Want the labels that say of a runner that stays what it hosts; calm ones have them (`sights.py`).

    Args:
        edit: what this round changes in it.
        shown: the engines it keeps, by model.
    """
    for model, engines in shown.items():
        state, reason = serve_state(engines)
        if state is not None:
            edit.label(names.serve_label(model), state, reason)
    for model in sorted(edit.handed_over - shown.keys()):
        edit.label(names.serve_label(model), EngineState.DRAINING, f"requests for {model} go elsewhere")
    if edit.is_pooled and edit.runner.assignment is not None:
        _label_comers_and_goers(edit, shown)


def label_protection(edit: Edit, protects: str | None) -> None:
    """Want the label by which a drain waits: on a runner that holds the last Ready engine of a model, `protects`."""
    if protects is not None:
        edit.label(names.LABEL_PROTECTED, "true", f"holds the last Ready engine of {protects}")
    else:
        edit.label(names.LABEL_PROTECTED, None, "holds no model's last Ready engine any more")


def _label_comers_and_goers(edit: Edit, shown: Mapping[str, Sequence[Member]]) -> None:
    hosted = {engine.model for engine in edit.engines.values()}
    labels = edit.runner.pod.metadata.labels
    for model in sorted(hosted - shown.keys() - edit.handed_over):
        if names.serve_label(model) not in labels:
            edit.label(names.serve_label(model), EngineState.STARTING, f"an engine of {model} starts")
    for label in labels:
        model = label.removeprefix(names.SERVE_LABEL_PREFIX)
        if label.startswith(names.SERVE_LABEL_PREFIX) and model not in hosted:
            edit.label(label, None, f"hosts no engine of {model} any more")


def serve_state(engines: Iterable[Member]) -> tuple[str | None, str]:
    """Return what the serve label of a model should say of its engines in one runner, and why.

    None where nothing is known that could change it.
    """
    states = [_serve_state(member) for member in engines]
    known = [(state, reason) for state, reason in states if state is not None]
    if not known:
        return None, ""
    return min(known, key=lambda each: _BEST_FIRST.index(each[0]) if each[0] in _BEST_FIRST else len(_BEST_FIRST))


def last_ready(
    members: Sequence[Member], nodes: Mapping[str, Node], limits: Limits, now: datetime
) -> tuple[Member | None, float | None]:
    """Return the place of a model that a drain should take last, and in how many seconds that ends.

    The place is one that serves, on a node that keeps its pods, if there is one; None where none is Ready, or the
    drain has waited long enough.
    """
    last = min(
        (member for member in members if member.is_ready),
        key=lambda each: (not each.is_serving, bool(each.leaves), not each.is_protected, each.age),
        default=None,
    )
    if last is None or not last.leaves:
        return last, None
    left = limits.drain_deadline_seconds - _cordoned_seconds(nodes[last.node], now)
    return (last, left) if left > 0 else (None, None)


def _serve_state(member: Member) -> tuple[str | None, str]:
    """Return what one engine would have the label say; None where nothing is known that could change it."""
    if member.lost:
        return names.SERVE_LOST, member.lost
    if member.runner.status is None:
        return None, ""
    if member.runner.status.draining:
        return EngineState.DRAINING, "the runner drains"
    if member.engine is None:
        return EngineState.STARTING, "the runner has not begun to start the engine"
    return member.engine.state, f"the engine is {member.engine.state}"


def _cordoned_seconds(node: Node, now: datetime) -> float:
    """Return for how long the node is to be emptied, 0 while nobody has noted the time in a taint."""
    for taint in node.spec.taints:
        if taint.key == _CORDON_TAINT:
            return seconds_since(taint.time_added, now) or 0.0
        if taint.key == AUTOSCALER_TAINT and taint.value.isdecimal():
            return max(0.0, now.timestamp() - int(taint.value))
    return 0.0
