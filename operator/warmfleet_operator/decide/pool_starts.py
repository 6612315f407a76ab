"""Starting engines in the runners of pools, and waking those that sleep there."""

from dataclasses import dataclass, replace
from functools import partial
from heapq import heapify

from warmfleet_api.vocabulary import Reason, StartType
from warmfleet_operator.build.template import runner_name
from warmfleet_operator.decide import sleep
from warmfleet_operator.decide.fleet import Model
from warmfleet_operator.decide.making_room import (
    AGAIN_SECONDS,
    MAX_GIVEN_WAY,
    ask_in_room,
    bound_in,
    bounds_in,
    floors_in_room,
    held,
    in_room,
    waits_for,
)
from warmfleet_operator.decide.newcomers import Equals, equals_of
from warmfleet_operator.decide.offers import Offer, Search
from warmfleet_operator.decide.placement import NoPlace, Spread
from warmfleet_operator.decide.predict import Placed
from warmfleet_operator.decide.predict_stages import node_type, phases, start_seconds
from warmfleet_operator.decide.replicas import Start
from warmfleet_operator.decide.room import EngineNeed, Holding, Room, holding_awake
from warmfleet_operator.decide.rooms import Found, engine_need
from warmfleet_operator.decide.rounds import Round
from warmfleet_operator.decide.runners import Member

_WAITS = {Reason.NO_FREE_MEMORY, Reason.WAITING_FOR_TURN}
_HOLDS = {*_WAITS, Reason.FLOORS_HELD}


@dataclass(frozen=True, slots=True)
class Sleeper:
    """An engine that is told to sleep and is wanted awake, in the runner where it sleeps."""

    member: Member
    room: Room
    asleep: Holding
    awake: Holding
    seconds: float
    """What its wake takes."""


def start_in_pool(round_: Round, model: Model, rank: int) -> None:
    """Wake a model's engines, and start those it lacks in runners that are there."""
    plan, members = round_.plan_of(model.key), round_.members.get(model.key, ())
    starts = plan.starts_of(model)
    if starts and not members:
        known = round_.alike.get(_equals(round_, starts[0], rank))
        if known is not None:
            round_.refuse(model.key, known)
            return
    spread = round_.spread_of(plan.avoid, members)
    for member in plan.wakes_of(model):
        refusal = _wake(round_, model, member, spread, rank)
        if refusal is not None:
            round_.refuse(model.key, refusal)
            return
    for wish in starts:
        refusal = _start(round_, with_unused_name(round_, wish), spread, rank)
        if refusal is not None:
            round_.refuse(model.key, refusal)
            return


def with_unused_name(round_: Round, start: Start) -> Start:
    """Return the start with an attempt that no engine bears, not even one that is only ending."""
    (namespace, name, _), slot, attempt = start.model.key, start.slot, start.attempt
    members = round_.members[start.model.key]
    told = {each.name for each in members if each.pool and each.engine is not None} if members else ()
    while (id_ := runner_name(name, slot, attempt)) in told or (namespace, id_) in round_.told_ids:
        attempt += 1
    return start if attempt == start.attempt else start._replace(attempt=attempt)


def _wake(round_: Round, model: Model, member: Member, spread: Spread, rank: int) -> NoPlace | None:
    """Wake an engine where it sleeps, or start the model elsewhere where that is done sooner."""
    sleeper = _sleeper_of(round_, model, member)
    elsewhere = Start(model, member.slot, member.attempt + 1, "starts elsewhere, as its engine can't be woken soon")
    elsewhere = with_unused_name(round_, elsewhere)
    if sleeper is None:
        return _start(round_, elsewhere, spread, rank)
    room, id_ = sleeper.room, member.name
    if room.fits_awake(sleeper.asleep, sleeper.awake, is_now=True):
        engine = sleep.awake(room.engines[id_])
        room.change(id_, sleeper.awake, is_now=True)
        room.engines[id_] = engine
        round_.edits.of(room.runner).put(engine, f"{id_} wakes")
        round_.placed.append(Placed(model.key, StartType.HOT, room.node_name, room.name))
        return None
    is_coming = room.fits_awake(sleeper.asleep, sleeper.awake, is_now=False)
    soonest = (room.coming_seconds or 0.0) + sleeper.seconds if is_coming else None
    found = round_.rooms.find(elsewhere, spread, round_.loader(model, StartType.WARM))
    if found is not None and found.is_now and not found.room.loads:
        warm = _seconds(round_, model, StartType.WARM, found.room)
        if soonest is None or warm < soonest:
            return _begin(round_, elsewhere, found.room, spread)
    if is_coming:
        room.change(id_, sleeper.awake)
        room.holder = room.holder or str(model.key)
        return NoPlace(
            Reason.WAITING_FOR_TURN,
            f"sleeps in {room.name} and wakes when its room is free: {room.coming or 'others end'}",
            start_type=StartType.HOT,
            place=room.name,
            available_seconds=room.coming_seconds,
        )
    if found is not None:
        return _wait(round_, elsewhere, found)
    refusal = _make_room(round_, elsewhere, round_.rooms.explain(elsewhere, is_hosted=True), sleeper)
    if refusal.reason in _HOLDS and not refusal.place and rank not in round_.holding:
        # What is nearest to fitting it is where it sleeps.
        room.change(id_, sleeper.awake)
        room.holder = room.holder or str(model.key)
        round_.holding.add(rank)
    return replace(refusal, start_type=refusal.start_type or StartType.HOT)


def _sleeper_of(round_: Round, model: Model, member: Member) -> Sleeper | None:
    """Return the engine where it sleeps; None where its runner takes no engines, or this round took it out."""
    room = round_.rooms.by_runner.get(member.pod.metadata.uid)
    if room is None or member.name not in room.engines or member.name in room.claimed:
        return None
    awake = holding_awake(room, room.engines[member.name], model)
    seconds = _seconds(round_, model, StartType.HOT, room)
    return Sleeper(member, room, room.holdings[member.name], awake, seconds)


def _start(round_: Round, start: Start, spread: Spread, rank: int) -> NoPlace | None:
    """Start an engine in a runner, or say for what it waits."""
    rooms, is_hosted = round_.rooms, bool(round_.members[start.model.key])
    found = rooms.find(start, spread, round_.loader(start.model, StartType.WARM), is_hosted=is_hosted)
    if found is not None:
        return _begin(round_, start, found.room, spread) if _is_free(found) else _wait(round_, start, found)
    why = rooms.explain(start, is_hosted=is_hosted)
    refusal = _make_room(round_, start, why, None) if why.reason in _WAITS else why
    if refusal.reason not in _HOLDS or refusal.place:
        return refusal
    if rank not in round_.holding:
        if rooms.hold(start, f"{start.model.key} ({start.model.spec.priority})"):
            round_.holding.add(rank)
    elif not is_hosted and _is_final(round_, start):
        round_.alike[_equals(round_, start, rank)] = refusal
    return refusal


def _equals(round_: Round, start: Start, rank: int) -> Equals:
    """Return what starts of models that are nowhere have in common if they are refused for the same reason."""
    model = start.model
    return equals_of(model.home, engine_need(start, round_.rooms.stores), round_.rank_of(model), rank)


def _is_final(round_: Round, start: Start) -> bool:
    """Whether what was said of a start that was refused holds for its equals until the end of the round.

    Room only shrinks within a round, so it does as soon as nobody else gives way.
    """
    model = start.model
    key = model.home, engine_need(start, round_.rooms.stores), round_.rank_of(model)
    return key in round_.nobody or round_.given_way >= MAX_GIVEN_WAY


def _is_free(found: Found) -> bool:
    return found.is_now and not found.room.loads


def _begin(round_: Round, start: Start, room: Room, spread: Spread) -> NoPlace | None:
    """Start an engine in a free runner, unless the links of its node are full."""
    node, model = room.node_name, start.model
    fetch = round_.fetch(node, model)
    needed = phases(round_.fleet.estimates, model, StartType.WARM, node_type(room.node))
    busy = round_.links.busy(node, needed, fetch)
    if busy is not None:
        round_.rooms.claim(room, start, str(model.key))
        round_.recheck(busy.seconds)
        return NoPlace(
            Reason.WAITING_FOR_TURN, busy.why, start_type=StartType.WARM, place=room.name, available_seconds=0.0
        )
    engine = round_.rooms.take(room, start, spread)
    round_.edits.of(room.runner).put(engine, f"{engine.id} starts: {start.reason}")
    round_.links.add(node, needed, fetch)
    round_.placed.append(Placed(model.key, StartType.WARM, node, room.name))
    return None


def _wait(round_: Round, start: Start, found: Found) -> NoPlace:
    """Keep the room for a start that waits for its turn there."""
    room = found.room
    round_.rooms.claim(room, start, f"{start.model.key} ({start.model.spec.priority})")
    if found.is_now:
        words = f"{room.name} loads {room.loads} first, one at a time"
    else:
        words = f"room in {room.name} comes free: {room.coming or 'others end'}"
    return NoPlace(
        Reason.WAITING_FOR_TURN,
        words,
        start_type=StartType.WARM,
        place=room.name,
        available_seconds=0.0 if found.is_now else room.coming_seconds,
    )


def _make_room(round_: Round, start: Start, why: NoPlace, sleeper: Sleeper | None) -> NoPlace:
    """Have others give way in the runner where the least has to change, or say who holds the room."""
    rooms, model = round_.rooms, start.model
    need, rank = engine_need(start, rooms.stores), round_.rank_of(model)
    is_hosted = bool(round_.members[model.key])
    key = model.home, need, rank
    known = round_.nobody.get(key) if not is_hosted else None
    if known is not None:
        return known
    if round_.given_way >= MAX_GIVEN_WAY:
        round_.recheck(AGAIN_SECONDS)
        return why
    seconds = _seconds(round_, model, StartType.WARM, None)
    found = _search(round_, start, need, rank, seconds)
    by_wake = _offer_to_wake(round_, sleeper, rank)
    if sleeper is not None and by_wake is not None and (found is None or by_wake.bound <= found[1].bound):
        room = sleeper.room
        ask_in_room(round_, room, by_wake, model.key)
        room.change(sleeper.member.name, sleeper.awake)
        return replace(waits_for(by_wake, room.name), start_type=StartType.HOT)
    if found is not None:
        room, offer = found
        ask_in_room(round_, room, offer, model.key)
        rooms.claim(room, start, f"{model.key} ({model.spec.priority})")
        return replace(waits_for(offer, room.name), start_type=StartType.WARM)
    # What is held for another start is a matter of turns, not of floors.
    if why.reason is Reason.NO_FREE_MEMORY:
        places = [(room, partial(_fits, need)) for room in rooms.able(start)]
        if sleeper is not None:
            places.insert(0, (sleeper.room, partial(_fits_awake, sleeper)))
        for room, fits in places:
            floors = floors_in_room(round_, room, fits, rank, seconds)
            if floors:
                why = held(floors, why.blocker)
                break
    return why if is_hosted else round_.nobody.setdefault(key, why)


def _search(round_: Round, start: Start, need: EngineNeed, rank: int, seconds: float) -> tuple[Room, Offer] | None:
    """Return the runner in which least has to change for a start, and who gives way there."""
    rooms, model, key = round_.rooms, start.model, (start.model.home, need, rank)
    uids, search = rooms.by_runner, round_.searches.get(key)
    if search is None:
        heap = bounds_in(round_, rooms.suited(start), need.gpus, rank)
        heapify(heap)
        search = round_.searches[key] = Search(heap)
    found = search.best(
        version=lambda uid: uids[uid].version,
        bound=lambda uid: bound_in(round_, uids[uid], need.gpus, rank),
        offer=lambda uid: in_room(round_, uids[uid], partial(_fits, need), rank, seconds),
        suits=lambda uid: all(engine.model != model.key.name for engine in uids[uid].engines.values()),
    )
    return (uids[found[0]], found[1]) if found is not None else None


def _offer_to_wake(round_: Round, sleeper: Sleeper | None, rank: int) -> Offer | None:
    """Return who would give way to an engine where it sleeps."""
    if sleeper is None:
        return None
    sleeper.room.spare(sleeper.member.name)
    return in_room(
        round_,
        sleeper.room,
        partial(_fits_awake, sleeper),
        rank,
        sleeper.seconds,
    )


def _fits(need: EngineNeed, room: Room) -> bool:
    return room.fits(need, is_now=False)


def _fits_awake(sleeper: Sleeper, room: Room) -> bool:
    return room.fits_awake(sleeper.asleep, sleeper.awake, is_now=False)


def _seconds(round_: Round, model: Model, start_type: StartType, room: Room | None) -> float:
    fleet = round_.fleet
    return start_seconds(fleet.estimates, model, start_type, room.node if room is not None else None, fleet.caches)
