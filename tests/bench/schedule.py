"""`make bench-schedule`: how long one round of the fleet pass takes, and how that grows with the fleet.

A round is `schedule(fleet, now)` alone, over a fleet that is full: what it costs to decide, without what it costs to
read and write. Each round sees another state: other engines are missing, others are idle. It is measured by the clock
and by the processor time of the thread: on a quiet machine both are the same. Rounds that follow others are measured,
as nearly all are; beside them stands the first one of a process, which finds out everything itself. The collector of
cycles is set as in the operator; what the fleet itself consists of is frozen, as objects that a mirror holds for hours
are rarely looked at.
"""

import argparse
import gc
import json
import random
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta

from rich.console import Console
from rich.table import Table

from bench.load import percentile
from support import large_fleet, make
from support.cluster import REPOSITORY
from warmfleet_operator.__main__ import calm_the_collector
from warmfleet_operator.decide import remembered
from warmfleet_operator.decide.actions import Decisions
from warmfleet_operator.decide.schedule import schedule

RESULT = REPOSITORY / "build" / "bench" / "schedule.json"
SIZES = (1, 2, 4, 8)
ROUNDS = 100
"""At the first size; at larger ones fewer, so that each size takes about as long."""
FEWEST_ROUNDS = 20
WARM_UP_ROUNDS = 2
FIRST_ROUNDS = 3
BUDGET_MS = 50


@dataclass(slots=True)
class Measured:
    """Rounds of one size."""

    nodes: int
    engines: int
    waiting: int
    round_ms: list[float] = field(default_factory=list)
    """Of rounds that follow others."""
    first_round_ms: list[float] = field(default_factory=list)
    """Of rounds that know of none before them."""
    cpu_ms: list[float] = field(default_factory=list)
    actions: int = 0
    """Of the last round."""
    still_waiting: int = 0
    yields: int = 0
    preemptions: int = 0

    def take(self, wall_seconds: float, cpu_seconds: float, decisions: Decisions) -> None:
        """Add a round."""
        self.round_ms.append(wall_seconds * 1000)
        self.cpu_ms.append(cpu_seconds * 1000)
        self.actions, self.still_waiting = len(decisions.actions), len(decisions.waiting)
        self.yields, self.preemptions = len(decisions.yields), len(decisions.preemptions)


def measure(factor: int, rounds: int, seed: int = 1) -> Measured:
    """Decide so many rounds over a fleet of that size."""
    large = large_fleet.scaled(factor, seed)
    measured = Measured(len(large.fleet.nodes), large.engines, large.waiting)
    chance = random.Random(seed)
    thresholds = gc.get_threshold()
    calm_the_collector()
    try:
        for number in range(-WARM_UP_ROUNDS, rounds):
            fleet = large_fleet.varied(large, factor, chance)
            now = make.NOW + timedelta(seconds=number + WARM_UP_ROUNDS)
            began, began_cpu = time.perf_counter(), time.thread_time()
            decisions = schedule(fleet, now)
            wall, cpu = time.perf_counter() - began, time.thread_time() - began_cpu
            if number >= 0:
                measured.take(wall, cpu, decisions)
        for _ in range(FIRST_ROUNDS):
            fleet = large_fleet.varied(large, factor, chance)
            remembered.forget()
            began = time.perf_counter()
            schedule(fleet, now)
            measured.first_round_ms.append((time.perf_counter() - began) * 1000)
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
    return measured


def main() -> int:
    """Measure the sizes, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="make bench-schedule", description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="how many times 500 nodes, e.g. 1,2")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at the first size")
    arguments = parser.parse_args()
    sizes = [int(each) for each in arguments.sizes.split(",")]
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title="one round of schedule() that follows others, and the first one of a process; fleet full")
    places = ("nodes", "engines", "waiting", "rounds")
    for column in (*places, "p50 ms", "p99 ms", "CPU p50", "growth", "first ms", "actions"):
        table.add_column(column, justify="right", no_wrap=True)
    figures: dict[str, dict[str, float]] = {}
    first = 0.0
    for factor in sizes:
        with console.status(f"{factor} x {large_fleet.NODES} nodes"):
            measured = measure(factor, max(FEWEST_ROUNDS, arguments.rounds // factor))
        median = percentile(measured.round_ms, 0.5)
        first = first or median
        row = {
            "nodes": measured.nodes,
            "engines": measured.engines,
            "waiting": measured.waiting,
            "rounds": len(measured.round_ms),
            "round_ms_p50": round(median, 2),
            "round_ms_p99": round(percentile(measured.round_ms, 0.99), 2),
            "cpu_ms_p50": round(percentile(measured.cpu_ms, 0.5), 2),
            "cpu_ms_p99": round(percentile(measured.cpu_ms, 0.99), 2),
            "growth": round(median / first, 2),
            "first_round_ms": round(percentile(measured.first_round_ms, 0.5), 2),
            "actions": measured.actions,
            "still_waiting": measured.still_waiting,
            "yields": measured.yields,
            "preemptions": measured.preemptions,
        }
        for name, value in row.items():
            figures.setdefault(name, {})[f"{factor}x"] = value
        table.add_row(
            *(f"{row[name]:,}" for name in places),
            *(f"{row[name]:.1f}" for name in ("round_ms_p50", "round_ms_p99", "cpu_ms_p50")),
            f"{row['growth']:.1f}x",
            f"{row['first_round_ms']:.1f}",
            f"{measured.actions}",
        )
    console.print(table)
    console.print(f"budget: {BUDGET_MS} ms at {large_fleet.NODES} nodes, on one core")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"budget_ms": BUDGET_MS, **figures}, indent=2) + "\n")
    console.print(str(RESULT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
