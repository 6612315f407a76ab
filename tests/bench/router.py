"""`make bench-router`: what a request costs in our router and in others: CPU, time to the first byte, streams.

One backend, one client, the same requests straight to the backend and through each router, in turns, so that what else
the machine does falls on all. Prompts differ, as those of people do. All share the machine's cores, so requests per
second are told per core of the router: a second of its own CPU time.

Ours runs with all it does: token, access log, metrics, load headers, retries, breaker. What it is compared with
(`ours_over_vllm_router`) is vllm-router as it is installed, which has retries, breaker, metrics and its policy
cache_aware: like features on both sides. Beside it stands the same router with all off that can be (`leanest`).

What a request costs depends on how many there are at once: a router that is asked once at a time goes to sleep and is
woken for each, and one with many threads wakes them for each other. So all are asked at several levels; the figures
that stand alone are those of small requests, 32 at once, whatever the other rows say.

At last what a router's own cache of answers costs those that it has no answer for: the same requests for a model that
keeps answers and for one that does not.
"""

import argparse
import asyncio
import random
import re
import resource
import string
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import uvloop
from rich.console import Console

from bench import figures, load, peers
from bench.load import Answer, Target
from bench.peers import AS_INSTALLED, LEANEST, PEERS, UnavailableError
from bench.routed import backend, our_router
from support.cluster import REPOSITORY

RESULT = REPOSITORY / "build" / "bench" / "router.json"
OURS, DIRECT = "warmfleet", "direct"
PLAIN, KEEPING = "m", "keeping"
"""Models: the second one keeps answers."""
AT_ONCE = 32
LEVELS = (1, 8, 32, 128)
ROUNDS = 4
WORDS = 5000
SYSTEM_WORDS = 160
STREAMS = 5000
STREAM_EVENTS = 8
STREAM_PAUSE_MILLISECONDS = 1000
OPENED_AT_ONCE = 100
FILES = 65_536


@dataclass(frozen=True)
class Load:
    """One kind of request."""

    words: int
    """Of the question; a word and its space are 6 bytes."""
    requests: int
    """In each turn."""
    levels: tuple[int, ...] = (AT_ONCE,)
    """How many of them at once."""
    system: bool = False
    """Whether all begin with the same words, as a system prompt."""
    fields: Mapping[str, object] = field(default_factory=dict)


SMALL = "small"
LOADS = {
    SMALL: Load(16, 2000, LEVELS),
    "4 kB": Load(500, 1000, system=True),
    "32 kB": Load(5400, 1000),
    "stream of 20": Load(16, 500, fields={"stream": True, "max_tokens": 20}),
}
KEPT = Load(16, 2000, fields={"temperature": 0})
"""A cache of answers looks at requests that always have the same answer."""


class Prompts:
    """Requests of which no two ask the same."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._chance = random.Random(1)
        self._words = ["".join(self._chance.choices(string.ascii_lowercase, k=5)) for _ in range(WORDS)]
        self._system = " ".join(self._words[:SYSTEM_WORDS])

    def of(self, load: Load, model: str = PLAIN) -> list[bytes]:
        """Return new requests for a turn."""
        system = [{"role": "system", "content": self._system}] if load.system else []
        found = []
        for _ in range(max(AT_ONCE, round(load.requests * self._share))):
            question = {"role": "user", "content": " ".join(self._chance.choices(self._words, k=load.words))}
            found.append(chat({"model": model, "messages": [*system, question], **load.fields}))
        return found


@dataclass
class Way:
    """One way to the backend."""

    name: str
    target: Target
    port: int
    pid: int
    """Of the router; 0: there is none."""


@dataclass
class Measured:
    """One kind of request by one way."""

    answers: list[Answer] = field(default_factory=list)
    cpu: peers.Cpu = field(default_factory=peers.Cpu)


@dataclass
class Row:
    """One line of the table."""

    router: str
    load: str
    at_once: int
    requests: int
    failed: int
    cpu_us_per_request: float | None
    user_us_per_request: float | None
    """The rest is the kernel's."""
    requests_per_second_per_core: float | None
    first_byte_seconds_p50: float
    first_byte_seconds_p99: float


@asynccontextmanager
async def ways(names: Sequence[str], missing: dict[str, str]) -> AsyncIterator[list[Way]]:
    """Run the backend and all routers; what can't run is told in `missing`."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="warmfleet-bench-")))
        port, _ = await stack.enter_async_context(backend())
        found = [(DIRECT, port, 0)]
        ours = await stack.enter_async_context(our_router(folder, port))
        ours.tell(model=PLAIN)
        ours.tell(model=KEEPING, spec={"serving": {"responseCache": {}}})
        ours.tell(runner="r", host="127.0.0.1", **{PLAIN: "Ready", KEEPING: "Ready"})
        found.append((OURS, ours.port, ours.pid))
        for peer in PEERS:
            if peer.package not in names:
                continue
            try:
                running = peers.running(peer, port, folder / f"{peer.name}.log")
                found.append((peer.name, *await stack.enter_async_context(running)))
            except UnavailableError as error:
                missing[peer.name] = str(error)
        targets = await stack.enter_async_context(load.targets(**{name: at for name, at, _ in found}))
        yield [Way(name, targets[name], at, pid) for name, at, pid in found]


async def until_answered(way: Way) -> bool:
    """Wait until a way answers; return whether it does."""
    request = chat({"model": PLAIN, "messages": [{"role": "user", "content": "Are you there?"}]})
    for _ in range(30):
        try:
            async with asyncio.timeout(1):
                if (await way.target.ask(request)).status == 200:
                    return True
        except (OSError, TimeoutError):
            way.target.close()
        await asyncio.sleep(0.1)
    return False


def chat(fields: object) -> bytes:
    """Return a whole chat request."""
    return load.request(cast(dict[str, object], fields)).replace(b"/v1/completions", b"/v1/chat/completions", 1)


async def measure(found: list[Way], share: float) -> list[Row]:
    """Send all loads by all ways, in turns."""
    rows, prompts = [], Prompts(share)
    for name, kind in LOADS.items():
        for at_once in kind.levels:
            sys.stderr.write(f"{name}, {at_once} at once\n")
            measured = {way.name: Measured() for way in found}
            for turn in range(ROUNDS):
                requests = prompts.of(kind)
                for way in found if turn % 2 == 0 else reversed(found):
                    await send(way, requests, at_once, measured[way.name])
            rows += [row(way, name, at_once, measured[way.name]) for way in found]
    return rows


async def send(way: Way, requests: Sequence[bytes], at_once: int, measured: Measured) -> None:
    """Send requests by one way, and note what they cost."""
    await way.target.open(at_once)
    left = iter(requests)
    before = peers.cpu(way.pid)
    answers, _ = await load.keep_asking(lambda: way.target.ask(next(left)), at_once, len(requests))
    measured.cpu += peers.cpu(way.pid) - before
    measured.answers += answers


async def measure_kept(ours: Way, share: float) -> list[Row]:
    """Send requests that no kept answer fits, for a model that keeps answers and for one that does not."""
    sys.stderr.write("answers kept, none fits\n")
    measured, prompts = {PLAIN: Measured(), KEEPING: Measured()}, Prompts(share)
    for turn in range(2 * ROUNDS):
        for model in (PLAIN, KEEPING) if turn % 2 == 0 else (KEEPING, PLAIN):
            await send(ours, prompts.of(KEPT, model), AT_ONCE, measured[model])
    names = {PLAIN: "no answers kept", KEEPING: "answers kept, none fits"}
    return [row(ours, names[model], AT_ONCE, each) for model, each in measured.items()]


def row(way: Way, name: str, at_once: int, measured: Measured) -> Row:
    """Return the figures of one kind of request by one way."""
    answers = measured.answers
    cpu = measured.cpu.seconds / len(answers) if way.pid else None
    first = [each.first_seconds for each in answers]
    return Row(
        router=way.name,
        load=name,
        at_once=at_once,
        requests=len(answers),
        failed=sum(each.status != 200 for each in answers),
        cpu_us_per_request=None if cpu is None else round(cpu * 1e6, 1),
        user_us_per_request=None if cpu is None else round(cpu * measured.cpu.user_share * 1e6, 1),
        requests_per_second_per_core=None if not cpu else round(1 / cpu),
        first_byte_seconds_p50=round(load.percentile(first, 0.5), 6),
        first_byte_seconds_p99=round(load.percentile(first, 0.99), 6),
    )


class _Stream(asyncio.Protocol):
    """Takes a stream and notes how old each event is when it comes."""

    _AT = re.compile(rb'"at": ([0-9.]+)')

    def __init__(self, request: bytes, ages: list[float]) -> None:
        self._request = request
        self._ages = ages
        self._tail = b""
        self.is_whole = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        for at in self._AT.findall(data):
            self._ages.append(now - float(at))
        self._tail = (self._tail + data)[-64:]
        if b"[DONE]" in self._tail:
            self.is_whole = True
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def streams(way: Way, count: int) -> tuple[list[float], int]:
    """Have so many streams at once; return the ages of all events, and how many streams were whole."""
    body = {
        "model": "m",
        "messages": [],
        "stream": True,
        "max_tokens": STREAM_EVENTS,
        "user": str(STREAM_PAUSE_MILLISECONDS),
    }
    request, ages, opened = chat(body), [], []  # type: tuple[bytes, list[float], list[_Stream]]
    loop = asyncio.get_running_loop()
    for start in range(0, count, OPENED_AT_ONCE):
        batch = range(start, min(count, start + OPENED_AT_ONCE))
        connected = await asyncio.gather(
            *(loop.create_connection(lambda: _Stream(request, ages), "127.0.0.1", way.port) for _ in batch)
        )
        opened += [stream for _, stream in connected]
    await asyncio.wait([each.ended for each in opened], timeout=STREAM_EVENTS * 3)
    return ages, sum(each.is_whole for each in opened)


async def run(names: Sequence[str], count: int, share: float) -> int:
    """Measure all, print tables, write the figures; return the exit code."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FILES), hard))
    console = Console(width=170)
    missing: dict[str, str] = {}
    async with ways(names, missing) as found:
        for way in list(found):
            if not await until_answered(way):
                missing[way.name] = "it answers no request though its backend is there"
                found.remove(way)
        rows = await measure(found, share)
        kept = await measure_kept(next(each for each in found if each.name == OURS), share)
        held: dict[str, dict[str, float]] = {}
        for way in found:
            if way.name not in {DIRECT, OURS}:
                continue
            before = peers.cpu(way.pid).seconds
            began = time.monotonic()
            ages, whole = await streams(way, count)
            held[way.name] = {
                "streams": count,
                "whole": whole,
                "events": len(ages),
                "event_age_ms_p50": round(load.percentile(ages, 0.5) * 1000, 2),
                "event_age_ms_p99": round(load.percentile(ages, 0.99) * 1000, 2),
            }
            if way.pid:
                held[way.name]["cores"] = round((peers.cpu(way.pid).seconds - before) / (time.monotonic() - began), 2)
    figures.show(console, "What a request costs a router, by how many there are at once", rows + kept)
    for name, told in held.items():
        console.print(f"{name}: {told}")
    for name, why in missing.items():
        console.print(f"{name}: not measured: {why}")
    cpu = {each.router: each.cpu_us_per_request for each in rows if (each.load, each.at_once) == (SMALL, AT_ONCE)}
    ours = cpu[OURS] or 0.0
    added = held[OURS]["event_age_ms_p99"] - held[DIRECT]["event_age_ms_p99"]
    misses = [each.cpu_us_per_request or 0.0 for each in kept]
    result = {
        "cpu_us_per_request": ours,
        "ours_over_vllm_router": ratio(ours, cpu.get(f"vllm-router ({AS_INSTALLED})")),
        "ours_over_vllm_router_leanest": ratio(ours, cpu.get(f"vllm-router ({LEANEST})")),
        "streams_5000_added_p99_ms": round(added, 2) if count == STREAMS else None,
        "response_cache_miss_us": round(misses[1] - misses[0], 1),
        "streams": held,
        "rows": [asdict(each) for each in rows + kept],
        "not_measured": missing,
    }
    console.print(f"{SMALL} requests, {AT_ONCE} at once: ours takes {ours} us of CPU for each", highlight=False)
    for name, others in cpu.items():
        if others and name != OURS:
            console.print(f"  {name} takes {others} us, {ratio(ours, others)} times ours", highlight=False)
    console.print(f"a request that no kept answer fits takes {result['response_cache_miss_us']} us more than without")
    console.print(f"{count} streams: {added:.2f} ms added at p99")
    figures.write(RESULT, result)
    return 1 if any(each.failed for each in rows + kept if each.router == OURS) or held[OURS]["whole"] < count else 0


def ratio(ours: float, others: float | None) -> float | None:
    """Return how many times ours another router takes."""
    return round(others / ours, 2) if ours and others else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peers", nargs="*", default=sorted({each.package for each in PEERS}), help="which others to measure"
    )
    parser.add_argument("--streams", type=int, default=STREAMS, help="how many streams at once")
    parser.add_argument("--share", type=float, default=1.0, help="of the requests; a small one shows that all works")
    given = parser.parse_args()
    sys.exit(uvloop.run(run(given.peers, given.streams, given.share)))
