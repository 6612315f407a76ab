import sys
from pathlib import Path

import pytest

import tiers
from tiers import Outcome, Tier, counts, run, run_bounded

JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10"></testsuite></testsuites>"""


def test_the_results_are_counted_from_the_junit_file(tmp_path: Path) -> None:
    (tmp_path / "unit.xml").write_text(JUNIT)
    assert counts(tmp_path / "unit.xml") == (4, 3, 3)
    assert counts(tmp_path / "never-written.xml") == (0, 0, 0)


@pytest.mark.parametrize(
    "outcome",
    [Outcome("e2e", 5, 1, 0, 1.0), Outcome("e2e", 0, 0, 4, 1.0), Outcome("e2e", 5, 0, 0, 1.0, "ended after 10 s")],
)
def test_a_tier_is_bad_when_a_test_failed_none_ran_or_it_was_ended(outcome: Outcome) -> None:
    assert not outcome.good


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Outcome]:
    """Outcomes by tier, as if they had run."""
    given = {"unit": Outcome("unit", 9, 0, 0, 1.0)}
    monkeypatch.setattr(tiers, "test", lambda tier: given.get(tier.name, Outcome(tier.name, 1, 0, 0, 1.0)))
    return given


def test_nothing_runs_after_failed_unit_tests_and_nothing_is_good(outcomes: dict[str, Outcome]) -> None:
    outcomes["unit"] = Outcome("unit", 8, 1, 0, 1.0)
    ran = run(["unit", "cluster", "e2e"])
    assert [outcome.problem for outcome in ran[1:]] == ["not run after unit failed"] * 2
    assert not any(outcome.good for outcome in ran)


def test_a_failed_cluster_tier_does_not_stop_the_next(outcomes: dict[str, Outcome]) -> None:
    outcomes["cluster"] = Outcome("cluster", 8, 1, 0, 1.0)
    assert [outcome.good for outcome in run(["unit", "cluster", "e2e"])] == [True, False, True]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose tests are those a test writes."""
    monkeypatch.setattr(tiers, "REPOSITORY", tmp_path)
    monkeypatch.setattr(tiers, "RESULTS", tmp_path / "build")
    (tmp_path / "tests" / "unit").mkdir(parents=True)
    return tmp_path


def test_a_tier_without_tests_fails(repository: Path) -> None:
    assert tiers.test(Tier("unit", 60)).problem == "ran no test"


def test_a_tier_is_counted_by_what_pytest_ran(repository: Path) -> None:
    (repository / "tests/unit/test_some.py").write_text("def test_good(): pass\ndef test_bad(): assert 0\n")
    outcome = tiers.test(Tier("unit", 60))
    assert (outcome.passed, outcome.failed, outcome.good) == (1, 1, False)


def test_a_command_over_its_time_is_interrupted_and_ended() -> None:
    assert run_bounded([sys.executable, "-c", "import time; time.sleep(60)"], 0.2) is None
