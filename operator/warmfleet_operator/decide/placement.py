"""Where a runner may go: filter the nodes, take the best, or say in words with numbers why there is none."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from warmfleet_api import quantity
from warmfleet_api.vocabulary import Reason, StartType
from warmfleet_operator.decide.fleet import Cache
from warmfleet_operator.decide.ledger import Ledger, by_scarcity
from warmfleet_operator.decide.matching import (
    gpu_memory_bytes,
    has_labels,
    repelling,
    zone_of,
)
from warmfleet_operator.decide.needs import Need
from warmfleet_operator.decide.requests import MEMORY, say_amount, say_number
from warmfleet_operator.decide.suited import Suited
from warmfleet_operator.decide.weights import NeededEntry, size_bytes
from warmfleet_operator.decide.weights_stores import Stores, is_below
from warmfleet_operator.records import Node

Place = TypeVar("Place")


@dataclass(slots=True)
class Spread:
    """Where a model's runners are already: the next one goes elsewhere if it can."""

    nodes: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    zones: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    avoid: frozenset[str] = frozenset()
    """Nodes that just failed to take a runner."""

    def around(self, name: str, node: Node) -> tuple[int, int]:
        """Return how many there are on a node, and in its zone."""
        return self.nodes.get(name, 0), self.zones.get(zone_of(node), 0)


def least(places: Sequence[Place], measure: Callable[[Place], Any]) -> Sequence[Place]:
    """Return the places where a measure is least, in their order."""
    if len(places) <= 1:
        return places
    measured = [measure(each) for each in places]
    lowest = min(measured)
    return [each for each, value in zip(places, measured, strict=True) if value == lowest]


@dataclass(frozen=True, slots=True)
class NoPlace:
    """Why a need has no place now."""

    reason: Reason
    """WaitingForTurn, NoFreeMemory, NoMatchingNode, PoolNotFound, NeverFits or InvalidArgs; where weights are what is
    missing WeightsUnknown, NoWeightCache, NeverFits, ForbiddenSource or the problem of their source."""
    blocker: str
    advice: str = ""
    """What a person may change about it, where the reason alone does not tell."""
    is_of_weights: bool = False
    """Whether weights are what it has no place for, or what nobody knows yet."""
    start_type: StartType | None = None
    """How it will start there; None: nobody can tell yet."""
    place: str = ""
    """Node or runner whose room it waits for; empty: none is known."""
    available_seconds: float | None = None
    """In how long that room is expected to be free; None: nobody can tell."""


class Places:
    """One round's view of the nodes over its ledger."""

    def __init__(self, suited: Suited, ledger: Ledger, stores: Stores | None = None) -> None:
        self._suited = suited
        self._nodes = suited.nodes
        self._ledger = ledger
        self._stores = stores if stores is not None else Stores({})
        self._holders: dict[str, str] = {}
        self._refused: dict[Need, NoPlace] = {}
        self._nothing_later: set[Need] = set()
        self._fitting: dict[Need, Sequence[str]] = {}

    def find(
        self,
        need: Need,
        spread: Spread,
        entries: Sequence[NeededEntry] | None = None,
        load_seconds: Callable[[str], float] | None = None,
    ) -> str | NoPlace:
        """Return the best node for the need, or why there is none.

        `entries` are the weights that go there: none yet for a pool's runner, None where weights play no part.
        Best, in this order: not a node that just failed; fewest runners of the model on the node, then in the zone;
        where it could load first, by `load_seconds` of a node; the weights nearest; fewest GPUs left over; most memory
        left over; the name.
        """
        refused = self._refused.get(need)
        if refused is not None:
            return refused
        wanted = need.amounts
        # Room only shrinks within a round: what did not fit a moment ago doesn't now.
        candidates = self._fitting.get(need)
        ledger = self._ledger
        if candidates is None:
            candidates = self._with_room(need)
        fitting = ledger.fitting(candidates, wanted)
        self._fitting[need] = fitting
        if not fitting:
            others = () if self._suited.matching(need) else self._suited.matching(replace(need, stores=None))
            if others:
                # The weights of each model are its own, so this answer is no other's.
                return why_no_store(entries or (), self._stores.caches, others)
            # Room only shrinks within a round, so the answer holds for all equal needs that follow.
            refused = self._refused[need] = self._explain(need)
            return refused

        # Narrowed down step by step: what is dear to tell is asked of few.
        best: Sequence[str] = fitting
        if spread.avoid or spread.nodes:
            best = least(best, lambda name: (name in spread.avoid, *spread.around(name, self._nodes[name])))
        if load_seconds is not None:
            best = least(best, load_seconds)
        if entries is not None:
            best = least(best, lambda name: self._stores.distance(name, entries))
        return min(best, key=lambda name: (ledger.open(name, need.gpu_resource), -ledger.open(name, MEMORY), name))

    def first(self, need: Need) -> str | None:
        """Return the first node by name that has room for the need now; it need not be the best."""
        if need in self._refused:
            return None
        candidates = self._fitting.get(need)
        if candidates is None:
            candidates = self._fitting[need] = self._with_room(need)
        wanted, ledger = need.amounts, self._ledger
        return next((name for name in candidates if ledger.fits(name, wanted)), None)

    def find_later(self, need: Need) -> str | None:
        """Return the node that has room for the need once the pods that end are gone; the first by name."""
        if need in self._nothing_later:
            return None
        wanted, ledger = need.amounts, self._ledger
        changing = self._suited.usable_of(need, ledger.changing())
        found = min((name for name in changing if ledger.fits_later(name, wanted)), default=None)
        if found is None:
            self._nothing_later.add(need)
        return found

    def takeable(self, need: Need) -> str | None:
        """Return a node whose room is or comes free for such a runner, whoever it is promised to."""
        wanted, ledger = need.amounts, self._ledger
        return next((name for name in self._suited.usable(need) if ledger.could_be_taken(name, wanted)), None)

    def able(self, need: Need) -> Sequence[str]:
        """Return the nodes that take such a runner now, and could have room for it if nobody else were there."""
        return self._suited.able(need)

    def claim(self, node: str, need: Need, holder: str) -> None:
        """Keep room that is coming free for a start that waits for it."""
        self._ledger.claim(node, need.amounts)
        self._holders.setdefault(node, holder)

    def take(self, node: str, need: Need, spread: Spread) -> None:
        """Assume that a runner of this need is created on the node."""
        self._ledger.take(node, need.amounts)
        spread.nodes[node] += 1
        spread.zones[zone_of(self._nodes[node])] += 1

    def hold(self, need: Need, holder: str) -> bool:
        """Keep the free room of the node that comes nearest to the need: later starts of this round go elsewhere.

        Returns:
            Whether there is a node that could ever have the room.
        """
        wanted, ledger = need.amounts, self._ledger
        candidates = self.able(need)
        if not candidates:
            return False
        nearest = ledger.nearest(candidates, wanted)
        ledger.hold(nearest, wanted)
        self._holders.setdefault(nearest, holder)
        return True

    def _with_room(self, need: Need) -> Sequence[str]:
        """Return the usable nodes that may have room for the need, by name."""
        return self._suited.usable_of(need, self._ledger.having_any(need.amounts))

    def _explain(self, need: Need) -> NoPlace:
        matching = self._suited.matching(need)
        if not matching:
            return NoPlace(Reason.NO_MATCHING_NODE, self._say_what_does_not_match(need))
        wanted, ledger = need.amounts, self._ledger
        large = self._suited.large(need)
        if not large:
            return NoPlace(
                Reason.NEVER_FITS,
                _say_shortage(need, matching, ledger.capacity_on, "no matching node has more than {}: {}"),
            )
        candidates = self.able(need)
        if not candidates:
            also = f" and {len(large) - 1} more" if len(large) > 1 else ""
            return NoPlace(
                Reason.NO_MATCHING_NODE,
                f"needs {need}: only on {large[0]}{also}, cordoned, not Ready or out of reach now",
            )
        kept = next((name for name in self._with_room(need) if ledger.fits_without_holds(name, wanted)), None)
        if kept is not None:
            return NoPlace(Reason.WAITING_FOR_TURN, f"{kept} is held for {self._holders[kept]}")
        return NoPlace(
            Reason.NO_FREE_MEMORY, _say_shortage(need, candidates, ledger.most_open, "at most {} free on {}")
        )

    def _say_what_does_not_match(self, need: Need) -> str:
        if not self._nodes:
            return "the cluster has no nodes"
        selected = [node for node in self._nodes.values() if has_labels(node, need.node_selector)]
        if not selected:
            labels = ", ".join(f"{key}={value}" for key, value in need.node_selector)
            return f"no node has the labels of podTemplate.nodeSelector: {labels}"
        tolerated = [node for node in selected if not repelling(node, need.tolerations)]
        if not tolerated:
            taint = repelling(selected[0], need.tolerations)[0]
            also = f" and {len(selected) - 1} more nodes are tainted too" if len(selected) > 1 else ""
            return (
                f"podTemplate.tolerations lack the taint {taint.key}={taint.value}:{taint.effect} "
                f"of {selected[0].metadata.name}{also}"
            )
        largest = max(gpu_memory_bytes(node) or 0 for node in tolerated)
        return (
            f"needs GPUs with {quantity.format_bytes(need.gpu_memory_bytes)} each, "
            f"the largest have {quantity.format_bytes(largest)}"
        )


def why_no_store(entries: Sequence[NeededEntry], caches: Mapping[str, Cache], nodes: Sequence[str]) -> NoPlace:
    """Say why none of these nodes, which suit otherwise, has a weight store that may hold the entries."""
    there = [caches[name] for name in nodes if name in caches]
    if not there:
        where = "no node has a weight store"
        if caches:
            also = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
            where = f"the nodes that suit have no weight store: {', '.join(nodes[:1])}{also}"
        return NoPlace(
            Reason.NO_WEIGHT_CACHE,
            f"{where}; let an administrator make a WeightCache for them. What there is shows: kubectl get weightcaches",
            is_of_weights=True,
        )
    for entry in entries:
        if entry.folder and not any(is_below(entry.folder, cache.spec.file_roots) for cache in there):
            roots = sorted({root for cache in there for root in cache.spec.file_roots})
            below = f"is not below {' or '.join(roots)}" if roots else "may not be read: no folder of the nodes may"
            return NoPlace(
                Reason.FORBIDDEN_SOURCE,
                f"{entry.uri} {below}; let an administrator add its folder to spec.fileRoots: "
                f"kubectl edit weightcache {there[0].spec.cache}",
                is_of_weights=True,
            )
    largest = max(there, key=lambda cache: cache.spec.memory.bytes)
    return NoPlace(
        Reason.NEVER_FITS,
        f"the weights take {quantity.format_bytes(size_bytes(entries))}, and the largest weight store that suits has "
        f"{quantity.format_bytes(largest.spec.memory.bytes)} memory: {largest.node}",
        f"raise spec.memory.size: kubectl edit weightcache {largest.spec.cache}",
        is_of_weights=True,
    )


def _say_shortage(
    need: Need, candidates: Sequence[str], measure: Callable[[Sequence[str], str], Mapping[str, int]], sentence: str
) -> str:
    """Name the first resource that no candidate has enough of; `sentence` takes the most there is, and where."""
    wanted = need.amounts
    for resource in by_scarcity(wanted):
        measured = measure(candidates, resource)
        most = max(measured, key=measured.__getitem__)
        there = max(0, measured[most])
        if there < wanted[resource]:
            available = sentence.format(say_number(resource, there), most)
            return f"needs {say_amount(resource, wanted[resource])}, {available}"
    return f"needs {need} together on one node, and no node has all of it"
