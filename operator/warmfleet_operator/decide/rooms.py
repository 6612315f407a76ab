"""Where in the pools an engine may go: the best runner that has room, or in words why there is none.

What each runner has left is its account (`room.py`). Without GPUs engines share the runner's memory, less what its own
processes hold; with GPUs each has its GPUs for itself while it is awake, and at most the share of the memory that
comes with them.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from warmfleet_api import quantity
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.vocabulary import Reason
from warmfleet_api.warm_pool import RUNNER_BYTES, WarmPoolSpec
from warmfleet_operator.decide.assign import MAX_WIRE_BYTES, pooled_engine, wire_bytes
from warmfleet_operator.decide.fleet import Model, Pool, PoolKey
from warmfleet_operator.decide.matching import zone_of
from warmfleet_operator.decide.placement import NoPlace, Spread, least, why_no_store
from warmfleet_operator.decide.remembered import Remembered
from warmfleet_operator.decide.replicas import Start
from warmfleet_operator.decide.room import EngineNeed, Room
from warmfleet_operator.decide.weights_stores import CacheKind, Stores

_needs: Remembered[EngineNeed] = Remembered()
_equal: dict[EngineNeed, EngineNeed] = {}
"""One object of all needs that are equal: they are told apart many thousand times in a round."""


Home = tuple[str, tuple[str, ...]]
"""`Model.home`."""


class Found(NamedTuple):
    """A runner for a start."""

    room: Room
    is_now: bool
    """Whether the room is free now; else it is coming free."""


def engine_need(start: Start, stores: Stores) -> EngineNeed:
    """Return what the engine of a start needs of a pool's runner."""
    model = start.model
    key = model.key, stores.kinds
    known = _needs.get(key, model)
    if known is None:
        made = _engine_need(start, stores)
        known = _needs.keep(key, _equal.setdefault(made, made), model)
    return known


def _engine_need(start: Start, stores: Stores) -> EngineNeed:
    model = start.model
    resources = model.spec.resources
    return EngineNeed(
        gpus=model.spec.gpus,
        gpu_resource=resources.gpu_resource,
        gpu_memory_bytes=quantity.to_bytes(resources.gpu_memory or 0),
        memory_bytes=quantity.to_bytes(resources.memory),
        wire_bytes=wire_bytes(pooled_engine(model, start.slot, start.attempt, range(model.spec.gpus))),
        stores=stores.kinds_for(model.weights),
    )


_Fits = dict[int, tuple[int, bool, bool]]
"""By identity of a runner's room: its version, whether a need fits when all orders are obeyed, and whether now."""


@dataclass(slots=True)
class Rooms:
    """One round's view of the pools' runners that take engines."""

    pools: Mapping[PoolKey, Pool]
    stores: Stores = field(default_factory=lambda: Stores({}))
    rooms: defaultdict[PoolKey, list[Room]] = field(default_factory=lambda: defaultdict(list))
    by_runner: dict[str, Room] = field(default_factory=dict)
    """By uid of the pod."""
    by_node: defaultdict[str, list[Room]] = field(default_factory=lambda: defaultdict(list))
    _possible: dict[tuple[Home, EngineNeed], Sequence[Pool]] = field(default_factory=dict)
    """The pools that have room for a need in an empty runner."""
    _reached: dict[tuple[PoolKey, frozenset[CacheKind]], Sequence[Room]] = field(default_factory=dict)
    """By pool and kinds of stores: the runners that weights can be brought to."""
    _nearest: dict[tuple[PoolKey, frozenset[CacheKind] | None], tuple[int, Room]] = field(default_factory=dict)
    """By pool and kinds of stores: the runner with the most open, and how many changes there were when it was found."""
    _full: set[tuple[Home, EngineNeed]] = field(default_factory=set)
    _words: dict[tuple[Home, EngineNeed], NoPlace] = field(default_factory=dict)
    _fits: defaultdict[EngineNeed, _Fits] = field(default_factory=lambda: defaultdict(dict))
    """By need: what fits where."""

    def add(self, room: Room) -> None:
        """Take a runner into account that takes engines."""
        self.rooms[room.pool.key].append(room)
        self.by_runner[room.runner.pod.metadata.uid] = room
        self.by_node[room.node_name].append(room)

    def find(
        self, start: Start, spread: Spread, load_seconds: Callable[[str], float], *, is_hosted: bool = True
    ) -> Found | None:
        """Return the best runner of the first pool that has room now; else the best that loads, or is to have room.

        Best, in this order: as the pool's spec wants it; not on a node that just failed; fewest engines of the model
        on the node, then in the zone; where it could load first, by `load_seconds` of a node; the weights nearest;
        fewest engines; fewest GPUs left over; most memory left over; the name. `is_hosted`: whether the model has
        engines in some runner.
        """
        model, need = start.model, engine_need(start, self.stores)
        if (model.home, need) in self._full:
            return None  # room only shrinks within a round, so the answer holds for all equal needs
        waiting: list[Found] = []
        gpus, fits = need.gpus, self._fits[need]
        for pool in self._possible_pools(model, need):
            free: list[Room] = []
            for room in self._reached_in(pool, need):
                if room.later.free_gpus < gpus:
                    continue  # what most runners lack: they are full
                is_later, is_now = _fitting(fits, room, need)
                if not is_later or not _may_host(room, model, need):
                    continue
                if is_now and not room.loads:
                    free.append(room)
                else:
                    waiting.append(Found(room, is_now))
            if free:
                return Found(self._best(free, model, spread, load_seconds), is_now=True)
        if waiting:
            order = {name: number for number, name in enumerate(model.pools)}
            soonest = least(
                waiting,
                lambda each: (not each.is_now, each.room.coming_seconds or 0.0, order[each.room.pool.key.name]),
            )
            best = self._best([each.room for each in soonest], model, spread, load_seconds)
            return Found(best, soonest[0].is_now)
        if not is_hosted:
            self._full.add((model.home, need))
        return None

    def explain(self, start: Start, *, is_hosted: bool) -> NoPlace:
        """Say why there is no room now."""
        model, need = start.model, engine_need(start, self.stores)
        known = self._words.get((model.home, need)) if not is_hosted else None
        if known is None:
            known = self._explain(model, need)
            # Of weights each model has its own: that answer is no other's.
            if not (is_hosted or known.is_of_weights):
                self._words[model.home, need] = known
        return known

    def take(self, room: Room, start: Start, spread: Spread) -> EngineAssignment:
        """Promise the room to a start, and return the engine that it is from now on."""
        need = engine_need(start, self.stores)
        gpus = sorted(room.free_gpus(need, is_now=True)[: need.gpus])
        engine = pooled_engine(start.model, start.slot, start.attempt, gpus)
        room.put(engine, room.holding_of(need, gpus))
        room.loads = room.loads or engine.id
        spread.nodes[room.node_name] += 1
        spread.zones[zone_of(room.node)] += 1
        return engine

    def claim(self, room: Room, start: Start, holder: str) -> None:
        """Keep room that is coming free for a start."""
        need = engine_need(start, self.stores)
        room.claim(room.holding_of(need, room.free_gpus(need, is_now=False)[: need.gpus]))
        room.holder = room.holder or holder

    def hold(self, start: Start, holder: str) -> bool:
        """Keep what is open in the runner that comes nearest to the model's need from all later starts of the round.

        Returns:
            Whether there is a runner that could ever have the room.
        """
        need = engine_need(start, self.stores)
        candidates = self.able(start)
        if not candidates:
            return False
        nearest = max(
            candidates,
            key=lambda room: (
                min(0, room.open_gpus - need.gpus),
                min(0, room.open_bytes - need.memory_bytes),
                room.name,
            ),
        )
        nearest.hold(need, holder)
        return True

    def able(self, start: Start, nodes: Sequence[str] | None = None) -> list[Room]:
        """Return the runners that could have room for the start, if nobody else were there; `nodes`: on these alone."""
        return [room for room in self.suited(start, nodes) if not room.hosts(start.model)]

    def suited(self, start: Start, nodes: Sequence[str] | None = None) -> list[Room]:
        """Return the runners that could have room for any start of that need, if nobody else were there."""
        model, need = start.model, engine_need(start, self.stores)
        pools = self._possible_pools(model, need)
        if nodes is None:
            return [room for pool in pools for room in self._reached_in(pool, need) if _has_gpu_memory(room, need)]
        keys = {pool.key for pool in pools}
        rooms = [room for node in nodes for room in self.by_node.get(node, ()) if room.pool.key in keys]
        return [room for room in rooms if _has_gpu_memory(room, need) and self._may_get_weights(room, need)]

    def _possible_pools(self, model: Model, need: EngineNeed) -> Sequence[Pool]:
        """Return those of the model's pools in whose empty runners the need would fit; they stay for the round."""
        pools = self._possible.get((model.home, need))
        if pools is None:
            pools = self._possible[model.home, need] = [
                pool for pool in self._pools_of(model) if _never_fits(pool.spec, need) is None
            ]
        return pools

    def _reached_in(self, pool: Pool, need: EngineNeed) -> Sequence[Room]:
        """Return the pool's runners to which the weights can be brought; where stores are stays for the round."""
        if need.stores is None:
            return self.rooms[pool.key]
        rooms = self._reached.get((pool.key, need.stores))
        if rooms is None:
            rooms = self._reached[pool.key, need.stores] = [
                room for room in self.rooms[pool.key] if self._may_get_weights(room, need)
            ]
        return rooms

    def _pools_of(self, model: Model) -> list[Pool]:
        keys = (PoolKey(model.key.namespace, name) for name in model.pools)
        return [self.pools[key] for key in keys if key in self.pools]

    def _explain(self, model: Model, need: EngineNeed) -> NoPlace:
        pools = self._pools_of(model)
        if not pools:
            wanted = " and ".join(model.pools)
            return NoPlace(
                Reason.POOL_NOT_FOUND,
                f"namespace {model.key.namespace} has no WarmPool {wanted}; make one, or correct spec.pools",
            )
        possible = self._possible_pools(model, need)
        if not possible:
            why = "; ".join(f"pool {pool.key.name} {_never_fits(pool.spec, need)}" for pool in pools)
            return NoPlace(Reason.NEVER_FITS, f"needs {need}: {why}")
        rooms = [room for pool in possible for room in self.rooms[pool.key]]
        if not rooms:
            return NoPlace(Reason.NO_MATCHING_NODE, "; ".join(_no_runner(pool) for pool in possible))
        able = {pool.key: self._reached_in(pool, need) for pool in possible}
        if not any(able.values()):
            return self._explain_weights(model, need, rooms)
        held = next((room for there in able.values() for room in there if room.holder), None)
        reason = Reason.NO_FREE_MEMORY if held is None else Reason.WAITING_FOR_TURN
        said = [
            f"all {len(self.rooms[pool.key])} runners of pool {pool.key.name} are full: needs {need}, "
            f"{self._nearest_shortage(pool, model, need)}"
            if self.rooms[pool.key]
            else _no_runner(pool)
            for pool in possible
        ]
        if held is not None:
            said.append(f"{held.name} is held for {held.holder}")
        return NoPlace(reason, "; ".join(said))

    def _shortage(self, room: Room, model: Model, need: EngineNeed) -> str | None:
        """Return what the runner lacks, in words; None where the engine fits."""
        if not self._may_get_weights(room, need):
            return f"the weights of {model.key.name} can't get to {room.name}"
        return _shortage(room, model, need)

    def _nearest_shortage(self, pool: Pool, model: Model, need: EngineNeed) -> str:
        """Say what is lacking where least is: of the runners that weights can be brought to, else of all."""
        rooms = self._reached_in(pool, need) or self.rooms[pool.key]
        name = model.key.name
        others = [room for room in rooms if name not in room.names or not room.hosts(model)]
        if others and len(others) < len(rooms):
            return str(self._shortage(_widest(others), model, need))
        # Nearly always, and asked for all sizes of starts: it is the same until one of the runners changes.
        key, changes = (pool.key, need.stores), sum([room.version for room in rooms])
        known = self._nearest.get(key)
        if known is None or known[0] != changes:
            known = self._nearest[key] = changes, _widest(rooms)
        return str(self._shortage(known[1], model, need))

    def _may_get_weights(self, room: Room, need: EngineNeed) -> bool:
        """Whether the weights can be brought to the runner, if there are any."""
        return need.stores is None or (room.has_store and self.stores.suits(room.node_name, need.stores))

    def _explain_weights(self, model: Model, need: EngineNeed, rooms: Sequence[Room]) -> NoPlace:
        """Say why the weights can't be brought to any of the runners."""
        suited = [room for room in rooms if self.stores.suits(room.node_name, need.stores)]
        if suited:
            return NoPlace(
                Reason.NO_WEIGHT_CACHE,
                f"{suited[0].name} was made before its node had a weight store; its pool replaces it when others can "
                "take over its engines",
                is_of_weights=True,
            )
        return why_no_store(model.weights, self.stores.caches, sorted({room.node_name for room in rooms}))

    def fitting(self, room: Room, need: EngineNeed) -> tuple[bool, bool]:
        """Return whether an engine fits when all orders are obeyed, and whether it does now."""
        return _fitting(self._fits[need], room, need)

    def _best(self, rooms: Sequence[Room], model: Model, spread: Spread, load_seconds: Callable[[str], float]) -> Room:
        """Return the best of the runners; what is dear to tell is asked of those alone that are equal until then."""
        rooms = least(rooms, lambda room: not room.is_current)
        if spread.avoid or spread.nodes:
            rooms = least(
                rooms,
                lambda room: (
                    room.node_name in spread.avoid,
                    spread.nodes.get(room.node_name, 0),
                    spread.zones.get(zone_of(room.node), 0),
                ),
            )
        rooms = least(rooms, lambda room: load_seconds(room.node_name))
        if model.weights:
            rooms = least(rooms, lambda room: self.stores.distance(room.node_name, model.weights))
        return min(rooms, key=lambda room: (len(room.engines), room.open_gpus, -room.open_bytes, room.name))


def _shortage(  # noqa: PLR0911 - one per thing that may be short
    room: Room, model: Model, need: EngineNeed
) -> str | None:
    """Return what the runner lacks, in words; None where the engine fits."""
    if not need.gpus and room.open_bytes < need.memory_bytes:
        return f"at most {quantity.format_bytes(max(0, room.open_bytes))} free in {room.name}"
    if room.open_gpus < need.gpus:
        return f"at most {max(0, room.open_gpus)} {need.gpu_resource} free in {room.name}"
    if room.open_places < 1:
        return f"{room.name} hosts {len(room.engines)} of at most {room.pool.spec.max_engines} engines"
    if room.hosts(model):
        return f"{room.name} hosts one already"
    if need.gpus and len(room.free_gpus(need, is_now=True)) < need.gpus:
        return f"sleeping engines leave less than {need} on the GPUs of {room.name}"
    if need.gpus and room.open_bytes < need.memory_bytes:
        return f"at most {quantity.format_bytes(max(0, room.open_bytes))} memory free in {room.name}"
    if not _has_gpu_memory(room, need):
        return f"the GPUs of {room.name} have less than {quantity.format_bytes(need.gpu_memory_bytes)}"
    if room.wire_bytes + need.wire_bytes > MAX_WIRE_BYTES:
        return f"the assignment of {room.name} has no room for so many engine.args, engine.env and warmup.prompts"
    return _never_fits(room.pool.spec, need)


def _fitting(fits: _Fits, room: Room, need: EngineNeed) -> tuple[bool, bool]:
    """Return whether an engine fits when all orders are obeyed, and now: asked of thousands of equal needs."""
    known = fits.get(id(room))
    if known is None or known[0] != room.version:
        is_later = room.fits(need, is_now=False)
        known = fits[id(room)] = room.version, is_later, is_later and room.fits(need, is_now=True)
    return known[1], known[2]


def _widest(rooms: Sequence[Room]) -> Room:
    """Return the runner with the most GPUs open, of these the one with the most memory."""
    open_gpus = [room.open_gpus for room in rooms]
    most = max(open_gpus)
    near = [room for room, gpus in zip(rooms, open_gpus, strict=True) if gpus == most]
    return max(near, key=lambda room: (room.open_bytes, room.name))


def _may_host(room: Room, model: Model, need: EngineNeed) -> bool:
    """Whether a runner to which the weights can be brought suits an engine, its room left aside."""
    return _has_gpu_memory(room, need) and room.wire_bytes + need.wire_bytes <= MAX_WIRE_BYTES and not room.hosts(model)


def _has_gpu_memory(room: Room, need: EngineNeed) -> bool:
    return room.gpu_capacity_bytes is None or room.gpu_capacity_bytes >= need.gpu_memory_bytes


def _never_fits(pool: WarmPoolSpec, need: EngineNeed) -> str | None:
    """Return why an empty runner of the pool is not enough, in words; None where it is."""
    memory = quantity.to_bytes(pool.memory)
    if need.gpus == 0:
        if pool.gpus:
            return "has GPUs and takes models with GPUs only"
        room = memory - RUNNER_BYTES
        return f"has {quantity.format_bytes(room)} for engines in each runner" if need.memory_bytes > room else None
    if pool.gpus < need.gpus or pool.gpu_resource != need.gpu_resource:
        return f"has {pool.gpus} {pool.gpu_resource} in each runner"
    share = (memory - RUNNER_BYTES) * need.gpus // pool.gpus
    if need.memory_bytes > share:
        return f"has {quantity.format_bytes(share)} memory beside {need.gpus} of the {pool.gpus} GPUs of each runner"
    return None


def _no_runner(pool: Pool) -> str:
    name, namespace = pool.key.name, pool.key.namespace
    if pool.spec.replicas == 0:
        return f"pool {name} has 0 replicas; raise them: kubectl -n {namespace} scale wp/{name} --replicas=1"
    return f"pool {name} has no runner that takes engines yet, {pool.spec.replicas} are wanted"
