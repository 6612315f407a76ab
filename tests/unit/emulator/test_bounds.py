"""The lower bounds against every order there is: none may beat them, and where they are exact, one reaches them."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmfleet_emulator.bounds import (
    Holders,
    Job,
    Operation,
    area_bound,
    makespan_bound,
    rank_bounds,
    weighted_by_rank,
    weighted_completion_bound,
)

SLACK = 1e-6
seconds = st.floats(min_value=0.1, max_value=20)
starts = st.lists(
    st.tuples(st.floats(0, 30), st.sampled_from([1.0, 10.0, 100.0]), st.floats(0, 10), seconds, st.floats(0, 10)),
    min_size=1,
    max_size=5,
)


def job(made: tuple[float, ...], machines: int = 1) -> Job:
    release, weight, head, work, tail = made
    operation = Operation(work / machines, work, head, tail)
    return Job(release, weight, head + work + tail, (("link", operation),))


def run_in(order: tuple[int, ...], jobs: list[Job], machines: int) -> list[float]:
    """Completions when the jobs take machines in this order, each as soon as it can."""
    free = [0.0] * machines
    done = [0.0] * len(jobs)
    for index in order:
        (_, operation), now = jobs[index].operations[0], jobs[index].release
        machine = free.index(min(free))
        begin = max(free[machine], now + operation.head_seconds)
        free[machine] = begin + operation.seconds
        done[index] = free[machine] + operation.tail_seconds
    return done


def weighted(jobs: list[Job], done: list[float]) -> float:
    return sum(each.weight * end for each, end in zip(jobs, done, strict=True))


@given(starts, st.integers(1, 3))
def test_no_order_on_one_or_more_machines_beats_the_bounds(made: list[tuple[float, ...]], machines: int) -> None:
    jobs = [job(each, machines) for each in made]
    outcomes = [run_in(order, jobs, machines) for order in permutations(range(len(jobs)))]
    assert makespan_bound(jobs) <= min(max(done) for done in outcomes) + SLACK
    assert weighted_completion_bound(jobs) <= min(weighted(jobs, done) for done in outcomes) * (1 + SLACK)


@given(starts)
def test_sharing_a_link_equally_does_not_beat_the_bounds(made: list[tuple[float, ...]]) -> None:
    jobs = [job(each) for each in made]
    done = shared_equally(jobs)
    assert makespan_bound(jobs) <= max(done) + SLACK
    assert weighted_completion_bound(jobs) <= weighted(jobs, done) * (1 + SLACK)


def shared_equally(jobs: list[Job]) -> list[float]:
    """Completions when all that are there have equal parts of the link."""
    left = {index: each.operations[0][1].amount_seconds for index, each in enumerate(jobs)}
    begins = {index: each.release + each.operations[0][1].head_seconds for index, each in enumerate(jobs)}
    done = [0.0] * len(jobs)
    now = 0.0
    while left:
        present = [index for index in left if begins[index] <= now + 1e-12]
        coming = [begins[index] for index in left if begins[index] > now + 1e-12]
        if not present:
            now = min(coming)
            continue
        step = min(left[index] for index in present) * len(present)
        step = min(step, min(coming) - now) if coming else step
        now += step
        for index in present:
            left[index] -= step / len(present)
            if left[index] <= 1e-9:
                del left[index]
                done[index] = now + jobs[index].operations[0][1].tail_seconds
    return done


@given(st.lists(st.tuples(st.floats(0.5, 10), st.floats(0.5, 10)), min_size=1, max_size=4), st.integers(1, 2))
def test_no_order_through_cores_and_a_link_beats_the_bounds(made: list[tuple[float, float]], cores: int) -> None:
    jobs = []
    for cpu, load in made:
        on_core, on_link = Operation(cpu / cores, cpu, 0.0, load), Operation(load, load, cpu, 0.0)
        jobs.append(Job(0.0, 1.0, cpu + load, (("cpu", on_core), ("link", on_link))))
    outcomes = []
    for order in permutations(range(len(jobs))):
        free, link = [0.0] * cores, 0.0
        ends = [0.0] * len(jobs)
        for index in order:
            core = free.index(min(free))
            free[core] += made[index][0]
            link = ends[index] = max(link, free[core]) + made[index][1]
        outcomes.append(ends)
    assert makespan_bound(jobs) <= min(max(done) for done in outcomes) + SLACK
    assert weighted_completion_bound(jobs) <= min(weighted(jobs, done) for done in outcomes) * (1 + SLACK)


@given(st.lists(st.tuples(seconds, st.floats(0.1, 10)), min_size=1, max_size=5))
def test_without_releases_the_weighted_bound_is_what_the_best_order_reaches(made: list[tuple[float, float]]) -> None:
    jobs = [job((0.0, weight, 0.0, work, 0.0)) for work, weight in made]
    best = min(weighted(jobs, run_in(order, jobs, 1)) for order in permutations(range(len(jobs))))
    assert weighted_completion_bound(jobs) == pytest.approx(best)


@given(st.lists(st.tuples(st.floats(0.5, 5), st.floats(0, 10)), min_size=1, max_size=5))
def test_without_heads_the_makespan_bound_is_what_the_best_order_reaches(made: list[tuple[float, float]]) -> None:
    jobs = [job((0.0, 1.0, 0.0, work, tail)) for work, tail in made]
    best = min(max(run_in(order, jobs, 1)) for order in permutations(range(len(jobs))))
    assert makespan_bound(jobs) == pytest.approx(best)


@given(st.lists(st.tuples(st.floats(0.5, 10), st.floats(0, 20)), min_size=1, max_size=5), st.integers(1, 3))
def test_no_order_of_starts_that_hold_gpus_beats_the_bounds(made: list[tuple[float, float]], gpus: int) -> None:
    jobs = []
    for work, held in made:
        hold = Operation((work + held) / gpus, work + held, 0.0, -held)
        jobs.append(Job(0.0, 1.0, work, (("gpus", hold),)))
    outcomes = [run_in(order, jobs, gpus) for order in permutations(range(len(jobs)))]
    least = min(max(done) for done in outcomes)
    holders = Holders(gpus, min(work for work, _ in made), tuple(held for _, held in made))
    ranks = rank_bounds(jobs, holders)
    assert max(makespan_bound(jobs), area_bound([(1, *each) for each in made], gpus), ranks[-1]) <= least + SLACK
    bound = max(weighted_completion_bound(jobs), weighted_by_rank(jobs, ranks))
    assert bound <= min(weighted(jobs, done) for done in outcomes) * (1 + SLACK)


@given(starts, st.integers(1, 3))
def test_no_order_has_so_many_done_before_their_rank(made: list[tuple[float, ...]], machines: int) -> None:
    jobs = [job(each, machines) for each in made]
    ranks = rank_bounds(jobs)
    for order in permutations(range(len(jobs))):
        done = run_in(order, jobs, machines)
        assert all(bound <= end + SLACK for bound, end in zip(ranks, sorted(done), strict=True))
        assert weighted_by_rank(jobs, ranks) <= weighted(jobs, done) * (1 + SLACK)


def test_equal_starts_on_few_gpus_meet_the_bound_by_ranks() -> None:
    """Four on a link that two GPUs share: Ready at 3, 4, 13 and 14 with 2 s before the link and 7 s held."""
    jobs = [Job(0.0, 1.0, 3.0, (("link", Operation(1.0, 1.0, 2.0, 0.0)),)) for _ in range(4)]
    assert rank_bounds(jobs, Holders(2, 3.0, (7.0,) * 4)) == [3, 4, 13, 14]


def test_of_no_start_there_is_nothing_to_bound() -> None:
    assert makespan_bound([]) == weighted_completion_bound([]) == area_bound([], 4) == area_bound([(1, 1, 1)], 0) == 0
