"""`make bench-eviction`: hit rates of the agent's own plan on a node for ten models of fifty, beside LRU, LFU and the
best that anybody could do who knew the future.

A use is a runner that starts a model: a hit if its weights are in memory then. Uses come one after another, each once
the former is served, and hold what they use for a while. The trace is made here, from a seed: popularity by Zipf, and
every day other models are popular. (Public traces of requests to language models name no models.)

The best: with models of one size Belady's MIN, which evicts what is used again last. With sizes that differ MIN is no
bound and the optimum is NP-hard; PFOO-L (Berger, Beckmann and Harchol-Balter, "Practical Bounds on Optimal Caching with
Variable Object Sizes", SIGMETRICS 2018) is one: an object kept from one use to the next takes its size times that long,
and all together can't take more than the cache times the length of the trace. Neither knows that models in use can't
be evicted, so both are above what is possible.
"""

import heapq
import json
import math
import random
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from support.cluster import REPOSITORY
from support.node_tiers import Node, Store
from warmfleet_agent.plan import Wanted, room_bytes
from warmfleet_api.vocabulary import Priority, Tier

RESULT = REPOSITORY / "build" / "bench" / "eviction.json"
MODELS = 50
PLACES = 10
"""Models of mean size that memory holds."""
USES = 2000
GAP_SECONDS = 600.0
"""Mean time between two uses."""
HELD_SECONDS = 900.0
"""Mean time a use lasts."""
PHASE_SECONDS = 86400.0
"""After it other models are popular."""
ZIPF = 0.9
GB = 10**9
REMOTE_BYTES_PER_SECOND = 1e9
KNOWN_USES = 16
"""Starts of the last day that the operator counts at most."""
PRIORITIES = (Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.NORMAL, Priority.LOW)


@dataclass(frozen=True, slots=True)
class Start:
    """A use."""

    time: float
    key: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Trace:
    """Uses of models on one node."""

    sizes: Mapping[str, int]
    capacity_bytes: int
    starts: tuple[Start, ...]
    priorities: Mapping[str, Priority] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What a way to evict came to."""

    hits: int = 0
    fetched_bytes: int = 0
    evictions: int = 0
    hits_by_class: Counter[Priority] = field(default_factory=Counter)


def make_trace(seed: int, uses: int = USES, *, one_size: bool, with_classes: bool = False) -> Trace:
    """Make a trace from a seed."""
    chance = random.Random(seed)
    keys = [f"m{number:02}" for number in range(MODELS)]
    # From 1 to 140 GB, half of them below 12: 0.5 to 70 billion parameters of two bytes.
    sizes = {
        key: 10 * GB if one_size else round(min(140, max(1, chance.lognormvariate(2.5, 1.1))) * GB) for key in keys
    }
    weights = [1 / (rank + 1) ** ZIPF for rank in range(MODELS)]
    starts: list[Start] = []
    time, order, phase = 0.0, keys.copy(), 0
    chance.shuffle(order)
    while len(starts) < uses:
        time += chance.expovariate(1 / GAP_SECONDS)
        if time // PHASE_SECONDS > phase:
            phase += 1
            # A third of the models change their rank, the others stay as popular as they are.
            moved = chance.sample(range(MODELS), MODELS // 3)
            for here, there in zip(moved, [order[index] for index in moved[1:] + moved[:1]], strict=True):
                order[here] = there
        key = chance.choices(order, weights)[0]
        starts.append(Start(time, key, chance.expovariate(1 / HELD_SECONDS)))
    priorities = {key: PRIORITIES[number % len(PRIORITIES)] for number, key in enumerate(keys)} if with_classes else {}
    return Trace(sizes, PLACES * sum(sizes.values()) // MODELS, tuple(starts), priorities)


# Ours -----------------------------------------------------------------------------------------------------------------


def replay(trace: Trace, disk_bytes: int | None = None) -> Outcome:
    """Let the agent's own plan run the node.

    It knows what it would know: which models there are, when runners started, and how many starts the last day had.
    """
    outcome = Outcome()
    node = Node(
        memory=Store(trace.capacity_bytes),
        disk=Store(disk_bytes) if disk_bytes is not None else None,
        sizes={key: (size - 100_000,) for key, size in trace.sizes.items()},
        remote_bytes_per_second=REMOTE_BYTES_PER_SECOND,
        is_planned_twice=False,
    )
    begin = node.now
    running: list[tuple[float, str]] = []
    recent: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KNOWN_USES))
    node.wanted = {key: _wish(trace, key, 0) for key in trace.sizes}
    for number, start in enumerate(trace.starts):
        while running and running[0][0] <= begin + start.time:
            until, view = heapq.heappop(running)
            node.now = max(node.now, until)
            key = next(iter(node.views.pop(view)))
            if not any(key in keys for keys in node.views.values()):
                node.locked.discard(key)
            node.settle()
        node.now = max(node.now, begin + start.time)
        is_hit = start.key in node.memory.held
        outcome.hits += is_hit
        outcome.hits_by_class[trace.priorities.get(start.key, Priority.NORMAL)] += is_hit
        view = f"runner-{number}"
        node.views[view] = {start.key}
        seen = recent[start.key]
        seen.append(node.now)
        node.wanted[start.key] = _wish(trace, start.key, sum(time > node.now - 86400 for time in seen))
        node.settle()
        if start.key in node.memory.held:
            node.locked.add(start.key)
            heapq.heappush(running, (node.now + start.seconds, view))
        else:
            # All the others are in use: this runner gives up.
            del node.views[view]
            node.settle()
    outcome.evictions = node.evictions[Tier.MEMORY]
    outcome.fetched_bytes = node.fetched_bytes
    return outcome


def _wish(trace: Trace, key: str, uses: int) -> Wanted:
    return Wanted(key, Tier.REMOTE, trace.priorities.get(key, Priority.NORMAL), uses_per_day=uses)


# The others -----------------------------------------------------------------------------------------------------------


def replay_simple(trace: Trace, worth: Callable[[int, int], float]) -> Outcome:
    """Evict by a number made of an entry's last use (its index) and its uses so far, lowest first."""
    outcome = Outcome()
    held: set[str] = set()
    last: dict[str, int] = {}
    count: Counter[str] = Counter()
    running: list[tuple[float, str]] = []
    free = trace.capacity_bytes
    for index, start in enumerate(trace.starts):
        while running and running[0][0] <= start.time:
            heapq.heappop(running)
        in_use = {key for _, key in running}
        last[start.key] = index
        count[start.key] += 1
        if start.key in held:
            outcome.hits += 1
            outcome.hits_by_class[trace.priorities.get(start.key, Priority.NORMAL)] += 1
        else:
            missing = _room(trace, start.key) - free
            victims: list[str] = []
            for key in sorted(held - in_use, key=lambda key: (worth(last[key], count[key]), key)):
                if missing <= 0:
                    break
                victims.append(key)
                missing -= _room(trace, key)
            if missing > 0:
                continue
            held -= set(victims)
            held.add(start.key)
            free = -missing
            outcome.evictions += len(victims)
            outcome.fetched_bytes += trace.sizes[start.key]
        heapq.heappush(running, (start.time + start.seconds, start.key))
    return outcome


def lru(trace: Trace) -> Outcome:
    """What was used last longest ago goes."""
    return replay_simple(trace, lambda last, _: last)


def lfu(trace: Trace) -> Outcome:
    """What was used least often goes."""
    return replay_simple(trace, lambda _, count: count)


def belady(trace: Trace) -> int:
    """Return the hits of Belady's MIN; models have one size, and what is not used again soon may pass by."""
    following = _following(trace.starts)
    places = trace.capacity_bytes // max(trace.sizes.values())
    held: dict[str, float] = {}
    hits = 0
    for index, start in enumerate(trace.starts):
        hits += start.key in held
        held[start.key] = following[index]
        if len(held) > places:
            del held[max(held, key=lambda key: held[key])]
    return hits


def pfoo(trace: Trace) -> float:
    """Return a bound of the hits for any sizes: the cheapest intervals that fit into cache x time (PFOO-L)."""
    following = _following(trace.starts)
    costs = sorted(
        (following[index] - index) * trace.sizes[start.key]
        for index, start in enumerate(trace.starts)
        if math.isfinite(following[index])
    )
    left = float(trace.capacity_bytes) * len(trace.starts)
    hits = 0.0
    for cost in costs:
        if cost > left:
            return hits + left / cost
        left -= cost
        hits += 1
    return hits


def _following(starts: Sequence[Start]) -> list[float]:
    """Return for each use the index of the next one of the same model."""
    following = [math.inf] * len(starts)
    last: dict[str, int] = {}
    for index, start in enumerate(starts):
        if start.key in last:
            following[last[start.key]] = index
        last[start.key] = index
    return following


def _room(trace: Trace, key: str) -> int:
    return room_bytes((trace.sizes[key] - 100_000,), 4096)


# The command ----------------------------------------------------------------------------------------------------------


def main() -> int:
    """Replay the traces, print the table, write the JSON."""
    console = Console()
    table = Table(title=f"{MODELS} models, memory for {PLACES} of mean size, {USES} starts")
    for column in ("trace", "way", "hit rate", "of the best", "fetched GB", "evictions"):
        table.add_column(column, justify="left" if column in {"trace", "way"} else "right")
    figures: dict[str, float] = {}
    for name, one_size in (("one_size", True), ("mixed_sizes", False)):
        trace = make_trace(1, one_size=one_size)
        best = (belady(trace) if one_size else pfoo(trace)) / USES
        best_name = "Belady" if one_size else "PFOO-L bound"
        for way, outcome in (("LRU", lru(trace)), ("LFU", lfu(trace)), ("Warmfleet", replay(trace))):
            rate = outcome.hits / USES
            table.add_row(
                name,
                way,
                f"{rate:.3f}",
                f"{rate / best:.2f}",
                f"{outcome.fetched_bytes / GB:.0f}",
                f"{outcome.evictions}",
            )
            figures[f"{name}_{way.lower()}_hit_rate"] = round(rate, 4)
            figures[f"{name}_{way.lower()}_fetched_bytes"] = outcome.fetched_bytes
            figures[f"{name}_{way.lower()}_evictions"] = outcome.evictions
        table.add_row(name, best_name, f"{best:.3f}", "1.00", "", "")
        figures[f"{name}_best_hit_rate"] = round(best, 4)
    console.print(table)
    _by_class(console, figures)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    console.print(str(RESULT))
    return 0


def _by_class(console: Console, figures: dict[str, float]) -> None:
    trace = make_trace(2, one_size=True, with_classes=True)
    uses = Counter(trace.priorities[start.key] for start in trace.starts)
    table = Table(title="the same with classes: hit rate by class")
    table.add_column("way")
    for priority in Priority:
        table.add_column(priority.value, justify="right")
    for way, outcome in (("LRU", lru(trace)), ("Warmfleet", replay(trace))):
        rates = {priority: outcome.hits_by_class[priority] / uses[priority] for priority in Priority}
        table.add_row(way, *(f"{rate:.3f}" for rate in rates.values()))
        for priority, rate in rates.items():
            figures[f"classes_{way.lower()}_{priority.value.lower()}_hit_rate"] = round(rate, 4)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
