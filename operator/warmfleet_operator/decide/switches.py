"""In which runners engines have to make room for others by a round's actions: thrash is what there are too many of."""

from collections.abc import Mapping

from warmfleet_api.assignment import Assignment, EngineAssignment
from warmfleet_api.vocabulary import DesiredState, WakePolicy
from warmfleet_operator.decide.actions import Decisions, DeleteRunner, PatchRunner
from warmfleet_operator.decide.fleet import Fleet, ModelKey


def switched(fleet: Fleet, decisions: Decisions) -> list[str]:
    """Return the names of the pods in which an engine is preempted, or a sleeping model's loses its awake memory."""
    victims = {preemption.runner for preemption in decisions.preemptions}
    former: Mapping[str, Assignment | None] | None = None
    names: list[str] = []
    for action in decisions.actions:
        match action:
            case DeleteRunner(pod=pod) if pod.metadata.name in victims:
                names.append(pod.metadata.name)
            case PatchRunner(pod=pod, assignment=Assignment() as assignment):
                if former is None:
                    former = {each.pod.metadata.uid: each.assignment for each in fleet.runners}
                before = former.get(pod.metadata.uid)
                made_room = before is not None and _makes_room(fleet, pod.metadata.namespace, before, assignment)
                if pod.metadata.name in victims or made_room:
                    names.append(pod.metadata.name)
    return names


def _makes_room(fleet: Fleet, namespace: str, before: Assignment, after: Assignment) -> bool:
    kept = {each.id: each for each in after.engines}
    for engine in before.engines:
        now = kept.get(engine.id)
        model = fleet.models.get(ModelKey(namespace, engine.model))
        sleeps = model is not None and model.status.dormant is not None
        # What was ordered asleep before has no awake memory to lose: its change was counted then.
        if not _is_ordered(engine) and (sleeps if now is None else _is_ordered(now)):
            return True
    return False


def _is_ordered(engine: EngineAssignment) -> bool:
    """Whether its awake memory is given away."""
    return engine.state is DesiredState.ASLEEP and engine.wake is WakePolicy.ON_ASSIGNMENT
