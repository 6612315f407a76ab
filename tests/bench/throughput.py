"""`make bench-throughput`: tokens per second and latencies at 1 to 128 requests at once, with and without the runner.

One runner, one engine, the same requests through the runner's API and straight into the engine, in turns, so that what
else the machine does falls on both. The client runs on the same cores.
"""

import asyncio
import json
import math
import os
import statistics
import sys
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from bench import load
from bench.load import Answer, Target
from bench.subject import MODEL, Subject, subject
from support.cluster import REPOSITORY
from warmfleet_api.assignment import Serving

RESULT = REPOSITORY / "build" / "bench" / "throughput.json"
AT_ONCE = (1, 2, 4, 8, 16, 32, 64, 128)
PROMPT = "The quick brown fox jumps over the lazy dog"
ANSWER_TOKENS = 64
ROUNDS = 3
TURNS = ("direct", "ours", "ours", "direct")
COLUMNS = {
    "concurrency": "requests at once",
    "tokens_per_second": "through the runner",
    "direct_tokens_per_second": "straight into the engine",
    "ours_over_direct": "of these two",
    "latency_seconds_mean": "of a whole answer",
    "latency_seconds_p50": "",
    "latency_seconds_p95": "",
    "latency_seconds_p99": "",
    "first_token_seconds_p50": "",
    "first_token_seconds_p99": "",
    "engine_busy": "its processors' time",
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


async def measure(subject: Subject, targets: dict[str, Target], at_once: int) -> dict[str, float]:
    """Return one row of the table."""
    question = load.request(
        {"model": MODEL, "prompt": PROMPT, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "stream": True}
    )
    sides = {name: Side() for name in targets}
    for _ in range(ROUNDS):
        for name in TURNS:
            side, target = sides[name], targets[name]
            await target.open(at_once)
            engine, front = subject.engine_cpu_seconds(), subject.front_cpu_seconds()
            answers, seconds = await load.keep_asking(lambda: target.ask(question), at_once, max(6, 2 * at_once))  # noqa: B023
            side.engine_cpu_seconds += subject.engine_cpu_seconds() - engine
            side.front_cpu_seconds += subject.front_cpu_seconds() - front
            side.answers += answers
            side.seconds += seconds
            if bad := {answer.status for answer in answers} - {200}:
                raise RuntimeError(f"{name} answered {bad}")
    return row(at_once, sides["ours"], sides["direct"])


def row(at_once: int, ours: Side, direct: Side) -> dict[str, float]:
    """Return the figures by the names they are written under."""
    seconds = [answer.seconds for answer in ours.answers]
    first_tokens = [answer.first_seconds for answer in ours.answers]
    tokens = len(ours.answers) * ANSWER_TOKENS
    return {
        "concurrency": at_once,
        "tokens_per_second": round(ours.tokens_per_second, 1),
        "direct_tokens_per_second": round(direct.tokens_per_second, 1),
        "ours_over_direct": round(ours.tokens_per_second / direct.tokens_per_second, 3),
        "latency_seconds_mean": round(statistics.fmean(seconds), 4),
        "latency_seconds_p50": round(load.percentile(seconds, 0.50), 4),
        "latency_seconds_p95": round(load.percentile(seconds, 0.95), 4),
        "latency_seconds_p99": round(load.percentile(seconds, 0.99), 4),
        "first_token_seconds_p50": round(load.percentile(first_tokens, 0.50), 4),
        "first_token_seconds_p99": round(load.percentile(first_tokens, 0.99), 4),
        "engine_busy": round(ours.engine_cpu_seconds / ours.seconds / (os.cpu_count() or 1), 3),
        "front_microseconds_per_token": round(ours.front_cpu_seconds / tokens * 1e6, 1),
    }


async def run() -> dict[str, object]:
    """Measure all rows."""
    arguments = ("--max-num-seqs", str(max(AT_ONCE)))
    async with (
        subject(*arguments, serving=Serving()) as runner,
        load.targets(ours=runner.port, direct=runner.socket) as targets,
    ):
        await measure(runner, targets, 8)  # the engine's and the client's first steps are slower
        rows = [await measure(runner, targets, at_once) for at_once in AT_ONCE]
    logs = [math.log(row["ours_over_direct"]) for row in rows]
    return {"ours_over_direct": round(math.exp(statistics.fmean(logs)), 3), "rows": rows}


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
    console = Console(width=180)
    console.print(table)
    console.print(f"ours over direct, geometric mean of the rows: {figures['ours_over_direct']}")
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
