"""`make bench-emulator`: how near the scheduler comes to what nobody could beat, with other ways beside it.

The reference table, 1,000 random fleets, two traces, two models in turns on one GPU, and Low under endless High; all in
simulated time through the operator's own `schedule()`. Of random fleets the mean ratio counts: in small ones bounds are
weaker than the best order, whatever that is.
"""

import argparse
import json
import os
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from support.cluster import REPOSITORY
from warmfleet_emulator.outcome import percentile
from warmfleet_emulator.policies import POLICIES
from warmfleet_emulator.random_fleets import random_fleet
from warmfleet_emulator.simulating import Case, Result, cases_of, simulate

RESULT = REPOSITORY / "build" / "bench" / "emulator.json"
FLEETS = 1000
BUDGET = 1.10
TRACES = ("azure-code", "mooncake-conversation")
SHAPES = ("two-on-one-gpu", "low-under-high")
Ratios = tuple[float, float, float]
"""Of makespan, weighted completion and weighted wait to their bounds."""


def ratios_of(result: Result) -> Ratios:
    """Return the ratios of a result."""
    judged = result.judgement
    return judged.makespan_over_bound, judged.weighted_completion_over_bound, judged.weighted_wait_over_bound


def one_fleet(work: tuple[int, Sequence[str]]) -> dict[str, tuple[Ratios, int, int]]:
    """Return what each policy made of a random fleet: ratios, models not Ready, broken invariants."""
    seed, policies = work
    return {
        each.judgement.policy: (ratios_of(each), each.judgement.unfinished, len(each.outcome.problems))
        for each in simulate(Case(random_fleet(seed)), policies)
    }


def random_fleets(console: Console, count: int, policies: Sequence[str]) -> dict[str, Any]:
    """Simulate random fleets on all cores."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        work = pool.map(one_fleet, [(seed, policies) for seed in range(count)], chunksize=4)
        found = list(track(work, f"{count} random fleets", total=count, console=console))
    table = Table(title=f"{count} random fleets: ratio to the bound", title_justify="left", box=None)
    for column in ("policy", "makespan mean", "p90", "weighted mean", "p90", "wait mean", "p90", "not Ready"):
        table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
    figures: dict[str, Any] = {}
    for policy in policies:
        figures[policy] = {"fleets": count}
        for index, name in enumerate(("makespan", "weighted_completion", "weighted_wait")):
            values = [each[policy][0][index] for each in found]
            figures[policy] |= {
                f"{name}_over_bound": round(statistics.mean(values), 4),
                f"{name}_over_bound_p90": round(percentile(values, 0.9), 4),
                f"{name}_over_bound_max": round(max(values), 4),
                f"{name}_within_budget_share": round(sum(each <= BUDGET for each in values) / count, 4),
            }
        figures[policy]["not_ready"] = sum(each[policy][1] for each in found)
        figures[policy]["broken_invariants"] = sum(each[policy][2] for each in found)
        names = ("makespan", "weighted_completion", "weighted_wait")
        cells = [f"{figures[policy][f'{name}_over_bound{suffix}']:.3f}" for name in names for suffix in ("", "_p90")]
        table.add_row(policy, *cells, str(figures[policy]["not_ready"]))
    console.print(table, "")
    return figures


def scenario(console: Console, name: str, policies: Sequence[str]) -> list[dict[str, Any]]:
    """Simulate a scenario that ships."""
    figures = []
    for case in cases_of(name):
        table = Table(title=case.scenario.name, title_justify="left", box=None)
        columns = ("policy", "starts", "makespan s", "x bound", "weighted x bound", "wait x bound", "switches", "p99 s")
        for column in columns:
            table.add_column(column, justify="left" if column == "policy" else "right", no_wrap=True)
        known = case.scenario.known
        row: dict[str, Any] = {"name": case.scenario.name, "policies": {}}
        if known is not None:
            row["known"] = known.model_dump()
            table.add_row("known: serial", "", f"{known.serial_seconds:.1f}")
            table.add_row("known: contended", "", f"{known.contended_seconds:.1f}")
        for result in simulate(case, policies):
            judged = result.judgement
            makespan, weighted, wait = ratios_of(result)
            by_class = {each.value: round(seconds, 2) for each, seconds in judged.p99_seconds.items()}
            row["policies"][judged.policy] = {
                "starts": judged.starts,
                "not_ready": judged.unfinished,
                "makespan_seconds": round(judged.makespan_seconds, 2),
                "makespan_bound_seconds": round(judged.makespan_bound_seconds, 2),
                "makespan_over_bound": round(makespan, 4),
                "weighted_completion_over_bound": round(weighted, 4),
                "weighted_wait_over_bound": round(wait, 4),
                "p50_seconds": {each.value: round(seconds, 2) for each, seconds in judged.p50_seconds.items()},
                "p99_seconds": by_class,
                "switches": judged.switches,
                "broken_invariants": len(result.outcome.problems),
            }
            said = " ".join(f"{each[0]} {seconds:.0f}" for each, seconds in by_class.items())
            table.add_row(
                judged.policy,
                f"{judged.starts}{f' (+{judged.unfinished})' if judged.unfinished else ''}",
                f"{judged.makespan_seconds:.1f}",
                *(f"{each:.3f}" for each in (makespan, weighted, wait)),
                str(judged.switches),
                said,
            )
        console.print(table, "")
        figures.append(row)
    return figures


def main() -> int:
    """Simulate everything, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(prog="make bench-emulator", description=__doc__)
    parser.add_argument("--fleets", type=int, default=FLEETS, help="random fleets")
    parser.add_argument("--policy", action="append", choices=list(POLICIES), help="default: all")
    arguments = parser.parse_args()
    policies = arguments.policy or list(POLICIES)
    console = Console(width=None if sys.stdout.isatty() else 120)
    figures: dict[str, Any] = {"budget": BUDGET, "reference": scenario(console, "reference", policies)}
    for name in (*TRACES, *SHAPES):
        figures[name] = scenario(console, name, policies)
    figures["random_fleets"] = random_fleets(console, arguments.fleets, policies)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    console.print(str(RESULT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
