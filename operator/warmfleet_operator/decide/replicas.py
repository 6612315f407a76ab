"""One model's plan: which of its places go, and which starts it wants.

A pure comparison of what is wanted with what is there. A place is a runner of the model's own, or an engine in the
runner of a pool; the rules are the same, and speak of *runners*. Where the starts go is the fleet's matter
(`schedule.py`).

The rules, for N replicas wanted:

* A runner *stays* while it is alive, of the current hash, where the model belongs (its pools, or runners of its own),
  not retired by its pool and on a node that is not cordoned; else it is *leaving*.
* A start fills each missing place among the staying. At most one runner more than N is alive (maxSurge 1).
* A leaving runner goes when N others serve (maxUnavailable 0). One of an old hash whose engine is not Ready goes at
  once: nobody misses it, and its room may be what the new one waits for.
* An engine that sleeps fills its place: it is woken, or started elsewhere where that is quicker.
* A dormant model wants no start. Its engines sleep where they are; those that would have to move just go.
* A lost runner is no replica: it is replaced at once, elsewhere if possible, and goes when N others serve. At most
  2 N + 1 runners exist beside those that are terminating, so that a flapping network can't fill the fleet.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from warmfleet_operator.decide.fleet import Limits, Model
from warmfleet_operator.decide.plan import Plan
from warmfleet_operator.decide.remembered import Remembered
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.sleep import is_dormant

SURGE = 1


class Start(NamedTuple):
    """A runner that a model wants and does not have."""

    model: Model
    slot: int
    attempt: int
    reason: str


@dataclass(slots=True)
class ModelPlan(Plan[Member, Start]):
    """What shall change for one model."""

    sleepers: list[Member] = field(default_factory=list)
    """Places of a dormant model: their engines sleep."""
    wakes: list[Member] = field(default_factory=list)
    """Places whose engine was told to sleep and is wanted awake."""

    @property
    def wants_room(self) -> bool:
        """Whether it waits for a place, or for room to wake."""
        return bool(self.starts or self.wakes)


def plan_model(model: Model, members: Sequence[Member], limits: Limits, now: datetime) -> ModelPlan:
    """Compare what the model wants with its runners, all that carry its name, whatever their state."""
    if not members:
        known = _without_members.get(model.key, model)
        return known if known is not None else _without_members.keep(model.key, _plan_of_nothing(model), model)
    plan = ModelPlan()
    own = _sort_out(plan, model, members, limits, now)
    wanted = model.spec.replicas
    if wanted == 0:
        plan.delete(own, "replicas is 0")
        return plan
    if is_dormant(model):
        _let_sleep(plan, model, own)
        return plan

    alive = sorted((member for member in own if member.is_alive), key=lambda each: keep_rank(model, each))
    staying = [member for member in alive if stays(model, member)]
    excess, staying = staying[wanted:], staying[:wanted]
    plan.delete(excess, f"{wanted} of {wanted + len(excess)} replicas are wanted")

    plan.wakes = [member for member in staying if member.is_told_to_sleep]

    leaving = _let_leavers_go(plan, model, staying, [member for member in alive if not stays(model, member)])
    remaining = staying + leaving

    lost = [member for member in own if member.lost]
    plan.avoid.update(member.node for member in lost)
    if sum(member.is_serving for member in remaining) >= wanted:
        for member in lost:
            plan.delete([member], f"replaced, as {member.lost}")
        lost = []

    if model.problem is None:
        room = min(wanted, 2 * wanted - len(lost)) + SURGE - len(remaining)
        plan.starts = _starts(model, members, staying, min(wanted - len(staying), room), lost)
    return plan


def _plan_of_nothing(model: Model) -> ModelPlan:
    """Plan a model that is nowhere. Nobody adds to such a plan, as it is the same in every round that it waits."""
    is_wanted = not is_dormant(model) and model.problem is None
    return ModelPlan(starts=_starts(model, (), (), model.spec.replicas if is_wanted else 0, ()))


_without_members: Remembered[ModelPlan] = Remembered()


def _let_sleep(plan: ModelPlan, model: Model, own: Sequence[Member]) -> None:
    """Keep the engines of a dormant model that may sleep where they are, as many as replicas are wanted."""
    staying = sorted(
        (member for member in own if member.is_alive and stays(model, member)), key=lambda each: keep_rank(model, each)
    )
    kept = {member.name for member in staying[: model.spec.replicas]}
    plan.delete([member for member in own if member.name not in kept], "its model is asleep and needs no other place")
    plan.sleepers = staying[: model.spec.replicas]


def stays(model: Model, member: Member) -> bool:
    """Whether a runner is as the spec wants it, and neither its node nor its pool wants it empty.

    While the new spec has a problem that keeps it from starting, the runners of the old one are not leaving.
    """
    return not (member.is_cordoned or member.retires) and (model.problem is not None or not is_outdated(model, member))


def is_outdated(model: Model, member: Member) -> bool:
    """Whether a runner is of a former spec, or not where the model belongs now."""
    at_home = member.pool in model.pools if model.pools else not member.pool
    return member.hash != model.hash or not at_home


def keep_rank(model: Model, member: Member) -> tuple[object, ...]:
    """Sort the runners to keep first: serving, Ready, not told to sleep, current hash, not cordoned, older."""
    return (
        not member.is_serving,
        not member.is_ready,
        member.is_told_to_sleep,
        is_outdated(model, member),
        member.is_cordoned or member.retires,
        member.age,
    )


def _sort_out(plan: ModelPlan, model: Model, members: Sequence[Member], limits: Limits, now: datetime) -> list[Member]:
    """Delete what can't become a replica; return the others, terminating ones left out."""
    own = []
    for member in members:
        unscheduled = member.unscheduled_seconds(now)
        if member.is_terminating:
            continue
        if member.model_uid != model.metadata.uid:
            plan.delete([member], f"its ModelDeployment {model.key} was deleted and made anew")
        elif member.pool and member.pod.is_terminal:
            continue  # its pool removes the runner
        elif member.pod.is_terminal:
            plan.delete([member], f"its pod ended: {member.pod.status.reason or member.pod.status.phase}")
            plan.avoid.add(member.node)
        elif member.lost and not member.pod.spec.node_name:
            plan.delete([member], f"not scheduled, and {member.lost}")
        elif unscheduled is not None and unscheduled >= limits.unscheduled_seconds:
            scheduled = member.pod.condition("PodScheduled")
            said = scheduled.message if scheduled is not None else ""
            plan.delete([member], f"not scheduled on {member.node} in {limits.unscheduled_seconds:.0f} s: {said}")
            plan.avoid.add(member.node)
        else:
            own.append(member)
    return own


def _let_leavers_go(
    plan: ModelPlan, model: Model, staying: Sequence[Member], leaving: Sequence[Member]
) -> list[Member]:
    """Delete the leaving runners that are not missed; return those that remain."""
    useless = [
        member for member in leaving if not member.is_ready and is_outdated(model, member) and model.problem is None
    ]
    plan.delete(useless, "it is of an old spec and not Ready")
    replaced = {member.slot for member in staying if member.is_serving}
    others = sorted(
        (member for member in leaving if member not in useless),
        key=lambda each: (each.is_serving, each.slot not in replaced, keep_rank(model, each)),
    )
    spare = sum(member.is_serving for member in (*staying, *others)) - model.spec.replicas
    for member in others:
        # One that does not serve at this moment may in the next: it too stays until enough others do.
        if spare > 0 or (spare == 0 and not member.is_serving):
            plan.delete([member], "enough others serve")
            spare -= member.is_serving
    gone = plan.deleted
    return [member for member in leaving if member.name not in gone]


def _starts(
    model: Model, members: Sequence[Member], staying: Sequence[Member], count: int, lost: Sequence[Member]
) -> list[Start]:
    """Return starts for the lowest slots that nobody staying holds; each attempt is above all that were seen."""
    held = {member.slot for member in staying}
    why_lost = {member.slot: member.lost for member in lost}
    starts: list[Start] = []
    slot = 0
    while len(starts) < count:
        if slot not in held:
            before = [member for member in members if member.slot == slot]
            attempt = 1 + max((member.attempt for member in before), default=0)
            starts.append(Start(model, slot, attempt, _why_start(model, slot, before, why_lost)))
        slot += 1
    return starts


def _why_start(model: Model, slot: int, before: Sequence[Member], why_lost: dict[int, str]) -> str:
    if slot in why_lost:
        return f"replaces a lost runner: {why_lost[slot]}"
    alive = [member for member in before if member.is_alive]
    if any(is_outdated(model, member) for member in alive):
        return "rolls out the changed spec"
    if any(member.retires for member in alive):
        return f"{alive[0].pod.metadata.name} is to be replaced"
    if any(member.is_cordoned for member in alive):
        return f"{alive[0].node} is cordoned"
    return f"replica {slot + 1} of {model.spec.replicas}"
