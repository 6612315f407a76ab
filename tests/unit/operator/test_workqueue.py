"""The queue: no key is lost, none is with two workers, delays and back-off hold."""

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.scripted import until
from warmfleet_operator.workqueue import LONGEST_RETRY_SECONDS, WorkQueue

KEYS = st.sampled_from("abcd")
URGENT = {"d"}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class QueueMachine(RuleBasedStateMachine):
    """A model beside the queue: for each key, from when on it must come, and who has it."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue: WorkQueue[str] = WorkQueue(self.clock, urgent=URGENT)
        self.owed: dict[str, float] = {}
        self.held: set[str] = set()

    @rule(key=KEYS, delay=st.sampled_from([0.0, 0.5, 3.0]))
    def add(self, key: str, delay: float) -> None:
        self.queue.add(key, delay)
        self.owed[key] = min(self.clock.now + delay, self.owed.get(key, float("inf")))

    @rule(key=KEYS)
    def retry(self, key: str) -> None:
        delay = self.queue.retry(key)
        self.owed[key] = min(self.clock.now + delay, self.owed.get(key, float("inf")))

    @rule(seconds=st.sampled_from([0.1, 1.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def take(self) -> None:
        taken = self.queue.take()
        due = {key for key, since in self.owed.items() if since <= self.clock.now and key not in self.held}
        if taken is None:
            assert not due, "a key that was due was not given out"
            return
        key, waited = taken
        assert key in due, "a key was given out too early, twice, or without being asked for"
        assert waited == pytest.approx(self.clock.now - self.owed[key])
        rivals = due & URGENT if key in URGENT else due
        assert all(self.owed[key] <= self.owed[other] for other in rivals), "another key waited longer"
        assert key in URGENT or not due & URGENT, "an urgent key waits"
        del self.owed[key]
        self.held.add(key)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        self.queue.done(key)
        self.held.remove(key)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.queue) == len(self.owed)

    def teardown(self) -> None:
        for key in self.held:
            self.queue.done(key)
        self.clock.now += LONGEST_RETRY_SECONDS
        rest = []
        while (taken := self.queue.take()) is not None:
            rest.append(taken[0])
            self.queue.done(taken[0])
        assert sorted(rest) == sorted(self.owed)


TestTheQueueKeepsItsPromises = QueueMachine.TestCase


def test_a_failing_key_comes_back_after_one_two_four_seconds_and_starts_anew_once_it_succeeds() -> None:
    queue: WorkQueue[str] = WorkQueue(Clock())
    assert [queue.retry("a") for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    queue.forget("a")
    assert queue.retry("a") == 1


def test_the_longest_wait_counts_due_keys_and_those_being_worked_on_but_no_delayed_ones() -> None:
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock)
    queue.add("later", 30)
    assert queue.longest_wait_seconds() == 0
    queue.add("now")
    clock.now += 5
    assert queue.longest_wait_seconds() == 5
    assert queue.take() == ("now", 5)
    clock.now += 2
    assert queue.longest_wait_seconds() == 2


async def test_waiting_workers_share_what_comes() -> None:
    queue: WorkQueue[int] = WorkQueue()
    got: list[int] = []

    async def work() -> None:
        while True:
            key, _ = await queue.get()
            got.append(key)
            await asyncio.sleep(0)
            queue.done(key)

    workers = [asyncio.create_task(work()) for _ in range(3)]
    await asyncio.sleep(0)
    for key in range(20):
        queue.add(key, 0.02 if key % 2 else 0.0)
    await until(lambda: len(got) == 20)
    for worker in workers:
        worker.cancel()
    await asyncio.gather(*workers, return_exceptions=True)
    assert sorted(got) == list(range(20))


@pytest.mark.parametrize("ticks", range(4))
async def test_a_worker_that_is_cancelled_as_a_key_comes_ends(ticks: int) -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("in a minute", 60)
    worker = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("now")
    for _ in range(ticks):
        await asyncio.sleep(0)
    # A worker that got its key before is done, with nothing to lose.
    cancels = worker.cancel()
    await asyncio.wait([worker], timeout=5)
    assert worker.cancelled() == cancels
