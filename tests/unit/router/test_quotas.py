"""What a tenant may use: never more than its limits in the long run, and a time to come back that is right."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warmfleet_api.tenant import TenantLimits
from warmfleet_router.quotas import Quotas
from warmfleet_router.refusals import RefusedError
from warmfleet_router.tenants import TenantKey

TENANT = TenantKey("team", "search")


def quotas(replicas: int = 1, **limits: int) -> Quotas:
    found = Quotas(lambda: replicas)
    found.put(TENANT, TenantLimits.model_validate(limits), 0.0)
    return found


def refusal(quotas: Quotas, now: float) -> RefusedError:
    with pytest.raises(RefusedError) as refused:
        quotas.enter(TENANT, now)
    assert refused.value.status == 429
    return refused.value


def test_a_minutes_worth_of_requests_may_come_at_once_and_then_one_after_the_other() -> None:
    limited = quotas(requestsPerMinute=6)
    for _ in range(6):
        limited.enter(TENANT, 0.0)
    error = refusal(limited, 0.0)
    assert error.code == "requests_limit"
    assert error.retry_after_seconds == 10
    refusal(limited, 9.9)
    limited.enter(TENANT, 10.0)
    refusal(limited, 10.0)


def test_tokens_are_charged_when_an_answer_has_ended() -> None:
    limited = quotas(tokensPerMinute=600)
    limited.enter(TENANT, 0.0)
    limited.leave(TENANT, 900, 1.0)
    error = refusal(limited, 1.0)
    assert error.code == "tokens_limit"
    # 300 below zero at 10 a second, and one above.
    assert error.retry_after_seconds == 31
    limited.enter(TENANT, 1.0 + 31)


def test_what_ends_makes_room_for_what_comes() -> None:
    limited = quotas(concurrency=2)
    limited.enter(TENANT, 0.0)
    limited.enter(TENANT, 0.0)
    assert refusal(limited, 0.0).code == "concurrency_limit"
    limited.leave(TENANT, 0, 0.0)
    limited.enter(TENANT, 0.0)


def test_a_refused_request_uses_nothing() -> None:
    limited = quotas(requestsPerMinute=60, concurrency=1)
    limited.enter(TENANT, 0.0)
    for _ in range(100):
        refusal(limited, 0.0)
    limited.leave(TENANT, 0, 0.0)
    for _ in range(59):
        limited.enter(TENANT, 0.0)
        limited.leave(TENANT, 0, 0.0)
    assert refusal(limited, 0.0).code == "requests_limit"


def test_replicas_share_the_limits() -> None:
    limited = quotas(replicas=2, requestsPerMinute=10, concurrency=4)
    limited.enter(TENANT, 0.0)
    limited.enter(TENANT, 0.0)
    assert refusal(limited, 0.0).code == "concurrency_limit"
    for _ in range(2):
        limited.leave(TENANT, 0, 0.0)
    for _ in range(3):
        limited.enter(TENANT, 0.0)
        limited.leave(TENANT, 0, 0.0)
    assert refusal(limited, 0.0).code == "requests_limit"


def test_a_changed_limit_does_not_forgive_what_was_used() -> None:
    limited = quotas(requestsPerMinute=10)
    for _ in range(10):
        limited.enter(TENANT, 0.0)
        limited.leave(TENANT, 0, 0.0)
    limited.put(TENANT, TenantLimits(requests_per_minute=12), 0.0)
    limited.enter(TENANT, 0.0)
    limited.enter(TENANT, 0.0)
    refusal(limited, 0.0)
    limited.put(TENANT, TenantLimits(), 0.0)
    limited.enter(TENANT, 0.0)


def test_whoever_has_no_limits_is_never_refused_and_leaving_twice_harms_nobody() -> None:
    free = quotas()
    for _ in range(1000):
        free.enter(TENANT, 0.0)
    free.drop(TENANT)
    free.leave(TENANT, 5, 0.0)
    free.enter(TENANT, 0.0)


@given(
    st.integers(1, 600),
    st.integers(1, 4),
    st.lists(st.floats(0.0, 5.0), max_size=400),
)
def test_no_pattern_of_requests_gets_more_than_the_limit(per_minute: int, replicas: int, pauses: list[float]) -> None:
    limited = quotas(replicas=replicas, requestsPerMinute=per_minute)
    now, served = 0.0, 0
    for pause in pauses:
        now += pause
        try:
            limited.enter(TENANT, now)
        except RefusedError as error:
            assert error.retry_after_seconds is not None
        else:
            served += 1
    share = max(1.0, per_minute / replicas)
    assert served <= share + now * share / 60 + 1e-6


@given(st.integers(1, 600), st.lists(st.floats(0.0, 0.2), min_size=1, max_size=200))
@example(1, [0.0, 0.03999194593741021, 0.0])
def test_whoever_comes_back_when_told_is_served(per_minute: int, pauses: list[float]) -> None:
    limited = quotas(requestsPerMinute=per_minute)
    now = 0.0
    for pause in pauses:
        now += pause
        try:
            limited.enter(TENANT, now)
        except RefusedError as error:
            assert error.retry_after_seconds is not None
            now += error.retry_after_seconds
            limited.enter(TENANT, now)
        limited.leave(TENANT, 0, now)


@given(st.lists(st.tuples(st.floats(-100, 100), st.integers(0, 5000)), max_size=60))
def test_a_clock_that_jumps_gives_nothing_away(steps: list[tuple[float, int]]) -> None:
    limited = quotas(tokensPerMinute=600)
    now, latest, used = 0.0, 0.0, 0
    for jump, tokens in steps:
        now += jump
        latest = max(latest, now)
        try:
            limited.enter(TENANT, now)
        except RefusedError:
            continue
        assert used <= 600 + latest * 10 + 1e-6
        limited.leave(TENANT, tokens, now)
        used += tokens
