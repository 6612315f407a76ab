"""`make bench-admission`: what the queue in front of an engine is worth, beside the engine's own priority mode.

One runner, one engine that runs vLLM's `--scheduling-policy priority`. Measured on it: how soon a High request starts
in an engine full of Low ones, through the runner and straight into the engine with vLLM's own priorities; how long Low
waits while High asks for more than there is; identical requests merged and not; what is answered in time at twice the
capacity, and how fast the rest is refused.
"""

import asyncio
import json
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import load
from bench.load import Answer, Target
from bench.subject import MODEL, Subject, subject
from support.cluster import REPOSITORY
from warmfleet_api import names
from warmfleet_api.assignment import Serving
from warmfleet_api.vocabulary import Priority
from warmfleet_http.collector import calm_the_collector
from warmfleet_http.slices import ask_for_short_slices

RESULT = REPOSITORY / "build" / "bench" / "admission.json"
MEANINGS = {
    "engine_over_ours_high_ttft": "time to first token of a High request in a full engine, by its priorities / ours",
    "engine_high_ttft_seconds": "median, straight into the engine",
    "ours_high_ttft_seconds": "median, through the runner",
    "low_longest_wait_seconds": "for its first token or its refusal, while High alone asks for more than there is",
    "low_served_share": "of those Low requests, answered",
    "engine_low_longest_wait_seconds": "the same by the engine's priorities; as long as the load lasts if never served",
    "engine_low_served_share": "of those Low requests, answered",
    "unmerged_over_merged": "32 requests that differ in their seed / 32 identical ones, seconds to the last answer",
    "capacity_requests_per_second": "as many at once as the engine runs",
    "goodput_over_capacity": "answered in time at twice the capacity / capacity; from here medians of rounds",
    "refused_share": "of the requests at twice the capacity",
    "refusal_seconds_p50": "of those refused at once: from sending a request to the end of its refusal",
    "refusal_seconds_p99": "",
    "any_refusal_seconds_p99": "of all refusals",
    "refused_late_share": "of the refusals, those that waited first, since the engine was slower than predicted",
    "client_late_seconds_p99": "how late this client woke meanwhile, which is in all its figures",
    "refusals_with_retry_after": "share of the refusals",
}

SEQUENCES = 16
CONTEXT_TOKENS = 2048
TIMEOUT_SECONDS = 8
"""How long a request may wait where Low is measured."""
LONG_TOKENS = 500
SHORT_TOKENS = 64
SAMPLES = 10
STARVING_SECONDS = 15.0
DEADLINE_SECONDS = 1.0
OVERLOAD_SECONDS = 6.0
IDENTICAL = 32
ROUNDS = 5
TICK_SECONDS = 0.002
AT_ONCE_CODES = frozenset({"deadline_unmet", "queue_full"})
"""Of refusals on arrival; the others waited for their turn first."""

Ask = Callable[..., bytes]


def ask(tokens: int, headers: Mapping[str, str] | None = None, **fields: Any) -> bytes:
    """Return a request for an answer of exactly so many tokens."""
    body = {"model": MODEL, "prompt": "Hello", "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    return load.request({**body, "stream": True, **fields}, headers)


@asynccontextmanager
async def background(target: Target, request: bytes, at_once: int) -> AsyncIterator[None]:
    """Keep so many requests under way; at the end they are broken off, which frees the engine."""

    async def work() -> None:
        while True:
            answer = await target.ask(request)
            if answer.status != 200:
                await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(work()) for _ in range(at_once)]
    try:
        await asyncio.sleep(1.0)  # until the engine is full
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.5)


async def high_in_full_engine(target: Target, low: bytes, high: bytes) -> float:
    """Return the median time to first token of High requests that come at any moment."""
    chance = random.Random(1)
    seconds = []
    async with background(target, low, 2 * SEQUENCES):
        for _ in range(SAMPLES):
            await asyncio.sleep(chance.uniform(0.1, 0.6))
            answer = await target.ask(high)
            _expect(answer, 200)
            seconds.append(answer.first_seconds)
    return statistics.median(seconds)


async def low_under_high(target: Target, low: bytes, high: bytes) -> tuple[float, float]:
    """Return the longest wait of Low requests while High ones fill the engine, and the share that was served."""
    waits: list[float] = []
    served = 0

    async def once() -> None:
        nonlocal served
        sent = time.monotonic()
        try:
            answer = await target.ask(low)
        except asyncio.CancelledError:
            waits.append(time.monotonic() - sent)
            raise
        waits.append(answer.first_seconds)
        served += answer.status == 200

    async with background(target, high, 3 * SEQUENCES):
        tasks = []
        for _ in range(int(2 * STARVING_SECONDS)):
            tasks.append(asyncio.create_task(once()))
            await asyncio.sleep(0.5)
        _, late = await asyncio.wait(tasks, timeout=TIMEOUT_SECONDS + 2)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return max(waits), served / len(tasks)


async def merged_and_not(target: Target) -> float:
    """Return how much longer requests take that are not merged than those that are."""
    seconds: dict[str, list[float]] = {"merged": [], "unmerged": []}
    for round_ in range(ROUNDS):
        for how in ("merged", "unmerged"):
            same = ask(SHORT_TOKENS, prompt=f"Round {round_} {how}")
            requests = [same] * IDENTICAL
            if how == "unmerged":
                requests = [ask(SHORT_TOKENS, prompt=f"Round {round_} {how}", seed=seed) for seed in range(IDENTICAL)]
            await target.open(IDENTICAL)
            left = iter(requests)
            answers, took = await load.keep_asking(lambda: target.ask(next(left)), IDENTICAL, IDENTICAL)  # noqa: B023
            for answer in answers:
                _expect(answer, 200)
            seconds[how].append(took)
    return statistics.median(seconds["unmerged"]) / statistics.median(seconds["merged"])


async def capacity(target: Target, request: bytes) -> float:
    """Return the requests per second the engine answers while as many as it takes wait for it."""
    await load.keep_asking(lambda: target.ask(request), 2 * SEQUENCES, 2 * SEQUENCES)
    answers, seconds = await load.keep_asking(lambda: target.ask(request), 2 * SEQUENCES, 20 * SEQUENCES)
    return len(answers) / seconds


async def overload(target: Target, request: bytes, requests_per_second: float) -> dict[str, float]:
    """Send so many requests per second whatever comes back; return what was answered in time, and the refusals."""
    tasks: list[asyncio.Task[Answer]] = []
    late_seconds: list[float] = []
    started = time.monotonic()
    while (elapsed := (now := time.monotonic()) - started) < OVERLOAD_SECONDS:
        while len(tasks) < elapsed * requests_per_second:
            tasks.append(asyncio.create_task(target.ask(request)))
        sent = time.monotonic() - now
        await asyncio.sleep(TICK_SECONDS)
        late_seconds.append(time.monotonic() - now - sent - TICK_SECONDS)
    answers = await asyncio.gather(*tasks)
    good = [each for each in answers if each.status == 200 and each.first_seconds <= DEADLINE_SECONDS]
    refused = [each for each in answers if each.status == 429]
    for answer in answers:
        _expect(answer, 200, 429)
    seconds = [each.seconds for each in refused if _code(each) in AT_ONCE_CODES]
    return {
        "good_per_second": len(good) / (max(each.ended_at for each in good) - started),
        "refused_share": round(len(refused) / len(answers), 3),
        "refusal_seconds_p50": round(load.percentile(seconds, 0.50), 5),
        "refusal_seconds_p99": round(load.percentile(seconds, 0.99), 5),
        "any_refusal_seconds_p99": round(load.percentile((each.seconds for each in refused), 0.99), 5),
        "refused_late_share": 1 - len(seconds) / len(refused),
        "client_late_seconds_p99": load.percentile(late_seconds, 0.99),
        "refusals_with_retry_after": statistics.fmean(bool(load.header(each, b"retry-after")) for each in refused),
    }


async def measure(subject: Subject, ours: Target, direct: Target) -> dict[str, float]:
    """Return all figures."""
    high_class = {names.HEADER_CLASS: Priority.HIGH.value}
    trusted = subject.trusted(**high_class)
    high_ttft: dict[str, list[float]] = {"ours": [], "engine": []}
    for _ in range(2):
        high_ttft["ours"].append(await high_in_full_engine(ours, ask(LONG_TOKENS), ask(1, trusted)))
        high_ttft["engine"].append(await high_in_full_engine(direct, ask(LONG_TOKENS, priority=10), ask(1, priority=0)))
    figures = {f"{side}_high_ttft_seconds": round(statistics.fmean(each), 5) for side, each in high_ttft.items()}
    figures["engine_over_ours_high_ttft"] = round(
        figures["engine_high_ttft_seconds"] / figures["ours_high_ttft_seconds"], 1
    )

    await subject.serve_anew(Serving(timeout_seconds=TIMEOUT_SECONDS), trusts=True)
    for prefix, target, low, high in (
        ("", ours, ask(1), ask(200, trusted)),
        ("engine_", direct, ask(1, priority=10), ask(200, priority=0)),
    ):
        longest, share = await low_under_high(target, low, high)
        figures |= {
            f"{prefix}low_longest_wait_seconds": round(longest, 2),
            f"{prefix}low_served_share": round(share, 3),
        }

    await subject.serve_anew(Serving(merge_window_milliseconds=1000), trusts=False)
    figures["unmerged_over_merged"] = round(await merged_and_not(ours), 2)

    await subject.serve_anew(Serving(), trusts=False)
    limit = {names.HEADER_DEADLINE: str(int(DEADLINE_SECONDS * 1000))}
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        # Capacity anew each time: what the machine gives changes from one minute to the next.
        most = await capacity(ours, ask(SHORT_TOKENS))
        seen = await overload(ours, ask(SHORT_TOKENS, limit), 2 * most)
        goodput = seen.pop("good_per_second") / most
        rounds.append({"capacity_requests_per_second": most, "goodput_over_capacity": goodput, **seen})
    return figures | {name: round(statistics.median(each[name] for each in rounds), 5) for name in rounds[0]}


async def run() -> dict[str, float]:
    """Start the engine and measure."""
    arguments = ("--max-num-seqs", str(SEQUENCES), "--scheduling-policy", "priority")
    async with (
        subject(*arguments, serving=Serving(), trusts=True, context_tokens=CONTEXT_TOKENS) as runner,
        load.targets(ours=runner.port, direct=runner.socket) as targets,
    ):
        # The clients of a real fleet are other machines: ours shall not wait for a core longer than it must.
        calm_the_collector()
        ask_for_short_slices()
        return await measure(runner, targets["ours"], targets["direct"])


def main() -> int:
    """Measure, write and print the figures."""
    figures = asyncio.run(run())
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({name: figures[name] for name in MEANINGS}, indent=2) + "\n")
    table = Table(title=f"tiny model, an engine of {SEQUENCES} sequences", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    for name, meaning in MEANINGS.items():
        table.add_row(name, f"{figures[name]:,}", meaning)
    console = Console(width=160)
    console.print(table)
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


def _code(answer: Answer) -> str:
    return str(json.loads(answer.body)["error"]["code"])


def _expect(answer: Answer, *statuses: int) -> None:
    if answer.status not in statuses:
        raise RuntimeError(f"expected {statuses}, got {answer.status}: {answer.body[:300]!r}")


if __name__ == "__main__":
    sys.exit(main())
