"""`warmfleet simulate`: let a fleet happen in simulated time, decided by the operator's own scheduler.

Prints for each policy how long models took to be Ready, by class, and how far the last start (makespan) and the
weighted completion are above what nobody could beat. How a fleet is written: docs/guide/simulate.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from warmfleet_cli.errors import CommandError, ExitCode
from warmfleet_emulator.outcome import Outcome
from warmfleet_emulator.picture import picture
from warmfleet_emulator.policies import POLICIES
from warmfleet_emulator.reading import ScenarioError, shipped_scenarios
from warmfleet_emulator.simulating import Case, Result, cases_of, simulate

NAME = "simulate"
HELP = "let a fleet happen in simulated time, and compare schedulers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    shipped = ", ".join(shipped_scenarios())
    parser.add_argument("fleet", metavar="FLEET.yaml", help=f"a fleet in YAML, or one that ships: {shipped}")
    parser.add_argument("--trace", metavar="FILE", help="requests to send: Azure's .csv or Mooncake's .jsonl")
    parser.add_argument(
        "--policy", action="append", choices=list(POLICIES), help="may be given more than once. Default: all"
    )
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument("--picture", metavar="FILE.svg", type=Path, help="draw who was where when")


def run(arguments: argparse.Namespace) -> int:
    """Simulate the fleet under each policy, and print what came of it."""
    policies = list(dict.fromkeys(arguments.policy or POLICIES))
    try:
        cases = cases_of(arguments.fleet, arguments.trace)
    except (ScenarioError, OSError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    found: list[tuple[Case, list[Result]]] = []
    # On stderr: what is read by machines stays clean.
    with Console(stderr=True).status("") as status:
        for case in cases:
            results: list[Result] = []
            for policy in policies:
                status.update(f"{case.scenario.name}: {policy}")
                results += simulate(case, [policy])
            found.append((case, results))
    if arguments.picture is not None:
        _draw(arguments.picture, found)
    if arguments.output == "json":
        json.dump({"cases": [_as_json(case, results) for case, results in found]}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        console = Console()
        for case, results in found:
            console.print(_tables(case, results))
    problems = [problem for _, results in found for result in results for problem in result.outcome.problems]
    if problems:
        raise CommandError("what must never happen did: " + "; ".join(problems[:3]))
    return ExitCode.OK


def _draw(path: Path, found: Sequence[tuple[Case, Sequence[Result]]]) -> None:
    panels: list[tuple[str, Outcome]] = [
        (f"{case.scenario.name}, {result.outcome.policy}", result.outcome)
        for case, results in found
        for result in results
    ]
    try:
        path.write_text(picture(panels), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror}; name another file after --picture") from error


def _tables(case: Case, results: Sequence[Result]) -> Group:
    known = case.scenario.known
    beside = f" (known: {known.serial_seconds:g} s serial, {known.contended_seconds:g} s contended)" if known else ""
    ratios = _empty_table("POLICY", "STARTS", "MAKESPAN", "x BOUND", "WEIGHTED x BOUND", "WAIT x BOUND", "SWITCHES")
    classes = list(dict.fromkeys(each for result in results for each in result.judgement.p50_seconds))
    times = _empty_table("p50/p99 s", *(each.value for each in classes), "REQUESTS")
    for result in results:
        judged = result.judgement
        missing = f" (+{judged.unfinished} not Ready)" if judged.unfinished else ""
        ratios.add_row(
            judged.policy,
            f"{judged.starts}{missing}",
            f"{judged.makespan_seconds:.1f} s",
            f"{judged.makespan_over_bound:.2f}",
            f"{judged.weighted_completion_over_bound:.2f}",
            f"{judged.weighted_wait_over_bound:.2f}",
            str(judged.switches),
        )
        cells = [_pair(judged.p50_seconds.get(each), judged.p99_seconds.get(each)) for each in classes]
        has_requests = bool(result.outcome.request_waits)
        requests = _pair(judged.request_p50_seconds, judged.request_p99_seconds) if has_requests else "-"
        times.add_row(judged.policy, *cells, requests)
    return Group(Text(case.scenario.name + beside, style="bold"), ratios, times, Text())


def _empty_table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(first, no_wrap=True)
    for each in others:
        table.add_column(each, justify="right", no_wrap=True)
    return table


def _pair(p50: float | None, p99: float | None) -> str:
    return "-" if p50 is None or p99 is None else f"{p50:.1f}/{p99:.1f}"


def _as_json(case: Case, results: Sequence[Result]) -> dict[str, Any]:
    known = case.scenario.known
    return {
        "name": case.scenario.name,
        **({"known": known.model_dump()} if known is not None else {}),
        "policies": {result.outcome.policy: _figures(result) for result in results},
    }


def _figures(result: Result) -> dict[str, Any]:
    judged = result.judgement
    return {
        "makespan_seconds": round(judged.makespan_seconds, 3),
        "makespan_bound_seconds": round(judged.makespan_bound_seconds, 3),
        "makespan_over_bound": round(judged.makespan_over_bound, 4),
        "weighted_completion_over_bound": round(judged.weighted_completion_over_bound, 4),
        "weighted_wait_over_bound": round(judged.weighted_wait_over_bound, 4),
        "p50_seconds": {each.value: round(seconds, 3) for each, seconds in judged.p50_seconds.items()},
        "p99_seconds": {each.value: round(seconds, 3) for each, seconds in judged.p99_seconds.items()},
        "requests_p50_seconds": round(judged.request_p50_seconds, 3),
        "requests_p99_seconds": round(judged.request_p99_seconds, 3),
        "starts": judged.starts,
        "not_ready": dict(result.outcome.unfinished),
        "switches": judged.switches,
        "preemptions": judged.preemptions,
        "rounds": judged.rounds,
    }
