"""Models that are nowhere and want a place: what a round asks of each is the same in the next, so it is carried over.

Thousands may wait through many rounds, of which a few get a place. A newcomer stays the same object while its model
does; only its turn is asked for again, when time, what clients want, or what was measured changes it. All those that
have in common by what a place is found or refused share one `Equals`: what was said of one is looked up by that alone.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from datetime import datetime

from warmfleet_api.vocabulary import StartType
from warmfleet_operator.decide.estimates import Estimates
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey
from warmfleet_operator.decide.needs import need_once
from warmfleet_operator.decide.remembered import MOST, until_forgotten
from warmfleet_operator.decide.replicas import ModelPlan
from warmfleet_operator.decide.rooms import engine_need
from warmfleet_operator.decide.sizes import Sizes, sizes_of
from warmfleet_operator.decide.turns import NO_TURN, KnownTurn, Order, known_turn_of
from warmfleet_operator.decide.weights_stores import CacheKind, Stores


class Equals:
    """Stands for all starts that have in common by what a place is found or refused."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Newcomer:
    """A model that is nowhere, and its starts."""

    model: Model
    plan: ModelPlan
    turn: KnownTurn = NO_TURN
    order: Order = (NO_TURN.turn, True, "")
    equals: Equals | None = None
    """None: it is like no other, or nobody knows its weights yet."""
    sizes: Sizes = ()

    def see_turn(self, fleet: Fleet, stores: Stores, now: datetime) -> None:
        """Ask anew for all that changes with the turn."""
        model = self.model
        self.turn = known_turn_of(model, fleet, now, StartType.WARM if model.pools else StartType.COLD)
        rank = self.turn.turn.rank
        self.order = self.turn.turn, True, str(model.key)
        self.sizes = sizes_of(model)
        if model.stable is not None or not model.knows_weights:
            self.equals = None
        elif model.pools:
            self.equals = equals_of(model.home, engine_need(self.plan.starts[0], stores), model.rank, rank)
        else:
            self.equals = equals_of(need_once(model, stores), model.rank, rank)


class Newcomers(dict[ModelKey, Newcomer]):
    """All newcomers of a fleet, as far as it is known in the order of their turn."""

    def __init__(self) -> None:
        super().__init__()
        self._estimates: Estimates | None = None
        self._kinds: frozenset[CacheKind] | None = None

    def see_turns(self, fleet: Fleet, stores: Stores, now: datetime) -> None:
        """Bring the turns up to date."""
        demand = fleet.demand
        is_known = self._estimates is fleet.estimates and self._kinds == stores.kinds
        self._estimates, self._kinds = fleet.estimates, stores.kinds
        for key, each in self.items():  # once per newcomer in every round: so at length
            wanted, known = demand.get(key), each.turn
            asked = wanted.deadline if wanted is not None else None
            if not (is_known and known.climbed <= now < known.climbs and asked == known.asked):
                each.see_turn(fleet, stores, now)

    def line_up(self, keys: Iterable[ModelKey]) -> None:
        """Let them stand in this order: the next round finds nearly all of them in it again."""
        ordered = {key: self[key] for key in keys}
        self.clear()
        self.update(ordered)


_equals: dict[Hashable, Equals] = until_forgotten({})


def equals_of(*parts: Hashable) -> Equals:
    """Return what stands for all starts that have these parts in common."""
    if len(_equals) >= MOST:
        _equals.clear()
    return _equals.setdefault(parts, Equals())
