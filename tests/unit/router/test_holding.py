"""What is held for one model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmfleet_router.holding import Budget, FullError, Held, Holding


def _holding(requests: int = 1000, size: int = 1_000_000, budget: int = 1_000_000) -> Holding[int]:
    return Holding(requests, size, Budget(budget))


def test_the_earliest_deadline_is_first() -> None:
    holding = _holding()
    for deadline in (3.0, 1.0, 2.0):
        holding.enter(deadline, 1, 0)
    order = []
    while (first := holding.first()) is not None:
        order.append(first.deadline)
        holding.leave(first)
    assert order == [1.0, 2.0, 3.0]


def test_of_equal_deadlines_the_one_that_came_first_is_first() -> None:
    holding = _holding()
    first = holding.enter(1.0, 1, 0)
    holding.enter(1.0, 1, 1)
    assert holding.first() is first


@pytest.mark.parametrize(
    ("holding", "says"),
    [
        (_holding(requests=2), "2 requests"),
        (_holding(size=25), "20 bytes"),
        (_holding(budget=25), "other models"),
    ],
)
def test_a_third_request_is_too_much_for_each_bound(holding: Holding[int], says: str) -> None:
    holding.enter(1.0, 10, 0)
    holding.enter(1.0, 10, 0)
    with pytest.raises(FullError, match=says):
        holding.enter(1.0, 10, 0)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50), st.booleans()), max_size=200))
def test_count_bytes_and_budget_are_those_of_who_is_held(steps: list[tuple[float, int, bool]]) -> None:
    budget = Budget(2000)
    holding: Holding[int] = Holding(50, 1000, budget)
    held: list[Held[int]] = []
    for deadline, size, leaves in steps:
        if leaves and held:
            each = held.pop(len(held) // 2)
            holding.leave(each)
            holding.leave(each)
        else:
            try:
                held.append(holding.enter(deadline, size, 0))
            except FullError:
                continue
    assert len(holding) == len(held)
    assert holding.size_bytes == sum(each.size_bytes for each in held) == 2000 - budget.bytes_left
    assert holding.first() == (min(held) if held else None)
    assert holding.before(50.0) == sorted(each for each in held if each.deadline < 50.0)
    assert len(holding._heap) <= 2 * len(held) + 50, "those that left are let go"
