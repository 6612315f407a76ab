"""Giving starts their places, one after the other in the order of their turn.

Each start takes the first of these that there is:

1. A place that is free now, whose runner and node carry no more loads than they can: it begins.
2. A place that is free, or coming free, where it has to wait: it keeps that room, and says for what it waits.
3. A place where others give way (`making_room.py`).
4. None. The first start of each class that could have one *holds* the room nearest to fitting it: later starts of the
   round go elsewhere, so that small starts can't starve a large one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from heapq import heapify

from warmfleet_api.assignment import Assignment
from warmfleet_api.vocabulary import Reason, StartType
from warmfleet_operator.build.template import runner_name
from warmfleet_operator.decide.actions import CreateRunner
from warmfleet_operator.decide.assign import assignment_of, whole
from warmfleet_operator.decide.fleet import Model, ModelKey, Owner, OwnerKey, Pool, PoolKey
from warmfleet_operator.decide.links import Busy
from warmfleet_operator.decide.making_room import (
    AGAIN_SECONDS,
    MAX_GIVEN_WAY,
    ask_on_node,
    asked_on,
    bound_on,
    floors_on_node,
    held,
    on_node,
    waits_for,
)
from warmfleet_operator.decide.offers import Search
from warmfleet_operator.decide.placement import Need, NoPlace, Spread, need_of, need_of_pool
from warmfleet_operator.decide.pool_starts import start_in_pool
from warmfleet_operator.decide.pools import MissingRunner, PoolPlan, PoolRunner
from warmfleet_operator.decide.predict import Placed
from warmfleet_operator.decide.predict_stages import node_type, phases, start_seconds
from warmfleet_operator.decide.remembered import Remembered
from warmfleet_operator.decide.replicas import ModelPlan, Start
from warmfleet_operator.decide.room import END_SECONDS
from warmfleet_operator.decide.rounds import Round
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.start_budget import MINIMUM_SECONDS, fetch_budget_seconds, start_budget_seconds
from warmfleet_operator.decide.turns import LAST, Turn, turn_of
from warmfleet_operator.decide.weights import NeededEntry
from warmfleet_operator.decide.weights_places import Candidates, why_not_yet

_needs: Remembered[Need] = Remembered()
MAX_CREATES = 50
"""Runners created in one round: the next one follows at once, with what became of these in view."""
NEXT_ROUND_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Made:
    """What a new runner is made with, and for whom."""

    assignment: Assignment
    start_budget_seconds: int
    """How long its container may take to start, once its weights are in memory of its node."""
    weights: tuple[NeededEntry, ...] | None
    """What its engine reads. None: it needs no weight store. Empty: it is for any model and uses one that is there."""
    holder: str
    """Who waits, in words."""
    rank: int
    """Class that decides who gives way to it."""
    seconds: float
    """How long its start takes."""


def place_starts(round_: Round) -> None:
    """Place start after start."""
    fleet = round_.fleet
    models = [fleet.models[key] for key, plan in round_.plans.items() if plan.wants_room]
    turns: dict[OwnerKey, Turn] = {
        model.key: turn_of(model, fleet, round_.now, start_type_of(model, round_.plans[model.key])) for model in models
    }
    for pool, plan in round_.pool_plans.items():
        if plan.starts:
            waits = (
                turns[each.key] for each in models if pool.name in each.pools and pool.namespace == each.key.namespace
            )
            turns[pool] = min(waits, default=LAST)
    candidates = Candidates(fleet)
    # Of equal turns the pool's first: what waits for its runner is not placed before it anyway.
    for key in sorted(turns, key=lambda each: (turns[each], isinstance(each, ModelKey), str(each))):
        rank = turns[key].rank
        if isinstance(key, PoolKey):
            _create_for_pool(round_, fleet.pools[key], rank)
        elif (unknown := why_not_yet(fleet.models[key], fleet, candidates)) is not None:
            round_.refuse(key, unknown)
        elif fleet.models[key].pools:
            start_in_pool(round_, fleet.models[key], rank)
        else:
            _create_for_model(round_, fleet.models[key], rank)


def start_type_of(model: Model, plan: ModelPlan) -> StartType:
    """Return how a model's next start will probably go."""
    if plan.wakes:
        return StartType.HOT
    return StartType.WARM if model.pools else StartType.COLD


def _create_for_model(round_: Round, model: Model, rank: int) -> None:
    """Give a model runners of its own, each with its engine."""
    key = model.key, round_.stores.kinds
    need = _needs.get(key, model)
    if need is None:
        need = _needs.keep(key, need_of(model.spec, round_.stores.kinds_for(model.weights)), model)
    made = Made(
        assignment_of(model, 1, round_.fleet.limits),
        start_budget_seconds(model),
        model.weights or None,
        f"{model.key} ({model.spec.priority}, waits for {need})",
        model.spec.priority.rank,
        start_seconds(round_.fleet.estimates, model, StartType.COLD, None, round_.fleet.caches),
    )
    _create_runners(round_, model.key, round_.plans[model.key], round_.members[model.key], need, made, rank)


def _create_for_pool(round_: Round, pool: Pool, rank: int) -> None:
    """Give a pool its missing runners, free ones. Nobody who serves gives way to what may stay empty."""
    need, plan, present = need_of_pool(pool.spec), round_.pool_plans[pool.key], round_.pool_runners[pool.key]
    made = Made(
        whole(1, (), round_.fleet.limits.trusted_keys),
        MINIMUM_SECONDS,
        (),
        f"a runner of pool {pool.key} (waits for {need})",
        LAST.rank,
        MINIMUM_SECONDS,
    )
    _create_runners(round_, pool.key, plan, present, need, made, rank)


def _create_runners(  # noqa: PLR0917 - what differs between a model and a pool
    round_: Round,
    owner: OwnerKey,
    plan: ModelPlan | PoolPlan,
    present: Iterable[Member | PoolRunner],
    need: Need,
    made: Made,
    rank: int,
) -> None:
    """Give an owner's missing runners their nodes."""
    spread = round_.spread_of(plan.avoid, present)
    for start in plan.starts:
        refusal = _create_runner(round_, owner, start, need, made, spread, rank)
        if refusal is not None:
            round_.refuse(owner, replace(refusal, start_type=StartType.COLD))
            return


def _create_runner(  # noqa: PLR0917 - as above
    round_: Round,
    owner: OwnerKey,
    start: Start | MissingRunner,
    need: Need,
    made: Made,
    spread: Spread,
    rank: int,
) -> NoPlace | None:
    """Give one runner its node, or say why not."""
    places = round_.places
    place = places.find(need, spread, made.weights)
    if isinstance(place, str):
        places.take(place, need, spread)
        busy = _load(round_, start, place) if isinstance(start, Start) else None
        if busy is not None:
            round_.recheck(busy.seconds)
            return NoPlace(Reason.WAITING_FOR_TURN, busy.why, place=place, available_seconds=0.0)
        _create(round_, start, place, made)
        return None
    if place.reason not in {Reason.NO_FREE_MEMORY, Reason.WAITING_FOR_TURN}:
        return place
    later = places.find_later(need)
    if later is not None:
        places.claim(later, need, made.holder)
        words = f"{place.blocker}; on {later} others end"
        return NoPlace(Reason.WAITING_FOR_TURN, words, place=later, available_seconds=END_SECONDS)
    return _make_room(round_, owner, need, made, place) or _hold(round_, place, need, made, rank)


def _make_room(round_: Round, owner: OwnerKey, need: Need, made: Made, place: NoPlace) -> NoPlace | None:
    """Have others give way on the node where the least has to change, or say who holds the room."""
    known = round_.nobody.get((need, made.rank))
    if known is not None:
        return known
    if round_.given_way >= MAX_GIVEN_WAY:
        round_.recheck(AGAIN_SECONDS)
        return None
    able = round_.places.able(need)
    rank, seconds, key = made.rank, made.seconds, (need, made.rank)
    search = round_.searches.get(key)
    if search is None:
        bounds = ((bound_on(round_, node, need, rank, seconds), node) for node in able)
        heap = [(bound, node, round_.ledger.versions[node]) for bound, node in bounds if bound is not None]
        heapify(heap)
        search = round_.searches[key] = Search(heap)
    found = search.best(
        version=lambda node: round_.ledger.versions[node],
        bound=lambda node: bound_on(round_, node, need, rank, seconds),
        offer=lambda node: on_node(round_, node, need, rank, seconds),
        suits=lambda node: all(each.model != owner for each in asked_on(round_, node, rank, seconds)),
    )
    if found is not None:
        node, offer = found
        ask_on_node(round_, node, offer, owner)
        round_.places.claim(node, need, made.holder)
        return waits_for(offer, node)
    # What is held for another start is a matter of turns, not of floors.
    for node in able if place.reason is Reason.NO_FREE_MEMORY else ():
        floors = floors_on_node(round_, node, need, made.rank, made.seconds)
        if floors:
            return round_.nobody.setdefault((need, made.rank), held(floors, place.blocker))
    return None


def _hold(round_: Round, refusal: NoPlace, need: Need, made: Made, rank: int) -> NoPlace:
    if rank not in round_.holding and round_.places.hold(need, made.holder):
        round_.holding.add(rank)
    return refusal


def _load(round_: Round, start: Start, node: str) -> Busy | None:
    """Count a start in on its node, or say why it would only wait there."""
    fleet, model = round_.fleet, start.model
    fetches = round_.stores.fetches(node, model.weights)
    needed = phases(fleet.estimates, model, StartType.COLD, node_type(fleet.nodes[node]))
    busy = round_.links.busy(node, needed, fetches=fetches)
    if busy is None:
        round_.links.add(node, needed, fetches=fetches)
    return busy


def _create(round_: Round, start: Start | MissingRunner, node: str, made: Made) -> None:
    """Create a runner, under a name that nobody bears."""
    owner: Owner = start.model if isinstance(start, Start) else start.pool
    if len(round_.creates) >= MAX_CREATES:
        round_.recheck(NEXT_ROUND_SECONDS)
        return
    namespace, name, attempt = owner.key.namespace, owner.key.name, start.attempt
    cache = round_.fleet.caches.get(node)
    while (namespace, runner_name(name, start.slot, attempt)) in round_.taken_names:
        attempt += 1
    round_.creates.append(
        CreateRunner(
            owner=owner,
            slot=start.slot,
            attempt=attempt,
            node=node,
            assignment=made.assignment,
            start_budget_seconds=made.start_budget_seconds + fetch_budget_seconds(made.weights or (), cache),
            reason=start.reason,
            sees_weights=made.weights is not None and cache is not None,
        )
    )
    if isinstance(start, Start):
        round_.placed.append(Placed(start.model.key, StartType.COLD, node))
