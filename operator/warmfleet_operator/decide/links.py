"""How many loads a node carries now, and whether another start would only wait for them.

A runner carries one load at a time; that is its own rule, and `room.py` knows it. What the runners of a node share is
counted here:

* The link into memory of engines: one load saturates it, and two at once only end both later. So loads queue back to
  back: the next start begins when it will have prepared itself by the time the link is free, a little early rather
  than late.
* The links that bring weights to the node: two fetches saturate them.
* The cores: an engine that prepares itself or warms up keeps one busy.

A start that would only wait is not assigned yet: a more urgent one that comes meanwhile goes first.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from warmfleet_operator.decide.estimates import Phases
from warmfleet_operator.decide.predict_progress import Coming
from warmfleet_operator.decide.requests import CPU, amount
from warmfleet_operator.records import Node

FETCHES_OF_A_NODE = 2
EARLY_SECONDS = 0.5
"""A start may be ready for its load so long before the link is free: what decides and tells it takes time too."""


class Busy(NamedTuple):
    """Why a start would only wait on a node."""

    why: str
    """In words."""
    seconds: float | None
    """In how long it would not any more; None: when a start there ends."""


class Links:
    """One round's account of the starts that are under way on each node."""

    def __init__(self, nodes: Mapping[str, Node], under_way: Iterable[tuple[Coming, bool]] = ()) -> None:
        """Account for the starts under way, each with whether it fetches weights."""
        self._nodes = nodes
        self._working: Counter[str] = Counter()
        self._fetching: Counter[str] = Counter()
        self._loads: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        """Node → in how many seconds a start comes to its load, and what is left of that."""
        for each, fetches in under_way:
            if not each.trouble:
                self.add(each.member.node, each.left, fetches=fetches)

    def add(self, node: str, left: Phases, *, fetches: bool) -> None:
        """Count a start that is under way, or that was just given its place."""
        prepare = left.before_seconds + left.prepare_seconds
        if left.load_seconds > 0:
            self._loads[node].append((prepare, left.load_seconds))
        if prepare > 0 or left.load_seconds <= 0:
            self._working[node] += 1
        self._fetching[node] += fetches

    def busy(self, node: str, start: Phases, *, fetches: bool) -> Busy | None:
        """Say why a start would only wait there; None where it would not."""
        if fetches and self._fetching[node] >= FETCHES_OF_A_NODE:
            return Busy(f"{node} fetches the weights of {self._fetching[node]} other starts first", None)
        working = self._working[node]
        if working and working >= self._cores(node):
            return Busy(f"{node} starts {working} engines already, as many as it has cores", None)
        if start.load_seconds > 0 and node in self._loads:
            late = self._free_seconds(node) - start.before_seconds - start.prepare_seconds - EARLY_SECONDS
            if late > 0:
                return Busy(f"{node} loads {len(self._loads[node])} other engines first", late)
        return None

    def _free_seconds(self, node: str) -> float:
        """Return in how long all loads there are done, one after the other."""
        end = 0.0
        for prepared, load in sorted(self._loads[node]):
            end = max(end, prepared) + load
        return end

    def _cores(self, node: str) -> int:
        found = self._nodes.get(node)
        return max(1, amount(CPU, found.status.allocatable.get(CPU, 1)) // 1000) if found is not None else 1
