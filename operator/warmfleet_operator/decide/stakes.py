"""What the engines of a place could be asked for, and what a start could gain of it at most. Quick: of all places.

`give_way.py` has the rules. What is told here is never more than they would ask for, so that a search can leave out all
places but the best ones (`offers.py`).
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from warmfleet_api.vocabulary import IdlePolicy
from warmfleet_operator.decide.fleet import Model, ModelKey, Runner
from warmfleet_operator.decide.remembered import MOST, until_forgotten
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.standby import stands_by

IDLE_SECONDS = 10.0
RESIDENCY_SECONDS = 60.0


class Step(IntEnum):
    """How much is asked of who gives way; less comes first."""

    ASLEEP = 1
    PLACE = 2
    IDLE = 3
    BUSY = 4
    FLOOR = 5
    """Nobody may ask for it: it is only named to say who holds the room."""


Kind = tuple[bool, int, int]
"""Whether it has to wait, the step as a number, and the rank of the class below which it may be asked."""
Bound = tuple[bool, Step, int]
"""What an offer takes at least: whether it has to wait, how much it asks, and of how many."""

_ANYBODY = 99
"""Below every class: who gives way to all."""
ASLEEP: Kind = (False, int(Step.ASLEEP), _ANYBODY)
PLACE: Kind = (False, int(Step.PLACE), _ANYBODY)
_IDLE: tuple[Kind, Kind] = ((False, int(Step.IDLE), _ANYBODY), (True, int(Step.IDLE), _ANYBODY))


class Stake(NamedTuple):
    """What of an engine's place decides for what it could be asked. It is the same while runner and model are."""

    place: tuple[ModelKey, str]
    """The model, and the name of its place."""
    engine: str
    """Id of its engine; empty: there is none."""
    always: Kind | None
    """For what it could be asked at any time; None: that depends on the time."""
    stands_by: bool
    """Whether it stands by, and gives way while nobody woke it."""
    yields: bool
    """Whether it gives way to anybody while it is without requests."""
    busy: Kind
    """For what it could be asked while it is not, once it has served for long enough."""
    young: Kind
    """And before that."""

    def kind(self, runner: Runner, woken: Set[tuple[ModelKey, str]]) -> Kind:
        """Return for what the engine could be asked now; `runner` is its own as the fleet has it."""
        place, engine, always, stands_by, yields, busy, young = self
        if always is not None:
            return always
        if stands_by and place not in woken:
            return ASLEEP
        idle = runner.idle_seconds.get(engine) if yields else None
        if idle is not None:
            return _IDLE[idle < IDLE_SECONDS]
        if young is busy or runner.awake_seconds.get(engine, 0.0) >= RESIDENCY_SECONDS:
            return busy
        return young


def stake_of(member: Member, model: Model | None) -> Stake | None:
    """Return what is at stake of a place; None where nobody could ask for it."""
    if model is None or not member.is_alive:
        return None
    rank = model.rank
    busy = (False, int(Step.BUSY), rank)
    return Stake(
        place=(member.model, member.name),
        engine=member.engine.id if member.engine is not None else "",
        always=ASLEEP if model.status.dormant is not None else None,
        stands_by=stands_by(member, model),
        yields=model.spec.idle.policy is IdlePolicy.YIELD,
        busy=busy,
        young=(True, int(Step.BUSY), rank) if member.is_ready else busy,
    )


@dataclass(slots=True)
class Weight:
    """How many GPUs of a place could be gained at most, by what would have to be asked for them."""

    gpus: tuple[tuple[Kind, int], ...]
    """In the order in which they would be asked."""
    most: int
    """The most that one engine has."""
    is_idle: bool
    """Whether all could be told to sleep at once, whoever asks."""
    _bounds: dict[tuple[int, int], Bound | None] = field(default_factory=dict)
    """By what is lacking and for whom: rounds ask for the same."""

    def bound(self, lacking: int, winner_rank: int) -> Bound | None:
        """Return what has to be asked at least for so many GPUs; 0 or less: something else is lacking."""
        key = lacking, winner_rank
        try:  # nearly always
            return self._bounds[key]
        except KeyError:
            found = self._bounds[key] = self._bound(lacking, winner_rank)
            return found

    def _bound(self, lacking: int, winner_rank: int) -> Bound | None:
        gained = 0
        for (waits, step, rank), gpus in self.gpus:
            if rank > winner_rank:
                gained += gpus
                if gained >= lacking:
                    return waits, _STEPS[step], -(-lacking // self.most) if lacking > 0 else 1
        return None


_weights: dict[tuple[int, tuple[tuple[Kind, int], ...]], Weight] = until_forgotten({})
"""Of places with equal stakes: what one of them takes at least is told for all."""


def weight_of(gained: Mapping[Kind, int], most: int) -> Weight:
    """Return what could be gained of engines: how many GPUs by what has to be asked, and the most that one has."""
    in_order = tuple(sorted(gained.items()))
    weight = _weights.get((most, in_order))
    if weight is None:
        if len(_weights) >= MOST:
            _weights.clear()
        is_idle = not in_order or in_order[-1][0] <= _IDLE[False]
        weight = _weights[most, in_order] = Weight(in_order, most, is_idle)
    return weight


_STEPS = {int(step): step for step in Step}
