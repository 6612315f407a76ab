"""Ranges of bytes, against a set of their numbers."""

from hypothesis import given
from hypothesis import strategies as st

from warmfleet_agent.store.ranges import Ranges

SIZE = 40
SPANS = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), max_size=20)


@given(SPANS)
def test_ranges_hold_what_was_added_and_miss_the_rest(spans: list[tuple[int, int]]) -> None:
    ranges, there = Ranges(), set[int]()
    for start, end in spans:
        ranges.add(start, end)
        there |= set(range(start, end))
    assert {number for start, end in ranges for number in range(start, end)} == there
    assert ranges.bytes == len(there)
    missing = ranges.missing(SIZE)
    assert {number for start, end in missing for number in range(start, end)} == set(range(SIZE)) - there


@given(SPANS)
def test_ranges_are_in_order_and_never_touch(spans: list[tuple[int, int]]) -> None:
    ranges = Ranges()
    for start, end in spans:
        ranges.add(start, end)
    edges = [edge for span in ranges for edge in span]
    assert edges == sorted(set(edges))


def test_what_lies_beyond_a_file_is_not_missing_from_it() -> None:
    ranges = Ranges()
    ranges.add(10, 20)
    assert ranges.missing(5) == ((0, 5),)
    assert ranges.missing(15) == ((0, 10),)
    assert ranges.missing(0) == ()
