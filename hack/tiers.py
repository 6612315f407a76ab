"""The command `hack/test`: runs the tiers of tests one after another and says what ran in each.

A tier that ran no test has failed. Nothing runs after failed unit tests, as it would only fail later and slower; every
other tier runs whatever became of the ones before it.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "build" / "test"
_PROGRAMS = Path(sys.executable).parent
_CODE = ("operator", "runtime", "hack", "tests")
_LINTERS = (
    (f"{_PROGRAMS}/ruff", "check", *_CODE),
    (f"{_PROGRAMS}/ruff", "format", "--check", *_CODE),
    (f"{_PROGRAMS}/mypy", *_CODE),
    (f"{_PROGRAMS}/lint-imports",),
    ("hack/verify",),
)
_LINTER_SECONDS = 600.0
_GRACE_SECONDS = 120.0
"""What pytest gets to tear down its fixtures, a cluster among them, after its time is up."""

console = Console(stderr=True, highlight=False)


@dataclass(frozen=True)
class Tier:
    """Tests that need the same things of a machine."""

    name: str
    limit_seconds: float
    needed_by_others: bool = False
    workers: int = 1
    """Processes that share its modules between them, each with fixtures of its own."""

    @property
    def command(self) -> list[str]:
        """The pytest that runs it; the results go to `results`."""
        marker = [] if self.name == "unit" else ["-m", self.name]
        # In the order they are collected in: by their number of tests, the long ones would be the last.
        workers = ["--numprocesses", str(self.workers), "--dist", "loadfile", "--no-loadscope-reorder"]
        sharing = workers if self.workers > 1 else []
        return [sys.executable, "-m", "pytest", *marker, *sharing, f"--junitxml={self.results}", f"tests/{self.name}"]

    @property
    def results(self) -> Path:
        """The results in JUnit's format."""
        return RESULTS / f"{self.name}.xml"


TESTS = (
    Tier("unit", limit_seconds=1800, needed_by_others=True, workers=2),
    Tier("engine", limit_seconds=1800),
    # Nine tenths of its time alone, two cores were idle: fake nodes, like the runners of unit tests, mostly wait.
    Tier("cluster", limit_seconds=2700, workers=3),
    Tier("e2e", limit_seconds=2700),
)


@dataclass(frozen=True)
class Outcome:
    """What became of one tier."""

    tier: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    problem: str = ""
    """Why it failed although no test did, or what was not done."""

    @property
    def good(self) -> bool:
        """Whether anything passed and nothing failed."""
        return self.passed > 0 and self.failed == 0 and not self.problem


def run_bounded(command: Sequence[str], limit_seconds: float) -> int | None:
    """Run a command in the repository; its exit status, or None when its time was up and it was ended."""
    console.print(f"[bold cyan]$[/] {shlex.join(command).replace(f'{REPOSITORY}/', '')}")
    with subprocess.Popen(command, cwd=REPOSITORY) as process:
        try:
            return process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(_GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()


def lint() -> Outcome:
    """Run all linters; each counts as one test."""
    started = time.monotonic()
    failed = sum(run_bounded(command, _LINTER_SECONDS) != 0 for command in _LINTERS)
    return Outcome("lint", len(_LINTERS) - failed, failed, 0, time.monotonic() - started)


def test(tier: Tier) -> Outcome:
    """Run the tests of one tier."""
    tier.results.parent.mkdir(parents=True, exist_ok=True)
    tier.results.unlink(missing_ok=True)
    started = time.monotonic()
    status = run_bounded(tier.command, tier.limit_seconds)
    seconds = time.monotonic() - started
    passed, failed, skipped = counts(tier.results)
    problem = ""
    if status is None:
        problem = f"ended after {tier.limit_seconds:.0f} s"
    elif passed + failed == 0:
        problem = "ran no test"
    elif status != 0 and failed == 0:
        problem = f"pytest ended with status {status}"
    return Outcome(tier.name, passed, failed, skipped, seconds, problem)


def counts(results: Path) -> tuple[int, int, int]:
    """How many tests passed, failed and were skipped, by a JUnit file; zeros when it was never written."""
    if not results.exists():
        return 0, 0, 0
    suites = list(ElementTree.parse(results).getroot().iter("testsuite"))
    ran, failures, errors, skipped = (
        sum(int(suite.get(name, "0")) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    return ran - failed - skipped, failed, skipped


def run(names: Sequence[str]) -> list[Outcome]:
    """Run the named tiers in their order."""
    outcomes = [lint()] if "lint" in names else []
    stopped_by = ""
    for tier in TESTS:
        if tier.name not in names:
            continue
        if stopped_by:
            outcomes.append(Outcome(tier.name, 0, 0, 0, 0.0, f"not run after {stopped_by} failed"))
            continue
        outcomes.append(test(tier))
        if tier.needed_by_others and not outcomes[-1].good:
            stopped_by = tier.name
    return outcomes


def show(outcomes: Sequence[Outcome]) -> None:
    """Print the table of what ran, and one line that sums it up."""
    table = Table("tier", "passed", "failed", "skipped", "seconds", "")
    for outcome in outcomes:
        numbers = (str(outcome.passed), str(outcome.failed), str(outcome.skipped), f"{outcome.seconds:.0f}")
        verdict = outcome.problem or ("" if outcome.good else "failed")
        table.add_row(outcome.tier, *numbers, verdict, style=None if outcome.good else "bold red")
    console.print(table)
    passed = sum(outcome.passed for outcome in outcomes)
    bad = sum(outcome.failed or not outcome.good for outcome in outcomes)
    print(f"{passed} passed, {bad} failed, {sum(outcome.skipped for outcome in outcomes)} skipped")


def main() -> None:
    """Run the tiers that were named, else all."""
    names = ["lint", *(tier.name for tier in TESTS)]
    parser = argparse.ArgumentParser(prog="hack/test", description="Runs the tiers of tests and says what ran in each.")
    parser.add_argument(
        "tiers", nargs="*", choices=[*names, []], metavar="TIER", help=f"of {', '.join(names)}; default: all"
    )
    outcomes = run(parser.parse_args().tiers or names)
    show(outcomes)
    sys.exit(0 if all(outcome.good for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
