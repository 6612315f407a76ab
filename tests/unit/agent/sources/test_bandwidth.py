from hypothesis import given, settings
from hypothesis import strategies as st

from warmfleet_agent.sources.bandwidth import Bandwidth


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 5)), min_size=1, max_size=40))
def test_no_stretch_of_time_brings_more_than_the_limit_and_a_quarter_second(steps: list[tuple[int, float]]) -> None:
    now = 1000.0
    bandwidth = Bandwidth(1000, clock=lambda: now)
    arrived: list[tuple[float, int]] = []
    for size, pause in steps:
        now += pause
        now += bandwidth.book(size)
        arrived.append((now, size))
    for index, (start, _) in enumerate(arrived):
        total = 0
        for moment, size in arrived[index + 1 :]:
            total += size
            assert total <= 1000 * (moment - start) + 250 + 1


async def test_without_a_limit_nothing_waits_and_a_new_limit_holds_at_once() -> None:
    bandwidth = Bandwidth(clock=lambda: 5.0)
    await bandwidth.take(10**12)
    bandwidth.bytes_per_second = 100
    assert bandwidth.book(1000) == 10.0 - 0.25
