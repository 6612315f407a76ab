"""What one round of the fleet pass knows and has found so far."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from warmfleet_api.vocabulary import Priority, StartType, Tier
from warmfleet_operator.decide.actions import CreateRunner, DeleteRunner, Preemption, StandingBy
from warmfleet_operator.decide.carried import Carried, Record
from warmfleet_operator.decide.claims import Standing
from warmfleet_operator.decide.edits import Edits
from warmfleet_operator.decide.estimates import Phases
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey, OwnerKey, PoolKey, Runner
from warmfleet_operator.decide.give_way import Rules
from warmfleet_operator.decide.ledger import Ledger
from warmfleet_operator.decide.links import NO_FETCH, Fetch, Links
from warmfleet_operator.decide.matching import zone_of
from warmfleet_operator.decide.newcomers import Equals, Newcomers
from warmfleet_operator.decide.offers import Search
from warmfleet_operator.decide.placement import NoPlace, Places, Spread
from warmfleet_operator.decide.pools import PoolPlan, PoolRunner
from warmfleet_operator.decide.predict import Placed
from warmfleet_operator.decide.predict_links import weights_seconds
from warmfleet_operator.decide.predict_stages import node_type, phases
from warmfleet_operator.decide.replicas import ModelPlan
from warmfleet_operator.decide.rooms import Rooms
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.sights import Sight
from warmfleet_operator.decide.stakes import Weight
from warmfleet_operator.decide.weights import NeededEntry
from warmfleet_operator.decide.weights_stores import Stores

if TYPE_CHECKING:
    from warmfleet_operator.decide.consolidation import Mover

NOTHING_TO_DO = ModelPlan()
"""The plan of a model that is as it should be. Nobody adds to it."""


@dataclass(slots=True)
class Round:
    """What one round knows and has found so far."""

    fleet: Fleet
    now: datetime
    edits: Edits
    carried: Carried
    """What is the same in many rounds, as it is now."""
    runners: Mapping[str, Runner]
    """By uid of the pod."""
    sights: Mapping[str, Sight]
    """By uid of the pod."""
    pool_runners: Mapping[PoolKey, list[PoolRunner]]
    pool_plans: Mapping[PoolKey, PoolPlan]
    members: Mapping[ModelKey, Sequence[Member]]
    plans: Mapping[ModelKey, ModelPlan]
    """Of the models that are not settled, and are somewhere."""
    newcomers: Newcomers
    """Those that are nowhere and want a place."""
    ledger: Ledger
    places: Places
    rooms: Rooms
    stores: Stores
    links: Links
    rules: Rules
    taken_names: Set[tuple[str, str]]
    """Namespaces and names of strangers' pods."""
    told_ids: frozenset[tuple[str, str]]
    """Namespaces and ids of all engines that runners of pools tell of which are not calm, those included that are only
    ending."""
    deletes: list[DeleteRunner] = field(default_factory=list)
    creates: list[CreateRunner] = field(default_factory=list)
    refused: dict[OwnerKey, NoPlace] = field(default_factory=dict)
    """Models and pools with a start that has no place, in the order of their turn."""
    placed: list[Placed] = field(default_factory=list)
    """Starts that this round gave a place."""
    yields: dict[ModelKey, str] = field(default_factory=dict)
    preemptions: list[Preemption] = field(default_factory=list)
    holding: set[int] = field(default_factory=set)
    """Ranks of the classes whose first waiting start holds room."""
    claims: Mapping[OwnerKey, Sequence[Runner]] = field(default_factory=dict)
    """Runners for which a node is asked of a cluster autoscaler."""
    standing: list[Standing] = field(default_factory=list)
    """Those of them that stay."""
    promotions: Mapping[ModelKey, str] = field(default_factory=dict)
    """Models with a standby whose starts and wakes are for lost replicas, and why they are."""
    standbys: dict[ModelKey, StandingBy] = field(default_factory=dict)
    """What stands by, of every model that wants that and is awake."""
    asked: set[str] = field(default_factory=set)
    """UIDs of models' own runners that this round asked to give way."""
    nobody: dict[object, NoPlace] = field(default_factory=dict)
    """Need and class → why nobody gives way to it, said once for all equal starts."""
    weighed: dict[str, tuple[int, Weight]] = field(default_factory=dict)
    """Place → its version, and what could be gained there."""
    searches: dict[object, Search] = field(default_factory=dict)
    """Need and class → where others could give way (`offers.py`)."""
    alike: dict[Equals, NoPlace] = field(default_factory=dict)
    """Why a start has no place, where nothing later in the round can change that for its equals."""
    given_way: int = 0
    """For how many starts others give way."""
    movers: Mapping[str, Sequence["Mover"]] | None = None
    """Runners of pools that could move, by node; None: nobody asked yet."""
    fragmentation: float | None = None
    """Of the free room when a start asked for it first."""
    recheck_seconds: float | None = None
    _own: dict[str, Sequence[Record]] = field(default_factory=dict)
    """Node → models' own runners on it that were not let go, of nodes that were asked about."""
    _gone: frozenset[str] | None = None
    """UIDs of the runners that were let go before anybody was asked to give way."""
    _types: dict[str, str] = field(default_factory=dict)
    """Node → its type."""

    def recheck(self, seconds: float | None) -> None:
        """Run again after this many seconds at latest."""
        if seconds is not None:
            self.recheck_seconds = seconds if self.recheck_seconds is None else min(self.recheck_seconds, seconds)

    def rank_of(self, model: Model) -> int:
        """Return the class that decides who gives way to a start of the model: a promoted standby's is Critical."""
        return Priority.CRITICAL.rank if model.key in self.promotions else model.rank

    def plan_of(self, key: ModelKey) -> ModelPlan:
        """Return a model's plan."""
        plan = self.plans.get(key)
        if plan is None:
            newcomer = self.newcomers.get(key)
            return newcomer.plan if newcomer is not None else NOTHING_TO_DO
        return plan

    def in_want(self) -> list[ModelKey]:
        """Return the models that wait for a place, or for room to wake, or for a node."""
        return [*self.newcomers, *self.wanting()]

    def wanting(self) -> list[ModelKey]:
        """Return those of them that are somewhere."""
        return [key for key, plan in self.plans.items() if plan.wants_room or key in self.claims]

    def fetch(self, node: str, model: Model) -> Fetch:
        """Return what of a model's weights has to come into memory of a node."""
        return Fetch(*self._fetch(node, model.weights))

    def _fetch(self, node: str, entries: Sequence[NeededEntry]) -> tuple[float, Tier]:
        tier = self.stores.fetched_from(node, entries)
        if tier is Tier.MEMORY:
            return NO_FETCH
        return max(0.1, weights_seconds(entries, self.fleet.caches.get(node))), tier

    def loader(self, model: Model, start_type: StartType) -> Callable[[str], float]:
        """Return in how many seconds, to a tenth, a start that begins now could load, as a function of the node."""
        needed: dict[str, Phases] = {}
        types, nodes, weights, links, fetch = self._types, self.fleet.nodes, model.weights, self.links, self._fetch

        def load_seconds(node: str) -> float:
            type_ = types.get(node)
            if type_ is None:
                type_ = types[node] = node_type(nodes[node])
            there = needed.get(type_)
            if there is None:
                there = needed[type_] = phases(self.fleet.estimates, model, start_type, type_)
            return round(links.load_seconds(node, there, fetch(node, weights)), 1)

        return load_seconds

    def own_on(self, node: str) -> list[Member]:
        """Return the models' own runners on a node that this round has not decided about."""
        return [member for record in self.own_records(node) for member in record.places() if member.is_alive]

    def own_records(self, node: str) -> Sequence[Record]:
        """Return those runners as they were looked at."""
        found = self._own.get(node)
        if found is None:
            found = self.carried.own.get(node, ())
            gone = self._let_go()
            if gone:
                found = [record for record in found if record.uid not in gone]
            self._own[node] = found
        if self.asked and any(record.uid in self.asked for record in found):
            found = self._own[node] = [record for record in found if record.uid not in self.asked]
        return found

    def _let_go(self) -> frozenset[str]:
        if self._gone is None:
            self._gone = frozenset(delete.pod.metadata.uid for delete in self.deletes)
        return self._gone

    def keeps(self, member: Member) -> bool:
        """Whether the runner of a pool stays for now, so that its assignment and labels matter."""
        if member.is_terminating or member.pod.is_terminal:
            return False
        plan = self.pool_plans.get(PoolKey(member.model.namespace, member.pool))
        return plan is not None and member.pod.metadata.name not in plan.deleted

    def refuse(self, owner: OwnerKey, refusal: NoPlace) -> None:
        """Let a start wait; of several of an owner the first one says why."""
        self.refused.setdefault(owner, refusal)

    def spread_of(self, avoid: Iterable[str], present: Iterable[Member | PoolRunner]) -> Spread:
        """Return where an owner's runners are already."""
        spread = Spread(avoid=frozenset(avoid))
        for each in present:
            if not each.is_terminating and each.node in self.fleet.nodes:
                spread.nodes[each.node] += 1
                spread.zones[zone_of(self.fleet.nodes[each.node])] += 1
        return spread
