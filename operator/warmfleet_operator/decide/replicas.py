"""One model's plan: which of its places go, and which starts it wants.

A pure comparison of what is wanted with what is there. A place is a runner of the model's own, or an engine in the
runner of a pool; the rules are the same, and speak of *runners*. Where the starts go is the fleet's matter
(`schedule.py`).

The rules, for N replicas wanted, S of `rollout.maxSurge` and U of `rollout.maxUnavailable`:

* A runner *stays* while it is alive, of the current hash, where the model belongs (its pools, or runners of its own),
  not retired by its pool, on a node that is not cordoned and with healthy devices; else it is *leaving*.
* A start fills each missing place among the staying. At most N + S runners are alive; N + 1 where a runner has to leave
  its place though it is of the current hash.
* A leaving runner goes when N others serve, one of an old hash when N - U others do and the new spec's weights are on
  its node (`preloading.py`). One of an old hash whose engine is not Ready goes at once: nobody misses it, and its room
  may be what the new one waits for. Of several the one goes whose end costs the least (`victims.py`).
* An engine that sleeps fills its place: it is woken, or started elsewhere where that is quicker.
* A dormant model wants no start. Its engines sleep where they are; those that would have to move just go.
* A lost runner is no replica: it is replaced at once, elsewhere if possible, and goes when N others serve. At most
  2 N + S runners exist beside those that are terminating, so that a flapping network can't fill the fleet.
* With a standby (`standby.py`) resting places beyond N stay too, as many as are wanted, outside the replicas' domains.
  Where a replica is missing one of them is its replacement. They are made when N serve, and go before they are in the
  way. A runner that returns after a loss gives way to its replacement, once that is under way.
* While a canary is on (`canary.py`) these rules hold for the stable spec with its N, and beside it, without any surge,
  for the spec that is tried with its own number, at most S: so the sum stays N + S. While anything is of neither, the
  stable spec alone is rolled out, and what is of the other goes with its predecessors.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

from warmfleet_api.vocabulary import StartType
from warmfleet_operator.decide.canary import canary_replicas, surge, unavailable
from warmfleet_operator.decide.fleet import Cache, Limits, Model
from warmfleet_operator.decide.plan import Plan
from warmfleet_operator.decide.preloading import is_preloaded
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.sleep import is_dormant
from warmfleet_operator.decide.standby import has_returned, holds_places, is_reserve, is_resting, standing, why_promoted
from warmfleet_operator.decide.victims import cost_of, why_it_goes
from warmfleet_operator.records import Node

FOR_A_MOVE = 1
"""So many runners more than wanted there may be where one has to leave its place, whatever `rollout` says."""


class Start(NamedTuple):
    """A runner that a model wants and does not have."""

    model: Model
    slot: int
    attempt: int
    reason: str
    standby: StartType | None = None
    """As which standby it starts; None: to serve."""


@dataclass(slots=True)
class ModelPlan(Plan[Member, Start]):
    """What shall change for one model."""

    sleepers: list[Member] = field(default_factory=list)
    """Places of a dormant model: their engines sleep."""
    wakes: list[Member] = field(default_factory=list)
    """Places whose engine was told to sleep and is wanted awake; with a standby those too that have none yet."""
    held: list[Member] = field(default_factory=list)
    """Places of the former spec that are to be given up, but not before the new one's weights are there."""
    standbys: list[Start] = field(default_factory=list)
    """Standbys that it wants a place for and does not have."""
    promotes: str = ""
    """Why its starts and wakes are for lost replicas of a model with a standby; empty: they are not."""

    @property
    def wants_room(self) -> bool:
        """Whether it waits for a place, or for room to wake."""
        return bool(self.starts or self.wakes or self.held)

    def starts_of(self, one: Model) -> list[Start]:
        """Return the starts of one variant of the model."""
        return [start for start in self.starts if start.model is one] if one.beside else self.starts

    def wakes_of(self, one: Model) -> list[Member]:
        """Return the wakes of one variant of the model."""
        return [each for each in self.wakes if each.hash == one.hash] if one.beside else self.wakes


class _Part(NamedTuple):
    """How many engines of one spec are wanted."""

    model: Model
    """With that spec."""
    wanted: int
    surge: int
    unavailable: int
    first_slot: int = 0
    standbys: int = 0
    """How many places stand by."""


def plan_model(
    model: Model,
    members: Sequence[Member],
    limits: Limits,
    now: datetime,
    caches: Mapping[str, Cache] = MappingProxyType({}),
    *,
    nodes: Mapping[str, Node] = MappingProxyType({}),
) -> ModelPlan:
    """Compare what the model wants with its runners, all that carry its name, whatever their state.

    `nodes` tell where a standby is far enough from the replicas.
    """
    if not members:
        return plan_of_nothing(model)
    plan = ModelPlan()
    if _is_as_wanted(model, members):
        return plan
    own = _sort_out(plan, model, members, limits, now)
    if model.spec.replicas == 0:
        plan.delete(own, "replicas is 0")
        return plan
    room = model.spec.replicas + surge(model)
    has_canary = model.stable is not None and not _is_between(model, model.stable, own)
    for part in _parts(model) if has_canary else (_of_all(model),):
        of_it = [each for each in own if (each.hash == model.hash) == (part.model is model)] if has_canary else own
        if is_dormant(model):
            _let_sleep(plan, part, of_it, nodes)
        else:
            room -= _plan_part(plan, part, members, of_it, room=room, caches=caches, nodes=nodes)
    if model.spec.standby is not None and (plan.starts or plan.wakes):
        plan.promotes = why_promoted(members)
    return plan


def _is_as_wanted(model: Model, members: Sequence[Member]) -> bool:
    """Whether each replica is a place that serves and stays, so that there is nothing to plan: nearly always."""
    spec = model.spec
    if len(members) != spec.replicas or spec.standby is not None or model.stable is not None or is_dormant(model):
        return False
    for member in members:
        if not member.is_serving or member.is_told_to_sleep or member.model_uid != model.metadata.uid:
            return False
        if not member.pod.spec.node_name or not stays(model, member) or is_reserve(member):
            return False
    return True


def _is_between(model: Model, stable: Model, own: Sequence[Member]) -> bool:
    """Whether the stable spec is not everywhere yet: its rollout needs the surge, and ends before another is tried."""
    return any(each.is_alive and is_outdated(model, each) and is_outdated(stable, each) for each in own)


def _of_all(model: Model) -> _Part:
    """Return what is wanted of the model's only, or stable, spec."""
    standby = model.spec.standby
    standbys = standby.replicas if standby is not None and holds_places(model.stable or model) else 0
    return _Part(model.stable or model, model.spec.replicas, surge(model), unavailable(model), standbys=standbys)


def _parts(model: Model) -> Iterator[_Part]:
    """Yield what is wanted of a model: all of one spec, or the stable one and beside it the one that is tried."""
    yield _of_all(model)
    if model.stable is not None:
        yield _Part(model, canary_replicas(model), 0, 0, first_slot=model.spec.replicas)


def _plan_part(
    plan: ModelPlan,
    part: _Part,
    members: Sequence[Member],
    own: Sequence[Member],
    *,
    room: int,
    caches: Mapping[str, Cache],
    nodes: Mapping[str, Node],
) -> int:
    """Plan the runners `own` of one spec; return how many of the `room` for all specs they take."""
    model, wanted = part.model, part.wanted
    alive = sorted((member for member in own if member.is_alive), key=lambda each: keep_rank(model, each))
    staying = [member for member in alive if stays(model, member)]
    if model.spec.standby is not None:
        staying = _without_returned(staying, wanted)
    going = [member for member in alive if member not in staying]
    # Of a canary none stands by: what is beyond its number goes.
    found = standing(model, staying, nodes) if part.standbys else None
    if found is not None:
        staying, excess = found.replicas, found.others
        unfit = [member for member in going if is_resting(member)]
        plan.delete(unfit, "it only stands by, and not where it may")
        going = [member for member in going if member not in unfit]
    else:
        excess, staying = staying[wanted:], staying[:wanted]
    for member in excess:
        why = f"{wanted} of {wanted + len(excess)} replicas are wanted, {why_it_goes(member, staying)}"
        plan.delete([member], why)

    plan.wakes += [member for member in staying if is_resting(member)]

    leaving = _let_leavers_go(plan, part, staying, going, caches)
    remaining = staying + leaving

    lost = [member for member in own if member.lost]
    plan.avoid.update(member.node for member in lost)
    if sum(member.is_serving for member in remaining) >= wanted:
        for member in lost:
            plan.delete([member], f"replaced, as {member.lost}")
        lost = []
    lost = [member for member in lost if not is_resting(member)]

    if model.problem is None:
        moves = any(not is_outdated(model, member) for member in leaving)
        base = min(wanted, 2 * wanted - len(lost))
        most = max(min(base + part.surge, room), base + FOR_A_MOVE if moves else 0)
        starts = _starts(part, members, staying, min(wanted - len(staying), most - len(remaining)), lost)
        plan.starts += starts
        if found is not None and sum(member.is_serving for member in staying) >= wanted:
            plan.standbys += _standbys(part, members, [*staying, *found.standbys], part.standbys - len(found.standbys))
        return len(remaining) + len(starts)
    return len(remaining)


def _without_returned(staying: Sequence[Member], wanted: int) -> list[Member]:
    """Leave out runners that were lost and returned, if others are on their way or there: so a flapping node's loss is
    made up for once."""
    steady = [member for member in staying if not has_returned(member)]
    awake = sum(not is_resting(member) for member in steady)
    return steady if awake >= wanted else list(staying)


def plan_of_nothing(model: Model) -> ModelPlan:
    """Plan a model that is nowhere. Nobody adds to such a plan, as it is the same in every round that it waits."""
    plan = ModelPlan()
    if model.spec.replicas > 0 and not is_dormant(model):
        for part in _parts(model):
            if part.model.problem is None:
                plan.starts += _starts(part, (), (), part.wanted, ())
    return plan


def _let_sleep(plan: ModelPlan, part: _Part, own: Sequence[Member], nodes: Mapping[str, Node]) -> None:
    """Keep the engines of a dormant model that may sleep where they are, as many as are wanted, standbys included."""
    model, wanted = part.model, part.wanted
    staying = sorted(
        (member for member in own if member.is_alive and stays(model, member)), key=lambda each: keep_rank(model, each)
    )
    found = standing(model, staying, nodes) if part.standbys else None
    asleep = [member for member in found.standbys if member.is_told_to_sleep] if found is not None else []
    kept = {member.name for member in (*staying[:wanted], *asleep)}
    plan.delete([member for member in own if member.name not in kept], "its model is asleep and needs no other place")
    plan.sleepers += staying[:wanted]


def stays(model: Model, member: Member) -> bool:
    """Whether a runner is as the spec wants it, and neither its node nor its pool wants it empty.

    While the new spec has a problem that keeps it from starting, the runners of the old one are not leaving.
    """
    return not (member.leaves or member.retires) and (model.problem is not None or not is_outdated(model, member))


def is_outdated(model: Model, member: Member) -> bool:
    """Whether a runner is of a former spec, or not where the model belongs now."""
    at_home = member.pool in model.pools if model.pools else not member.pool
    return member.hash != model.hash or not at_home


def keep_rank(model: Model, member: Member) -> tuple[object, ...]:
    """Sort the runners to keep first: serving, Ready, not told to sleep, current hash, not left, costly, older."""
    requests, served = cost_of(member)
    return (
        not member.is_serving,
        not member.is_ready,
        member.is_told_to_sleep,
        is_outdated(model, member),
        bool(member.leaves) or member.retires,
        -requests,
        -served,
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
    plan: ModelPlan,
    part: _Part,
    staying: Sequence[Member],
    leaving: Sequence[Member],
    caches: Mapping[str, Cache],
) -> list[Member]:
    """Delete the leaving runners that are not missed; return those that remain."""
    model = part.model
    useless = [
        member for member in leaving if not member.is_ready and is_outdated(model, member) and model.problem is None
    ]
    plan.delete(useless, "it is of an old spec and not Ready")
    replaced = {member.slot for member in staying if member.is_serving}
    others = sorted(
        (member for member in leaving if member not in useless),
        key=lambda each: (each.is_serving, each.is_ready, each.slot not in replaced, cost_of(each), each.age),
    )
    serving = sum(member.is_serving for member in (*staying, *others))
    for member in others:
        promised = part.wanted - (part.unavailable if is_outdated(model, member) else 0)
        # One that does not serve at this moment may in the next: it too stays until enough others do.
        others_serving = serving - member.is_serving
        if others_serving < promised:
            continue
        is_moving = bool(member.leaves) or member.retires
        if others_serving < part.wanted and not is_moving and not is_preloaded(model, member.node, caches):
            plan.held.append(member)
            continue
        plan.delete([member], "enough others serve")
        serving -= member.is_serving
    gone = plan.deleted
    return [member for member in leaving if member.name not in gone]


def _starts(
    part: _Part, members: Sequence[Member], staying: Sequence[Member], count: int, lost: Sequence[Member]
) -> list[Start]:
    """Return starts for the lowest slots that nobody staying holds; each attempt is above all that were seen."""
    model = part.model
    held = {member.slot for member in staying}
    why_lost = {member.slot: member.lost for member in lost}
    starts: list[Start] = []
    slot = part.first_slot
    while len(starts) < count:
        if slot not in held:
            before = [member for member in members if member.slot == slot]
            attempt = 1 + max((member.attempt for member in before), default=0)
            starts.append(Start(model, slot, attempt, _why_start(model, slot, before, why_lost)))
        slot += 1
    return starts


def _standbys(part: _Part, members: Sequence[Member], kept: Sequence[Member], count: int) -> list[Start]:
    """Return what is to stand by and does not, in slots above those of the replicas."""
    model = part.model
    standby = model.spec.standby
    wanted = _starts(part._replace(first_slot=part.wanted), members, kept, count, ())
    mode = standby.mode if standby is not None else None
    return [each._replace(reason=f"stands by for {model.key.name}", standby=mode) for each in wanted]


def _why_start(model: Model, slot: int, before: Sequence[Member], why_lost: dict[int, str]) -> str:
    if slot in why_lost:
        return f"replaces a lost runner: {why_lost[slot]}"
    if model.stable is not None:
        return f"tries the changed spec with {model.spec.rollout.canary_weight} % of the requests"
    alive = [member for member in before if member.is_alive]
    if any(is_outdated(model, member) for member in alive):
        return "rolls out the changed spec"
    if any(member.retires for member in alive):
        return f"{alive[0].pod.metadata.name} is to be replaced"
    leaves = next((member.leaves for member in alive if member.leaves), "")
    return leaves or f"replica {slot + 1} of {model.spec.replicas}"
