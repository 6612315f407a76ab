"""Consolidation: runners of pools that move out of a node, so that a start fits which has room in no single place.

Engines and models' own runners give way by `give_way.py`: asleep or idle they lose their place, and wake or start
elsewhere. What holds room of a node beside them are runners of pools. They are never given up, as the pool says how
many there are; but one that nobody needs at this moment can be where others have no use for the room:

* It is *movable* while all its engines are asleep or may be asked to sleep (idle, Yield, residency and budget as in
  `give_way.py`), nothing starts in it, and it is older than `AGE_SECONDS`. Busy models and floors of Keep stay.
* It moves only where there is room for it on another node, and only above `CONSOLIDATE_ABOVE`.
* First the models that are idle in it are told to sleep (`Decisions.yields`). When all are asleep it is deleted, and
  its pool makes it anew on the other node. Sleeping models stay dormant; they wake in any runner of their pools.

It comes before any preemption: what is busy stays where others only have to move.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmfleet_api.vocabulary import EngineState, Reason, StartType
from warmfleet_operator.decide.actions import DeleteRunner
from warmfleet_operator.decide.fleet import ModelKey, Pool
from warmfleet_operator.decide.fragmentation import CONSOLIDATE_ABOVE, fragmentation
from warmfleet_operator.decide.ledger import requests_once
from warmfleet_operator.decide.making_room import weight_in
from warmfleet_operator.decide.needs import Need, need_of_pool
from warmfleet_operator.decide.placement import NoPlace
from warmfleet_operator.decide.requests import Amounts
from warmfleet_operator.decide.room import END_SECONDS, Room
from warmfleet_operator.decide.rounds import Round
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.sleep import is_dormant
from warmfleet_operator.decide.stakes import RESIDENCY_SECONDS, Step
from warmfleet_operator.decide.standby import stands_by
from warmfleet_operator.decide.times import seconds_since
from warmfleet_operator.decide.turns import LAST

AGE_SECONDS = RESIDENCY_SECONDS
"""A runner that is younger has just moved, or just come."""


@dataclass(frozen=True, slots=True)
class Mover:
    """A runner of a pool that nobody needs at this moment."""

    room: Room
    amounts: Amounts
    """What it takes of its node."""
    idle: tuple[ModelKey, ...]
    """Models that are to sleep first."""

    @property
    def order(self) -> tuple[object, ...]:
        """Sorts those that lose least first."""
        return len(self.idle), len(self.room.engines), sum(self.amounts.values()), self.room.name


@dataclass(frozen=True, slots=True)
class Move:
    """Who moves out of a node, each with where there is room for it."""

    node: str
    movers: tuple[tuple[Mover, str], ...]

    @property
    def order(self) -> tuple[object, ...]:
        """Sorts moves of which least is asked first."""
        return sum(len(mover.idle) for mover, _ in self.movers), len(self.movers), self.node


def consolidate(round_: Round, need: Need, winner: str, holder: str) -> NoPlace | None:
    """Have runners of pools move so that a start fits on a node; None: that would not help.

    Args:
        round_: The round.
        need: What the start needs of one node.
        winner: Whose start it is.
        holder: For whom the room is kept, in words.
    """
    if round_.movers is None:
        round_.movers = _movers(round_)
    if not round_.movers or not _fits_in_sum(round_, need):
        return None
    if round_.fragmentation is None:
        round_.fragmentation = fragmentation(round_, round_.in_want())
    if round_.fragmentation <= CONSOLIDATE_ABOVE:
        return None
    able = set(round_.places.able(need))
    moves = [move for node in round_.movers if node in able and (move := _move_out(round_, node, need)) is not None]
    if not moves:
        return None
    move = min(moves, key=lambda each: each.order)
    for mover, target in move.movers:
        _tell(round_, mover, move.node, target, f"{winner}, which needs {need}, fits")
    round_.places.claim(move.node, need, holder)
    round_.given_way += 1
    who = ", ".join(mover.room.name for mover, _ in move.movers)
    return NoPlace(
        Reason.WAITING_FOR_TURN,
        f"{who} moves out of {move.node} so that it fits",
        place=move.node,
        available_seconds=END_SECONDS,
    )


def _movers(round_: Round) -> Mapping[str, Sequence[Mover]]:
    """Return the runners of pools that could move, by node."""
    found: defaultdict[str, list[Mover]] = defaultdict(list)
    for uid, room in round_.rooms.by_runner.items():
        if not weight_in(round_, room).is_idle:
            continue  # as most are: no more has to be known of it
        age = seconds_since(room.runner.pod.metadata.creation_timestamp, round_.now)
        if room.loads or room.coming or room.pool.problem is not None or age is None or age < AGE_SECONDS:
            continue
        idle = _idle_in(round_, round_.sights[uid].members)
        if idle is not None:
            found[room.node_name].append(Mover(room, requests_once(room.runner.pod), idle))
    return found


def _idle_in(round_: Round, members: Sequence[Member]) -> tuple[ModelKey, ...] | None:
    """Return the models that would have to sleep for their runner to move; None: one of its engines keeps it there."""
    idle = []
    for member in members:
        model = round_.fleet.models.get(member.model)
        if model is None or member.engine is None:
            return None
        if (is_dormant(model) or stands_by(member, model)) and member.engine.state is EngineState.ASLEEP:
            continue
        live = round_.runners[member.pod.metadata.uid]
        if member.engine.id not in live.idle_seconds:
            return None
        # As if the start were of the lowest class: nobody is told to sleep for a move who would not for that.
        change = round_.rules.start_seconds_of(model, StartType.WARM)
        candidate = round_.rules.candidate(member, LAST.rank, change)
        if candidate is None or candidate.step is not Step.IDLE or candidate.seconds > 0:
            return None
        idle.append(member.model)
    return tuple(idle)


def _fits_in_sum(round_: Round, need: Need) -> bool:
    """Whether all free room together is enough for the start."""
    able = round_.places.able(need)
    return all(
        sum(max(0, round_.ledger.open(node, resource)) for node in able) >= number for resource, number in need.requests
    )


def _move_out(round_: Round, node: str, need: Need) -> Move | None:
    """Return the fewest that have to move out of a node until the start fits; None: it never does."""
    ledger, wanted = round_.ledger, need.amounts
    lacking = {each: number - ledger.later(node, each) for each, number in wanted.items()}
    taken: defaultdict[str, Counter[str]] = defaultdict(Counter)
    chosen: list[tuple[Mover, str]] = []
    for mover in sorted((round_.movers or {}).get(node, ()), key=lambda each: each.order):
        if _is_enough(lacking, chosen):
            break
        if mover.room.version or not any(lacking[each] > 0 and mover.amounts.get(each) for each in lacking):
            continue  # something of this round's is in it, or nothing that is lacking
        target = _target(round_, mover.room.pool, node, taken)
        if target is not None:
            taken[target].update(mover.amounts)
            chosen.append((mover, target))
    if not chosen or not _is_enough(lacking, chosen):
        return None
    for each in tuple(chosen):
        fewer = [other for other in chosen if other is not each]
        if _is_enough(lacking, fewer):
            chosen = fewer
    return Move(node, tuple(chosen))


def _is_enough(lacking: Mapping[str, int], chosen: Sequence[tuple[Mover, str]]) -> bool:
    return all(
        sum(mover.amounts.get(resource, 0) for mover, _ in chosen) >= number for resource, number in lacking.items()
    )


def _target(round_: Round, pool: Pool, node: str, taken: Mapping[str, Counter[str]]) -> str | None:
    """Return another node that has room for a runner of the pool, beside those that move there too."""
    need, ledger = need_of_pool(pool.spec), round_.ledger
    return next(
        (
            name
            for name in round_.places.able(need)
            if name != node
            and all(
                min(ledger.open(name, each), ledger.later(name, each)) - taken.get(name, Counter())[each] >= number
                for each, number in need.requests
            )
        ),
        None,
    )


def _tell(round_: Round, mover: Mover, node: str, target: str, so_that: str) -> None:
    """Let one runner move, or the models that are idle in it sleep first; nobody starts in it meanwhile."""
    room, reason = mover.room, f"moves {mover.room.name} out of {node} to {target} so that {so_that}"
    room.close()
    round_.ledger.release(node, mover.amounts)
    round_.places.claim(target, need_of_pool(room.pool.spec), f"{room.name}, which moves there")
    for key in mover.idle:
        round_.yields.setdefault(key, reason)
    if not mover.idle:
        round_.deletes.append(DeleteRunner(room.runner.pod, reason))
