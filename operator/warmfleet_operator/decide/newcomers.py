"""Models that are nowhere and want a place: what a round asks of each is the same in the next, so it is carried over.

Thousands may wait through many rounds, of which a few get a place. A newcomer stays the same object while its model
does; only its turn is asked for again, when time, what clients want, or what was measured changes it. All those that
have in common by what a place is found or refused share one `Equals`: what was said of one is looked up by that alone.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter

from warmfleet_api.vocabulary import StartType
from warmfleet_operator.decide.estimates import Estimates
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey
from warmfleet_operator.decide.needs import need_once
from warmfleet_operator.decide.remembered import MOST, until_forgotten
from warmfleet_operator.decide.replicas import ModelPlan
from warmfleet_operator.decide.rooms import engine_need
from warmfleet_operator.decide.sizes import Sizes, sizes_of
from warmfleet_operator.decide.turns import NO_TURN, Order, known_turn_of
from warmfleet_operator.decide.weights_stores import CacheKind, Stores


class Equals:
    """Stands for all starts that have in common by what a place is found or refused."""

    __slots__ = ()


@dataclass(slots=True, eq=False)
class Newcomer:
    """A model that is nowhere, and its starts."""

    model: Model
    plan: ModelPlan
    climbed: datetime = NO_TURN.climbed
    """Since when its turn is good."""
    climbs: datetime = NO_TURN.climbs
    """Until when, as long as nothing else changes it."""
    order: Order = (NO_TURN.turn, True, "")
    equals: Equals | None = None
    """None: it is like no other, or nobody knows its weights yet."""
    sizes: Sizes = ()

    def see_turn(self, fleet: Fleet, stores: Stores, now: datetime) -> None:
        """Ask anew for all that changes with the turn."""
        model = self.model
        known = known_turn_of(model, fleet, now, StartType.WARM if model.pools else StartType.COLD)
        self.climbed, self.climbs = known.climbed, known.climbs
        rank = known.turn.rank
        self.order = known.turn, True, str(model.key)
        self.sizes = sizes_of(model)
        if model.stable is not None or not model.knows_weights:
            self.equals = None
        elif model.pools:
            self.equals = equals_of(model.home, engine_need(self.plan.starts[0], stores), model.rank, rank)
        else:
            self.equals = equals_of(need_once(model, stores), model.rank, rank)


class Newcomers(dict[ModelKey, Newcomer]):
    """All newcomers of a fleet, after `see_turns` in the order of their turn."""

    def __init__(self) -> None:
        super().__init__()
        self._estimates: Estimates | None = None
        self._kinds: frozenset[CacheKind] | None = None
        self._asked: Mapping[ModelKey, datetime] = {}

    def see_turns(self, fleet: Fleet, stores: Stores, now: datetime) -> None:
        """Bring the turns up to date, and all into their order."""
        former, self._asked = self._asked, fleet.asked()
        if self._estimates is fleet.estimates and self._kinds == stores.kinds:
            stale = [each for each in self.values() if not each.climbed <= now < each.climbs]
            others = former.items() ^ self._asked.items()
            stale += [self[key] for key in {key for key, _ in others} if key in self]
        else:
            stale = list(self.values())
        self._estimates, self._kinds = fleet.estimates, stores.kinds
        for each in stale:
            each.see_turn(fleet, stores, now)
        if stale:
            line = sorted(self.values(), key=attrgetter("order"))
            self.clear()
            self.update((each.model.key, each) for each in line)


_equals: dict[Hashable, Equals] = until_forgotten({})


def equals_of(*parts: Hashable) -> Equals:
    """Return what stands for all starts that have these parts in common."""
    if len(_equals) >= MOST:
        _equals.clear()
    return _equals.setdefault(parts, Equals())
