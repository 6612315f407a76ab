"""The nodes of the emulated fleet: their links, their cores, and the weights that they keep in memory and on disk."""

from collections.abc import Callable
from dataclasses import dataclass, field

from warmfleet_api import names, quantity
from warmfleet_api.agent_status import Transfer
from warmfleet_api.node_cache import (
    EntryProblem,
    NodeCacheSpec,
    NodeCacheStatus,
    SeenEntry,
    TierSpec,
    TierStatus,
    View,
    WantedEntry,
)
from warmfleet_api.vocabulary import EntryState, Tier, WeightsProblem
from warmfleet_emulator.clock import Clock
from warmfleet_emulator.links import Shared
from warmfleet_emulator.scenario import NodeBlock
from warmfleet_kube.objects import Metadata
from warmfleet_operator.decide.fleet import Cache
from warmfleet_operator.records import Node, NodeSpec, NodeStatus, PodCondition, Taint

PARALLEL_FETCHES = 2
"""Entries that a node's agent brings into memory at once."""
_MIB = 1024 * 1024
_UNREACHABLE = "node.kubernetes.io/unreachable"
_SOMEBODY = "00000000-0000-0000-0000-000000000000"
"""Who reads an entry plays no part; that somebody does keeps it in memory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Weights of one model."""

    key: str
    revision: str
    bytes: int


@dataclass(slots=True)
class EmulatedNode:
    """A node with its links and its weight store."""

    name: str
    block: NodeBlock
    clock: Clock
    on_arrival: Callable[["EmulatedNode", str], None]
    """Called when an entry is in memory."""
    load: Shared = field(init=False)
    cores: Shared = field(init=False)
    remote: Shared = field(init=False)
    disk: Shared = field(init=False)
    in_memory: dict[str, Entry] = field(default_factory=dict)
    """Those used last come last."""
    on_disk: dict[str, Entry] = field(default_factory=dict)
    readers: dict[str, set[str]] = field(default_factory=dict)
    """Key → engines that read it, or wait to."""
    waiting: dict[str, tuple[int, Entry]] = field(default_factory=dict)
    """Key → rank of the class it is wanted for, and what is wanted; in the order of the wishes."""
    fetching: dict[str, tuple[Entry, Tier]] = field(default_factory=dict)
    lost: bool = False
    """Whether it has no power any more."""
    ready: bool = True
    """Whether the API server still says so."""
    _cache: Cache | None = None

    def __post_init__(self) -> None:
        block = self.block
        self.load = Shared(self.clock, quantity.to_bytes(block.load))
        self.cores = Shared(self.clock, quantity.to_millicores(block.cpu) / 1000, most=1.0)
        self.remote = Shared(self.clock, quantity.to_bytes(block.remote))
        self.disk = Shared(self.clock, quantity.to_bytes(block.disk))

    # Weights ----------------------------------------------------------------------------------------------------------

    def place(self, entry: Entry, tier: Tier) -> None:
        """Have an entry from the beginning."""
        if tier is Tier.MEMORY:
            self.in_memory[entry.key] = entry
        elif tier is Tier.DISK:
            self.on_disk[entry.key] = entry

    def want(self, entry: Entry, rank: int, reader: str) -> None:
        """Bring an entry into memory for an engine, unless it is there."""
        self.readers.setdefault(entry.key, set()).add(reader)
        self._cache = None
        if entry.key in self.in_memory:
            self.in_memory[entry.key] = self.in_memory.pop(entry.key)
        elif entry.key not in self.fetching:
            self.waiting.setdefault(entry.key, (rank, entry))
            self._fetch_next()

    def let_go(self, reader: str) -> None:
        """An engine reads nothing any more."""
        for key, readers in list(self.readers.items()):
            readers.discard(reader)
            if not readers:
                del self.readers[key]
                self.waiting.pop(key, None)
        self._fetch_next()

    def _fetch_next(self) -> None:
        for key, (_, entry) in sorted(self.waiting.items(), key=lambda each: each[1][0]):
            if len(self.fetching) >= PARALLEL_FETCHES:
                break
            if not self._make_room(entry):
                continue
            del self.waiting[key]
            source = self._tier_of(key)
            self.fetching[key] = (entry, source)
            self._link(source).begin(key, entry.bytes, lambda entry=entry: self._arrive(entry))  # type: ignore[misc]
        self._cache = None

    def _make_room(self, entry: Entry) -> bool:
        """Evict what nobody reads, the least recently used first, until the entry fits."""
        capacity = quantity.to_bytes(self.block.cache_memory)
        taken = sum(each.bytes for each in self.in_memory.values())
        taken += sum(each.bytes for each, _ in self.fetching.values())
        idle = [key for key in self.in_memory if key not in self.readers]
        while taken + entry.bytes > capacity and idle:
            taken -= self.in_memory.pop(idle.pop(0)).bytes
        return taken + entry.bytes <= capacity

    def _arrive(self, entry: Entry) -> None:
        del self.fetching[entry.key]
        self.in_memory[entry.key] = entry
        self._fetch_next()
        self.on_arrival(self, entry.key)

    def _tier_of(self, key: str) -> Tier:
        return Tier.DISK if key in self.on_disk else Tier.REMOTE

    def _link(self, source: Tier) -> Shared:
        return self.disk if source is Tier.DISK else self.remote

    # As the operator sees it ----------------------------------------------------------------------------------------

    def record(self) -> Node:
        """The node as the API server has it."""
        block = self.block
        labels = {names.NODE_LABEL_INSTANCE_TYPE: block.name}
        if block.zone:
            labels[names.NODE_LABEL_ZONE] = block.zone
        allocatable: dict[str, str | int] = {"cpu": block.cpu, "memory": block.memory, "pods": 110}
        if block.gpus:
            allocatable[names.DEFAULT_GPU_RESOURCE] = block.gpus
            labels[names.NODE_LABEL_GPU_MEMORY_MIB] = str(quantity.to_bytes(block.gpu_memory) // _MIB)
        ready = PodCondition(type="Ready", status="True" if self.ready else "Unknown")
        taints = () if self.ready else (Taint(key=_UNREACHABLE, effect="NoExecute"),)
        return Node(
            metadata=Metadata(name=self.name, uid=f"uid-{self.name}", labels=labels),
            spec=NodeSpec(taints=taints),
            status=NodeStatus(allocatable=allocatable, conditions=(ready,)),
        )

    def cache(self) -> Cache:
        """The node's weight store as its NodeCache and its agent's stream tell."""
        if self._cache is not None and not self.fetching:
            return self._cache
        seen = {key: _seen(entry, Tier.MEMORY) for key, entry in self.in_memory.items()}
        seen |= {key: _seen(entry, Tier.DISK) for key, entry in self.on_disk.items() if key not in seen}
        if len(self.fetching) < PARALLEL_FETCHES:
            seen |= {key: _full(entry, self._tier_of(key)) for key, (_, entry) in self.waiting.items()}
        self._cache = Cache(
            node=self.name,
            spec=NodeCacheSpec(
                cache="default",
                memory=TierSpec(bytes=quantity.to_bytes(self.block.cache_memory), path="/dev/shm/model_cache"),
                disk=TierSpec(bytes=2**44, path="/var/lib/warmfleet"),
                parallel=PARALLEL_FETCHES,
                entries=[_read(key) for key in self.readers],
                views=[View.model_construct(uid=_SOMEBODY, keys=list(self.readers))],
            ),
            status=NodeCacheStatus(
                disk=TierStatus(bytes_per_second=quantity.to_bytes(self.block.disk)),
                remote_bytes_per_second=quantity.to_bytes(self.block.remote),
            ),
            seen=seen,
            transfers={key: self._transfer(entry, source) for key, (entry, source) in self.fetching.items()},
        )
        return self._cache

    def _transfer(self, entry: Entry, source: Tier) -> Transfer:
        link = self._link(source)
        return Transfer(
            key=entry.key,
            source=source,
            target=Tier.MEMORY,
            state=EntryState.FETCHING if source is Tier.REMOTE else EntryState.PROMOTING,
            bytes=entry.bytes,
            done_bytes=int(link.carried_of(entry.key)),
            bytes_per_second=int(link.rate),
        )


def _seen(entry: Entry, tier: Tier) -> SeenEntry:
    return SeenEntry(key=entry.key, tier=tier, state=EntryState.PRESENT, revision=entry.revision, bytes=entry.bytes)


def _full(entry: Entry, tier: Tier) -> SeenEntry:
    """Return weights that wait for room: what others read fills the memory."""
    full = EntryProblem(reason=WeightsProblem.CACHE_FULL, message="all that is in memory is being read")
    return _seen(entry, tier).model_copy(update={"state": EntryState.WAITING, "error": full})


def _read(key: str) -> WantedEntry:
    return WantedEntry.model_construct(key=key, uri="", tier=Tier.MEMORY, pinned=False)
