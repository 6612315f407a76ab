"""When a start could load on a node, and whether it would only wait there if it began now.

A runner carries one load at a time; that is its own rule, and `room.py` knows it. What the runners of a node share is
counted here:

* The link into memory of engines: one load saturates it, and two at once only end both later. So each load has its
  time on the link. A start begins when it will have prepared itself by then, a little early rather than late; until
  then a more urgent one that comes may go first. Who waits keeps its time: others may load only before or after it.
* The links that bring weights to the node: two fetches saturate them. A fetch begins at once; its engine waits for it
  and holds up nobody.
* The cores: an engine that prepares itself or warms up keeps one busy.
"""

from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from warmfleet_api.vocabulary import Tier
from warmfleet_operator.decide.estimates import Phases
from warmfleet_operator.decide.predict_progress import Coming
from warmfleet_operator.decide.requests import CPU, amount
from warmfleet_operator.records import Node

FETCHES_OF_A_LINK = 2
EARLY_SECONDS = 0.5
"""A start may be ready for its load so long before the link is free: what decides and tells it takes time too."""


class Busy(NamedTuple):
    """Why a start would only wait on a node."""

    why: str
    """In words."""
    seconds: float | None
    """In how long it would not any more; None: when a start there ends."""


class Fetch(NamedTuple):
    """Weights that have to come into memory of a node first."""

    seconds: float
    """How long that takes, if nothing else is asked of the node from now on; 0: they are there."""
    tier: Tier = Tier.MEMORY
    """Where they are now: the link that carries them."""


NO_FETCH = Fetch(0.0)


class Links:
    """One round's account of the starts that are under way on each node, or wait for their time on its link."""

    def __init__(self, nodes: Mapping[str, Node], under_way: Iterable[tuple[Coming, Fetch]] = ()) -> None:
        """Account for the starts under way, each with the weights that are still to come to its node."""
        self._nodes = nodes
        self._working: Counter[str] = Counter()
        self._fetching: Counter[tuple[str, Tier]] = Counter()
        self._asked: defaultdict[tuple[str, Tier], float] = defaultdict(float)
        """Seconds of fetches that were asked of a node's links in this round: no agent tells of them yet."""
        self._loads: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        """Node → from when until when its link is taken, in seconds from now."""
        for each, fetch in under_way:
            if not each.trouble:
                self._count(each.member.node, each.left, fetch)

    def add(self, node: str, start: Phases, fetch: Fetch = NO_FETCH) -> None:
        """Count a start in that was just given its place."""
        self._count(node, start, fetch)
        self._asked[node, fetch.tier] += fetch.seconds

    def load_seconds(self, node: str, start: Phases, fetch: tuple[float, Tier] = NO_FETCH) -> float:
        """Return in how many seconds a start that begins now could load there."""
        ready, prepare_seconds, load_seconds, _, _ = start  # once per start and node with room: so at length
        if fetch[0]:
            fetched = fetch[0] + self._asked.get((node, fetch[1]), 0.0)
            ready = max(ready, fetched)
        ready += prepare_seconds
        if load_seconds > 0 and node in self._loads:
            for begin, end in self._loads[node]:
                if begin - ready >= load_seconds:
                    break
                ready = max(ready, end)
        return ready

    def busy(self, node: str, start: Phases, fetch: Fetch = NO_FETCH) -> Busy | None:
        """Say why a start would only wait there, and keep its time on the link; None where it would not."""
        if fetch.seconds > 0:
            others = self._fetching[node, fetch.tier]
            return (
                None if others < FETCHES_OF_A_LINK else Busy(f"{node} fetches weights of {others} others first", None)
            )
        working = self._working[node]
        if working and working >= self._cores(node):
            return Busy(f"{node} starts {working} engines already, as many as it has cores", None)
        late = self.load_seconds(node, start) - start.before_seconds - start.prepare_seconds - EARLY_SECONDS
        if late <= 0:
            return None
        others = len(self._loads[node])
        self._reserve(node, start, NO_FETCH)
        return Busy(f"{node} loads {others} other engines first", late)

    def _count(self, node: str, left: Phases, fetch: Fetch) -> None:
        if left.load_seconds > 0:
            self._reserve(node, left, fetch)
        if left.before_seconds + left.prepare_seconds > 0 or left.load_seconds <= 0:
            self._working[node] += 1
        self._fetching[node, fetch.tier] += fetch.seconds > 0

    def _reserve(self, node: str, start: Phases, fetch: Fetch) -> None:
        begin = self.load_seconds(node, start, fetch)
        insort(self._loads[node], (begin, begin + start.load_seconds))

    def _cores(self, node: str) -> int:
        found = self._nodes.get(node)
        return max(1, amount(CPU, found.status.allocatable.get(CPU, 1)) // 1000) if found is not None else 1
