"""Where in the pools an engine may go: the room each runner has left, and in words why there is none.

A runner's account is read from its assignment alone: what an engine was promised is taken until it is not assigned
any more, whatever the runner says of it. Without GPUs engines share the runner's memory, less what its own processes
hold; with GPUs each has its GPUs for itself, and of the memory the share that comes with them.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from warmfleet_api import assignment as wire
from warmfleet_api import names, quantity
from warmfleet_api.assignment import AssignmentError, EngineAssignment
from warmfleet_api.vocabulary import Reason
from warmfleet_api.warm_pool import RUNNER_BYTES, WarmPoolSpec
from warmfleet_operator.decide.assign import pooled_engine, whole
from warmfleet_operator.decide.fleet import Limits, Model, Pool, PoolKey, Runner
from warmfleet_operator.decide.matching import has_gpu_memory, zone_of
from warmfleet_operator.decide.placement import NoPlace, Spread
from warmfleet_operator.decide.replicas import Start
from warmfleet_operator.decide.requests import MEMORY, say_amount
from warmfleet_operator.records import Node


@dataclass(slots=True)
class Room:
    """A runner of a pool, and what it has left. Changes as engines are assigned in this round."""

    pool: Pool
    runner: Runner
    node: Node
    capacity_bytes: int
    """Memory of all its engines together."""
    gpus: int
    engines: dict[str, EngineAssignment]
    """What it is told to host, by id."""
    is_current: bool
    """Whether it is as its pool's spec wants it."""
    held_bytes: int = 0
    held_gpus: int = 0
    held_engines: int = 0
    holder: str = ""
    """For whom the room is held, in words."""

    @property
    def name(self) -> str:
        """Name of the runner's pod."""
        return self.runner.pod.metadata.name

    @property
    def open_bytes(self) -> int:
        """Memory that is neither promised nor held."""
        taken = sum(each.awake_bytes for each in self.engines.values() if not each.gpus)
        return self.capacity_bytes - taken - self.held_bytes

    @property
    def free_gpus(self) -> tuple[int, ...]:
        """Indices of the GPUs that no engine has."""
        taken = {gpu for engine in self.engines.values() for gpu in engine.gpus}
        return tuple(gpu for gpu in range(self.gpus) if gpu not in taken)

    @property
    def open_gpus(self) -> int:
        """How many of them are not held."""
        return len(self.free_gpus) - self.held_gpus

    @property
    def open_places(self) -> int:
        """How many engines more it may host."""
        return self.pool.spec.max_engines - len(self.engines) - self.held_engines

    def hosts(self, model: Model) -> bool:
        """Whether it hosts an engine of the model's present spec: a second one there would be no replica."""
        return any(
            each.model == model.key.name and each.model_uid == model.metadata.uid and each.hash == model.hash
            for each in self.engines.values()
        )


@dataclass(frozen=True, slots=True)
class EngineNeed:
    """What an engine needs of a runner."""

    gpus: int
    gpu_resource: str
    gpu_memory_bytes: int
    """Of each GPU."""
    memory_bytes: int

    def __str__(self) -> str:
        if not self.gpus:
            return say_amount(MEMORY, self.memory_bytes)
        return f"{say_amount(self.gpu_resource, self.gpus)}, {say_amount(MEMORY, self.memory_bytes)}"


def engine_need(model: Model) -> EngineNeed:
    """Return what one engine of the model needs of a pool's runner."""
    resources = model.spec.resources
    return EngineNeed(
        gpus=model.spec.gpus,
        gpu_resource=resources.gpu_resource,
        gpu_memory_bytes=quantity.to_bytes(resources.gpu_memory or 0),
        memory_bytes=quantity.to_bytes(resources.memory),
    )


@dataclass(slots=True)
class Rooms:
    """One round's view of the pools' runners that take engines."""

    pools: Mapping[PoolKey, Pool]
    limits: Limits
    rooms: defaultdict[PoolKey, list[Room]] = field(default_factory=lambda: defaultdict(list))

    def add(self, pool: Pool, runner: Runner, node: Node, engines: Iterable[EngineAssignment]) -> None:
        """Take a runner into account that takes engines."""
        pod = runner.pod
        limits = next(iter(pod.spec.containers)).resources.limits
        self.rooms[pool.key].append(
            Room(
                pool=pool,
                runner=runner,
                node=node,
                capacity_bytes=quantity.to_bytes(limits.get(MEMORY, 0)) - RUNNER_BYTES,
                gpus=int(limits.get(pool.spec.gpu_resource, 0)),
                engines={each.id: each for each in engines},
                is_current=pod.metadata.labels.get(names.LABEL_TEMPLATE_HASH) == pool.hash,
            )
        )

    def find(self, model: Model, spread: Spread) -> Room | NoPlace:
        """Return the best runner of the first pool that has one, or why there is none.

        Best, in this order: as the pool's spec wants it; not on a node that just failed; fewest engines of the model
        on the node, then in the zone; fewest engines; fewest GPUs left over; most memory left over; the name.
        """
        need = engine_need(model)
        for pool in self._pools_of(model):
            fitting = [room for room in self.rooms[pool.key] if self._shortage(room, model, need) is None]
            if fitting:
                return min(fitting, key=lambda room: _preference(room, spread))
        return self._explain(model, need)

    def take(self, room: Room, start: Start, spread: Spread) -> EngineAssignment:
        """Promise the room to a start, and return the engine that it is from now on."""
        engine = self._engine(room, start.model, start.slot, start.attempt)
        room.engines[engine.id] = engine
        spread.nodes[room.node.metadata.name] += 1
        spread.zones[zone_of(room.node)] += 1
        return engine

    def swap(self, start: Start, former: EngineAssignment, runner: Runner) -> EngineAssignment | None:
        """Promise a start the room of the former engine of its model, if it fits with that one gone."""
        room = next((room for group in self.rooms.values() for room in group if room.runner is runner), None)
        if room is None or former.id not in room.engines:
            return None
        del room.engines[former.id]
        if self._shortage(room, start.model, engine_need(start.model)) is not None:
            room.engines[former.id] = former
            return None
        engine = self._engine(room, start.model, start.slot, start.attempt)
        room.engines[engine.id] = engine
        return engine

    def hold(self, model: Model, holder: str) -> bool:
        """Keep what is open in the runner that comes nearest to the model's need from all later starts of the round.

        Returns:
            Whether there is a runner that could ever have the room.
        """
        need = engine_need(model)
        candidates = [
            room
            for pool in self._pools_of(model)
            if _never_fits(pool.spec, need) is None
            for room in self.rooms[pool.key]
            if not room.hosts(model) and has_gpu_memory(room.node, need.gpu_memory_bytes)
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
        nearest.held_bytes += 0 if need.gpus else max(0, min(need.memory_bytes, nearest.open_bytes))
        nearest.held_gpus += max(0, min(need.gpus, nearest.open_gpus))
        nearest.held_engines += max(0, min(1, nearest.open_places))
        nearest.holder = nearest.holder or holder
        return True

    def _pools_of(self, model: Model) -> list[Pool]:
        keys = (PoolKey(model.key.namespace, name) for name in model.pools)
        return [self.pools[key] for key in keys if key in self.pools]

    def _engine(self, room: Room, model: Model, slot: int, attempt: int) -> EngineAssignment:
        return pooled_engine(model, slot, attempt, room.free_gpus[: model.spec.gpus], self.limits)

    def _shortage(  # noqa: PLR0911 - one per thing that may be short
        self, room: Room, model: Model, need: EngineNeed
    ) -> str | None:
        """Return what the runner lacks, in words; None where the engine fits."""
        never = _never_fits(room.pool.spec, need)
        if never is not None:
            return never
        if room.hosts(model):
            return f"{room.name} hosts one already"
        if not has_gpu_memory(room.node, need.gpu_memory_bytes):
            return f"the GPUs of {room.name} have less than {quantity.format_bytes(need.gpu_memory_bytes)}"
        if room.open_places < 1:
            return f"{room.name} hosts {len(room.engines)} of at most {room.pool.spec.max_engines} engines"
        if room.open_gpus < need.gpus:
            return f"at most {max(0, room.open_gpus)} {need.gpu_resource} free in {room.name}"
        if not need.gpus and room.open_bytes < need.memory_bytes:
            return f"at most {quantity.format_bytes(max(0, room.open_bytes))} free in {room.name}"
        try:
            wire.encode(whole(1, (*room.engines.values(), self._engine(room, model, 0, 1)), self.limits.trusted_keys))
        except AssignmentError:
            return f"the assignment of {room.name} has no room for so many engine.args, engine.env and warmup.prompts"
        return None

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
        held = next((room for room in rooms if room.holder), None)
        reason = Reason.NO_FREE_MEMORY if held is None else Reason.WAITING_FOR_TURN
        said = [
            f"all {len(self.rooms[pool.key])} runners of pool {pool.key.name} are full: needs {need}, "
            f"{self._nearest(self.rooms[pool.key], model, need)}"
            if self.rooms[pool.key]
            else _no_runner(pool)
            for pool in possible
        ]
        if held is not None:
            said.append(f"{held.name} is held for {held.holder}")
        return NoPlace(reason, "; ".join(said))

    def _nearest(self, rooms: Sequence[Room], model: Model, need: EngineNeed) -> str:
        nearest = max(rooms, key=lambda room: (not room.hosts(model), room.open_gpus, room.open_bytes, room.name))
        return str(self._shortage(nearest, model, need))


def _preference(room: Room, spread: Spread) -> tuple[object, ...]:
    node = room.node.metadata.name
    return (
        not room.is_current,
        node in spread.avoid,
        spread.nodes[node],
        spread.zones[zone_of(room.node)],
        len(room.engines),
        room.open_gpus,
        -room.open_bytes,
        room.name,
    )


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
