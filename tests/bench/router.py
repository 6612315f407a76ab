"""`make bench-router`: what a request costs in our router and in others: CPU, time to the first byte, streams.

One backend, one client, the same requests straight to the backend and through each router, in turns, so that what else
the machine does falls on all. Ours with all it does: token, access log, metrics, load headers, retries. All share the
machine's cores, so requests per second are told per core of the router: a second of its own CPU time.
"""

import argparse
import asyncio
import json
import re
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import uvloop
from rich.console import Console
from rich.table import Table

from bench import load, peers
from bench.load import Answer, Target
from bench.peers import PEERS, UnavailableError
from bench.routed import backend, our_router
from support.cluster import REPOSITORY

RESULT = REPOSITORY / "build" / "bench" / "router.json"
OURS, DIRECT, RIVAL = "warmfleet", "direct", "vllm-router"
AT_ONCE = 32
ROUNDS = 3
STREAMS = 5000
STREAM_EVENTS = 8
STREAM_PAUSE_MILLISECONDS = 1000
OPENED_AT_ONCE = 100
FILES = 65_536
LOADS = {
    "small": ({"model": "m", "messages": [{"role": "user", "content": "hi"}]}, 2000),
    "32 kB": ({"model": "m", "messages": [{"role": "user", "content": "word " * 6500}]}, 1000),
    "stream of 20": ({"model": "m", "messages": [], "stream": True, "max_tokens": 20}, 500),
}


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
    cpu_seconds: float = 0.0


@dataclass
class Row:
    """One line of the table."""

    router: str
    load: str
    requests: int
    failed: int
    cpu_us_per_request: float | None
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
        ours.tell(model="m")
        ours.tell(runner="r", host="127.0.0.1", m="Ready")
        found.append((OURS, ours.port, ours.pid))
        for peer in PEERS:
            if peer.name not in names:
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
    request = chat(LOADS["small"][0])
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


async def measure(found: list[Way]) -> list[Row]:
    """Send all loads by all ways, in turns."""
    rows = []
    for name, (fields, requests) in LOADS.items():
        request = chat(fields)
        measured = {way.name: Measured() for way in found}
        for turn in range(ROUNDS):
            for way in found if turn % 2 == 0 else reversed(found):
                await way.target.open(AT_ONCE)
                before = peers.cpu_seconds(way.pid) if way.pid else 0.0
                answers, _ = await load.keep_asking(partial(way.target.ask, request), AT_ONCE, requests)
                of_way = measured[way.name]
                of_way.answers += answers
                of_way.cpu_seconds += peers.cpu_seconds(way.pid) - before if way.pid else 0.0
        rows += [row(way, name, measured[way.name]) for way in found]
    return rows


def row(way: Way, name: str, measured: Measured) -> Row:
    """Return the figures of one kind of request by one way."""
    answers = measured.answers
    cpu = measured.cpu_seconds / len(answers) if way.pid else None
    first = [each.first_seconds for each in answers]
    return Row(
        router=way.name,
        load=name,
        requests=len(answers),
        failed=sum(each.status != 200 for each in answers),
        cpu_us_per_request=None if cpu is None else round(cpu * 1e6, 1),
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


async def run(names: Sequence[str], count: int) -> int:
    """Measure all, print tables, write the figures; return the exit code."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, FILES), hard))
    console = Console(width=140)
    missing: dict[str, str] = {}
    async with ways(names, missing) as found:
        for way in list(found):
            if not await until_answered(way):
                missing[way.name] = "it answers no request though its backend is there"
                found.remove(way)
        rows = await measure(found)
        held: dict[str, dict[str, float]] = {}
        for way in found:
            if way.name not in {DIRECT, OURS}:
                continue
            before = peers.cpu_seconds(way.pid) if way.pid else 0.0
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
                held[way.name]["cores"] = round((peers.cpu_seconds(way.pid) - before) / (time.monotonic() - began), 2)
    table = Table(title=f"{AT_ONCE} requests at once")
    for column in Row.__dataclass_fields__:
        table.add_column(column)
    for each in rows:
        table.add_row(*(str(value) for value in asdict(each).values()))
    console.print(table)
    for name, figures in held.items():
        console.print(f"{name}: {figures}")
    for name, why in missing.items():
        console.print(f"{name}: not measured: {why}")
    cpu = {each.router: each.cpu_us_per_request for each in rows if each.load == "small"}
    ours, rival = cpu[OURS], cpu.get(RIVAL)
    added = held[OURS]["event_age_ms_p99"] - held[DIRECT]["event_age_ms_p99"]
    result = {
        "cpu_us_per_request": ours,
        "ours_over_vllm_router": round(rival / ours, 2) if ours and rival else None,
        "streams_5000_added_p99_ms": round(added, 2) if count == STREAMS else None,
        "streams": held,
        "rows": [asdict(each) for each in rows],
        "not_measured": missing,
    }
    console.print(
        f"ours takes {ours} us of CPU per request, {RIVAL} {rival}; {count} streams: {added:.2f} ms added at p99"
    )
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(f"{RESULT}\n")
    return 1 if any(each.failed for each in rows if each.router == OURS) or held[OURS]["whole"] < count else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", default=[each.name for each in PEERS], help="which others to measure")
    parser.add_argument("--streams", type=int, default=STREAMS, help="how many streams at once")
    given = parser.parse_args()
    sys.exit(uvloop.run(run(given.peers, given.streams)))
