"""Giving starts their places, one after the other in the order of their turn.

Each start takes the first of these that there is:

1. A place that is free now, whose runner and node carry no more loads than they can: it begins.
2. A place that is free, or coming free, where it has to wait: it keeps that room, and says for what it waits.
3. A place where others give way (`making_room.py`).
4. None. Where there is a cluster autoscaler, it may be asked for a node (`claims.py`). Else the first start of each
   class that could have a place *holds* the room nearest to fitting it: later starts of the round go elsewhere, so that
   small starts can't starve a large one.
"""

from collections.abc import Iterable
from dataclasses import replace
from heapq import heapify
from operator import itemgetter
from typing import NamedTuple

from warmfleet_api.assignment import Assignment
from warmfleet_api.vocabulary import Priority, Reason, StartType
from warmfleet_operator.build.template import runner_name
from warmfleet_operator.decide import claims
from warmfleet_operator.decide.actions import CreateRunner
from warmfleet_operator.decide.assign import assignment_of, whole
from warmfleet_operator.decide.canary import variants
from warmfleet_operator.decide.consolidation import consolidate
from warmfleet_operator.decide.fleet import Limits, Model, ModelKey, Owner, OwnerKey, Pool, PoolKey, Runner
from warmfleet_operator.decide.links import Busy
from warmfleet_operator.decide.making_room import (
    AGAIN_SECONDS,
    MAX_GIVEN_WAY,
    ask_on_node,
    bound_on,
    bounds_on,
    floors_on_node,
    held,
    on_node,
    waits_for,
)
from warmfleet_operator.decide.needs import Need, need_of_pool, need_once
from warmfleet_operator.decide.newcomers import Equals, equals_of
from warmfleet_operator.decide.offers import Search
from warmfleet_operator.decide.placement import NoPlace, Spread
from warmfleet_operator.decide.pool_starts import start_in_pool
from warmfleet_operator.decide.pools import MissingRunner, PoolPlan, PoolRunner
from warmfleet_operator.decide.predict import Placed
from warmfleet_operator.decide.predict_stages import node_type, phases
from warmfleet_operator.decide.recovery import recovers_first
from warmfleet_operator.decide.replicas import ModelPlan, Start, is_outdated
from warmfleet_operator.decide.room import END_SECONDS
from warmfleet_operator.decide.rounds import Round
from warmfleet_operator.decide.runners import Member, hash_of
from warmfleet_operator.decide.sleep import on_request
from warmfleet_operator.decide.stakes import Step
from warmfleet_operator.decide.start_budget import MINIMUM_SECONDS, fetch_budget_seconds, start_budget_seconds
from warmfleet_operator.decide.times import format_time
from warmfleet_operator.decide.turns import LAST, Order, Turn, turn_of
from warmfleet_operator.decide.weights import NeededEntry
from warmfleet_operator.decide.weights_places import Candidates, why_not_yet
from warmfleet_operator.decide.weights_status import missing_on

MAX_CREATES = 50
"""Runners created in one round: the next one follows at once, with what became of these in view."""
NEXT_ROUND_SECONDS = 0.1
_NO_ROOM = {Reason.NO_FREE_MEMORY, Reason.FLOORS_HELD}
_NO_ROOM_BESIDE = (
    "the former spec serves on; make room beside it, or let it go first: rollout: {maxSurge: 0, maxUnavailable: 1}"
)


class Wanted(NamedTuple):
    """A new runner that somebody wants."""

    owner: Owner
    need: Need
    weights: tuple[NeededEntry, ...] | None
    """What its engine reads. None: it needs no weight store. Empty: it is for any model and uses one that is there."""
    rank: int
    """Class that decides who gives way to it."""
    turn_rank: int
    """Class among which it has its turn."""

    @property
    def equals(self) -> Equals:
        """What starts have in common if they are refused for the same reason."""
        return equals_of(self.need, self.rank, self.turn_rank)

    @property
    def holder(self) -> str:
        """Who waits, in words."""
        if isinstance(self.owner, Pool):
            return f"a runner of pool {self.owner.key} (waits for {self.need})"
        return f"{self.owner.key} ({self.owner.spec.priority}, waits for {self.need})"


class Unplaced(NamedTuple):
    """A new runner that has no place."""

    wanted: Wanted
    start: Start | MissingRunner
    refusal: NoPlace


def place_starts(round_: Round) -> None:
    """Place start after start."""
    fleet = round_.fleet
    candidates = Candidates(fleet, round_.stores)
    unplaced: list[Unplaced] = []
    newcomers, alike, has_claims = round_.newcomers, round_.alike, bool(fleet.limits.claims)
    for key, turn in _in_turn(round_):
        rank = turn.rank
        if isinstance(key, PoolKey):
            unplaced += _create_for_pool(round_, fleet.pools[key], rank)
            continue
        newcomer = newcomers.get(key)
        if newcomer is not None and newcomer.equals in alike and not has_claims:
            round_.refuse(key, alike[newcomer.equals])
            continue
        for model in variants(fleet.models[key]):
            if (unknown := why_not_yet(model, fleet, candidates)) is not None:
                round_.refuse(key, unknown)
            elif model.pools:
                start_in_pool(round_, model, rank)
            else:
                unplaced += _create_for_model(round_, model, rank)
        if newcomer is None:
            _tell_of_rollout(round_, fleet.models[key])
    if fleet.limits.claims:
        _ask_for_nodes(round_, unplaced)


def _in_turn(round_: Round) -> list[tuple[OwnerKey, Turn]]:
    """Return all that want a place, with their turns and in their order."""
    fleet, newcomers = round_.fleet, round_.newcomers
    newcomers.see_turns(fleet, round_.stores, round_.now)
    line: list[tuple[OwnerKey, Order]] = [(key, each.order) for key, each in newcomers.items()]
    for key in round_.wanting():
        model = fleet.models[key]
        turn = turn_of(model, fleet, round_.now, start_type_of(model, round_.plans[key]))
        if key in round_.promotions:
            # What stood by was kept for this moment: before all others, among themselves by class.
            turn = turn._replace(rank=Priority.CRITICAL.rank, deadline=float(model.rank))
        line.append((key, (turn, True, str(key))))
    pools = [pool for pool, plan in round_.pool_plans.items() if plan.starts or pool in round_.claims]
    models = [(fleet.models[key], turn) for key, (turn, _, _) in line if isinstance(key, ModelKey)] if pools else ()
    for pool in pools:
        waits = (turn for each, turn in models if pool.name in each.pools and pool.namespace == each.key.namespace)
        line.append((pool, (min(waits, default=LAST), False, str(pool))))
    line.sort(key=itemgetter(1))
    return [(key, order[0]) for key, order in line]


def _tell_of_rollout(round_: Round, model: Model) -> None:
    """Say for what a changed spec waits while the former one keeps its places."""
    plan, refusal = round_.plan_of(model.key), round_.refused.get(model.key)
    if plan.held and not plan.starts and not plan.wakes and refusal is None:
        round_.refuse(model.key, _held(round_, model, plan.held[0]))
    elif model.stable is None and refusal is not None and refusal.reason in _NO_ROOM and not refusal.place:
        members = round_.members[model.key]
        if any(member.is_serving and is_outdated(model, member) for member in members):
            round_.refused[model.key] = replace(refusal, advice=_NO_ROOM_BESIDE)


def _held(round_: Round, model: Model, member: Member) -> NoPlace:
    """Return for which weights a place of the former spec is held."""
    wait = missing_on(model, member, round_.fleet.caches, round_.now)
    if wait is not None and wait.is_for_a_person:
        return NoPlace(wait.reason, wait.message, is_of_weights=True)
    words = f"the former spec keeps its place on {member.node} until the weights of the new one are there"
    if wait is not None and not wait.ends_by_itself:
        words += f": {wait.message}"
    return NoPlace(Reason.WAITING_FOR_TURN, words, place=member.node)


def start_type_of(model: Model, plan: ModelPlan) -> StartType:
    """Return how a model's next start will probably go."""
    if plan.wakes:
        return StartType.HOT
    return StartType.WARM if model.pools else StartType.COLD


def _create_for_model(round_: Round, model: Model, rank: int) -> Iterable[Unplaced]:
    """Give a model runners of its own, each with its engine."""
    wanted = Wanted(model, need_once(model, round_.stores), model.weights or None, round_.rank_of(model), rank)
    return _create_runners(round_, wanted, round_.plan_of(model.key), round_.members.get(model.key, ()))


def _create_for_pool(round_: Round, pool: Pool, rank: int) -> Iterable[Unplaced]:
    """Give a pool its missing runners, free ones. Nobody who serves gives way to what may stay empty."""
    first = recovers_first(round_, pool)
    if first is not None and pool.key not in round_.claims:
        round_.refuse(pool.key, first)
        return ()
    wanted = Wanted(pool, need_of_pool(pool.spec), (), LAST.rank, rank)
    return _create_runners(round_, wanted, round_.pool_plans[pool.key], round_.pool_runners[pool.key])


def _create_runners(
    round_: Round, wanted: Wanted, plan: ModelPlan | PoolPlan, present: Iterable[Member | PoolRunner]
) -> Iterable[Unplaced]:
    """Give an owner's missing runners their nodes; return the first that has none."""
    owner, key = wanted.owner, wanted.owner.key
    starts = plan.starts_of(owner) if isinstance(plan, ModelPlan) and isinstance(owner, Model) else plan.starts
    known = round_.alike.get(wanted.equals)
    if known is not None and starts and key not in round_.claims:
        round_.refuse(key, known)
        return (Unplaced(wanted, starts[0], known),)
    gone = plan.deleted
    spread = round_.spread_of(plan.avoid, [each for each in present if each.name not in gone])
    for claim in round_.claims.get(key, ()):
        is_of = not (isinstance(owner, Model) and owner.beside) or hash_of(claim.pod) == owner.hash
        if is_of and claim.pod.metadata.name not in plan.deleted:
            _review(round_, wanted, claim, spread)
    for start in starts:
        if _comes_later(round_, wanted.need, spread):
            continue
        refusal = _create_runner(round_, wanted, start, spread)
        if refusal is not None:
            round_.refuse(key, refusal)
            return (Unplaced(wanted, start, refusal),)
    return ()


def _review(round_: Round, wanted: Wanted, claim: Runner, spread: Spread) -> None:
    """Let a claim stand in its turn, or withdraw it."""
    places, need, key = round_.places, wanted.need, wanted.owner.key
    place = places.find(need, spread, wanted.weights)
    if isinstance(place, str) and not claims.is_late(claim, round_.now):
        places.take(place, need, spread)
        words = f"room came up on {place}, which Kubernetes gives it"
        refusal = NoPlace(Reason.WAITING_FOR_TURN, words, place=place, available_seconds=0.0)
        claims.stand(round_, claim, _claim_rank(wanted), need)
        round_.refuse(key, refusal)
        return
    why = claims.why_withdrawn(round_, claim, need)
    if isinstance(place, str):
        place = NoPlace(Reason.WAITING_FOR_TURN, f"its runner is planned anew: {why}", place=place)
    made = _make_room(round_, wanted, place) if why is None and place.reason is Reason.NO_FREE_MEMORY else None
    if made is not None and made.place:
        why = f"others make room for it on {made.place}"
    if why is None:
        round_.refuse(key, claims.stand(round_, claim, _claim_rank(wanted), need))
    else:
        claims.withdraw(round_, claim, why)
        round_.refuse(key, made or place)


def _ask_for_nodes(round_: Round, unplaced: Iterable[Unplaced]) -> None:
    """Ask a cluster autoscaler for nodes, for the first ones that no present node has room for."""
    free = round_.fleet.limits.claims - claims.count(round_.fleet.runners)
    for each in unplaced:
        owner, need, rank = each.wanted.owner, each.wanted.need, _claim_rank(each.wanted)
        if free <= 0 and all(other.rank <= rank for other in round_.standing):
            continue
        if not claims.may_ask(round_, owner.key, each.refusal, need):
            continue
        if free > 0:
            if create(round_, each.wanted, each.start, ""):
                round_.refused[owner.key] = claims.waits(need, format_time(round_.now))
                free -= 1
        else:
            # The next round asks for its node: a claim counts until it is gone.
            claims.displace(round_, rank, str(owner.key))


def _claim_rank(wanted: Wanted) -> int:
    """Return the class of a claim: a model's own, a pool's that of the first who waits for its runners."""
    return wanted.rank if isinstance(wanted.owner, Model) else wanted.turn_rank


def _comes_later(round_: Round, need: Need, spread: Spread) -> bool:
    """Keep room for a start that has some, where this round creates no more: the next one looks for the best place."""
    if len(round_.creates) < MAX_CREATES or (first := round_.places.first(need)) is None:
        return False
    round_.places.take(first, need, spread)
    round_.recheck(NEXT_ROUND_SECONDS)
    return True


def _create_runner(round_: Round, wanted: Wanted, start: Start | MissingRunner, spread: Spread) -> NoPlace | None:
    """Give one runner its node, or say why not."""
    places, need = round_.places, wanted.need
    owner = wanted.owner
    loads = round_.loader(owner, StartType.COLD) if isinstance(owner, Model) else None
    place = places.find(need, spread, wanted.weights, loads)
    if isinstance(place, str):
        places.take(place, need, spread)
        busy = _load(round_, start, place) if isinstance(start, Start) else None
        if busy is not None:
            round_.recheck(busy.seconds)
            return NoPlace(Reason.WAITING_FOR_TURN, busy.why, place=place, available_seconds=0.0)
        create(round_, wanted, start, place)
        return None
    if place.reason not in {Reason.NO_FREE_MEMORY, Reason.WAITING_FOR_TURN}:
        return place
    later = places.find_later(need)
    if later is not None:
        places.claim(later, need, wanted.holder)
        words = f"{place.blocker}; on {later} others end"
        return NoPlace(Reason.WAITING_FOR_TURN, words, place=later, available_seconds=END_SECONDS)
    refusal = _make_room(round_, wanted, place) or place
    rank = wanted.turn_rank
    if refusal.place:
        return refusal
    if rank in round_.holding:
        # Room only shrinks within a round, and nobody else gives way: its equals need not search again.
        if (need, wanted.rank) in round_.nobody or round_.given_way >= MAX_GIVEN_WAY:
            round_.alike[wanted.equals] = refusal
    elif places.hold(need, wanted.holder):
        round_.holding.add(rank)
    return refusal


def _make_room(round_: Round, wanted: Wanted, place: NoPlace) -> NoPlace | None:
    """Have others give way on the node where the least has to change, or say who holds the room."""
    need, rank = wanted.need, wanted.rank
    key = need, rank
    known = round_.nobody.get(key)
    if known is not None:
        return known
    if round_.given_way >= MAX_GIVEN_WAY:
        round_.recheck(AGAIN_SECONDS)
        return None
    able = round_.places.able(need)
    search, gpus = round_.searches.get(key), need.amounts.get(need.gpu_resource, 0)
    owner = wanted.owner
    seconds = MINIMUM_SECONDS if isinstance(owner, Pool) else round_.rules.start_seconds_of(owner, StartType.COLD)
    if search is None:
        heap = bounds_on(round_, able, need, gpus, rank)
        heapify(heap)
        search = round_.searches[key] = Search(heap)
    found = search.best(
        version=lambda node: round_.ledger.versions[node],
        bound=lambda node: bound_on(round_, node, need, gpus, rank),
        offer=lambda node: on_node(round_, node, need, rank, seconds),
        suits=lambda node: all(each.model != wanted.owner.key for each in round_.own_on(node)),
    )
    if found is None or found[1].step >= Step.BUSY or found[1].seconds > 0:
        moved = _consolidate(round_, wanted)
        if moved is not None:
            return moved
    if found is not None:
        node, offer = found
        ask_on_node(round_, node, offer, wanted.owner.key)
        round_.places.claim(node, need, wanted.holder)
        return waits_for(offer, node)
    # What is held for another start is a matter of turns, not of floors.
    for node in able if place.reason is Reason.NO_FREE_MEMORY else ():
        floors = floors_on_node(round_, node, need, rank, seconds)
        if floors:
            return round_.nobody.setdefault(key, held(floors, place.blocker))
    return None


def _consolidate(round_: Round, wanted: Wanted) -> NoPlace | None:
    """Have runners of pools move, unless it is only for one more of them."""
    if isinstance(wanted.owner, Pool) and wanted.turn_rank == LAST.rank:
        return None
    return consolidate(round_, wanted.need, str(wanted.owner.key), wanted.holder)


def _load(round_: Round, start: Start, node: str) -> Busy | None:
    """Count a start in on its node, or say why it would only wait there."""
    fleet, model = round_.fleet, start.model
    fetch = round_.fetch(node, model)
    needed = phases(fleet.estimates, model, StartType.COLD, node_type(fleet.nodes[node]))
    busy = round_.links.busy(node, needed, fetch)
    if busy is None:
        round_.links.add(node, needed, fetch)
    return busy


def create(round_: Round, wanted: Wanted, start: Start | MissingRunner, node: str) -> bool:
    """Create a runner under a name that nobody bears, without a node a claim; return whether this round did.

    Its room is the caller's to take.
    """
    owner, fleet = wanted.owner, round_.fleet
    if len(round_.creates) >= MAX_CREATES:
        round_.recheck(NEXT_ROUND_SECONDS)
        return False
    namespace, name, attempt = owner.key.namespace, owner.key.name, start.attempt
    cache = fleet.caches.get(node)
    while (namespace, runner_name(name, start.slot, attempt)) in round_.taken_names:
        attempt += 1
    budget = MINIMUM_SECONDS if isinstance(owner, Pool) else start_budget_seconds(owner)
    round_.creates.append(
        CreateRunner(
            owner=owner,
            slot=start.slot,
            attempt=attempt,
            node=node,
            assignment=_assignment(owner, start, fleet.limits),
            start_budget_seconds=budget + fetch_budget_seconds(wanted.weights or (), cache),
            reason=start.reason,
            sees_weights=wanted.weights is not None and (cache is not None if node else bool(fleet.caches)),
            standby=_standby(round_, owner, start),
            priority=None if node else claims.class_of(_claim_rank(wanted)),
        )
    )
    if isinstance(start, Start) and start.standby is None and node:
        round_.placed.append(Placed(start.model.key, StartType.COLD, node))
    return True


def _assignment(owner: Owner, start: Start | MissingRunner, limits: Limits) -> Assignment:
    """Return what a new runner is told first: its model's engine, awake or asleep; nothing where it is to wait."""
    standby = start.standby if isinstance(start, Start) else None
    if isinstance(owner, Pool) or standby is StartType.WARM:
        return whole(1, (), limits.trusted_keys or ())
    made = assignment_of(owner, 1, limits)
    return made if standby is None else whole(1, map(on_request, made.engines), made.trusted_keys)


def _standby(round_: Round, owner: Owner, start: Start | MissingRunner) -> StartType | None:
    """Return as what a new runner stands by. A Cold standby's comes only when it is needed."""
    if not isinstance(start, Start) or isinstance(owner, Pool) or owner.spec.standby is None:
        return None
    is_cold = owner.spec.standby.mode is StartType.COLD and owner.key in round_.promotions
    return StartType.COLD if is_cold else start.standby
