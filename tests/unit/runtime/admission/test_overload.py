"""More requests than the engine can answer, on a simulated clock."""

import heapq
import random

import pytest

from support.admission import ask, queue
from warmfleet_api.assignment import Serving
from warmfleet_api.vocabulary import Priority
from warmfleet_runtime.admission import Accepted, Queue

SEQUENCES = 16
ANSWER_TOKENS = 64
TOKEN_SECONDS = 0.005
CAPACITY = SEQUENCES / (ANSWER_TOKENS * TOKEN_SECONDS)
"""Requests per second."""
SECONDS = 12.0
MEASURED_SECONDS = 1.5
"""The pace is known by then."""


class Engine:
    """Answers what the queue sends it, a token of each sequence every `TOKEN_SECONDS`."""

    def __init__(self, at: Queue, *, streams: bool) -> None:
        self.queue = at
        self.streams = streams
        self.started: dict[int, float] = {}
        self.ended: dict[int, str] = {}
        """Codes of those that ended waiting."""
        self._news: list[tuple[float, int, int]] = []

    def run_until(self, end: float) -> None:
        while self._news and self._news[0][0] <= end:
            now, key, tokens = heapq.heappop(self._news)
            if tokens == ANSWER_TOKENS:
                self.queue.finish(key, tokens, now)
            else:
                self.queue.first_token(key, now)
                self.queue.progress(key, tokens, now)
            self.look(now)
        self.look(end)

    def look(self, now: float) -> None:
        self.ended |= {key: refusal.code for key, refusal in self.queue.expire(now)}
        for dispatch in self.queue.take(now):
            self.started[dispatch.id] = now
            steps = [1, *range(8, ANSWER_TOKENS + 1, 8)] if self.streams else [ANSWER_TOKENS]
            for tokens in steps:
                heapq.heappush(self._news, (now + tokens * TOKEN_SECONDS, dispatch.id, tokens))


def arrivals(per_second: float, chance: random.Random) -> list[float]:
    times, now = list[float](), 0.0
    while now < SECONDS:
        now += chance.expovariate(per_second)
        times.append(now)
    return times


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("times_capacity", [1.2, 2.0, 5.0])
def test_nine_tenths_of_the_capacity_are_answered_in_time(*, times_capacity: float, streams: bool) -> None:
    at = queue(SEQUENCES)
    engine = Engine(at, streams=streams)
    deadlines = dict[int, float]()
    for key, now in enumerate(arrivals(times_capacity * CAPACITY, random.Random(7))):
        engine.run_until(now)
        deadlines[key] = now + 1.0
        request = ask(key, arrived=now, deadline=deadlines[key], answer=ANSWER_TOKENS)
        at.offer(request, now)
        engine.look(now)
    good = sum(now + TOKEN_SECONDS <= deadlines[key] for key, now in engine.started.items())
    assert good >= 0.9 * CAPACITY * SECONDS
    # Who is not answered is told so at once, not after its wait, as soon as the engine's pace is known.
    late = [key for key in engine.ended if deadlines[key] > MEASURED_SECONDS + 1.0]
    assert len(late) <= 0.02 * len(deadlines)


def test_low_requests_are_served_while_high_ones_alone_are_too_many() -> None:
    at = queue(SEQUENCES, reserves=True, serving=Serving(timeout_seconds=8))
    engine = Engine(at, streams=True)
    chance = random.Random(3)
    events = sorted(
        [(now, Priority.HIGH) for now in arrivals(2 * CAPACITY, chance)]
        + [(now, Priority.LOW) for now in arrivals(0.05 * CAPACITY, chance)]
    )
    low = dict[int, float]()
    for key, (now, priority) in enumerate(events):
        engine.run_until(now)
        request = ask(key, arrived=now, priority=priority, tenant=priority, answer=ANSWER_TOKENS)
        if isinstance(at.offer(request, now), Accepted) and priority is Priority.LOW:
            low[key] = now
        engine.look(now)
    engine.run_until(SECONDS + 8)
    waits = [engine.started[key] - now for key, now in low.items() if key in engine.started]
    assert len(waits) >= 0.8 * len(low)
    # Overdue after three quarters of the timeout, and then served in turn; who was not was told when it was shed.
    assert max(waits) < 7
    assert set(engine.ended.values()) <= {"shed"}
