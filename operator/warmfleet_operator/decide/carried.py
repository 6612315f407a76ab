"""What is carried from one round to the next: whose runners there are, who lives in them, and what they take of nodes.

`carry` looks only at what is not the very object that the round before saw: a runner whose pod, assignment, status or
node is another, or in which something happens; a node, a stranger, a model that changed. All else is taken over. It is
a matter of time only: a fleet that has nothing in common with the one before is looked at whole, and every list has the
order of the fleet either way, so that a first round finds the same (`tests/unit/decide/test_carried.py`).

Nothing of it is changed while a round decides, and it holds no more than the last fleet itself.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from operator import is_
from typing import TypeVar

from warmfleet_api.assignment import Assignment
from warmfleet_api.runner_status import SILENT_SECONDS, RunnerStatus
from warmfleet_operator.decide.carried_models import CarriedModels
from warmfleet_operator.decide.fleet import Fleet, Limits, ModelKey, OwnerKey, Pool, PoolKey, Runner
from warmfleet_operator.decide.ledger import requests_once
from warmfleet_operator.decide.ledger_base import LedgerBase, stays
from warmfleet_operator.decide.pools import PoolPlan, PoolRunner, plan_pool, pool_runner_of
from warmfleet_operator.decide.remembered import Remembered
from warmfleet_operator.decide.requests import Amounts
from warmfleet_operator.decide.room import Room, room_of
from warmfleet_operator.decide.runners import Member, is_ours, node_of, owner_of
from warmfleet_operator.decide.sights import Sight, see
from warmfleet_operator.decide.stakes import Kind, Stake, Weight, stake_of
from warmfleet_operator.decide.suited import Suited
from warmfleet_operator.decide.weights_stores import CacheKind
from warmfleet_operator.records import Node

Key = TypeVar("Key")
Value = TypeVar("Value")


class Members(dict[ModelKey, Sequence[Member]]):
    """Places by model, in the order of the fleet; a model that is nowhere has none."""

    def __missing__(self, key: ModelKey) -> Sequence[Member]:
        return ()


@dataclass(slots=True, eq=False)
class Record:
    """A runner as it was looked at."""

    runner: Runner
    """As the last round had it."""
    uid: str
    assignment: Assignment | None
    status: RunnerStatus | None
    owner: OwnerKey | None
    is_pooled: bool
    node: str
    requests: Amounts
    """What its pod takes of the node."""
    stays: bool
    """Whether the pod neither ends nor has ended."""
    index: int
    """Its place in the order of the fleet."""
    sight: Sight | None = None
    """None: its pod only looks like a runner."""
    is_calm: bool = False
    """Whether it needs no second look before something of it changes."""
    pool_runner: PoolRunner | None = None
    room: Room | None = None
    """Its room as it is without what rounds do there."""
    stakes: Sequence[Stake | None] | None = None
    """What is at stake of each place in it; None: nobody asked since it, or one of its models, changed."""
    kinds: Sequence[Kind | None] | None = None
    """For what the engines there could be asked; None: nobody asked since what the fleet says of the runner changed."""
    opening: Room | None = None
    """A copy of its room that no round changes."""

    def places(self) -> Sequence[Member]:
        """Return the places of models in it."""
        return self.sight.members if self.sight is not None else ()


class Runners(Mapping[str, Runner]):
    """The fleet's own runners, by uid of the pod."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self._records = records

    def __getitem__(self, uid: str) -> Runner:
        return self._records[uid].runner

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)


@dataclass(slots=True)
class PoolPart:
    """One pool in a round."""

    pool: Pool
    limits: Limits
    records: list[Record]
    runners: list[PoolRunner]
    plan: PoolPlan
    is_settled: bool
    """Whether it needs nothing, and time alone changes that not."""

    def is_of(self, pool: Pool, limits: Limits, runners: list[PoolRunner]) -> bool:
        """Whether it was made of these very objects."""
        return (
            self.pool is pool
            and self.limits is limits
            and len(self.runners) == len(runners)
            and all(map(is_, self.runners, runners))
        )


class Carried:
    """The fleet as the last round saw it."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        """By uid of the pod."""
        self.sights: dict[str, Sight] = {}
        """By uid of the pod."""
        self.members = Members()
        self.own: dict[str, list[Record]] = {}
        """Models' own runners by node, in the order of the fleet."""
        self.pools: dict[PoolKey, PoolPart] = {}
        self.strays: dict[OwnerKey, list[Record]] = {}
        """Runners of pools that are gone, or can't be read."""
        self.weights: dict[str, tuple[str, Weight]] = {}
        """What could be gained of models' own runners, by node, and in a pool's runner, by uid of its pod, each with
        the resource whose amounts these are. It is good until one of the runners or of their models changes."""
        self.suited = Suited({})
        self.restless: list[Record] = []
        """Runners that were looked at in this round, in the order of the fleet: all others are calm."""
        self.base = LedgerBase()
        self.models = CarriedModels()
        self.homeless: set[ModelKey] = set()
        """Those with places that are gone, or can't be read."""
        self._by_pod: dict[int, Record] = {}
        """By identity of the pod, which lasts as it is held here."""
        self._keys = Counter[tuple[str, ...]]()
        """Public keys that assignments have, and how many."""
        self._line: list[Record] = []
        """All records in the order of the fleet."""

    def advance(self, fleet: Fleet, now: datetime) -> bool:
        """Become what there is to know of this fleet; return False where that has another order than the one before."""
        changed = self.base.see_nodes(fleet.nodes)
        self.base.see_strangers(fleet.strangers)
        found = self._walk(fleet.runners, changed)
        if found is None:
            return False
        self._line, gone, fresh = found
        for record in gone:
            self._drop(record)
        come = [self._record(index, runner) for index, runner in fresh]
        for record in come:
            self._line.insert(record.index, record)
        retiring = self._plan_pools(fleet, now)
        if retiring:
            # Who is to leave is no longer what it was.
            looked_at = set(map(id, come))
            for record in [each for each in self._line if each.uid in retiring and id(each) not in looked_at]:
                gone.append(record)
                self._drop(record)
                self._line[record.index] = self._record(record.index, record.runner, record.pool_runner)
                come.append(self._line[record.index])
            for part in self.pools.values():
                part.records = [self.records[record.uid] for record in part.records]
            come.sort(key=_index)
        for record in come:
            self._look_at(record, fleet, retiring)
        self._account(gone, come)
        self._see_models(fleet, self._rehouse(gone, come))
        self.restless = come
        return True

    def _walk(
        self, runners: Sequence[Runner], changed: Set[str]
    ) -> tuple[list[Record], list[Record], list[tuple[int, Runner]]] | None:
        """Go along the former and the present runners side by side.

        Return the records of those that are as they were, the records that are good no more, and the runners that have
        to be looked at, each with its place. None where those that are as they were do not stand in their former order.
        """
        kept: list[Record] = []
        gone: list[Record] = []
        fresh: list[tuple[int, Runner]] = []
        olds = iter(self._line)
        old = next(olds, None)
        for index, runner in enumerate(runners):  # once per runner in every round: so at length
            record = old
            if record is None or record.runner is not runner or not record.is_calm or changed:
                record = self._calm_record(runner, changed)
                if record is None:
                    fresh.append((index, runner))
                    continue
                while old is not record:
                    if old is None:
                        return None
                    gone.append(old)
                    old = next(olds, None)
                if record.runner is not runner:
                    record.runner = runner
                    self._weigh_anew(record)
            record.index = index
            kept.append(record)
            old = next(olds, None)
        if old is not None:
            gone += [old, *olds]
        return kept, gone, fresh

    def _calm_record(self, runner: Runner, changed: Set[str]) -> Record | None:
        """Return the record of a runner that need not be looked at again; None: it must be."""
        record, silent = self._by_pod.get(id(runner.pod)), runner.silent_seconds
        if (
            record is None
            or record.assignment is not runner.assignment
            or record.status is not runner.status
            or silent is None
            or silent >= SILENT_SECONDS
            or not record.is_calm
            or (changed and record.node in changed)
        ):
            return None
        return record

    def _record(self, index: int, runner: Runner, seen: PoolRunner | None = None) -> Record:
        pod = runner.pod
        owner = owner_of(pod) if is_ours(pod) else None
        record = Record(
            runner=runner,
            uid=pod.metadata.uid,
            assignment=runner.assignment,
            status=runner.status,
            owner=owner,
            is_pooled=isinstance(owner, PoolKey),
            node=node_of(pod),
            requests=requests_once(pod),
            stays=stays(pod),
            index=index,
            pool_runner=seen,
        )
        self.records[record.uid] = self._by_pod[id(pod)] = record
        self._weigh_anew(record)
        if record.assignment is not None:
            self._keys[record.assignment.trusted_keys] += 1
        return record

    def _weigh_anew(self, record: Record) -> None:
        record.kinds = None
        self.weights.pop(record.uid if record.is_pooled else record.node, None)

    def _drop(self, record: Record) -> None:
        self._weigh_anew(record)
        del self._by_pod[id(record.runner.pod)]
        if record.assignment is not None:
            self._keys[record.assignment.trusted_keys] -= 1
        if self.records.get(record.uid) is record:
            del self.records[record.uid]
            self.sights.pop(record.uid, None)

    def _plan_pools(self, fleet: Fleet, now: datetime) -> Set[str]:
        """Plan all pools; return the uids of the runners that are to leave them."""
        groups: defaultdict[OwnerKey | None, list[Record]] = defaultdict(list)
        for record in self._line:
            if record.is_pooled:
                groups[record.owner].append(record)
        parts: dict[PoolKey, PoolPart] = {}
        retiring: set[str] = set()
        for key, pool in fleet.pools.items():
            group = groups.pop(key, [])
            for record in group:
                seen, has_store = record.pool_runner, record.node in fleet.caches
                if seen is None or seen.pool is not pool or seen.has_store != has_store:
                    record.pool_runner = pool_runner_of(record.runner, pool, fleet.nodes, fleet.caches)
                    record.room = None
            seen_runners = [record.pool_runner for record in group if record.pool_runner is not None]
            former = self.pools.get(key)
            if former is not None and former.is_settled and former.is_of(pool, fleet.limits, seen_runners):
                plan = PoolPlan()
            else:
                plan = plan_pool(pool, seen_runners, fleet.limits, now)
                leave = plan.retiring | plan.deleted
                retiring |= {record.uid for record in group if leave and record.runner.pod.metadata.name in leave}
            is_idle = not (plan.deletes or plan.starts or plan.retiring or plan.avoid)
            is_settled = is_idle and all(record.is_calm for record in group)
            parts[key] = PoolPart(pool, fleet.limits, group, seen_runners, plan, is_settled)
        self.pools, self.strays = parts, {key: group for key, group in groups.items() if key is not None}
        return retiring

    def _look_at(self, record: Record, fleet: Fleet, retiring: Set[str]) -> None:
        if record.owner is None:
            return
        leaves = (record.runner.pod.metadata.name,) if record.uid in retiring else ()
        record.sight = self.sights[record.uid] = see(record.runner, fleet.nodes, leaves)
        record.is_calm = record.sight.is_calm

    def _account(self, gone: Iterable[Record], come: Iterable[Record]) -> None:
        for record in gone:
            if record.stays:
                self.base.give(record.node, record.requests)
        for record in come:
            if record.stays:
                self.base.take(record.node, record.requests)
        self.base.draw_up()

    def _rehouse(self, gone: Iterable[Record], come: Iterable[Record]) -> Set[ModelKey]:
        """Bring the places of models, and models' own runners by node, up to date; return the models it is about."""
        left: set[int] = set()
        added: defaultdict[ModelKey, list[Member]] = defaultdict(list)
        own: defaultdict[str, list[Record]] = defaultdict(list)
        for record in gone:
            for member in record.places():
                left.add(id(member))
                added[member.model] += ()
            if isinstance(record.owner, ModelKey):
                own[record.node] += ()
        for record in come:
            for member in record.places():
                added[member.model].append(member)
            if isinstance(record.owner, ModelKey):
                own[record.node].append(record)
        for key, members in added.items():
            places = [member for member in self.members[key] if id(member) not in left]
            places += members
            if len(places) > 1:
                places.sort(key=lambda member: self.records[member.pod.metadata.uid].index)
            _put(self.members, key, places)
        for node, records in own.items():
            there = [record for record in self.own.get(node, ()) if self.records.get(record.uid) is record]
            _put(self.own, node, sorted([*there, *records], key=_index))
        return added.keys()

    def _see_models(self, fleet: Fleet, touched: Set[ModelKey]) -> None:
        """Take the models as they are now."""
        for key, former in self.models.see(fleet.models, fleet.limits, touched).items():
            model = fleet.models.get(key)
            if key in self.members and model is None:
                self.homeless.add(key)
            else:
                self.homeless.discard(key)
            takes_other = model is None or former is None or former.hash != model.hash
            for member in self.members[key]:
                record = self.records[member.pod.metadata.uid]
                record.stakes = None
                self._weigh_anew(record)
                if takes_other:
                    # How much an engine takes of its runner is for the model to say.
                    record.room = None

    def with_other_keys(self, keys: tuple[str, ...]) -> Iterator[str]:
        """Yield the uids of runners that are told of other public keys than these."""
        if any(number and each != keys for each, number in self._keys.items()):
            for uid, record in self.records.items():
                if (
                    record.sight is not None
                    and record.assignment is not None
                    and record.assignment.trusted_keys != keys
                ):
                    yield uid

    def room_in(self, record: Record, pool: Pool, node: Node) -> Room:
        """Return a runner's room as this round finds it."""
        room = record.room
        if room is None:
            room = record.room = room_of(pool, record.runner, node, self.models.all)
            record.opening = room.copy()
        elif room.version and record.opening is not None:
            room = record.room = record.opening.copy()
        room.runner = record.runner
        return room

    def suited_by(self, kinds: Mapping[str, CacheKind], unreachable: frozenset[str]) -> Suited:
        """Return which nodes suit whom, by the kinds of their weight stores and those that are out of reach."""
        known = self.suited
        if known.nodes is not self.base.nodes or known.kinds != kinds or known.unreachable != unreachable:
            self.suited = Suited(self.base.nodes, kinds, unreachable)
        return self.suited

    def kinds_in(self, record: Record, woken: Set[tuple[ModelKey, str]]) -> Sequence[Kind | None]:
        """Return for what the engine of each place in a runner could be asked now; `woken` are `Rules.woken`."""
        if record.kinds is not None and not woken:
            return record.kinds
        if record.stakes is None:
            record.stakes = [stake_of(member, self.models.all.get(member.model)) for member in record.places()]
        kinds = [stake.kind(record.runner, woken) if stake is not None else None for stake in record.stakes]
        if not woken:
            record.kinds = kinds
        return kinds


_last: Remembered[Carried] = Remembered()


def carry(fleet: Fleet, now: datetime) -> Carried:
    """Return what there is to know of a fleet, found from what there was of the one before."""
    # It is nobody's while it changes: a round that fails leaves none behind.
    carried = _last.take(None) or Carried()
    if not carried.advance(fleet, now):
        carried = Carried()
        carried.advance(fleet, now)
    return _last.keep(None, carried)


def _put(places: dict[Key, Sequence[Value]] | dict[Key, list[Value]], key: Key, found: list[Value]) -> None:
    if found:
        places[key] = found
    else:
        places.pop(key, None)


def _index(record: Record) -> int:
    return record.index
