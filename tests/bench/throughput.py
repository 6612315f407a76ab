"""`make bench-throughput`: tokens per second and latencies at 1 to 128 requests at once, with and without the runner.

One runner, one engine, the same requests through the runner's API and straight into the engine, in turns, so that what
else the machine does falls on both. All rows are measured once a round, and figures are medians of the rounds: what the
machine does for a minute falls on no row alone. Each turn begins with as many requests that are not measured: they open
the connections, the front's to the engine as well as the client's. The client runs on the same cores.
"""

import asyncio
import json
import math
import os
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from bench import load
from bench.load import Answer, Target
from bench.subject import MODEL, Subject, subject
from support.cluster import REPOSITORY
from warmfleet_api.assignment import Serving
from warmfleet_http.collector import calm_the_collector

RESULT = REPOSITORY / "build" / "bench" / "throughput.json"
AT_ONCE = (1, 2, 4, 8, 16, 32, 64, 128)
PROMPT = "The quick brown fox jumps over the lazy dog"
ANSWER_TOKENS = 64
ROUNDS = 9
TURNS = ("direct", "ours", "ours", "direct")
OTHER_TURNS = ("ours", "direct", "direct", "ours")
"""Of every other round: what comes first is not always the same."""
TURN_SECONDS = 1.2
"""At least: at few requests at once two of each are over within a third of a second, half of it their beginning."""
COLUMNS = {
    "concurrency": "requests at once",
    "tokens_per_second": "through the runner",
    "direct_tokens_per_second": "straight into the engine",
    "ours_over_direct": "of the rounds' ratios",
    "latency_seconds_mean": "of a whole answer",
    "latency_seconds_p50": "",
    "latency_seconds_p95": "",
    "latency_seconds_p99": "",
    "first_token_seconds_p50": "",
    "first_token_seconds_p99": "",
    "ours_over_direct_least": "of the rounds",
    "ours_over_direct_most": "of the rounds",
    "engine_busy": "of the cores, its API server aside",
    "front_microseconds_per_token": "of processor time",
}


@dataclass(slots=True)
class Side:
    """What was measured of one way into the engine."""

    answers: list[Answer] = field(default_factory=list)
    seconds: float = 0.0
    engine_cpu_seconds: float = 0.0
    front_cpu_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of whole answers."""
        return len(self.answers) * ANSWER_TOKENS / self.seconds


QUESTION = load.request(
    {"model": MODEL, "prompt": PROMPT, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "stream": True}
)


async def turn(subject: Subject, target: Target, side: Side, at_once: int, requests: int) -> None:
    """Ask so many times, so many at once, and add what was seen to a side.

    Raises:
        RuntimeError: a request failed.
    """
    await load.keep_asking(lambda: target.ask(QUESTION), at_once, at_once)
    engine, front = subject.engine_cpu_seconds(), subject.front_cpu_seconds()
    answers, seconds = await load.keep_asking(lambda: target.ask(QUESTION), at_once, requests)
    side.engine_cpu_seconds += subject.engine_cpu_seconds() - engine
    side.front_cpu_seconds += subject.front_cpu_seconds() - front
    side.answers += answers
    side.seconds += seconds
    if bad := {answer.status for answer in answers} - {200}:
        raise RuntimeError(f"expected 200, got {bad}")


async def requests_of_a_turn(subject: Subject, targets: dict[str, Target], at_once: int) -> int:
    """Return how many requests last for a turn, so many at once; both sides are warm afterwards."""
    most = 2 * at_once
    for target in targets.values():
        side = Side()
        await turn(subject, target, side, at_once, 2 * at_once)
        most = max(most, math.ceil(TURN_SECONDS / side.seconds * 2) * at_once)
    return most


async def measure(
    subject: Subject, targets: dict[str, Target], turns: tuple[str, ...], at_once: int, requests: int
) -> dict[str, Side]:
    """Return one round of a row."""
    sides = {name: Side() for name in targets}
    for name in turns:
        await turn(subject, targets[name], sides[name], at_once, requests)
    return sides


def ratio(sides: dict[str, Side]) -> float:
    """Return ours over direct."""
    return sides["ours"].tokens_per_second / sides["direct"].tokens_per_second


def geometric_mean(ratios: Iterable[float]) -> float:
    """Return the mean of ratios."""
    return math.exp(statistics.fmean(map(math.log, ratios)))


def row(at_once: int, rounds: list[dict[str, Side]]) -> dict[str, float]:
    """Return the figures by the names they are written under."""
    ours, direct = ([sides[name] for sides in rounds] for name in ("ours", "direct"))
    answers = [answer for side in ours for answer in side.answers]
    seconds = [answer.seconds for answer in answers]
    first_tokens = [answer.first_seconds for answer in answers]
    ratios = [ratio(sides) for sides in rounds]
    whole_seconds = sum(side.seconds for side in ours)
    return {
        "concurrency": at_once,
        "tokens_per_second": round(statistics.median(side.tokens_per_second for side in ours), 1),
        "direct_tokens_per_second": round(statistics.median(side.tokens_per_second for side in direct), 1),
        "ours_over_direct": round(statistics.median(ratios), 3),
        "ours_over_direct_least": round(min(ratios), 3),
        "ours_over_direct_most": round(max(ratios), 3),
        "latency_seconds_mean": round(statistics.fmean(seconds), 4),
        "latency_seconds_p50": round(load.percentile(seconds, 0.50), 4),
        "latency_seconds_p95": round(load.percentile(seconds, 0.95), 4),
        "latency_seconds_p99": round(load.percentile(seconds, 0.99), 4),
        "first_token_seconds_p50": round(load.percentile(first_tokens, 0.50), 4),
        "first_token_seconds_p99": round(load.percentile(first_tokens, 0.99), 4),
        "engine_busy": round(sum(side.engine_cpu_seconds for side in ours) / whole_seconds / (os.cpu_count() or 1), 3),
        "front_microseconds_per_token": round(
            sum(side.front_cpu_seconds for side in ours) / (len(answers) * ANSWER_TOKENS) * 1e6, 1
        ),
    }


async def run() -> dict[str, object]:
    """Measure all rows."""
    arguments = ("--max-num-seqs", str(max(AT_ONCE)))
    async with (
        subject(*arguments, serving=Serving()) as runner,
        load.targets(ours=runner.port, direct=runner.socket) as targets,
    ):
        requests = {at_once: await requests_of_a_turn(runner, targets, at_once) for at_once in (8, *AT_ONCE)}
        calm_the_collector()
        progress = Console(stderr=True)
        rounds: list[dict[int, dict[str, Side]]] = []
        for number in range(ROUNDS):
            # There and back, so that no row always follows the same one.
            order, turns = (AT_ONCE, TURNS) if number % 2 == 0 else (AT_ONCE[::-1], OTHER_TURNS)
            rounds.append({each: await measure(runner, targets, turns, each, requests[each]) for each in order})
            progress.print(f"round {number + 1} of {ROUNDS}")
        rows = [row(at_once, [each[at_once] for each in rounds]) for at_once in AT_ONCE]
    whole_rounds = [geometric_mean(map(ratio, each.values())) for each in rounds]
    return {
        "ours_over_direct": round(geometric_mean(row["ours_over_direct"] for row in rows), 3),
        "ours_over_direct_standard_error": round(statistics.stdev(whole_rounds) / math.sqrt(ROUNDS), 3),
        "rows": rows,
    }


def main() -> int:
    """Measure, write and print the figures."""
    figures = asyncio.run(run())
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures, indent=2) + "\n")
    table = Table(
        title=f"tiny model, {ANSWER_TOKENS} tokens an answer, {os.cpu_count()} cores with the client on them",
        title_justify="left",
    )
    for name, meaning in COLUMNS.items():
        table.add_column(f"{name}\n{meaning}".replace("_", " "), justify="right")
    rows = figures["rows"]
    assert isinstance(rows, list)
    for each in rows:
        table.add_row(*(f"{each[name]:,}" for name in COLUMNS))
    console = Console(width=210)
    console.print(table)
    error = figures["ours_over_direct_standard_error"]
    console.print(
        f"ours over direct, geometric mean of the rows: {figures['ours_over_direct']}, +- {error} by the rounds"
    )
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
