"""`make bench-overload`: three times what an engine can do, for two minutes; and one tenant that floods the others.

A real runner with a Simulated engine, which runs 256 sequences at once and no more, behind our router. Capacity is
measured first. Every request of the overload says how long it waits for its first byte (the budget); what can't be
served by then has to be refused at once. Then two tenants send little while a third one floods: with limits of its
own, without any (fairness in the runner's queue alone), and, as a control, under the name of one of the two.
"""

import argparse
import asyncio
import random
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from bench import figures, load, traffic
from bench.load import Target
from bench.routed import Ours, our_router
from bench.simulated import MODEL, Backend, backends, engine, introduce
from bench.traffic import Outcome, Seen, SteadyRequests
from support.cluster import REPOSITORY
from warmfleet_api import names
from warmfleet_api.assignment import Serving, SimulatedEngine
from warmfleet_runtime.admission.queue import UNKNOWN_MAX_SEQUENCES

RESULT = REPOSITORY / "build" / "bench" / "overload.json"
TOKENS = 3
TOKENS_PER_SECOND = 1
ENGINE = SimulatedEngine(
    load_milliseconds=50, initialize_milliseconds=50, first_token_milliseconds=100, tokens_per_second=TOKENS_PER_SECOND
)
AT_ONCE = 2 * UNKNOWN_MAX_SEQUENCES
BUDGET_SECONDS = 2.0
OVERLOAD = 3.0
CALM = 0.5
REFUSAL_SECONDS = 0.05
LOOK_SECONDS = 1.0
GOOD_FACTOR = 2.0
"""A first byte that takes so many times the p95 of before is not yet recovered."""
CALM_TENANTS = ("calm-1", "calm-2")
CALM_SHARE = 0.15
"""Of the capacity, each calm tenant."""
FLOOD = "flood"
FLOOD_SHARE = 0.25
"""Of the capacity and of the engine's sequences, as limits of the tenant that floods."""


@dataclass
class Row:
    """One phase of the overload."""

    phase: str
    requests: int
    requests_per_second: float
    answered: int
    answered_per_second: float
    first_byte_seconds_p50: float | None
    first_byte_seconds_p95: float | None
    refused: int
    refusal_seconds_p50: float | None
    refusal_seconds_p99: float | None
    refusal_seconds_max: float | None
    refusals_over_50_ms: int
    refusals_without_retry_after: int
    refusal_codes: str
    lost: int


@dataclass
class TenantRow:
    """What the calm tenants notice of a flood."""

    phase: str
    calm_requests: int
    calm_not_answered: int
    calm_first_byte_seconds_p99: float | None
    calm_seconds_p99: float | None
    over_alone: float | None
    """Of the p99 to the end of the answer."""
    first_byte_over_alone: float | None
    flood_requests: int
    flood_answered: int
    flood_refused: int
    flood_refusal_codes: str


Ask = Callable[[int], Awaitable[Seen]]


class Memory:
    """Resident memory of processes, looked at each second."""

    def __init__(self, **pids: int) -> None:
        self.mebibytes: dict[str, list[float]] = {name: [] for name in pids}
        self._pids = pids
        self._task = asyncio.create_task(self._look(), name="memory")

    async def _look(self) -> None:
        while True:
            for name, pid in self._pids.items():
                self.mebibytes[name].append(resident_mebibytes(pid))
            await asyncio.sleep(LOOK_SECONDS)

    async def stop(self) -> dict[str, dict[str, float]]:
        """Look no more; return begin, end and growth of each, from the second quarter of the time to the last."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        found = {}
        for name, values in self.mebibytes.items():
            quarter = max(1, len(values) // 4)
            then, now = statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])
            found[name] = {
                "rss_begin_mebibytes": round(values[0], 1),
                "rss_second_quarter_mebibytes": round(then, 1),
                "rss_last_quarter_mebibytes": round(now, 1),
                "growth_mebibytes": round(now - then, 1),
                "rss_max_mebibytes": round(max(values), 1),
            }
        return found


def resident_mebibytes(pid: int) -> float:
    """Return a process' resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


@dataclass
class Subject:
    """The router and what is behind it."""

    router: Ours
    runner: Backend
    service: Target
    console: Console
    tokens: int
    """Of an answer on average: the longer, the fewer requests per second are the engine's capacity."""
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    def asks(self, headers: dict[str, str] | None = None) -> Ask:
        """Return what asks for a stream of 1 to twice as many tokens as the average.

        Were all alike, all that begin together would end together, and for long nothing would end in between.
        """
        requests = [
            traffic.completion(MODEL, tokens, stream=True, headers=headers) for tokens in range(1, 2 * self.tokens)
        ]

        async def ask(_: int) -> Seen:
            return await traffic.ask(self.service, self.chance.choice(requests), stream=True)

        return ask

    @property
    def answer_seconds(self) -> float:
        """What an answer takes on average at an engine that is free."""
        return ENGINE.first_token_milliseconds / 1000 + (self.tokens - 1) / TOKENS_PER_SECOND

    def say(self, what: str) -> None:
        """Show what is done."""
        self.console.print(f"{time.strftime('%H:%M:%S')}  {what}")

    async def keep_asking(self, seconds: float) -> float:
        """Return how many requests per second are answered while as many as fit twice wait for it."""
        ask = self.asks()
        ended: list[float] = []
        until = time.monotonic() + seconds
        warm = min(seconds / 2, 2 * self.answer_seconds)

        async def work() -> None:
            while time.monotonic() < until:
                seen = await ask(0)
                if seen.outcome is not Outcome.ANSWERED:
                    await asyncio.sleep(0.2)
                else:
                    ended.append(seen.ended_at)

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
        return sum(until - seconds + warm <= each < until for each in ended) / (seconds - warm)


@asynccontextmanager
async def subject(console: Console, tokens: int = TOKENS) -> AsyncIterator[Subject]:
    """Run a router and a runner that trusts it."""
    async with backends(1) as (runner,):
        with tempfile.TemporaryDirectory(prefix="warmfleet-bench-") as directory:
            async with our_router(Path(directory), runner.address[1]) as router:
                router.tell(model=MODEL)
                await runner.start(engine(ENGINE, Serving()), (router.public_key,))
                await runner.ready()
                introduce(router, [runner])
                service = Target(("127.0.0.1", router.port))
                yield Subject(router, runner, service, console, tokens)
                service.close()


# Overload -------------------------------------------------------------------------------------------------------------


async def overload(on: Subject, capacity: float, seconds: float) -> tuple[list[Row], dict[str, Any]]:
    """Send half of the capacity, three times it, and half again; return rows, and figures of memory and recovery."""
    headers = {names.HEADER_DEADLINE: str(int(BUDGET_SECONDS * 1000))}
    calm_seconds = max(5.0, seconds / 8)
    (front,) = on.runner.runner.processes("warmfleet_runtime.front")
    requests = SteadyRequests(on.asks(headers), CALM * capacity)
    began = time.monotonic()
    on.say(f"{requests.per_second:.0f} requests/s for {calm_seconds:.0f} s")
    await asyncio.sleep(calm_seconds)
    rose, requests.per_second = time.monotonic(), OVERLOAD * capacity
    on.say(f"{requests.per_second:.0f} requests/s for {seconds:.0f} s")
    memory = Memory(router=on.router.pid, front=front)
    await asyncio.sleep(seconds)
    fell, requests.per_second = time.monotonic(), CALM * capacity
    grown = await memory.stop()
    on.say(f"{requests.per_second:.0f} requests/s for {2 * calm_seconds:.0f} s")
    await asyncio.sleep(2 * calm_seconds)
    seen = await requests.stop()
    ended = max(each.sent_at for each in seen)
    phases = {
        "before": [each for each in seen if each.sent_at < rose],
        "overload": [each for each in seen if rose <= each.sent_at < fell],
        "after": [each for each in seen if each.sent_at >= fell],
    }
    lengths = {"before": rose - began, "overload": fell - rose, "after": ended - fell}
    rows = [row(phase, of, lengths[phase]) for phase, of in phases.items()]
    usual = rows[0].first_byte_seconds_p95 or BUDGET_SECONDS
    bad = [
        each.sent_at - fell
        for each in phases["after"]
        if each.outcome is not Outcome.ANSWERED or each.first_seconds > GOOD_FACTOR * usual
    ]
    return rows, {"recovery_seconds": round(max(bad, default=0.0), 2), "memory": grown}


def row(phase: str, seen: list[Seen], seconds: float) -> Row:
    """Return the figures of a phase."""
    answered = [each for each in seen if each.outcome is Outcome.ANSWERED]
    refused = [each for each in seen if each.outcome is Outcome.REFUSED]
    first = [each.first_seconds for each in answered]
    took = [each.seconds for each in refused]
    return Row(
        phase=phase,
        requests=len(seen),
        requests_per_second=round(len(seen) / seconds, 1),
        answered=len(answered),
        answered_per_second=round(len(answered) / seconds, 1),
        first_byte_seconds_p50=figures.p(first, 0.5),
        first_byte_seconds_p95=figures.p(first, 0.95),
        refused=len(refused),
        refusal_seconds_p50=figures.p(took, 0.5, 5),
        refusal_seconds_p99=figures.p(took, 0.99, 5),
        refusal_seconds_max=figures.p(took, 1.0, 5),
        refusals_over_50_ms=sum(each > REFUSAL_SECONDS for each in took),
        refusals_without_retry_after=sum(not load.header(each, b"retry-after") for each in refused),
        refusal_codes=codes_of(refused),
        lost=len(seen) - len(answered) - len(refused),
    )


def codes_of(seen: Sequence[Seen]) -> str:
    """Return how many of which refusals there are."""
    codes: Counter[str] = Counter()
    for each in seen:
        if each.outcome is Outcome.REFUSED:
            _, _, rest = each.why.partition('"code":')
            code = rest.strip(' "').partition('"')[0]
            codes[f"{each.status} {code}"] += 1
    return ", ".join(f"{count} x {code}" for code, count in codes.most_common())


# Tenants --------------------------------------------------------------------------------------------------------------


def key_of(tenant: str) -> str:
    """Return a tenant's API key."""
    return f"sk-{tenant}-0123456789abcdef"


def asks(on: Subject, tenant: str) -> Ask:
    """Return what sends one request of a tenant."""
    return on.asks({"Authorization": f"Bearer {key_of(tenant)}"})


async def flooded(on: Subject, capacity: float, seconds: float, phase: str, flood: str) -> tuple[TenantRow, list[Seen]]:
    """Let the calm tenants ask, and one flood under a name (empty: none does)."""
    on.say(f"tenants: {phase}, {seconds:.0f} s")
    calm = [SteadyRequests(asks(on, tenant), CALM_SHARE * capacity) for tenant in CALM_TENANTS]
    flooding = SteadyRequests(asks(on, flood), OVERLOAD * capacity) if flood else None
    await asyncio.sleep(seconds)
    flooded_seen = await flooding.stop() if flooding else []
    seen = [each for one in calm for each in await one.stop()]
    answered = [each for each in seen if each.outcome is Outcome.ANSWERED]
    counts = traffic.outcomes(flooded_seen)
    found = TenantRow(
        phase=phase,
        calm_requests=len(seen),
        calm_not_answered=len(seen) - len(answered),
        calm_first_byte_seconds_p99=figures.p([each.first_seconds for each in answered], 0.99),
        calm_seconds_p99=figures.p([each.seconds for each in answered], 0.99),
        over_alone=None,
        first_byte_over_alone=None,
        flood_requests=len(flooded_seen),
        flood_answered=counts[Outcome.ANSWERED],
        flood_refused=counts[Outcome.REFUSED],
        flood_refusal_codes=codes_of(flooded_seen),
    )
    return found, seen


async def tenants(on: Subject, capacity: float, seconds: float) -> list[TenantRow]:
    """Measure the calm tenants alone, and while another one floods."""
    for tenant in (*CALM_TENANTS, FLOOD):
        on.router.tell(tenant=tenant, keys=[key_of(tenant)])
    alone, _ = await flooded(on, capacity, seconds, "alone", "")
    without, _ = await flooded(on, capacity, seconds, "flood without limits", FLOOD)
    limits = {
        "concurrency": round(FLOOD_SHARE * UNKNOWN_MAX_SEQUENCES),
        "requestsPerMinute": round(FLOOD_SHARE * capacity * 60),
    }
    on.router.tell(tenant=FLOOD, keys=[key_of(FLOOD)], spec={"limits": limits})
    with_limits, _ = await flooded(on, capacity, seconds, "flood with limits", FLOOD)
    control, _ = await flooded(on, capacity, seconds / 2, "control: flood as calm-1", CALM_TENANTS[0])
    rows = [alone, with_limits, without, control]
    for each in rows[1:]:
        if each.calm_seconds_p99 and alone.calm_seconds_p99:
            each.over_alone = round(each.calm_seconds_p99 / alone.calm_seconds_p99, 2)
        if each.calm_first_byte_seconds_p99 and alone.calm_first_byte_seconds_p99:
            each.first_byte_over_alone = round(each.calm_first_byte_seconds_p99 / alone.calm_first_byte_seconds_p99, 2)
    return rows


# All ------------------------------------------------------------------------------------------------------------------


async def run(overload_seconds: float, tenant_seconds: float, tokens: int) -> int:
    """Measure all, print tables, write the figures; return the exit code."""
    console = Console(width=150)
    async with subject(console, tokens) as on:
        on.say("measuring the capacity")
        capacity = await on.keep_asking(max(3.5 * on.answer_seconds, overload_seconds / 8))
        on.say(f"capacity: {capacity:.1f} requests/s")
        rows, more = await overload(on, capacity, overload_seconds)
        of_tenants = await tenants(on, capacity, tenant_seconds)
    figures.show_sideways(
        console, f"overload of {OVERLOAD:g} times the capacity of {capacity:.1f} requests/s", rows, "phase"
    )
    figures.show_sideways(console, "one tenant floods", of_tenants, "phase")
    console.print(more)
    full, (alone, with_limits, without, control) = rows[1], of_tenants
    found = {
        "capacity_requests_per_second": round(capacity, 1),
        "budget_first_byte_seconds": BUDGET_SECONDS,
        "overload_seconds": overload_seconds,
        "accepted_first_byte_seconds_p95": full.first_byte_seconds_p95,
        "accepted_over_capacity": round(full.answered_per_second / capacity, 2),
        "refusal_seconds_p99": full.refusal_seconds_p99,
        "refusal_seconds_max": full.refusal_seconds_max,
        "refusals_over_50_ms": full.refusals_over_50_ms,
        "refusals_without_retry_after": full.refusals_without_retry_after,
        **more,
        "alone_seconds_p99": alone.calm_seconds_p99,
        "flood_with_limits_over_alone": with_limits.over_alone,
        "flood_without_limits_over_alone": without.over_alone,
        "flood_with_limits_first_byte_over_alone": with_limits.first_byte_over_alone,
        "flood_without_limits_first_byte_over_alone": without.first_byte_over_alone,
        "control_over_alone": control.over_alone,
        "control_not_answered": control.calm_not_answered,
        "phases": [asdict(each) for each in rows],
        "tenants": [asdict(each) for each in of_tenants],
    }
    figures.write(RESULT, found)
    is_good = full.refused and not full.refusals_without_retry_after and not full.lost
    calm_is_served = not (with_limits.calm_not_answered or without.calm_not_answered)
    return 0 if is_good and calm_is_served else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of overload")
    parser.add_argument("--tenant-seconds", type=float, default=30.0, help="of each phase with tenants")
    parser.add_argument(
        "--tokens", type=int, default=TOKENS, help="of each answer: more make fewer requests per second"
    )
    given = parser.parse_args()
    sys.exit(uvloop.run(run(given.seconds, given.tenant_seconds, given.tokens)))
