"""Whose turn it is: classes by due, tenants by what they were served, requests by deadline."""

import pytest

from support.admission import ask, full, offer, order_of, queue, taken
from warmfleet_api.assignment import Serving
from warmfleet_api.vocabulary import Priority
from warmfleet_runtime.admission import Accepted, Queue, Refused


def narrow(serving: Serving | None = None) -> Queue:
    """Return a queue whose engine runs one sequence, and is busy with request 0."""
    at = queue(1, serving=serving)
    offer(at, [ask(0)])
    assert taken(at) == [0]
    return at


def test_a_higher_class_goes_before_a_lower_one_that_came_shortly_before() -> None:
    at = narrow()
    offer(at, [ask(1 + rank, priority=priority) for rank, priority in enumerate(reversed(Priority))])
    at.finish(0, 0, 0.1)
    assert order_of(at, 0.1) == [4, 3, 2, 1]


def test_a_lower_class_that_waited_long_enough_goes_first() -> None:
    at = narrow(Serving(timeout_seconds=8))
    offer(at, [ask(1, priority=Priority.NORMAL, arrived=0.0)])
    offer(at, [ask(2, priority=Priority.HIGH, arrived=2.5)])  # due at 4.5, Normal's at 4
    at.finish(0, 0, 2.5)
    assert order_of(at, 2.5) == [1, 2]


def test_a_class_that_is_never_done_leaves_overdue_lower_ones_their_share() -> None:
    at = narrow(Serving(timeout_seconds=40, max_requests=10_000))
    offer(at, [ask(1, priority=Priority.LOW, tenant="low")])
    running, served_low_at = 0, None
    for tick in range(400):  # ten requests a second, two High ones come for each that ends
        now = tick / 10
        for key in (10 + 2 * tick, 11 + 2 * tick):
            at.offer(ask(key, priority=Priority.HIGH, arrived=now), now)
        at.finish(running, 10, now)
        (running,) = taken(at, now)
        if running == 1:
            served_low_at = now
            break
        assert 1 not in dict(at.expire(now))
    # Overdue after three quarters of its 40 s, and then within one of nine turns.
    assert served_low_at is not None
    assert served_low_at < 32


def test_requests_of_one_tenant_go_by_their_deadlines() -> None:
    at = narrow()
    offer(at, [ask(1), ask(2, deadline=5.0), ask(3, deadline=2.0)])
    at.finish(0, 0, 0.0)
    assert order_of(at, 0.0) == [3, 2, 1]


def test_a_short_deadline_lifts_no_request_past_a_higher_class() -> None:
    at = narrow()
    offer(at, [ask(1, priority=Priority.LOW, deadline=1.0), ask(2, priority=Priority.NORMAL)])
    at.finish(0, 0, 0.0)
    assert order_of(at, 0.0) == [2, 1]


def test_a_tenant_that_floods_delays_another_by_one_request() -> None:
    at = narrow()
    offer(at, [ask(key, tenant="flood") for key in range(1, 100)])
    offer(at, [ask(200, tenant="other"), ask(201, tenant="other")])
    at.finish(0, 0, 0.0)
    order = order_of(at, 0.0)
    assert order.index(200) <= 1
    assert order.index(201) <= 3


def test_tenants_get_the_same_tokens_not_the_same_number_of_requests() -> None:
    at = narrow()
    offer(at, [ask(key, tenant="long", prompt=400) for key in range(1, 50)])
    offer(at, [ask(key, tenant="short", prompt=80) for key in range(100, 150)])
    at.finish(0, 0, 0.0)
    # 420 units of work each against 100: about four short ones for each long one.
    first = order_of(at, 0.0)[:25]
    assert 18 <= sum(key >= 100 for key in first) <= 22


def test_who_was_away_has_no_claim_to_what_it_did_not_use() -> None:
    at = narrow()
    offer(at, [ask(key, tenant="steady") for key in range(1, 80)])
    at.finish(0, 0, 0.0)
    for _ in range(40):
        (key,) = taken(at)
        at.finish(key, 10, 0.0)
    offer(at, [ask(key, tenant="back") for key in range(100, 140)])
    assert 5 <= sum(key >= 100 for key in order_of(at, 0.0)[:10]) <= 6


def test_an_answer_shorter_than_asked_for_is_charged_as_it_was() -> None:
    at = narrow()
    at.finish(0, 0, 0.0)
    offer(at, [ask(key, tenant=tenant, answer=200) for key, tenant in enumerate("ab" * 40, start=1)])
    tokens = {"a": 10, "b": 200}
    served = {"a": 0, "b": 0}
    for _ in range(40):
        (key,) = taken(at)
        tenant = "ab"[(key - 1) % 2]
        at.finish(key, tokens[tenant], 0.0)
        served[tenant] += 10 + 2 * tokens[tenant]
    assert served["a"] == pytest.approx(served["b"], abs=2 * 410)


def test_a_request_wider_than_the_free_room_is_not_starved_by_narrow_ones() -> None:
    at = queue(4)
    offer(at, [ask(key) for key in range(4)])
    taken(at)
    offer(at, [ask(10, sequences=3), *(ask(key) for key in range(11, 20))])
    for ended, expected in ((0, []), (1, []), (2, [10])):
        at.finish(ended, 0, 0.0)
        assert taken(at) == expected


def test_a_request_wider_than_the_engine_takes_all_its_room() -> None:
    at = queue(4)
    offer(at, [ask(1, sequences=100), ask(2)])
    assert taken(at) == [1]
    at.finish(1, 0, 0.0)
    assert taken(at) == [2]


@pytest.mark.parametrize("max_sequences", [4, 16, 256])
def test_an_engine_full_of_low_requests_takes_a_higher_one_at_once(max_sequences: int) -> None:
    at = full(max_sequences, reserves=True)
    offer(at, [ask(1, priority=Priority.LOW)])
    assert taken(at) == []
    for key, priority in ((2, Priority.NORMAL), (3, Priority.HIGH), (4, Priority.CRITICAL)):
        offer(at, [ask(key, priority=priority)])
        assert taken(at) == [key]


def test_nothing_is_reserved_where_nobody_could_prove_a_class() -> None:
    at = full(16, reserves=False)
    assert at.statistics().classes[Priority.LOW].running == 16


def test_high_requests_without_end_leave_low_ones_their_room() -> None:
    at = queue(16, reserves=True)
    offer(at, [ask(key, priority=Priority.HIGH) for key in range(100)])
    running = taken(at)
    assert len(running) == 15
    offer(at, [ask(200, priority=Priority.LOW)], now=29.0)
    at.expire(29.0)
    at.finish(running[0], 0, 29.0)
    assert 200 not in taken(at, 29.0), "a Low request that has just come waits behind"


def test_long_prompts_leave_room_and_reading_to_short_ones() -> None:
    at = queue(16)
    for key in range(8):  # what is usual here
        offer(at, [ask(key)])
    for key in taken(at):
        at.finish(key, 10, 0.0)
    offer(at, [ask(100 + key, prompt=6000) for key in range(8)])
    assert taken(at) == [100], "a second one would make the engine read 12,000 tokens"
    offer(at, [ask(key) for key in range(200, 215)])
    assert len(taken(at)) == 15
    for key in range(200, 215):
        at.finish(key, 10, 0.0)
    for step, expected in enumerate(([101], [102], [103], [])):
        at.first_token(100 + step, 0.1)
        assert taken(at, 0.1) == expected, "four of sixteen at most"


def test_prompts_are_long_only_beside_what_is_usual() -> None:
    at = queue(16)
    offer(at, [ask(key, prompt=6000) for key in range(16)])
    assert len(taken(at)) == 16


def test_a_prompt_beyond_the_warm_up_waits_and_others_pass_it() -> None:
    at = queue()
    at.warm(512, 0.0)
    offer(at, [ask(1, prompt=600), ask(2, prompt=500)])
    assert taken(at) == [2]
    at.warm(None, 1.0)
    assert taken(at, 1.0) == [1]


def test_a_changed_assignment_keeps_what_waits() -> None:
    at = narrow(Serving(timeout_seconds=30))
    offer(at, [ask(1), ask(2)])
    at.configure(Serving(timeout_seconds=5), 4, 1.0)
    assert at.expire(6.0) == ()
    assert taken(at, 6.0) == [1, 2]
    answer = at.offer(ask(3, arrived=6.0, deadline=6.0), 6.0)
    assert isinstance(answer, Refused)
    assert isinstance(at.offer(ask(4, arrived=6.0), 6.0), Accepted)
