"""Which nodes keep in memory what a model reads, so that it starts without fetching.

Places are given class by class, within a class the models as they came. What was given is kept before anything new is
given: a round over its own result changes nothing, and a fetch that has begun is not taken elsewhere because another
node looks better by now. What a round keeps is read from the NodeCaches' specs, so a restart forgets nothing.

A new place is, in this order: where a runner uses it anyway, where it is in memory already, then on disk, in the zone
with the fewest of the model's places, where least is kept for others, where most memory is free.
"""

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from warmfleet_api.vocabulary import Priority, Tier

_MAX_ROUNDS = 4
"""Loads that share entries may move together once; after that nothing moves."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be kept together on some nodes: all that one model reads."""

    name: str
    sizes: Mapping[str, int]
    """Key → bytes of each entry."""
    count: int
    """On how many nodes."""
    nodes: tuple[str, ...]
    """Where it may be."""
    priority: Priority = Priority.NORMAL
    turn: tuple[str, str] = ("", "")
    """Sorts loads of a class: creation time and name."""
    is_for_disk: bool = False
    """Whether memory is not asked for."""


@dataclass(slots=True)
class Shelf:
    """One tier of a node, as it fills up in a round. The same entry takes its room once, whoever wants it."""

    node: str
    bytes: int
    """What it may hold."""
    zone: str = ""
    is_open: bool = True
    """Whether something new may be put there."""
    stands: bool = True
    """Whether what was put there counts."""
    given: frozenset[str] = frozenset()
    """Keys that the last round put there."""
    present: frozenset[str] = frozenset()
    """Keys that are there."""
    nearby: frozenset[str] = frozenset()
    """Keys that are there, or on the node in a tier below."""
    used: frozenset[str] = frozenset()
    """Keys that runners of the node read: they are there whatever is planned."""
    keys: set[str] = field(default_factory=set)
    """What is on it by now."""
    taken_bytes: int = 0
    """What that takes."""
    loads: int = 0
    """How many loads were given a place there in this round."""

    @property
    def free_bytes(self) -> int:
        """What nothing takes yet; negative where what is used is more than there is."""
        return self.bytes - self.taken_bytes

    def put(self, key: str, size_bytes: int) -> None:
        """Take room for an entry."""
        if key not in self.keys:
            self.keys.add(key)
            self.taken_bytes += size_bytes

    def takes(self, sizes: Mapping[str, int]) -> bool:
        """Whether there is room for those of the entries that are not on it."""
        more = [size for key, size in sizes.items() if key not in self.keys]
        return not more or sum(more) <= self.free_bytes


def place(loads: Sequence[Load], shelves: Mapping[str, Shelf]) -> Mapping[str, tuple[str, ...]]:
    """Give every load its nodes; the shelves stay as they are.

    Returns:
        Name of the load → its nodes, by name. Fewer than it asks for where no more have room.
    """
    given = shelves
    places: Mapping[str, tuple[str, ...]] = {}
    for _ in range(_MAX_ROUNDS):
        filled = {name: replace(shelf, keys=set(shelf.keys)) for name, shelf in given.items()}
        former, places = places, _round(loads, filled)
        if places == former:
            break
        given = {name: replace(shelf, given=frozenset(filled[name].keys)) for name, shelf in shelves.items()}
    return places


def _round(loads: Sequence[Load], shelves: Mapping[str, Shelf]) -> Mapping[str, tuple[str, ...]]:
    places: dict[str, list[str]] = {load.name: [] for load in loads}
    given: defaultdict[str, set[str]] = defaultdict(set)
    for name, shelf in shelves.items():
        for key in shelf.given:
            given[key].add(name)
    ordered = sorted(loads, key=lambda load: (load.priority.rank, load.turn, load.name))
    for _, of_class in itertools.groupby(ordered, key=lambda load: load.priority.rank):
        peers = list(of_class)
        for load in peers:
            before = set(shelves).intersection(*(given[key] for key in load.sizes))
            _keep(load, [shelves[name] for name in load.nodes if name in before], places[load.name])
        for load in peers:
            _fill(load, shelves, places[load.name])
    return {name: tuple(sorted(nodes)) for name, nodes in places.items()}


def _keep(load: Load, former: Sequence[Shelf], nodes: list[str]) -> None:
    """Leave the load where it was put before, the best places first if they are more than it asks for."""
    for shelf in sorted(former, key=lambda shelf: (*_nearness(load, shelf), shelf.node)):
        if len(nodes) < load.count and shelf.stands and shelf.takes(load.sizes):
            _put(load, shelf, nodes)


def _fill(load: Load, shelves: Mapping[str, Shelf], nodes: list[str]) -> None:
    while len(nodes) < load.count:
        zones = [shelves[name].zone for name in nodes]
        open_ = [
            shelf
            for name in load.nodes
            if (shelf := shelves.get(name)) is not None
            and name not in nodes
            and shelf.is_open
            and shelf.stands
            and shelf.takes(load.sizes)
        ]
        if not open_:
            return
        best = min(
            open_,
            key=lambda shelf: (
                *_nearness(load, shelf),
                zones.count(shelf.zone),
                shelf.loads,
                -shelf.free_bytes,
                shelf.node,
            ),
        )
        _put(load, best, nodes)


def _nearness(load: Load, shelf: Shelf) -> tuple[bool, ...]:
    """Sort the shelves first that have the load already, or soonest."""
    return (
        not load.sizes.keys() <= shelf.used,
        not load.sizes.keys() <= shelf.present,
        not load.sizes.keys() <= shelf.nearby,
    )


def _put(load: Load, shelf: Shelf, nodes: list[str]) -> None:
    for key, size_bytes in load.sizes.items():
        shelf.put(key, size_bytes)
    shelf.loads += 1
    nodes.append(shelf.node)


NEARNESS = (Tier.MEMORY, Tier.DISK, Tier.REMOTE)
"""Tiers of a node, nearest first."""


def nearer(one: Tier, other: Tier) -> Tier:
    """Return the nearer of two tiers."""
    return min(one, other, key=NEARNESS.index)
