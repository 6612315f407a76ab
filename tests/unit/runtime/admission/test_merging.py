"""Identical requests share a generation."""

from support.admission import ask, full, offer, queue, taken
from warmfleet_api.assignment import Serving
from warmfleet_api.vocabulary import Priority
from warmfleet_runtime.admission import Accepted, Merged

SERVING = Serving(merge_window_milliseconds=100)


def test_identical_requests_within_the_window_share_a_generation() -> None:
    at = queue(serving=SERVING)
    offer(at, [ask(1, merge=b"k")])
    assert at.offer(ask(2, merge=b"k", arrived=0.05), 0.05) == Merged(1)
    assert taken(at, 0.05) == [1]
    assert at.offer(ask(3, merge=b"k", arrived=0.1), 0.1) == Merged(1), "it runs already"
    assert at.offer(ask(4, merge=b"k", arrived=0.11), 0.11) == Accepted(), "too late"


def test_other_requests_do_not() -> None:
    at = queue(serving=SERVING)
    offer(at, [ask(1, merge=b"k"), ask(2, merge=b"other"), ask(3, merge=b"k", tenant="b"), ask(4), ask(5)])


def test_nothing_is_merged_without_a_window() -> None:
    at = queue()
    offer(at, [ask(1, merge=b"k"), ask(2, merge=b"k")])


def test_nobody_waits_longer_for_being_merged() -> None:
    at = full(serving=SERVING)
    offer(at, [ask(1, merge=b"k", priority=Priority.LOW)])
    offer(at, [ask(2, merge=b"k", priority=Priority.HIGH), ask(3, merge=b"j")])
    offer(at, [ask(4, merge=b"j", deadline=1.0)])


def test_a_generation_outlives_its_leader_and_ends_with_its_last_hearer() -> None:
    at = queue(serving=SERVING)
    offer(at, [ask(1, merge=b"k")])
    at.offer(ask(2, merge=b"k"), 0.0)
    assert taken(at) == [1]
    assert not at.cancel(1, 0.0)
    assert not at.cancel(1, 0.0), "it has left already"
    assert at.statistics().classes[Priority.NORMAL].running == 1
    assert at.cancel(2, 0.0)
    assert at.statistics().classes[Priority.NORMAL].running == 0


def test_all_hearers_are_told_when_their_generation_ends_waiting() -> None:
    at = full(serving=Serving(merge_window_milliseconds=100, timeout_seconds=1))
    offer(at, [ask(1, merge=b"k")])
    at.offer(ask(2, merge=b"k"), 0.0)
    assert [key for key, _ in at.expire(1.0)] == [1, 2]
    assert at.statistics().merged == 0


def test_nobody_joins_a_generation_that_has_ended() -> None:
    at = queue(serving=SERVING)
    offer(at, [ask(1, merge=b"k")])
    taken(at)
    at.finish(1, 10, 0.01)
    assert at.offer(ask(2, merge=b"k", arrived=0.02), 0.02) == Accepted()


def test_hearers_are_bounded() -> None:
    at = queue(2, serving=Serving(merge_window_milliseconds=100, max_requests=3))
    offer(at, [ask(1, merge=b"k")])
    taken(at)
    assert [at.offer(ask(key, merge=b"k"), 0.0) for key in (2, 3, 4)] == [Merged(1)] * 3
    assert at.offer(ask(5, merge=b"k"), 0.0) == Accepted(), "it gets a generation of its own"
