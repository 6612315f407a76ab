"""`make bench-bad-input`: how soon bad requests are answered by the router, and what others notice of them.

Every case goes on a connection of its own, one after the other, while good requests come at a steady rate. Then slow
clients are there: heads and bodies that never end, and readers that take nothing. The good requests' times beside all
that are compared with those alone.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import track

from bench import figures, peers, traffic
from bench.load import Target
from bench.routed import Ours, backend, our_router
from bench.traffic import Outcome, Seen, SteadyRequests
from support.cluster import REPOSITORY
from support.smuggling import CORPUS

RESULT = REPOSITORY / "build" / "bench" / "bad_input.json"
GOOD_PER_SECOND = 100.0
SLOW_CLIENTS = 500
ANSWER_SECONDS = 10.0
KEY, OTHER_KEY = "sk-search-0123456789", "sk-chat-0123456789abc"


@dataclass
class Row:
    """One kind of bad request."""

    case: str
    sent: int
    statuses: str
    answer_ms_p50: float
    answer_ms_p99: float


def post(body: bytes, *headers: str) -> bytes:
    """Return a chat request on a connection of its own."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: a", "connection: close", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, f"authorization: Bearer {KEY}", *headers, "", ""]).encode() + body


CASES = {
    "unknown model": post(b'{"model": "nobody"}'),
    "unknown key": post(b'{"model": "m"}').replace(KEY.encode(), b"sk-nobody-0123456789"),
    "foreign tenant's model": post(b'{"model": "m"}').replace(KEY.encode(), OTHER_KEY.encode()),
    "invalid JSON": post(b'{"model": "m"'),
    "no JSON at all": post(b"\xff\xfe\x00"),
    "deep JSON": post(b'{"model": "m", "messages": ' + b"[" * 100_000),
    "wrong type": post(b'{"model": 7}'),
    "body over the limit": post(b"{}").replace(b"content-length: 2", b"content-length: 999999999"),
    "10,000 headers": post(b"{}", *(f"x-{number}: y" for number in range(10_000))),
    "a header of 100 kB": post(b"{}", "x: " + "y" * 100_000),
    "another path": post(b"{}").replace(b"/v1/chat/completions", b"/admin"),
    **{f"ambiguous: {name}": data for name, data in CORPUS.items()},
}


async def once(port: int, data: bytes) -> tuple[str, float]:
    """Send bytes on a new connection; return the status and the seconds until the answer's first bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        began = time.perf_counter()
        writer.write(data)
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = await reader.read(65_536)
        return answer[9:12].decode(errors="replace"), time.perf_counter() - began
    except (ConnectionError, TimeoutError) as error:
        return type(error).__name__, ANSWER_SECONDS
    finally:
        writer.close()


async def good(service: Target, _: int) -> Seen:
    """Ask for something that is served."""
    request = traffic.completion("m", 1, stream=False, headers={"Authorization": f"Bearer {KEY}"})
    return await traffic.ask(service, request, stream=False)


async def beside(service: Target, what: Coroutine[Any, Any, list[Row]]) -> tuple[list[Row], list[Seen]]:
    """Do something while good requests come; return what came of both."""
    requests = SteadyRequests(partial(good, service), GOOD_PER_SECOND)
    found = await what
    return found, await requests.stop()


async def send_all(port: int, times: int) -> list[Row]:
    """Send each case so many times."""
    rows = []
    for case, data in track(CASES.items(), description="bad requests", total=len(CASES), transient=True):
        results = [await once(port, data) for _ in range(times)]
        took = [seconds * 1000 for _, seconds in results]
        statuses = ", ".join(sorted({status for status, _ in results}))
        p50, p99 = statistics.median(took), figures.p(took, 0.99) or 0.0
        rows.append(Row(case, times, statuses, round(p50, 3), round(p99, 3)))
    return rows


async def slow_head(port: int) -> None:
    """Send a head byte by byte, one a second, and never end it."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx: ")
        while True:
            writer.write(b"y")
            await asyncio.sleep(1)
    except ConnectionError:
        return
    finally:
        writer.close()


async def slow_body(port: int) -> None:
    """Send half of a body and wait."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(post(b'{"model": "m"}')[:-5])
        await reader.read()
    except ConnectionError:
        return
    finally:
        writer.close()


async def slow_reader(port: int) -> None:
    """Ask for a long stream and read one byte a second."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
    try:
        writer.write(post(b'{"model": "m", "stream": true, "max_tokens": 3000, "user": "1"}'))
        for _ in range(10_000):
            await reader.readexactly(1)
            await asyncio.sleep(1)
    except (ConnectionError, asyncio.IncompleteReadError):
        return
    finally:
        writer.close()


async def slow_clients(port: int, seconds: float) -> list[Row]:
    """Have slow clients of all kinds for so long."""
    kinds: tuple[Callable[[int], Coroutine[Any, Any, None]], ...] = (slow_head, slow_body)
    tasks = [asyncio.create_task(kinds[number % 2](port)) for number in range(SLOW_CLIENTS)]
    tasks += [asyncio.create_task(slow_reader(port)) for _ in range(SLOW_CLIENTS // 10)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return []


async def nothing(seconds: float) -> list[Row]:
    """Let time pass."""
    await asyncio.sleep(seconds)
    return []


def prepare(router: Ours) -> None:
    """Tell the router of a model, its runner and its tenants."""
    router.tell(model="m")
    router.tell(runner="r", host="127.0.0.1", m="Ready")
    router.tell(tenant="search", keys=[KEY])
    router.tell(tenant="chat", keys=[OTHER_KEY], spec={"models": ["other"]})


async def run(times: int, seconds: float) -> int:
    """Measure all, print the table, write the figures; return the exit code."""
    console = Console(width=120)
    with tempfile.TemporaryDirectory(prefix="warmfleet-bench-") as directory:
        async with backend() as (port, _), our_router(Path(directory), port) as router:
            prepare(router)
            service = Target(("127.0.0.1", router.port))
            _, alone = await beside(service, nothing(seconds))
            before = peers.cpu_seconds(router.pid)
            rows, with_bad = await beside(service, send_all(router.port, times))
            cpu = peers.cpu_seconds(router.pid) - before
            _, with_slow = await beside(service, slow_clients(router.port, seconds))
            service.close()
    figures.show(console, f"bad requests, {GOOD_PER_SECOND:g} good ones per second beside them", rows)
    phases = {"alone": alone, "beside bad requests": with_bad, "beside slow clients": with_slow}
    others = {
        name: {
            "requests": len(seen),
            "answered": traffic.outcomes(seen)[Outcome.ANSWERED],
            "seconds_p50": figures.p([each.seconds for each in seen], 0.5, 5),
            "seconds_p99": figures.p([each.seconds for each in seen], 0.99, 5),
        }
        for name, seen in phases.items()
    }
    for name, told in others.items():
        console.print(f"good requests {name}: {told}")
    refused = [row for row in rows if row.statuses.isdigit() and 400 <= int(row.statuses) < 600]
    found = {
        "answer_ms_p50_max": max(row.answer_ms_p50 for row in rows),
        "answer_ms_p99_max": max(row.answer_ms_p99 for row in rows),
        "router_cpu_ms_per_request_good_ones_included": round(cpu * 1000 / (len(rows) * times + len(with_bad)), 3),
        "cases": len(rows),
        "cases_refused": len(refused),
        "others": others,
        "rows": [asdict(row) for row in rows],
    }
    figures.write(RESULT, found)
    unharmed = all(told["answered"] == told["requests"] for told in others.values())
    return 0 if unharmed and len(refused) == len(rows) else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=100, help="each bad request is sent")
    parser.add_argument("--seconds", type=float, default=10.0, help="of good requests alone, and beside slow clients")
    given = parser.parse_args()
    sys.exit(uvloop.run(run(given.times, given.seconds)))
