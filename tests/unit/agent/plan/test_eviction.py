"""The plan on a node for ten models of fifty, over a trace, beside those who know less and more than it.

`Node` fails at once where a plan goes above the budget or evicts what a reader holds.
"""

import sys

import pytest

from bench.eviction import Outcome, Start, Trace, belady, lfu, lru, make_trace, pfoo, replay
from support.node_tiers import Node, Store
from warmfleet_agent.plan import Evict, Held
from warmfleet_api.vocabulary import Tier

USES = 250


def test_fifty_models_in_a_cache_for_ten_stay_below_what_knowing_the_future_gives(
    capsys: pytest.CaptureFixture[str],
) -> None:
    trace = make_trace(7, USES, one_size=True)
    ours, best = replay(trace), belady(trace)
    with capsys.disabled():
        sys.stdout.write(f"\nof {USES} starts in memory: {_rates(trace, ours)}, Belady {best / USES:.2f}\n")
    assert 0 < ours.hits <= best
    assert lru(trace).hits <= best
    assert best <= pfoo(trace)


def test_models_of_all_sizes_stay_below_the_bound_of_cache_times_time(capsys: pytest.CaptureFixture[str]) -> None:
    trace = make_trace(7, USES, one_size=False)
    ours, best = replay(trace), pfoo(trace)
    with capsys.disabled():
        sys.stdout.write(
            f"\nof {USES} starts in memory, sizes mixed: {_rates(trace, ours)}, PFOO-L {best / USES:.2f}\n"
        )
    assert 0 < ours.hits <= best


def test_belady_keeps_what_is_used_again_soonest() -> None:
    starts = tuple(Start(float(index), key, 0.0) for index, key in enumerate("abcab"))
    # Room for two: c passes by, a and b are there again.
    assert belady(Trace(dict.fromkeys("abc", 10), 20, starts)) == 2
    assert lru(Trace(dict.fromkeys("abc", 10**9), 2 * 10**9, starts)).hits == 0


def test_the_model_of_a_node_sees_an_eviction_of_what_is_in_use() -> None:
    """The control: what the other tests rely on does fail."""
    node = Node(memory=Store(10**6), sizes={"a": (10,)})
    node.memory.held["a"] = Held("a", (10,), node.now)
    node.locked.add("a")
    with pytest.raises(AssertionError, match="a is locked"):
        node._carry_out(Evict("a", Tier.MEMORY, 10, "by mistake"))


def _rates(trace: Trace, ours: Outcome) -> str:
    uses = len(trace.starts)
    return f"Warmfleet {ours.hits / uses:.2f}, LRU {lru(trace).hits / uses:.2f}, LFU {lfu(trace).hits / uses:.2f}"
