"""Where in the pools an engine may go: the room each runner has left, and in words why there is none.

A runner's account is read from its assignment alone: what an engine was promised is taken until it is not assigned
any more, whatever the runner says of it. Without GPUs engines share the runner's memory, less what its own processes
hold; with GPUs each has its GPUs for itself, and of the memory the share that comes with them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from warmfleet_api import names, quantity
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.vocabulary import Reason
from warmfleet_api.warm_pool import RUNNER_BYTES, WarmPoolSpec
from warmfleet_operator.decide.assign import MAX_WIRE_BYTES, pooled_engine, wire_bytes
from warmfleet_operator.decide.fleet import Model, Pool, PoolKey, Runner
from warmfleet_operator.decide.matching import has_gpu_memory, zone_of
from warmfleet_operator.decide.placement import NoPlace, Spread, why_no_store
from warmfleet_operator.decide.replicas import Start
from warmfleet_operator.decide.requests import MEMORY, say_amount
from warmfleet_operator.decide.weights_stores import CacheKind, Stores
from warmfleet_operator.records import Node


@dataclass(slots=True)
class Room:
    """A runner of a pool, and what it has left. Changes as engines are assigned in this round."""

    pool: Pool
    runner: Runner
    node: Node
    is_current: bool
    """Whether it is as its pool's spec wants it."""
    open_bytes: int
    """Memory that is neither promised nor held."""
    free_gpus: list[int]
    """Indices of the GPUs that no engine has."""
    held_gpus: int = 0
    """How many of them are held."""
    held_places: int = 0
    engines: dict[str, EngineAssignment] = field(default_factory=dict)
    """What it is told to host, by id."""
    wire_bytes: int = 0
    """What the engines take of the annotation."""
    has_store: bool = True
    """Whether its node has a weight store and the runner a view of it."""
    holder: str = ""
    """For whom the room is held, in words."""

    @property
    def name(self) -> str:
        """Name of the runner's pod."""
        return self.runner.pod.metadata.name

    @property
    def open_gpus(self) -> int:
        """How many GPUs are neither promised nor held."""
        return len(self.free_gpus) - self.held_gpus

    @property
    def open_places(self) -> int:
        """How many engines more it may host."""
        return self.pool.spec.max_engines - len(self.engines) - self.held_places

    def hosts(self, model: Model) -> bool:
        """Whether it hosts an engine of the model's present spec: a second one there would be no replica."""
        return any(
            each.model == model.key.name and each.model_uid == model.metadata.uid and each.hash == model.hash
            for each in self.engines.values()
        )

    def put(self, engine: EngineAssignment) -> None:
        """Promise an engine its room."""
        self._account(engine, 1)
        self.engines[engine.id] = engine
        self.free_gpus = [gpu for gpu in self.free_gpus if gpu not in engine.gpus]

    def take_out(self, id_: str) -> None:
        """Have an engine's room back."""
        engine = self.engines.pop(id_)
        self._account(engine, -1)
        self.free_gpus = sorted({*self.free_gpus, *engine.gpus})

    def _account(self, engine: EngineAssignment, sign: int) -> None:
        self.open_bytes -= sign * (0 if engine.gpus else engine.awake_bytes)
        self.wire_bytes += sign * wire_bytes(engine)


@dataclass(frozen=True, slots=True)
class EngineNeed:
    """What an engine needs of a runner."""

    gpus: int
    gpu_resource: str
    gpu_memory_bytes: int
    """Of each GPU."""
    memory_bytes: int
    wire_bytes: int
    """Of the annotation."""
    stores: frozenset[CacheKind] | None = None
    """Kinds of weight stores of which the node has to have one; None: it needs none."""

    def __str__(self) -> str:
        if not self.gpus:
            return say_amount(MEMORY, self.memory_bytes)
        return f"{say_amount(self.gpu_resource, self.gpus)}, {say_amount(MEMORY, self.memory_bytes)}"


def engine_need(start: Start, stores: Stores) -> EngineNeed:
    """Return what the engine of a start needs of a pool's runner."""
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


@dataclass(slots=True)
class Rooms:
    """One round's view of the pools' runners that take engines."""

    pools: Mapping[PoolKey, Pool]
    stores: Stores = field(default_factory=lambda: Stores({}))
    rooms: defaultdict[PoolKey, list[Room]] = field(default_factory=lambda: defaultdict(list))
    _full: dict[tuple[tuple[str, ...], EngineNeed], NoPlace] = field(default_factory=dict)

    def add(self, pool: Pool, runner: Runner, node: Node, engines: Iterable[EngineAssignment]) -> None:
        """Take a runner into account that takes engines."""
        limits = next(iter(runner.pod.spec.containers)).resources.limits
        room = Room(
            pool=pool,
            runner=runner,
            node=node,
            is_current=runner.pod.metadata.labels.get(names.LABEL_TEMPLATE_HASH) == pool.hash,
            open_bytes=quantity.to_bytes(limits.get(MEMORY, 0)) - RUNNER_BYTES,
            free_gpus=list(range(int(limits.get(pool.spec.gpu_resource, 0)))),
            has_store=runner.pod.spec.sees_weights,
        )
        for engine in engines:
            room.put(engine)
        self.rooms[pool.key].append(room)

    def find(self, start: Start, spread: Spread) -> Room | NoPlace:
        """Return the best runner of the first pool that has one, or why there is none.

        Best, in this order: as the pool's spec wants it; not on a node that just failed; fewest engines of the model
        on the node, then in the zone; the weights nearest; fewest engines; fewest GPUs left over; most memory left
        over; the name.
        """
        model = start.model
        need = engine_need(start, self.stores)
        full = self._full.get((model.pools, need))
        if full is not None:
            return full
        for pool in self._pools_of(model):
            fitting = [room for room in self.rooms[pool.key] if self._shortage(room, model, need) is None]
            if fitting:
                return min(fitting, key=lambda room: self._preference(room, model, spread))
        none = self._explain(model, need)
        if none.is_of_weights:
            return none  # of weights each model has its own, so this answer is no other's
        if not any(room.hosts(model) for pool in self._pools_of(model) for room in self.rooms[pool.key]):
            # Room only shrinks within a round, so the answer holds for all equal needs that follow.
            self._full[model.pools, need] = none
        return none

    def take(self, room: Room, start: Start, spread: Spread) -> EngineAssignment:
        """Promise the room to a start, and return the engine that it is from now on."""
        engine = pooled_engine(start.model, start.slot, start.attempt, _gpus(room, start.model))
        room.put(engine)
        spread.nodes[room.node.metadata.name] += 1
        spread.zones[zone_of(room.node)] += 1
        return engine

    def swap(self, start: Start, former: EngineAssignment, runner: Runner, spread: Spread) -> EngineAssignment | None:
        """Promise a start the room of the former engine of its model, if it fits with that one gone."""
        room = next((room for group in self.rooms.values() for room in group if room.runner is runner), None)
        if room is None or former.id not in room.engines:
            return None
        room.take_out(former.id)
        if self._shortage(room, start.model, engine_need(start, self.stores)) is None:
            return self.take(room, start, spread)
        room.put(former)
        return None

    def hold(self, start: Start, holder: str) -> bool:
        """Keep what is open in the runner that comes nearest to the model's need from all later starts of the round.

        Returns:
            Whether there is a runner that could ever have the room.
        """
        model, need = start.model, engine_need(start, self.stores)
        candidates = [
            room
            for pool in self._pools_of(model)
            if _never_fits(pool.spec, need) is None
            for room in self.rooms[pool.key]
            if not room.hosts(model)
            and has_gpu_memory(room.node, need.gpu_memory_bytes)
            and self._may_get_weights(room, need)
        ]
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
        nearest.open_bytes -= 0 if need.gpus else max(0, min(need.memory_bytes, nearest.open_bytes))
        nearest.held_gpus += max(0, min(need.gpus, nearest.open_gpus))
        nearest.held_places += max(0, min(1, nearest.open_places))
        nearest.holder = nearest.holder or holder
        return True

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
        possible = [pool for pool in pools if _never_fits(pool.spec, need) is None]
        if not possible:
            why = "; ".join(f"pool {pool.key.name} {_never_fits(pool.spec, need)}" for pool in pools)
            return NoPlace(Reason.NEVER_FITS, f"needs {need}: {why}")
        rooms = [room for pool in possible for room in self.rooms[pool.key]]
        if not rooms:
            return NoPlace(Reason.NO_MATCHING_NODE, "; ".join(_no_runner(pool) for pool in possible))
        able = [room for room in rooms if self._may_get_weights(room, need)]
        if not able:
            return self._explain_weights(model, need, rooms)
        held = next((room for room in able if room.holder), None)
        reason = Reason.NO_FREE_MEMORY if held is None else Reason.WAITING_FOR_TURN
        said = [
            f"all {len(self.rooms[pool.key])} runners of pool {pool.key.name} are full: needs {need}, "
            f"{self._nearest_shortage(self.rooms[pool.key], model, need)}"
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

    def _nearest_shortage(self, rooms: Sequence[Room], model: Model, need: EngineNeed) -> str:
        nearest = max(
            rooms,
            key=lambda room: (
                self._may_get_weights(room, need),
                not room.hosts(model),
                room.open_gpus,
                room.open_bytes,
                room.name,
            ),
        )
        return str(self._shortage(nearest, model, need))

    def _may_get_weights(self, room: Room, need: EngineNeed) -> bool:
        """Whether the weights can be brought to the runner, if there are any."""
        return need.stores is None or (room.has_store and self.stores.suits(room.node.metadata.name, need.stores))

    def _explain_weights(self, model: Model, need: EngineNeed, rooms: Sequence[Room]) -> NoPlace:
        """Say why the weights can't be brought to any of the runners."""
        suited = [room for room in rooms if self.stores.suits(room.node.metadata.name, need.stores)]
        if suited:
            return NoPlace(
                Reason.NO_WEIGHT_CACHE,
                f"{suited[0].name} was made before its node had a weight store; its pool replaces it when others can "
                "take over its engines",
                is_of_weights=True,
            )
        return why_no_store(model.weights, self.stores.caches, sorted({room.node.metadata.name for room in rooms}))

    def _preference(self, room: Room, model: Model, spread: Spread) -> tuple[object, ...]:
        node = room.node.metadata.name
        return (
            not room.is_current,
            node in spread.avoid,
            spread.nodes[node],
            spread.zones[zone_of(room.node)],
            self.stores.distance(node, model.weights) if model.weights else (),
            len(room.engines),
            room.open_gpus,
            -room.open_bytes,
            room.name,
        )


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
    if not has_gpu_memory(room.node, need.gpu_memory_bytes):
        return f"the GPUs of {room.name} have less than {quantity.format_bytes(need.gpu_memory_bytes)}"
    if room.wire_bytes + need.wire_bytes > MAX_WIRE_BYTES:
        return f"the assignment of {room.name} has no room for so many engine.args, engine.env and warmup.prompts"
    return _never_fits(room.pool.spec, need)


def _gpus(room: Room, model: Model) -> Sequence[int]:
    return room.free_gpus[: model.spec.gpus]


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
