"""The disk, failures, wishes that end, and views: one plan after another, told as small stories."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from support.plan_stories import GB, know, node, of, put, wait_of, want
from warmfleet_agent.plan import (
    Ask,
    Demote,
    Discard,
    Evict,
    Link,
    Problem,
    Stop,
    Unlink,
    room_bytes,
)
from warmfleet_agent.store import reservation
from warmfleet_api.vocabulary import EntryState, Priority, Tier, WeightsProblem

# Disk -----------------------------------------------------------------------------------------------------------------


def test_what_is_worth_more_on_disk_is_not_pushed_out_by_a_passer_by() -> None:
    one = node(10, 5, often=4, passing=4)
    put(one, "often", tier=Tier.DISK)
    want(one, "often", tier=Tier.REMOTE, uses=20)
    want(one, "passing", uses=1)
    one.settle()
    assert one.disk is not None
    assert set(one.disk.held) == {"often"}
    assert set(one.memory.held) == {"passing"}


def test_a_draft_on_disk_is_gone_on_with_or_dropped() -> None:
    one = node(10, 5, a=4)
    want(one, "a")
    know(one)
    one.pass_time(5)
    one.restart()
    assert one.disk is not None
    assert set(one.disk.idle_drafts) == {"a"}
    one.pass_time(1)
    assert set(one.transfers) == {"a"}
    one.restart()
    one.wanted.clear()
    assert of(one.round().steps, Discard) == ["a"]
    assert one.disk.used_bytes == 0


def test_a_broken_disk_is_gone_around() -> None:
    one = node(10, 10, a=4, b=2)
    know(one)
    put(one, "b", tier=Tier.DISK)
    want(one, "a", "b")
    for key in ("a", "b"):
        one.problems[key] = Problem(WeightsProblem.DISK_ERROR, "EIO", one.now, one.now + 60, Tier.DISK)
    one.round()
    assert one.transfers["a"].target is Tier.MEMORY


# Failures -------------------------------------------------------------------------------------------------------------


def test_a_failure_is_tried_again_when_its_time_has_come_and_blocks_nobody() -> None:
    one = node(10, bad=4, good=4)
    want(one, "bad", priority=Priority.CRITICAL)
    want(one, "good", priority=Priority.LOW)
    one.broken.add("bad")
    one.pass_time(30)
    assert set(one.memory.held) == {"good"}
    wait = wait_of(one, "bad")
    assert (wait.state, wait.message) == (EntryState.FAILED, "bad: no answer")
    assert wait.until == one.last.next_time
    one.broken.clear()
    one.settle()
    assert set(one.memory.held) == {"good", "bad"}


def test_what_failed_is_asked_again_before_anything_goes_for_it() -> None:
    one = node(10, old=8, new=8)
    put(one, "old")
    know(one)
    want(one, "new")
    one.problems["new"] = Problem(WeightsProblem.SOURCE_UNREACHABLE, "cut", one.now + 1, one.now + 2)
    one.now += 5
    assert of(one.round().steps, Ask) == ["new"]
    assert of(one.last.steps, Evict) == []


def test_what_only_a_person_can_mend_is_not_tried_again() -> None:
    one = node(10, a=4)
    want(one, "a")
    one.problems["a"] = Problem(WeightsProblem.ACCESS_DENIED, "no token", one.now, math.inf)
    assert one.round().steps == ()
    assert one.last.next_time is None
    assert wait_of(one, "a").until is None


# Wishes that end ------------------------------------------------------------------------------------------------------


def test_a_fetch_that_nobody_wants_any_more_ends() -> None:
    one = node(10, 20, a=4, b=4)
    know(one)
    want(one, "a", "b")
    one.pass_time(3)
    del one.wanted["a"]
    want(one, "b", tier=Tier.REMOTE)
    one.round()
    assert of(one.last.steps, Stop) == ["a", "b"]
    assert not one.transfers
    assert one.disk is not None
    assert one.disk.used_bytes == 0


def test_an_entry_nearer_than_wished_stays() -> None:
    one = node(10, 20, a=4)
    put(one, "a")
    want(one, "a", tier=Tier.DISK)
    one.settle()
    assert "a" in one.memory.held
    assert one.counts["Evict"] == 0


# Views ----------------------------------------------------------------------------------------------------------------


def test_a_view_shows_what_is_there_and_loses_what_it_is_not_to_show() -> None:
    one = node(10, a=2, b=2)
    put(one, "a", "b")
    want(one, "a", "b")
    one.views = {"pod": {"b"}}
    one.links = {"pod": {"a"}, "gone": {"a"}}
    steps = one.round().steps
    assert [(type(step), step.view, step.key) for step in steps if isinstance(step, Link | Unlink)] == [
        (Unlink, "gone", "a"),
        (Unlink, "pod", "a"),
        (Link, "pod", "b"),
    ]


def test_a_view_of_an_entry_that_nobody_describes_is_told() -> None:
    one = node(10, 10, a=2)
    one.views = {"pod": {"a"}}
    one.round()
    assert wait_of(one, "a").message == "a runner waits for it, but nobody says where it is"
    put(one, "a", tier=Tier.DISK)
    one.settle()
    assert one.links == {"pod": {"a"}}


def test_nothing_is_copied_down_while_anything_else_is_to_be_done() -> None:
    one = node(10, 10, a=2, b=2)
    put(one, "a")
    want(one, "a", "b")
    know(one)
    assert of(one.round().steps, Demote) == []
    one.settle()
    assert one.counts["Demote"] == 1


# With the store -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(0, 10 * GB), min_size=1, max_size=40), st.sampled_from([4096, 2 * 1024**2]))
def test_a_plan_never_counts_less_room_than_the_store_reserves(file_bytes: list[int], page_bytes: int) -> None:
    sizes = {f"model-{number:05}-of-{len(file_bytes):05}.safetensors": size for number, size in enumerate(file_bytes)}
    assert room_bytes(tuple(file_bytes), page_bytes) >= reservation.rounded_bytes(sizes, page_bytes)
