"""Order and room: one plan after another, told as small stories."""

import pytest

from support.node_tiers import Node
from support.plan_stories import GB, know, node, of, put, wait_of, want
from warmfleet_agent.plan import (
    Ask,
    Evict,
    Fetch,
    Known,
    NodeState,
    Promote,
    Stop,
    TierState,
    Transfer,
    Use,
    Wait,
    Wanted,
    plan,
    room_bytes,
)
from warmfleet_agent.plan.planning import ASKS
from warmfleet_agent.plan.room import RESIDENCY_SECONDS
from warmfleet_api.vocabulary import EntryState, Priority, Tier, WeightsProblem

NOW = 1e9


# Order ----------------------------------------------------------------------------------------------------------------


def test_what_is_wanted_is_asked_for_then_fetched_then_there() -> None:
    one = node(a=2)
    want(one, "a")
    assert of(one.round().steps, Ask) == ["a"]
    one.pass_time(1)
    assert one.transfers["a"].target is Tier.MEMORY
    one.settle()
    assert set(one.memory.held) == {"a"}
    assert one.round().steps == ()


def test_with_a_disk_it_goes_by_way_of_it() -> None:
    one = node(disk_gb=20, a=2)
    want(one, "a")
    one.settle()
    assert "a" in one.memory.held
    assert one.disk is not None
    assert "a" in one.disk.held
    assert one.counts["Promote"] == 1


def test_a_disk_without_room_is_gone_around_and_copied_to_when_it_has_some() -> None:
    one = node(disk_gb=3, a=2, b=2)
    assert one.disk is not None
    want(one, "b", tier=Tier.DISK, pinned=True)
    put(one, "b", tier=Tier.DISK)
    want(one, "a")
    one.settle()
    assert "a" in one.memory.held
    assert set(one.disk.held) == {"b"}
    one.disk.capacity_bytes = 5 * GB
    one.settle()
    assert set(one.disk.held) == {"a", "b"}
    assert one.counts["Demote"] == 1


def test_classes_come_strictly_then_what_a_runner_waits_for_then_the_smallest() -> None:
    one = node(100, parallel=1, low=1, big=8, small=2, seen=9, top=20)
    know(one)
    want(one, "low", priority=Priority.LOW)
    want(one, "big", "small", "seen")
    want(one, "top", priority=Priority.CRITICAL)
    one.views["pod"] = {"seen"}
    order = []
    while one.round().steps or one.transfers:
        order += of(one.last.steps, Fetch)
        one._advance(one._next_event())
    # The slots beyond `parallel` are why what a runner waits for begins with the first.
    assert order == ["top", "seen", "small", "big", "low"]


def test_the_higher_classes_never_wait_for_the_end_of_a_lower_one() -> None:
    one = node(100, parallel=1, low=9, high=9, critical=9, more=9, most=9)
    know(one)
    want(one, "low", priority=Priority.LOW)
    one.round()
    want(one, "high", priority=Priority.HIGH)
    want(one, "critical", "more", "most", priority=Priority.CRITICAL)
    one.round()
    assert set(one.transfers) == {"low", "critical", "more"}
    assert "3 may be at once" in wait_of(one, "most").message
    assert wait_of(one, "most").reason is None


def test_copies_from_disk_go_one_by_one_unless_a_runner_waits() -> None:
    one = node(100, 100, a=5, b=6, c=7)
    put(one, "a", "b", "c", tier=Tier.DISK)
    want(one, "a", "b", "c")
    assert of(one.round().steps, Promote) == ["a"]
    assert "1 copied between disk and memory (a)" in wait_of(replaced(one), "b").message
    one.views["pod"] = {"c"}
    assert of(one.round().steps, Promote) == ["c"]


def replaced(one: Node) -> Node:
    one.round()
    return one


def test_sources_are_asked_a_few_at_once() -> None:
    one = node(100, **{f"m{number}": 1 for number in range(ASKS + 3)})
    want(one, *one.sizes, tier=Tier.REMOTE)
    assert len(of(one.round().steps, Ask)) == ASKS
    assert len(one.last.waits) == 3
    one.settle()
    assert one.known.keys() == one.sizes.keys()
    assert not one.memory.held


# Room -----------------------------------------------------------------------------------------------------------------


def test_what_nobody_wants_stays_until_its_room_is_needed() -> None:
    one = node(old=6, new=5)
    put(one, "old")
    one.settle()
    assert set(one.memory.held) == {"old"}
    want(one, "new")
    one.settle()
    assert set(one.memory.held) == {"new"}


def test_an_eviction_says_for_whom_and_why() -> None:
    one = node(old=6, new=5)
    put(one, "old")
    know(one)
    want(one, "new", priority=Priority.HIGH)
    evict, fetch = one.round().steps
    assert evict == Evict(
        "old", Tier.MEMORY, room_bytes(one.sizes["old"], 4096),
        "new (High) needs 5.0 GB; nobody wants it; 0.0 uses a day, 31 s to have it back",
    )  # fmt: skip
    assert fetch.reason == "High; 5.0 GB from afar, about 26 s; old made room"


def test_the_least_valuable_goes_first() -> None:
    one = node(9, often=3, seldom=3, never=3, new=3)
    put(one, "often", "seldom", "never")
    want(one, "often", tier=Tier.REMOTE, uses=20)
    want(one, "seldom", tier=Tier.REMOTE, uses=1)
    want(one, "new")
    one.settle()
    assert set(one.memory.held) == {"often", "seldom", "new"}


def test_what_comes_back_from_disk_goes_before_what_comes_from_afar() -> None:
    one = node(6, 9, cheap=3, dear=3, new=3)
    put(one, "cheap", "dear")
    put(one, "cheap", tier=Tier.DISK)
    want(one, "cheap", "dear", tier=Tier.REMOTE, uses=1)
    want(one, "new")
    one.pass_time(1)
    one.settle()
    assert "dear" in one.memory.held
    assert "cheap" not in one.memory.held


def test_a_recent_use_counts_more_than_an_old_one() -> None:
    one = node(6, fresh=3, stale=3, new=3)
    put(one, "fresh", "stale")
    one.uses = {"fresh": Use(1, one.now - 600), "stale": Use(1, one.now - 86400)}
    want(one, "new")
    one.settle()
    assert set(one.memory.held) == {"fresh", "new"}


def test_what_saves_a_minute_of_compiling_outlasts_what_is_fetched_in_seconds() -> None:
    one = node(9, compiled=3, weights=3, new=5)
    put(one, "compiled", "weights")
    want(one, "compiled", tier=Tier.REMOTE, uses=1, saves=60)
    want(one, "weights", tier=Tier.REMOTE, uses=1)
    want(one, "new")
    one.settle()
    assert set(one.memory.held) == {"compiled", "new"}


def test_no_more_is_evicted_than_needed() -> None:
    one = node(10, small=1, large=8, new=7)
    put(one, "small", "large")
    one.uses = {"large": Use(5, one.now)}
    want(one, "new")
    one.settle()
    assert set(one.memory.held) == {"small", "new"}


@pytest.mark.parametrize("kept", ["locked", "pinned", "in a view"])
def test_what_is_locked_pinned_or_in_a_view_never_goes_and_is_named(kept: str) -> None:
    one = node(held=6, new=5)
    put(one, "held")
    want(one, "held", priority=Priority.LOW, pinned=kept == "pinned")
    if kept == "locked":
        one.locked.add("held")
    if kept == "in a view":
        one.views["pod"] = {"held"}
    want(one, "new", priority=Priority.CRITICAL)
    one.settle()
    assert set(one.memory.held) == {"held"}
    words = {"locked": "a runner reads it", "pinned": "pinned", "in a view": "a runner sees it"}[kept]
    assert wait_of(one, "new") == Wait(
        "new", EntryState.WAITING,
        f"new needs 5.0 GB of memory; of 10.0 GB it could have 4.0 GB: it is held by held (6.0 GB, {words})",
        WeightsProblem.CACHE_FULL,
    )  # fmt: skip
    one.locked.clear()
    one.views.clear()
    want(one, "held", tier=Tier.REMOTE)
    one.settle()
    assert set(one.memory.held) == {"new"}


def test_nothing_goes_where_that_would_not_be_enough() -> None:
    one = node(locked=6, free=3, new=5)
    put(one, "locked", "free")
    one.locked.add("locked")
    want(one, "new")
    one.settle()
    assert set(one.memory.held) == {"locked", "free"}


def test_a_model_larger_than_memory_never_fits_and_evicts_nothing() -> None:
    one = node(disk_gb=100, old=6, huge=11)
    put(one, "old")
    want(one, "huge", priority=Priority.CRITICAL)
    one.settle()
    assert set(one.memory.held) == {"old"}
    wait = wait_of(one, "huge")
    assert (wait.state, wait.reason) == (EntryState.FAILED, WeightsProblem.NEVER_FITS)
    assert "it needs 11.0 GB, and memory.size of this node's WeightCache is 10.0 GB; raise memory.size" in wait.message


def test_a_wish_for_disk_without_a_disk_never_fits() -> None:
    one = node(a=1)
    want(one, "a", tier=Tier.DISK)
    one.settle()
    assert wait_of(one, "a").reason is WeightsProblem.NEVER_FITS


def test_of_preloads_that_do_not_fit_together_the_highest_classes_get_there() -> None:
    one = node(10, low=4, normal=4, high=4, critical=4)
    for key in one.sizes:
        want(one, key, priority=Priority(key.capitalize()))
    one.settle()
    assert set(one.memory.held) == {"critical", "high"}
    for key in ("normal", "low"):
        assert wait_of(one, key).reason is WeightsProblem.CACHE_FULL
    assert "high (4.0 GB, High)" in wait_of(one, "normal").message


def test_a_runner_that_waits_goes_before_preloads_of_its_class_once_they_have_stayed_a_while() -> None:
    one = node(10, preload=8, needed=8)
    want(one, "preload", "needed")
    one.wanted.pop("needed")
    one.settle()
    want(one, "needed")
    one.views["pod"] = {"needed"}
    one.round()
    arrived = one.memory.held["preload"].arrived
    assert one.counts["Evict"] == 0
    one.pass_time(1)
    assert wait_of(one, "needed").until == arrived + RESIDENCY_SECONDS
    one.settle()
    assert set(one.memory.held) == {"needed"}
    assert one.links == {"pod": {"needed"}}


def test_a_low_runner_waits_for_critical_preloads_unless_its_use_is_worth_clearly_more() -> None:
    one = node(10, preload=8, needed=8)
    put(one, "preload")
    want(one, "preload", priority=Priority.CRITICAL, uses=24)
    want(one, "needed", priority=Priority.LOW)
    one.views["pod"] = {"needed"}
    one.settle()
    assert set(one.memory.held) == {"preload"}
    want(one, "preload", priority=Priority.CRITICAL, uses=1)
    one.settle()
    assert set(one.memory.held) == {"needed"}


def test_two_that_are_worth_about_the_same_do_not_push_each_other_out() -> None:
    one = node(10, a=8, b=8)
    put(one, "a")
    want(one, "a", uses=10)
    want(one, "b", uses=11)
    one.settle()
    assert one.counts["Evict"] == 0
    want(one, "b", uses=20)
    one.settle()
    assert set(one.memory.held) == {"b"}
    one.pass_time(3600)
    assert one.counts["Evict"] == 1


def test_what_is_reserved_but_not_yet_in_the_account_counts() -> None:
    size = (4 * GB,)
    transfer = Transfer("a", Tier.REMOTE, Tier.MEMORY, 4 * GB, room_bytes=room_bytes(size, 4096))
    state = NodeState(
        memory=TierState(capacity_bytes=6 * GB, free_bytes=6 * GB),
        wanted={key: Wanted(key, Tier.MEMORY) for key in ("a", "b")},
        known={"b": Known(size, NOW)},
        transfers=(transfer,),
    )
    assert plan(state, NOW).steps == ()


def test_a_preload_under_way_gives_its_room_to_a_runner_that_waits() -> None:
    one = node(10, preload=8, needed=8)
    know(one)
    want(one, "preload")
    one.pass_time(5)
    want(one, "needed")
    one.views["pod"] = {"needed"}
    one.round()
    assert of(one.last.steps, Stop) == ["preload"]
    assert set(one.transfers) == {"needed"}


def test_a_smaller_budget_is_kept_at_once_and_what_may_not_go_is_told() -> None:
    one = node(10, a=3, b=3, c=3)
    put(one, "a", "b", "c")
    want(one, "a", "b", "c")
    one.locked |= {"b"}
    one.memory.capacity_bytes = 2 * GB
    one.settle()
    assert set(one.memory.held) == {"b"}
    assert one.last.warnings == (
        "memory holds 999.9 MB more than its 2.0 GB, and nothing more may go: it is pinned or in use",
    )
    one.locked.clear()
    one.round()
    assert not one.memory.held


def test_strangers_bytes_count_as_used() -> None:
    one = node(10, a=6)
    one.memory.stray_bytes = 5 * GB
    want(one, "a")
    one.settle()
    assert wait_of(one, "a").message == "a needs 6.0 GB of memory; of 10.0 GB it could have 5.0 GB"
