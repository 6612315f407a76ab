"""Who is refused, when, and in which words."""

import pytest

from support.admission import ask, full, offer, order_of, queue, taken
from warmfleet_api.assignment import AdmissionLimits, Serving
from warmfleet_api.vocabulary import Priority
from warmfleet_runtime.admission import Accepted, Queue, Refused, Request


def refused(at: Queue, request: Request, now: float | None = None) -> Refused:
    answer = at.offer(request, request.arrived if now is None else now)
    assert isinstance(answer, Refused), answer
    assert (answer.retry_after_seconds is not None) == (answer.status == 429)
    return answer


def busy(*, requests_per_second: int, waiting: int, timeout_seconds: int = 30) -> tuple[Queue, float]:
    """Return a queue whose engine was measured under load, with requests of tenant `a` waiting, and the time."""
    at = queue(2, serving=Serving(max_requests=10_000, timeout_seconds=timeout_seconds))
    key, now = 10_000, 0.0
    offer(at, [ask(key), ask(key + 1), ask(key + 2)])
    running, key = taken(at), key + 3
    for _ in range(3 * requests_per_second):
        now += 1 / requests_per_second
        offer(at, [ask(key, arrived=now)])
        key += 1
        at.finish(running.pop(0), 10, now)
        running += taken(at, now)
    offer(at, [ask(20_000 + each, arrived=now) for each in range(waiting)])
    return at, now


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    at = full(serving=Serving(max_requests=2))
    offer(at, [ask(1), ask(2)])
    refusal = refused(at, ask(3))
    assert (refusal.status, refusal.code) == (429, "queue_full")
    assert "send it again in 1 s" in refusal.message


def test_retry_after_grows_with_what_waits() -> None:
    seconds = []
    for waiting in (100, 400):
        at, now = busy(requests_per_second=10, waiting=waiting, timeout_seconds=600)
        at.configure(Serving(max_requests=waiting, timeout_seconds=600), 2, now)
        refusal = refused(at, ask(0, arrived=now))
        assert refusal.code == "queue_full"
        seconds.append(refusal.retry_after_seconds)
    # Half of what waits has to go: 5 s and 20 s.
    assert seconds == [pytest.approx(5, abs=1), pytest.approx(20, abs=2)]


def test_a_full_queue_gives_way_to_a_higher_class() -> None:
    at = full(serving=Serving(max_requests=3))
    offer(at, [ask(1, priority=Priority.LOW), ask(2, priority=Priority.LOW, arrived=0.1), ask(3)])
    offer(at, [ask(4, priority=Priority.HIGH, arrived=0.2)])
    ((key, refusal),) = at.expire(0.2)
    assert key == 2, "of the lowest class the one with the latest deadline"
    assert (refusal.status, refusal.code) == (429, "shed")
    assert refusal.retry_after_seconds


def test_a_full_queue_does_not_give_way_to_a_lower_class() -> None:
    at = full(serving=Serving(max_requests=2))
    offer(at, [ask(1, priority=Priority.HIGH, tenant="b"), ask(2, priority=Priority.HIGH, tenant="c")])
    assert refused(at, ask(3)).code == "queue_full"


def test_higher_classes_leave_each_class_some_places_of_a_full_queue() -> None:
    at = full(serving=Serving(max_requests=32))
    offer(at, [ask(key, priority=Priority.HIGH, tenant="b", arrived=key / 100) for key in range(32)])
    offer(at, [ask(100, priority=Priority.LOW, arrived=1.0), ask(101, priority=Priority.LOW, arrived=1.0)])
    assert [key for key, _ in at.expire(1.0)] == [31, 30]
    assert refused(at, ask(102, priority=Priority.LOW, arrived=1.0)).code == "queue_full", "it has a sixteenth"
    assert refused(at, ask(103, priority=Priority.HIGH, tenant="b", arrived=1.0)).code == "queue_full"


def test_a_queue_full_of_one_tenant_gives_way_to_another() -> None:
    at = full(serving=Serving(max_requests=8))
    offer(at, [ask(key, tenant="flood") for key in range(8)])
    for key in range(100, 104):
        offer(at, [ask(key, tenant="other")])
        assert [code.code for _, code in at.expire(0.0)] == ["shed"]
    assert refused(at, ask(104, tenant="other")).code == "queue_full", "both have four"
    assert refused(at, ask(105, tenant="flood")).code == "queue_full"


def test_a_full_queue_takes_a_request_that_starts_at_once() -> None:
    at = full(16, reserves=True, serving=Serving(max_requests=1))
    offer(at, [ask(1, priority=Priority.LOW)])
    offer(at, [ask(2, priority=Priority.HIGH)])
    assert at.expire(0.0) == (), "nobody gives way for it"
    assert taken(at) == [2]


def test_a_request_without_a_queue_starts_or_is_refused() -> None:
    at = queue(1, serving=Serving(max_requests=0))
    offer(at, [ask(1)])
    assert taken(at) == [1]
    assert refused(at, ask(2)).code == "queue_full"


def test_a_deadline_that_will_be_missed_is_refused_at_once() -> None:
    at, now = busy(requests_per_second=10, waiting=100)
    refusal = refused(at, ask(0, tenant="a", arrived=now, deadline=now + 5))
    assert (refusal.status, refusal.code) == (429, "deadline_unmet")
    assert refusal.retry_after_seconds == pytest.approx(6, abs=2)
    assert "about 10." in refusal.message
    assert refused(at, ask(1, tenant="a", arrived=now, deadline=now + 12)).code == "deadline_unmet", "no room for error"
    assert isinstance(at.offer(ask(2, tenant="a", arrived=now, deadline=now + 18), now), Accepted)


def test_an_engine_that_stands_still_is_given_less_to_miss_its_deadline_by() -> None:
    at, now = busy(requests_per_second=10, waiting=20)
    assert isinstance(at.offer(ask(0, tenant="a", arrived=now, deadline=now + 4), now), Accepted)
    silent = now + 1.5
    assert refused(at, ask(1, tenant="a", arrived=silent, deadline=silent + 4), silent).code == "deadline_unmet"
    assert isinstance(at.offer(ask(2, tenant="a", arrived=silent, deadline=silent + 8), silent), Accepted)


def test_a_tenant_with_nothing_waiting_is_not_refused_for_a_flood() -> None:
    at, now = busy(requests_per_second=10, waiting=150)
    assert isinstance(at.offer(ask(0, tenant="b", arrived=now, deadline=now + 1), now), Accepted)
    assert refused(at, ask(1, tenant="a", arrived=now, deadline=now + 1)).code == "deadline_unmet"


def test_the_model_s_own_timeout_is_a_deadline_too() -> None:
    at, now = busy(requests_per_second=10, waiting=30, timeout_seconds=5)
    answers = [at.offer(ask(key, arrived=now), now) for key in range(10)]
    assert isinstance(answers[0], Accepted)
    assert isinstance(answers[-1], Refused)
    assert answers[-1].code == "deadline_unmet"


def test_nothing_is_predicted_before_anything_was_measured() -> None:
    at = full(serving=Serving(max_requests=1000))
    offer(at, [ask(key, deadline=0.1) for key in range(500)])


def test_a_wait_ends_at_the_deadline() -> None:
    at = full(serving=Serving(timeout_seconds=10))
    offer(at, [ask(1), ask(2, deadline=4.0)])
    assert at.next_time(0.0) == 4.0
    assert at.expire(3.9) == ()
    ((key, refusal),) = at.expire(4.0)
    assert (key, refusal.status, refusal.code) == (2, 429, "deadline_passed")
    assert [key for key, _ in at.expire(10.0)] == [1]
    assert at.next_time(10.0) is None


def test_the_first_token_s_usual_time_counts_against_the_sender_s_deadline() -> None:
    at = queue()
    offer(at, [ask(1)])
    taken(at)
    at.first_token(1, 2.0)
    assert refused(at, ask(2, arrived=2.0, deadline=3.0)).code == "deadline_unmet"
    assert isinstance(at.offer(ask(3, arrived=2.0, deadline=4.5), 2.0), Accepted)


LIMITS = AdmissionLimits(
    sequences_per_tenant=4, tokens_per_tenant=1000, sequences_per_session=2, tokens_per_session=400
)


@pytest.mark.parametrize(
    ("request_", "status", "code", "words"),
    [
        (ask(9, sequences=5), 400, "tenant_limit", "asks for 5 sequences, one tenant may hold 4"),
        (ask(9, prompt=999), 400, "tenant_limit", "lower the prompt or max_tokens"),
        (ask(9, sequences=3, session="s"), 400, "session_limit", "one session may hold 2"),
        (ask(9, prompt=500, session="s"), 400, "session_limit", "asks for 510 tokens"),
        (ask(9, sequences=4), 429, "tenant_limit", "the tenant holds 1 sequences"),
        (ask(9, sequences=2, session="s"), 429, "session_limit", "when one of its requests has ended"),
        (ask(9, prompt=390, session="s"), 429, "session_limit", "the limit is 400"),
        (ask(9, sequences=3), None, "", ""),
        (ask(9, sequences=2, session="other"), None, "", ""),
        (ask(9, tenant="b", sequences=4), None, "", ""),
    ],
)
def test_limits_of_tenants_and_sessions(request_: Request, status: int | None, code: str, words: str) -> None:
    at = queue(serving=Serving(limits=LIMITS))
    offer(at, [ask(1, session="s")])
    answer = at.offer(request_, 0.0)
    if status is None:
        assert isinstance(answer, Accepted)
        return
    assert isinstance(answer, Refused)
    assert (answer.status, answer.code) == (status, code)
    assert words in answer.message


def test_what_has_ended_counts_against_no_limit() -> None:
    at = queue(serving=Serving(limits=AdmissionLimits(sequences_per_tenant=1)))
    for key in range(3):
        offer(at, [ask(key)])
        assert refused(at, ask(100)).code == "tenant_limit"
        if key == 0:
            at.cancel(key, 0.0)
        else:
            assert order_of(at, 0.0) == [key]


def test_an_idle_engine_takes_requests_again_after_a_moment_in_which_it_answered_later_than_they_may_wait() -> None:
    at = queue()
    offer(at, [ask(1)])
    assert taken(at) == [1]
    at.first_token(1, 5.0)
    at.finish(1, 10, 5.0)
    offer(at, [ask(2, arrived=6.0, deadline=7.0)])
    at.expire(6.0)
    assert taken(at, 6.0) == [2]
