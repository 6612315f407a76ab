"""The circuit breaker of an endpoint."""

from warmfleet_router.breaker import FAILURES, OPEN_SECONDS, Breaker


def _opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.failed(now)
    return breaker


def test_five_failures_in_a_row_open_it_for_a_minute() -> None:
    breaker = Breaker()
    assert [breaker.failed(0.0) for _ in range(FAILURES)] == [False] * (FAILURES - 1) + [True]
    assert not breaker.allows(OPEN_SECONDS - 0.1)
    assert breaker.allows(OPEN_SECONDS)


def test_a_success_between_failures_begins_the_count_anew() -> None:
    breaker = Breaker()
    for _ in range(FAILURES - 1):
        breaker.failed(0.0)
    breaker.succeeded()
    breaker.failed(0.0)
    assert not breaker.is_open


def test_half_open_one_request_tries() -> None:
    breaker = _opened()
    assert breaker.allows(OPEN_SECONDS)
    breaker.begin()
    assert not breaker.allows(OPEN_SECONDS)


def test_a_try_that_succeeds_closes_it() -> None:
    breaker = _opened()
    breaker.begin()
    breaker.succeeded()
    assert breaker.allows(OPEN_SECONDS) and not breaker.is_open


def test_a_try_that_fails_opens_it_for_another_minute() -> None:
    breaker = _opened()
    breaker.begin()
    assert not breaker.failed(OPEN_SECONDS), "it was open already"
    assert not breaker.allows(2 * OPEN_SECONDS - 0.1)
    assert breaker.allows(2 * OPEN_SECONDS)


def test_a_try_whose_client_left_lets_another_try() -> None:
    breaker = _opened()
    breaker.begin()
    breaker.abandoned()
    assert breaker.allows(OPEN_SECONDS)
