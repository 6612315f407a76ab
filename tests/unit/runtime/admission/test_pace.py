"""What is measured of the engine, and what follows."""

import random

import pytest

from warmfleet_runtime.admission.pace import FRESH_SECONDS, Pace


def run(pace: Pace, running: int, tokens_per_second: float, *, begin: float, seconds: float) -> float:
    """Let an engine with `running` sequences be under load for some time; return the time after it."""
    pace.runs(running, is_waiting=True, now=begin)
    steps = int(seconds * 100)
    for step in range(1, steps + 1):
        pace.did(tokens_per_second / 100, begin + step / 100)
    return begin + seconds


def test_a_wait_is_the_work_ahead_by_the_work_per_second() -> None:
    pace = Pace()
    assert pace.wait_seconds(1000) == 0.0, "nothing is known yet"
    run(pace, 8, 500.0, begin=0.0, seconds=3.0)
    assert pace.wait_seconds(1000) == pytest.approx(2.0, rel=0.05)


def test_an_engine_that_nobody_waits_for_says_nothing_of_its_capacity() -> None:
    pace = Pace()
    pace.runs(8, is_waiting=False, now=0.0)
    for step in range(1, 300):
        pace.did(5, step / 100)
    assert pace.work_per_second is None


def test_an_engine_that_does_more_than_it_was_known_to_is_believed_though_nobody_waits() -> None:
    pace = Pace()
    now = run(pace, 8, 10.0, begin=0.0, seconds=3.0)
    pace.runs(8, is_waiting=False, now=now)
    for step in range(1, 300):
        pace.did(5, now + step / 100)
    assert pace.work_per_second == pytest.approx(500.0, rel=0.1)


def test_a_silence_of_an_engine_with_work_is_remembered_and_counts_less_and_less() -> None:
    pace = Pace()
    now = run(pace, 8, 500.0, begin=0.0, seconds=1.0)
    assert pace.silence_seconds(now) < 0.02
    assert pace.silence_seconds(now + 0.4) == pytest.approx(0.4), "it goes on"
    pace.did(5, now + 0.6)
    assert pace.silence_seconds(now + 0.6) == pytest.approx(0.6)
    later = run(pace, 8, 500.0, begin=now + 0.6, seconds=10.0)
    assert pace.silence_seconds(later) == pytest.approx(0.3, rel=0.01)


def test_an_engine_without_work_is_not_silent() -> None:
    pace = Pace()
    now = run(pace, 8, 500.0, begin=0.0, seconds=1.0)
    pace.runs(0, is_waiting=False, now=now)
    assert pace.silence_seconds(now + 100) < 0.02
    pace.runs(1, is_waiting=False, now=now + 100)
    pace.did(5, now + 100.01)
    assert pace.silence_seconds(now + 100.01) < 0.02


def test_the_window_is_all_the_engine_runs_while_more_at_once_do_more() -> None:
    pace, now = Pace(), 0.0
    for running in (4, 8, 16, 32):
        now = run(pace, running, 100.0 * running**0.5, begin=now, seconds=5.0)
    assert pace.window(64) == 64


def test_the_window_narrows_where_more_at_once_only_make_tokens_slower() -> None:
    pace, now = Pace(), 0.0
    for running, rate in ((4, 400.0), (8, 800.0), (16, 805.0), (32, 790.0)):
        now = run(pace, running, rate, begin=now, seconds=5.0)
    assert pace.window(64) == 12, "half above the eight that do as much as any"
    assert pace.window(8) == 8
    assert pace.window(256) == 32, "never below an eighth"


def test_the_window_stays_open_where_it_can_t_be_told_which_number_does_more() -> None:
    pace, now, chance = Pace(), 0.0, random.Random(1)
    for _ in range(40):
        for running, tokens_per_second in ((8, 1000.0), (16, 1100.0)):
            now = run(pace, running, tokens_per_second * chance.uniform(0.7, 1.3), begin=now, seconds=1.1)
            assert pace.window(16) == 16


def test_the_window_opens_again_when_what_narrowed_it_is_old() -> None:
    pace, now = Pace(), 0.0
    for running, rate in ((8, 800.0), (16, 800.0)):
        now = run(pace, running, rate, begin=now, seconds=5.0)
    assert pace.window(64) == 12
    run(pace, 12, 800.0, begin=now, seconds=FRESH_SECONDS + 1)
    assert pace.window(64) == 64


def test_answers_are_expected_to_be_as_long_as_they_were() -> None:
    pace = Pace()
    assert pace.answer_tokens(10) == 10
    for _ in range(50):
        pace.ended(40, 4096, 1.0)
    assert pace.answer_tokens(4096) == pytest.approx(40)
    assert pace.answer_tokens(16) == 16
    for _ in range(50):
        pace.ended(16, 16, 1.0)  # cut off at their limit: they say nothing of longer ones
    assert pace.answer_tokens(4096) == pytest.approx(40)
    for _ in range(50):
        pace.ended(1000, 1000, 1.0)
    assert pace.answer_tokens(4096) == pytest.approx(1000, rel=0.01)
