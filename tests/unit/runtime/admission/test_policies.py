"""When waiting requests go to the engine."""

import pytest

from support.admission import ask, full, offer, queue, taken
from warmfleet_api.assignment import Batching, Serving
from warmfleet_api.vocabulary import BatchingPolicy, Priority
from warmfleet_runtime.admission import Queue
from warmfleet_runtime.admission.policies import dynamic_wait


def batching(policy: BatchingPolicy, *, size: int | None = 4, wait: int = 100, room: int = 16) -> Queue:
    serving = Serving(batching=Batching(policy=policy, max_size=size, max_wait_milliseconds=wait))
    return queue(room, serving=serving)


def test_continuous_sends_at_once() -> None:
    at = batching(BatchingPolicy.CONTINUOUS)
    for key in range(16):
        offer(at, [ask(key)])
        assert taken(at) == [key]


def test_size_or_wait_sends_when_enough_wait() -> None:
    at = batching(BatchingPolicy.SIZE_OR_WAIT)
    offer(at, [ask(key) for key in range(3)])
    assert taken(at) == []
    offer(at, [ask(3)])
    assert taken(at) == [0, 1, 2, 3]


def test_size_or_wait_sends_what_is_there_when_the_first_waited_long_enough() -> None:
    at = batching(BatchingPolicy.SIZE_OR_WAIT)
    offer(at, [ask(0), ask(1, arrived=0.05)])
    assert at.next_time(0.05) == pytest.approx(0.1)
    assert taken(at, 0.09) == []
    assert taken(at, 0.1) == [0, 1]


def test_size_or_wait_lets_several_batches_of_a_crowd_go_and_holds_the_rest() -> None:
    at = batching(BatchingPolicy.SIZE_OR_WAIT)
    offer(at, [ask(key) for key in range(10)])
    assert len(taken(at)) == 8


def test_static_waits_for_the_end_of_the_batch() -> None:
    at = batching(BatchingPolicy.STATIC)
    offer(at, [ask(key) for key in range(9)])
    assert taken(at) == [0, 1, 2, 3]
    for key in range(3):
        at.finish(key, 10, 1.0)
        assert taken(at, 1.0) == []
    at.finish(3, 10, 1.0)
    assert taken(at, 1.0) == [4, 5, 6, 7]
    assert at.next_time(1.0) == 30.0, "nothing but the deadline happens by itself while a batch runs"


def test_a_static_batch_starts_without_being_full_once_the_first_waited_long_enough() -> None:
    at = batching(BatchingPolicy.STATIC)
    offer(at, [ask(0)])
    assert taken(at, 0.05) == []
    assert taken(at, 0.1) == [0]


def test_a_batch_without_a_size_is_what_the_engine_runs_at_once() -> None:
    at = batching(BatchingPolicy.STATIC, size=None, room=8)
    offer(at, [ask(key) for key in range(20)])
    assert len(taken(at)) == 8


def test_dynamic_sends_a_lonely_request_at_once() -> None:
    at = batching(BatchingPolicy.DYNAMIC)
    for key in range(5):
        offer(at, [ask(key, arrived=10.0 * key)])
        assert taken(at, 10.0 * key) == [key]


def test_dynamic_gathers_a_batch_under_load() -> None:
    at = batching(BatchingPolicy.DYNAMIC, room=512)
    sizes = []
    for key in range(400):  # 200 a second: a batch of four takes 15 ms
        offer(at, [ask(key, arrived=key / 200)])
        sizes.append(len(taken(at, key / 200)))
    assert set(sizes[-100:]) == {0, 4}


@pytest.mark.parametrize(
    ("arrivals_per_second", "expected"), [(0.0, 0.0), (9.0, 0.0), (20.0, 0.1), (40.0, 0.075), (4000.0, 0.00075)]
)
def test_the_dynamic_window_follows_the_load(arrivals_per_second: float, expected: float) -> None:
    assert dynamic_wait(0.1, 4, arrivals_per_second) == pytest.approx(expected)


@pytest.mark.parametrize("policy", [BatchingPolicy.STATIC, BatchingPolicy.SIZE_OR_WAIT, BatchingPolicy.DYNAMIC])
@pytest.mark.parametrize("priority", [Priority.HIGH, Priority.CRITICAL])
def test_no_policy_holds_the_higher_classes(policy: BatchingPolicy, priority: Priority) -> None:
    at = batching(policy)
    offer(at, [ask(1, arrived=0.0), ask(2, arrived=0.0), ask(3, priority=priority)])
    assert 3 in taken(at)


def test_a_time_to_come_is_never_past() -> None:
    at = full()
    at.configure(Serving(batching=Batching(policy=BatchingPolicy.SIZE_OR_WAIT, max_wait_milliseconds=10)), 4, 0.0)
    offer(at, [ask(1)])
    assert taken(at, 5.0) == []
    assert at.next_time(5.0) == 30.0
