"""Making room for a start that finds none: the place where least has to change, and what is done about it there.

Who may be asked, and for what, is said in `give_way.py`. It takes two steps: in this round they are told, and their
room is promised to the start; in a later one, when it is free, the start has it.
"""

from collections.abc import Callable, Iterable
from functools import partial

from warmfleet_api.vocabulary import Reason
from warmfleet_operator.decide.actions import DeleteRunner, Preemption
from warmfleet_operator.decide.fleet import OwnerKey
from warmfleet_operator.decide.give_way import Candidate
from warmfleet_operator.decide.ledger import covers, requests_once
from warmfleet_operator.decide.needs import Need
from warmfleet_operator.decide.offers import Change, Offer, choose
from warmfleet_operator.decide.placement import NoPlace
from warmfleet_operator.decide.requests import Amounts
from warmfleet_operator.decide.room import Holding, Room, holding_asleep
from warmfleet_operator.decide.rounds import Round
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.sleep import DRAIN_SECONDS, SLEEP_SECONDS, ordered
from warmfleet_operator.decide.stakes import PLACE, Bound, Kind, Step, Weight, weight_of

MAX_GIVEN_WAY = 20
"""For how many starts others are asked to give way in one round: what they are asked takes longer than the next one."""
AGAIN_SECONDS = 1.0
_MOST_NAMED = 4


def bounds_in(round_: Round, rooms: Iterable[Room], gpus: int, rank: int) -> list[tuple[Bound, str, int]]:
    """Return what offers take at least, of the runners where there can be one, each with its uid and version."""
    found = []
    for room in rooms:
        bound = weight_in(round_, room).bound(gpus - room.later.free_gpus, rank)
        if bound is not None:
            found.append((bound, room.runner.pod.metadata.uid, room.version))
    return found


def bound_in(round_: Round, room: Room, gpus: int, rank: int) -> Bound | None:
    """Return what an offer in a runner takes at least."""
    return next((bound for bound, *_ in bounds_in(round_, (room,), gpus, rank)), None)


def bounds_on(round_: Round, nodes: Iterable[str], need: Need, gpus: int, rank: int) -> list[tuple[Bound, str, int]]:
    """Return what offers take at least, of the nodes where there can be one, each with its name and version."""
    ledger, own, resource = round_.ledger, round_.carried.own, need.gpu_resource
    weighed, versions = round_.weighed, ledger.versions
    found = []
    for node in nodes:  # many nodes for each need: so at length
        if node in own:
            version, known = versions[node], weighed.get(node)
            if known is None or known[0] != version:
                known = weighed[node] = version, _weight_on(round_, node, resource)
            bound = known[1].bound(gpus - ledger.later(node, resource), rank)
            if bound is not None:
                found.append((bound, node, version))
    return found


def bound_on(round_: Round, node: str, need: Need, gpus: int, rank: int) -> Bound | None:
    """Return what an offer on a node takes at least; `gpus` are those of the need."""
    return next((bound for bound, *_ in bounds_on(round_, (node,), need, gpus, rank)), None)


def _weight_on(round_: Round, node: str, resource: str) -> Weight:
    """Return what could be gained on a node; of one of which nothing changed, what was found in an earlier round."""
    carried, woken, own = round_.carried, round_.rules.woken, round_.carried.own[node]
    # Who is let go or asked to gives room back, which counts as a change of the node.
    records = round_.own_records(node) if round_.ledger.versions[node] else own
    is_as_carried = not woken and records is own
    known = carried.weights.get(node) if is_as_carried else None
    if known is not None and known[0] == resource:
        return known[1]
    gained: dict[Kind, int] = {}
    most = 0
    for record in records:
        gpus, kinds = record.requests.get(resource, 0), record.kinds
        for kind in carried.kinds_in(record, woken) if kinds is None or woken else kinds:
            if kind is not None:
                gained[kind] = gained.get(kind, 0) + gpus
                most = max(most, gpus)
    weight = weight_of(gained, most)
    if is_as_carried:
        carried.weights[node] = resource, weight
    return weight


def weight_in(round_: Round, room: Room) -> Weight:
    """Return what could be gained in a pool's runner; where this round changed nothing, what an earlier one found."""
    uid, weights = room.runner.pod.metadata.uid, round_.carried.weights
    if not (room.version or round_.rules.woken):
        found = weights.get(uid)
        if found is None:
            found = weights[uid] = room.pool.spec.gpu_resource, _weight_in(round_, room, uid)
        return found[1]
    known = round_.weighed.get(uid)
    if known is None or known[0] != room.version:
        known = round_.weighed[uid] = room.version, _weight_in(round_, room, uid)
    return known[1]


def _weight_in(round_: Round, room: Room, uid: str) -> Weight:
    carried, woken = round_.carried, round_.rules.woken
    record = carried.records[uid]
    gained: dict[Kind, int] = {}
    most = 0
    for member, kind in zip(record.places(), carried.kinds_in(record, woken), strict=True):
        holding = room.holdings.get(member.name)
        if holding is None or member.name in room.claimed:
            continue
        if not holding.is_awake:
            gained.setdefault(PLACE, 0)
        elif kind is not None:
            gpus = len(holding.gpus)
            gained[kind] = gained.get(kind, 0) + gpus
            most = max(most, gpus)
    return weight_of(gained, most)


def in_room(round_: Round, room: Room, fits: Callable[[Room], bool], rank: int, seconds: float) -> Offer | None:
    """Return who would give way in a runner of a pool until `fits`."""
    asked = sorted(_engines(round_, room, rank, seconds), key=_order)
    # First everybody only falls asleep; where that is not enough, they go.
    return _in_room(round_, room, fits, asked, is_gone=False) or _in_room(round_, room, fits, asked, is_gone=True)


def on_node(round_: Round, node: str, need: Need, rank: int, seconds: float) -> Offer | None:
    """Return which models' own runners would give way on a node until a runner of this need fits."""
    return _on_node(round_, node, need, sorted(_runners(round_, node, rank, seconds), key=_order))


def floors_in_room(
    round_: Round, room: Room, fits: Callable[[Room], bool], rank: int, seconds: float
) -> tuple[Candidate, ...]:
    """Return those who hold the room and whom no rule lets be asked."""
    candidates = sorted(_engines(round_, room, rank, seconds, names_floors=True), key=_order)
    return _floors(_in_room(round_, room, fits, candidates, is_gone=True))


def floors_on_node(round_: Round, node: str, need: Need, rank: int, seconds: float) -> tuple[Candidate, ...]:
    """Return those who hold the node's room and whom no rule lets be asked."""
    candidates = sorted(_runners(round_, node, rank, seconds, names_floors=True), key=_order)
    return _floors(_on_node(round_, node, need, candidates))


def held(floors: Iterable[Candidate], blocker: str) -> NoPlace:
    """Say who holds the room, and which field to set."""
    names = list(dict.fromkeys(each.why for each in floors))
    also = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return NoPlace(
        Reason.FLOORS_HELD,
        f"{blocker}; held by {', '.join(names[:_MOST_NAMED])}{also}. A higher priority than theirs makes busy models "
        "give way, idle.policy: Yield idle ones",
    )


def ask_in_room(round_: Round, room: Room, offer: Offer, winner: OwnerKey) -> None:
    """Ask those of an offer to give way; the caller claims the room."""
    for candidate in offer.candidates:
        _ask_engine(round_, room, candidate, winner)
    _note(round_, offer)


def ask_on_node(round_: Round, node: str, offer: Offer, winner: OwnerKey) -> None:
    """Ask those of an offer to give way; the caller claims the room."""
    for candidate in offer.candidates:
        runner = candidate.member.runner
        round_.ledger.release(node, requests_once(runner.pod))
        round_.asked.add(runner.pod.metadata.uid)
        if candidate.seconds > 0:
            continue
        if candidate.step is Step.IDLE:
            round_.yields.setdefault(candidate.model, f"makes room for {winner}: {candidate.why}")
        else:
            reason = f"makes room for {winner}: {candidate.why}"
            round_.deletes.append(DeleteRunner(runner.pod, reason))
            if candidate.step is Step.BUSY:
                round_.preemptions.append(Preemption(candidate.model, winner, runner.pod.metadata.name, reason))
    _note(round_, offer)


def waits_for(offer: Offer, place: str) -> NoPlace:
    """Say for whom a start waits that others give way to."""
    begin = f"in {offer.seconds:.0f} s " if offer.seconds > 0 else ""
    return NoPlace(
        Reason.WAITING_FOR_TURN,
        f"{begin}room is made in {place}: {offer.why}",
        place=place,
        available_seconds=offer.gone_seconds,
    )


def _note(round_: Round, offer: Offer) -> None:
    round_.given_way += 1
    if offer.seconds > 0:
        round_.recheck(offer.seconds)


def _engines(
    round_: Round, room: Room, rank: int, seconds: float, *, names_floors: bool = False
) -> Iterable[Candidate]:
    """Yield the engines of a runner about which this round has not decided yet."""
    for member in round_.sights[room.runner.pod.metadata.uid].members:
        id_ = member.name
        if id_ not in room.holdings or id_ in room.claimed:
            continue
        if not room.holdings[id_].is_awake:
            gone = SLEEP_SECONDS if member.engine is not None else DRAIN_SECONDS
            yield Candidate(member.model, member, Step.PLACE, 0.0, gone)
        else:
            candidate = round_.rules.candidate(member, rank, seconds, names_floors=names_floors)
            if candidate is not None:
                yield candidate


def _runners(round_: Round, node: str, rank: int, seconds: float, *, names_floors: bool = False) -> Iterable[Candidate]:
    """Yield the models' own runners on a node about which this round has not decided yet."""
    for member in round_.own_on(node):
        candidate = round_.rules.candidate(member, rank, seconds, names_floors=names_floors)
        if candidate is None:
            continue
        if candidate.step is Step.ASLEEP:
            candidate = Candidate(member.model, member, Step.PLACE, 0.0, DRAIN_SECONDS, candidate.about)
        yield candidate


def _in_room(
    round_: Round, room: Room, fits: Callable[[Room], bool], asked: Iterable[Candidate], *, is_gone: bool
) -> Offer | None:
    """Return who of those asked, in their order, would give way; it is tried on a copy of the account."""
    kept = room.later
    room.later = account = kept.copy()

    def change(candidate: Candidate) -> Change:
        before = room.holdings[candidate.member.name]
        if is_gone or not before.is_awake:
            return Change(candidate, partial(account.give, before), partial(account.take, before))
        after = _asleep(round_, room, candidate.member)
        return Change(candidate, partial(account.swap, before, after), partial(account.swap, after, before))

    try:
        return choose(map(change, asked), lambda: fits(room))
    finally:
        room.later = kept


def _on_node(round_: Round, node: str, need: Need, asked: Iterable[Candidate]) -> Offer | None:
    ledger, wanted = round_.ledger, need.amounts
    there = {resource: ledger.later(node, resource) for resource in wanted}

    def add(amounts: Amounts, sign: int) -> None:
        for resource in there:
            there[resource] += sign * amounts.get(resource, 0)

    def change(candidate: Candidate) -> Change:
        amounts = requests_once(candidate.member.pod)
        return Change(candidate, partial(add, amounts, 1), partial(add, amounts, -1))

    return choose(map(change, asked), lambda: covers(there, wanted))


def _order(candidate: Candidate) -> tuple[object, ...]:
    return candidate.order


def _floors(offer: Offer | None) -> tuple[Candidate, ...]:
    return tuple(each for each in offer.candidates if each.step is Step.FLOOR) if offer is not None else ()


def _asleep(round_: Round, room: Room, member: Member) -> Holding:
    engine = ordered(room.engines[member.name], member.engine)
    return holding_asleep(room, engine, round_.fleet.models.get(member.model), member.engine)


def _ask_engine(round_: Round, room: Room, candidate: Candidate, winner: OwnerKey) -> None:
    member, id_ = candidate.member, candidate.member.name
    reason = f"makes room for {winner}: {candidate.why}"
    if not room.holdings[id_].is_awake:
        room.take_out(id_)
        round_.edits.of(room.runner).take_out(id_, f"{id_} {reason}")
        return
    engine = ordered(room.engines[id_], member.engine)
    asleep = holding_asleep(room, engine, round_.fleet.models.get(member.model), member.engine)
    room.change(id_, asleep)
    if candidate.seconds > 0:
        return
    if candidate.step is Step.IDLE:
        round_.yields.setdefault(candidate.model, reason)
        return
    room.engines[id_] = engine
    round_.edits.of(room.runner).put(engine, f"{id_} falls asleep and {reason}")
    if candidate.step is Step.BUSY:
        round_.preemptions.append(Preemption(candidate.model, winner, room.name, reason))
