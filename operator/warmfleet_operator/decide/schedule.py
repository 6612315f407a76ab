"""The fleet pass: give every wanted engine a runner and every runner its labels. Pure, over one snapshot.

Order: classes strictly, inside a class who came first (creation time, then uid). The first start of each class that
has no place now, but could have one, *holds* the free room of the node nearest to fitting it: later starts of
the round go elsewhere, so that small starts can't starve a large one. What never fits holds nothing.

Silence of a runner is read from `Runner.silent_seconds`: whoever counts those seconds runs the pass when a runner
falls silent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from warmfleet_api import names
from warmfleet_api.vocabulary import Priority, Reason
from warmfleet_operator.build.template import runner_name
from warmfleet_operator.decide.actions import CreateRunner, Decisions, DeleteRunner, PatchRunner, Waiting
from warmfleet_operator.decide.assign import assignment_of
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey, Runner
from warmfleet_operator.decide.ledger import Ledger
from warmfleet_operator.decide.matching import zone_of
from warmfleet_operator.decide.placement import NoPlace, Places, Spread, need_of
from warmfleet_operator.decide.protection import labels_of
from warmfleet_operator.decide.replicas import ModelPlan, Start, plan_model
from warmfleet_operator.decide.runners import Member, by_owner, member_of, node_of
from warmfleet_operator.decide.start_budget import start_budget_seconds
from warmfleet_operator.records import Pod

MAX_CREATES = 50
"""Runners created in one round: the next one follows at once, with what became of these in view."""
NEXT_ROUND_SECONDS = 0.1


@dataclass(slots=True)
class Round:
    """What one round has found so far."""

    patches: list[PatchRunner] = field(default_factory=list)
    deletes: list[DeleteRunner] = field(default_factory=list)
    creates: list[CreateRunner] = field(default_factory=list)
    refused: dict[ModelKey, NoPlace] = field(default_factory=dict)
    """Models with a start that has no place, in the order of their turn."""
    recheck_seconds: float | None = None

    def recheck(self, seconds: float | None) -> None:
        """Run again after this many seconds at latest."""
        if seconds is not None:
            self.recheck_seconds = seconds if self.recheck_seconds is None else min(self.recheck_seconds, seconds)


def schedule(fleet: Fleet, now: datetime) -> Decisions:
    """Decide one round."""
    outcome = Round()
    # 1. See each runner with its node and status, under its model; what nobody owns goes.
    runners = by_owner(fleet.runners)
    _delete_orphans(outcome, fleet, runners)
    members = {key: [member_of(runner, fleet.nodes) for runner in runners.get(key, ())] for key in fleet.models}
    # 2. Compare each model's wish with its runners.
    plans = {key: plan_model(model, members[key], fleet.limits, now) for key, model in fleet.models.items()}
    # 3. Account for every pod: what is deleted in this round keeps its room until it is gone.
    places = Places(fleet.nodes, Ledger(fleet.nodes, _pods_by_node(fleet)))
    # 4. Give the starts their places, in the order of their turn.
    _place_starts(outcome, fleet, members, plans, places)
    # 5. Delete what the plans let go, and label what remains.
    for key, model in fleet.models.items():
        _delete(outcome, plans[key])
        _label(outcome, fleet, model, _kept(members[key], plans[key]), now)
        _recheck_unscheduled(outcome, fleet, members[key], now)
    # 6. Protecting labels first: a runner that leaves is not the last one any more.
    return Decisions(
        actions=(*sorted(outcome.patches, key=_protects_first), *outcome.deletes, *outcome.creates),
        waiting=_waiting(outcome.refused),
        recheck_seconds=outcome.recheck_seconds,
    )


def turn(model: Model) -> tuple[int, str, str]:
    """Sort models by their turn: class, then who came first."""
    return model.spec.priority.rank, model.metadata.creation_timestamp, model.metadata.uid


def _delete_orphans(outcome: Round, fleet: Fleet, runners: Mapping[ModelKey, list[Runner]]) -> None:
    """Let the runners of models that are gone go; the garbage collector does it too, only later."""
    for key, orphans in runners.items():
        if key in fleet.models or key in fleet.unreadable:
            continue
        for runner in orphans:
            if runner.pod.metadata.deletion_timestamp is None:
                outcome.deletes.append(DeleteRunner(runner.pod, f"its ModelDeployment {key} is gone"))


def _pods_by_node(fleet: Fleet) -> Iterable[tuple[str, Pod]]:
    for runner in fleet.runners:
        yield node_of(runner.pod), runner.pod
    for pod in fleet.strangers:
        yield pod.spec.node_name, pod


def _place_starts(
    outcome: Round,
    fleet: Fleet,
    members: Mapping[ModelKey, list[Member]],
    plans: Mapping[ModelKey, ModelPlan],
    places: Places,
) -> None:
    """Place start after start; the first of a class that has to wait holds the room it comes nearest to."""
    taken_names = {(pod.metadata.namespace, pod.metadata.name) for pod in fleet.strangers}
    holding: set[Priority] = set()
    for model in sorted((fleet.models[key] for key, plan in plans.items() if plan.starts), key=turn):
        need, plan = need_of(model.spec), plans[model.key]
        spread = _spread(members[model.key], plan, fleet)
        for start in plan.starts:
            place = places.find(need, spread)
            if isinstance(place, NoPlace):
                outcome.refused[model.key] = place
                holder = f"{model.key} ({model.spec.priority}, waits for {need})"
                if model.spec.priority not in holding and places.hold(need, holder):
                    holding.add(model.spec.priority)
                break
            places.take(place, need, spread)
            if len(outcome.creates) < MAX_CREATES:
                outcome.creates.append(_create(start, place, taken_names))
            else:
                outcome.recheck(NEXT_ROUND_SECONDS)


def _create(start: Start, node: str, taken_names: set[tuple[str, str]]) -> CreateRunner:
    model, attempt = start.model, start.attempt
    while (model.key.namespace, runner_name(model.key.name, start.slot, attempt)) in taken_names:
        attempt += 1
    return CreateRunner(
        model=model,
        slot=start.slot,
        attempt=attempt,
        node=node,
        assignment=assignment_of(model, revision=1),
        start_budget_seconds=start_budget_seconds(model),
        reason=start.reason,
    )


def _spread(members: Iterable[Member], plan: ModelPlan, fleet: Fleet) -> Spread:
    spread = Spread(avoid=frozenset(plan.avoid))
    for member in members:
        if not member.is_terminating and member.node in fleet.nodes:
            spread.nodes[member.node] += 1
            spread.zones[zone_of(fleet.nodes[member.node])] += 1
    return spread


def _delete(outcome: Round, plan: ModelPlan) -> None:
    outcome.deletes += [DeleteRunner(member.pod, reason) for member, reason in plan.deletes]


def _kept(members: Iterable[Member], plan: ModelPlan) -> list[Member]:
    """Return the runners that are not going in any way."""
    gone = plan.deleted
    return [member for member in members if not member.is_terminating and member.name not in gone]


def _label(outcome: Round, fleet: Fleet, model: Model, kept: list[Member], now: datetime) -> None:
    """Let the labels follow the engines, and give back an assignment that somebody has damaged."""
    labels = labels_of(model, kept, fleet.nodes, fleet.limits, now)
    outcome.recheck(labels.recheck_seconds)
    for member in kept:
        changes, reason = labels.changes.get(member.name, {}), labels.reasons.get(member.name, "")
        assignment = None
        if member.runner.assignment is None and member.hash == model.hash:
            seen = member.runner.status.revision if member.runner.status is not None else 0
            assignment, reason = assignment_of(model, seen + 1), "its assignment was missing or could not be read"
        if changes or assignment is not None:
            outcome.patches.append(PatchRunner(member.pod, assignment, changes, reason))


def _protects_first(patch: PatchRunner) -> bool:
    return patch.labels.get(names.LABEL_PROTECTED) != "true"


def _recheck_unscheduled(outcome: Round, fleet: Fleet, members: Iterable[Member], now: datetime) -> None:
    for member in members:
        waited = member.unscheduled_seconds(now)
        if waited is not None and not member.is_terminating:
            outcome.recheck(max(NEXT_ROUND_SECONDS, fleet.limits.unscheduled_seconds - waited))


def _waiting(refused: Mapping[ModelKey, NoPlace]) -> dict[ModelKey, Waiting]:
    """Number the models that wait; one that never fits is not in the queue and has position 0."""
    queued = [key for key, refusal in refused.items() if refusal.reason is not Reason.NEVER_FITS]
    position = {key: number for number, key in enumerate(queued, start=1)}
    return {
        key: Waiting(key, position.get(key, 0), len(queued), refusal.reason, refusal.blocker)
        for key, refusal in refused.items()
    }
