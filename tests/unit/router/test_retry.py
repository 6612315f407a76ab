"""The budget of second tries."""

from warmfleet_router.retry import ALWAYS, LONGEST_DELAY_SECONDS, WINDOW_SECONDS, RetryBudget, delay_seconds


def _spent(budget: RetryBudget, now: float) -> int:
    count = 0
    while budget.spend(now):
        count += 1
    return count


def test_a_fifth_of_the_requests_may_be_tried_again() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.asked(0.0)
    assert _spent(budget, 0.5) == 200


def test_a_few_tries_are_always_allowed() -> None:
    assert _spent(RetryBudget(), 0.0) == ALWAYS


def test_requests_and_tries_of_long_ago_do_not_count() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.asked(0.0)
    _spent(budget, 0.0)
    assert _spent(budget, WINDOW_SECONDS) == ALWAYS


def test_delays_double_with_jitter_up_to_a_bound() -> None:
    assert delay_seconds(1, lambda: 0.5) == 0.025
    assert delay_seconds(3, lambda: 0.5) == 0.1
    assert 0.5 * LONGEST_DELAY_SECONDS <= delay_seconds(50, lambda: 0.0) <= 1.5 * LONGEST_DELAY_SECONDS
