"""One runner of a pool as an account: what its engines hold of it now, and what they will when all orders are obeyed.

There are two accounts. *Now* is what is held at this moment: an engine told to sleep holds its awake memory until the
runner itself says that it sleeps, and one that is taken out holds all it had until the runner tells of it no more.
*Later* is what has been promised: who was told to give way is gone, and who waits for that room has it. A start begins
when it fits both, so what is coming free is never given away twice, and never given before it is free.

Memory of the runner is counted whole, less what belongs to its own processes. On each GPU at most one engine is awake;
those that sleep there are counted against the GPU's memory, with a margin beside the one that is awake. Where nobody
labelled a node with its GPUs' memory, that part is left to the pool's `maxEngines`.
"""

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

from warmfleet_api import names, quantity
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineStatus
from warmfleet_api.vocabulary import DesiredState, EngineState, WakePolicy
from warmfleet_api.warm_pool import RUNNER_BYTES
from warmfleet_operator.decide.assign import wire_bytes
from warmfleet_operator.decide.fleet import Model, ModelKey, Pool, Runner
from warmfleet_operator.decide.matching import gpu_memory_bytes
from warmfleet_operator.decide.requests import MEMORY, amount
from warmfleet_operator.decide.weights_stores import CacheKind
from warmfleet_operator.records import Node

GPU_MARGIN_BYTES = 1024**3
"""Left open on a GPU that has sleepers: what they hold is measured seldom, and drivers hold some too."""
UNDECLARED_SHARE = 0.92
"""Of a GPU's memory, what an engine takes that declares none: vLLM's own default."""


class Holding(NamedTuple):
    """What one engine holds of its runner."""

    gpus: tuple[int, ...]
    memory_bytes: int
    """Of the runner."""
    gpu_bytes: int
    """Of each of its GPUs."""
    is_awake: bool


NOTHING = Holding((), 0, 0, is_awake=False)


@dataclass(slots=True)
class Account:
    """What is open in a runner; below 0 where it was promised more than it has."""

    memory_bytes: int
    awake: list[int]
    """How many engines are awake on each GPU."""
    gpu_bytes: list[int] | None
    """Open on each GPU; None: nobody knows how much they have."""
    free_gpus: int
    """How many GPUs have nobody awake."""
    places: int

    def copy(self) -> "Account":
        """Return an account that changes on its own."""
        gpu_bytes = None if self.gpu_bytes is None else self.gpu_bytes.copy()
        return Account(self.memory_bytes, self.awake.copy(), gpu_bytes, self.free_gpus, self.places)

    def take(self, holding: Holding) -> None:
        """Count an engine in."""
        self._change(holding, 1)
        self.places -= 1

    def give(self, holding: Holding) -> None:
        """Count an engine out."""
        self._change(holding, -1)
        self.places += 1

    def swap(self, former: Holding, new: Holding) -> None:
        """Count what an engine that stays holds from now on."""
        self._change(former, -1)
        self._change(new, 1)

    def _change(self, holding: Holding, sign: int) -> None:
        self.memory_bytes -= sign * holding.memory_bytes
        for gpu in holding.gpus:
            if gpu >= len(self.awake):
                continue  # a damaged assignment: the runner refuses it
            if self.gpu_bytes is not None:
                self.gpu_bytes[gpu] -= sign * holding.gpu_bytes
            if holding.is_awake:
                before = self.awake[gpu]
                self.awake[gpu] = before + sign
                self.free_gpus += (before + sign == 0) - (before == 0)


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
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "_hash",
            hash((self.gpus, self.gpu_resource, self.gpu_memory_bytes, self.memory_bytes, self.wire_bytes)),
        )

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        if not self.gpus:
            return f"{quantity.format_bytes(self.memory_bytes)} memory"
        return f"{self.gpus} {self.gpu_resource}, {quantity.format_bytes(self.memory_bytes)} memory"


@dataclass(slots=True, eq=False)
class Room:
    """A runner of a pool that takes engines. Changes as places are given and taken in this round."""

    pool: Pool
    runner: Runner
    name: str
    """Of the runner's pod."""
    node: Node
    node_name: str
    is_current: bool
    """Whether it is as its pool's spec wants it."""
    gpu_capacity_bytes: int | None
    """Memory of each GPU, None where nobody knows."""
    now: Account
    later: Account
    engines: dict[str, EngineAssignment]
    """What it is told to host, by id."""
    holdings: dict[str, Holding]
    """What each of them holds in the account of later."""
    wire_bytes: int
    """What the engines take of the annotation."""
    names: set[str]
    """Of all models of which it hosts an engine, or did before this round took it out."""
    has_store: bool
    """Whether its node has a weight store and the runner a view of it."""
    loads: str = ""
    """The engine that is being loaded, or is about to be: a runner carries one load at a time."""
    coming: str = ""
    """What has to end before all that is promised is free, in words."""
    coming_seconds: float | None = 0.0
    """In how long it does; None: nobody can tell."""
    holder: str = ""
    """For whom room is held, in words."""
    claimed: set[str] = field(default_factory=set)
    """Ids of engines about which this round has decided."""
    version: int = 0
    """Grows with each change."""

    @property
    def open_bytes(self) -> int:
        """Memory that is neither held nor promised."""
        now, later = self.now.memory_bytes, self.later.memory_bytes
        return now if now < later else later

    @property
    def open_gpus(self) -> int:
        """How many GPUs have nobody awake, and nobody who is to be."""
        now, later = self.now.free_gpus, self.later.free_gpus
        return now if now < later else later

    @property
    def open_places(self) -> int:
        """How many engines more it may host."""
        return min(self.now.places, self.later.places)

    def hosts(self, model: Model) -> bool:
        """Whether it hosts an engine of the model's present spec: a second one there would be no replica.

        One of the spec beside it counts as well.
        """
        name = model.key.name
        if name not in self.names:
            return False
        for each in self.engines.values():  # no generator: this runs once per need and runner
            if each.model == name and each.model_uid == model.metadata.uid and each.hash in (model.hash, model.beside):
                return True
        return False

    def share_bytes(self, declared_bytes: int) -> int:
        """Return what an engine takes awake of each of its GPUs."""
        return declared_bytes or int((self.gpu_capacity_bytes or 0) * UNDECLARED_SHARE)

    def free_gpus(self, need: EngineNeed, *, is_now: bool) -> list[int]:
        """Return the GPUs on which such an engine could be awake; with the fewest bytes of sleepers first."""
        share, later, now = self.share_bytes(need.gpu_memory_bytes), self.later, self.now
        found = [
            gpu
            for gpu in range(len(later.awake))
            if later.awake[gpu] == 0
            and self._has_bytes(later, gpu, share)
            and not (is_now and (now.awake[gpu] or not self._has_bytes(now, gpu, share)))
        ]
        if later.gpu_bytes is not None and len(found) > need.gpus:
            open_bytes = later.gpu_bytes
            found.sort(key=lambda gpu: (-open_bytes[gpu], gpu))
        return found

    def fits(self, need: EngineNeed, *, is_now: bool) -> bool:
        """Whether an engine fits when all orders are obeyed, or even now."""
        later, now = self.later, self.now
        if later.places < 1 or later.memory_bytes < need.memory_bytes or later.free_gpus < need.gpus:
            return False
        if is_now and (now.places < 1 or now.memory_bytes < need.memory_bytes or now.free_gpus < need.gpus):
            return False
        return not need.gpus or len(self.free_gpus(need, is_now=is_now)) >= need.gpus

    def fits_awake(self, former: Holding, awake: Holding, *, is_now: bool) -> bool:
        """Whether an engine that sleeps here, and holds `former`, could be awake."""
        accounts = (self.later, self.now) if is_now else (self.later,)
        share, back = awake.gpu_bytes - former.gpu_bytes, former.memory_bytes
        return all(
            account.memory_bytes + back >= awake.memory_bytes
            and not any(gpu < len(account.awake) and account.awake[gpu] for gpu in awake.gpus)
            and all(gpu >= len(account.awake) or self._has_bytes(account, gpu, share) for gpu in awake.gpus)
            for account in accounts
        )

    def copy(self) -> "Room":
        """Return a room that changes on its own."""
        other = copy(self)
        other.now, other.later = self.now.copy(), self.later.copy()
        other.engines, other.holdings = self.engines.copy(), self.holdings.copy()
        other.names, other.claimed = self.names.copy(), self.claimed.copy()
        return other

    def holding_of(self, need: EngineNeed, gpus: Sequence[int]) -> Holding:
        """Return what an engine of this need holds awake."""
        share = self.share_bytes(need.gpu_memory_bytes) if need.gpus else 0
        return Holding(tuple(gpus), need.memory_bytes, share, is_awake=True)

    def put(self, engine: EngineAssignment, holding: Holding) -> None:
        """Promise an engine its room, and count it as there already."""
        self.now.take(holding)
        self._add(engine, holding)

    def claim(self, holding: Holding) -> None:
        """Keep room for a start that waits for it."""
        self.later.take(holding)
        self.version += 1

    def change(self, id_: str, holding: Holding | None, *, is_now: bool = False) -> None:
        """Count what an engine holds from now on, or when it has obeyed; None: it will be gone then."""
        former = self.holdings[id_]
        if is_now and holding is not None:
            self.now.swap(former, holding)
        if holding is not None:
            self.later.swap(former, holding)
        else:
            self.later.give(former)
        self.holdings[id_] = holding or NOTHING
        self.claimed.add(id_)
        self.version += 1

    def spare(self, id_: str) -> None:
        """Ask nothing of an engine for others."""
        self.claimed.add(id_)
        self.version += 1

    def take_out(self, id_: str) -> None:
        """Have an engine's room back when it is gone."""
        engine, holding = self.engines.pop(id_), self.holdings.pop(id_)
        self.later.give(holding)
        self.wire_bytes -= wire_bytes(engine)
        self.version += 1

    def close(self) -> None:
        """Let no engine start here, nor any that is here give way: the runner moves."""
        self.later.places = min(0, self.later.places)
        self.claimed.update(self.engines)
        self.version += 1

    def hold(self, need: EngineNeed, holder: str) -> None:
        """Keep what is open, up to a need, from all later starts of the round."""
        later = self.later
        later.memory_bytes -= 0 if need.gpus else max(0, min(need.memory_bytes, later.memory_bytes))
        for gpu in [gpu for gpu, awake in enumerate(later.awake) if not awake][: need.gpus]:
            later.awake[gpu] += 1
            later.free_gpus -= 1
        later.places -= max(0, min(1, later.places))
        self.holder = self.holder or holder
        self.version += 1

    def _add(self, engine: EngineAssignment, holding: Holding) -> None:
        self.later.take(holding)
        self.engines[engine.id], self.holdings[engine.id] = engine, holding
        self.names.add(engine.model)
        self.wire_bytes += wire_bytes(engine)
        self.version += 1

    def _has_bytes(self, account: Account, gpu: int, share: int) -> bool:
        if account.gpu_bytes is None or self.gpu_capacity_bytes is None:
            return True
        there = account.gpu_bytes[gpu]
        return there >= share + (GPU_MARGIN_BYTES if there < self.gpu_capacity_bytes else 0)


END_SECONDS = 10.0
"""In which an engine that ends, or falls asleep with requests, is expected to have done so."""


def room_of(pool: Pool, runner: Runner, node: Node, models: Mapping[ModelKey, Model]) -> Room:
    """Return a runner's room as its pod, assignment and status tell."""
    limits = next(iter(runner.pod.spec.containers)).resources.limits
    capacity = gpu_memory_bytes(node)
    gpus = int(limits.get(pool.spec.gpu_resource, 0))
    memory = quantity.to_bytes(limits.get(MEMORY, 0)) - RUNNER_BYTES
    empty = Account(memory, [0] * gpus, None if capacity is None else [capacity] * gpus, gpus, pool.spec.max_engines)
    room = Room(
        pool=pool,
        runner=runner,
        name=runner.pod.metadata.name,
        node=node,
        node_name=node.metadata.name,
        is_current=runner.pod.metadata.labels.get(names.LABEL_TEMPLATE_HASH) == pool.hash,
        gpu_capacity_bytes=capacity,
        now=empty,
        later=empty.copy(),
        engines={},
        holdings={},
        wire_bytes=0,
        names=set(),
        has_store=runner.pod.spec.sees_weights,
    )
    assigned = runner.assignment.engines if runner.assignment is not None else ()
    told = {each.id: each for each in runner.status.engines} if runner.status is not None else {}
    obeys = runner.status is not None and runner.assignment is not None
    obeys = obeys and runner.status.revision >= runner.assignment.revision  # type: ignore[union-attr]
    coming = []
    for engine in assigned:
        model = models.get(ModelKey(pool.key.namespace, engine.model))
        state = told[engine.id].state if engine.id in told else None
        sleeps = engine.state is DesiredState.ASLEEP and engine.wake is WakePolicy.ON_ASSIGNMENT
        is_asleep = sleeps and obeys and state is EngineState.ASLEEP
        awake = holding_awake(room, engine, model)
        later = holding_asleep(room, engine, model, told.get(engine.id)) if sleeps else awake
        room.now.take(later if is_asleep else awake)
        room.later.take(later)
        room.engines[engine.id] = engine
        room.names.add(engine.model)
        room.holdings[engine.id] = later
        room.wire_bytes += wire_bytes(engine)
        if sleeps and not is_asleep:
            coming.append(f"{engine.id} falls asleep")
    for id_, ending in told.items():
        if id_ not in room.engines:
            room.now.take(_ending(room, ending, models.get(ModelKey(pool.key.namespace, ending.model))))
            room.now.places += 1  # of those only that are assigned there is a limit
            coming.append(f"{id_} ends")
    room.coming, room.coming_seconds = ", ".join(coming), END_SECONDS if coming else 0.0
    room.loads = _loads(assigned, told)
    return room


def holding_awake(room: Room, engine: EngineAssignment, model: Model | None) -> Holding:
    """Return what an engine holds awake."""
    if not engine.gpus:
        return Holding((), engine.awake_bytes, 0, is_awake=True)
    share = room.share_bytes(engine.awake_bytes // len(engine.gpus))
    return Holding(engine.gpus, _memory_bytes(model), share, is_awake=True)


def holding_asleep(
    room: Room, engine: EngineAssignment, model: Model | None, told: EngineStatus | None = None
) -> Holding:
    """Return what an engine holds asleep; without GPUs at least what it was measured to."""
    if not engine.gpus:
        measured = told.asleep_memory_bytes if told is not None else 0
        return Holding((), min(engine.awake_bytes, max(engine.asleep_bytes, measured)), 0, is_awake=False)
    awake = holding_awake(room, engine, model)
    return awake._replace(gpu_bytes=min(awake.gpu_bytes, engine.asleep_bytes // len(engine.gpus)), is_awake=False)


def _ending(room: Room, told: EngineStatus, model: Model | None) -> Holding:
    """Return what an engine still holds that is not assigned any more."""
    if not told.gpus:
        return Holding((), told.awake_bytes, 0, is_awake=False)
    memory = _memory_bytes(model)
    return Holding(told.gpus, memory, room.share_bytes(told.awake_bytes // len(told.gpus)), is_awake=True)


def _memory_bytes(model: Model | None) -> int:
    """Return what an engine with GPUs takes of the runner's memory, awake or asleep."""
    return amount(MEMORY, model.spec.resources.memory) if model is not None else 0


def _loads(assigned: Iterable[EngineAssignment], told: Mapping[str, EngineStatus]) -> str:
    """Return the id of an engine that is being loaded, or is about to be; who waits for weights holds up nobody."""
    for engine in assigned:
        if engine.state is DesiredState.READY:
            status = told.get(engine.id)
            if status is None or (status.state is EngineState.STARTING and not status.waits_for):
                return engine.id
    return ""
