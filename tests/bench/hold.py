"""`make bench-hold`: 100 requests for a model that sleeps, whose engine is there after 4 s: who answers them, and when.

The same against other routers, in front of a port where nobody listens until then: their failures are printed.
"""

import asyncio
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from bench import figures, load, peers
from bench.peers import AS_INSTALLED, PEERS, Peer, UnavailableError
from bench.routed import backend, our_router
from support.cluster import REPOSITORY
from support.ports import free_port

RESULT = REPOSITORY / "build" / "bench" / "hold.json"
REQUESTS = 100
READY_SECONDS = 4.0
LATER_SECONDS = 10.0
"""After this long one more request is sent: some routers refuse although the backend is back."""
WARM = 20


@dataclass
class Row:
    """What became of the requests at one router."""

    router: str
    answered: int = 0
    statuses: str = ""
    wakes: int | None = None
    added_seconds_p50: float | None = None
    """From the moment in which the engine was there, beyond what an answer takes at an engine that is."""
    added_seconds_p99: float | None = None
    answers_afterwards: bool = False


async def ask(port: int) -> tuple[str, float]:
    """Ask once; return the status, or what went wrong, and when the answer was there."""
    target = load.Target(("127.0.0.1", port))
    try:
        answer = await target.ask(load.request({"model": "m", "prompt": "hi"}))
    except (OSError, TimeoutError) as error:
        return type(error).__name__, time.monotonic()
    finally:
        target.close()
    return str(answer.status), answer.ended_at


async def measure(row: Row, port: int, ready: asyncio.Task[float]) -> Row:
    """Send the requests now; `ready` gives the moment in which the engine is there."""
    results = await asyncio.gather(*(ask(port) for _ in range(REQUESTS)))
    ready_at = await ready
    row.answered = sum(status == "200" for status, _ in results)
    row.statuses = ", ".join(f"{count} x {status}" for status, count in Counter(each for each, _ in results).items())
    comes_back, _ = await ask(port)
    warm = []
    for _ in range(WARM):
        began = time.monotonic()
        status, ended = await ask(port)
        if status == "200":
            warm.append(ended - began)
    if row.answered and warm:
        added = [
            max(0.0, ended - ready_at - load.percentile(warm, 0.5)) for status, ended in results if status == "200"
        ]
        row.added_seconds_p50 = round(load.percentile(added, 0.5), 4)
        row.added_seconds_p99 = round(load.percentile(added, 0.99), 4)
    if comes_back != "200":
        await asyncio.sleep(LATER_SECONDS)
    row.answers_afterwards = (await ask(port))[0] == "200"
    return row


async def measure_ours(folder: Path) -> Row:
    """Measure our router."""
    port = free_port()
    async with our_router(folder, port) as ours:
        ours.tell(model="m")

        async def become_ready() -> float:
            await asyncio.sleep(READY_SECONDS)
            ours.tell(runner="r", host="127.0.0.1", m="Ready")
            return time.monotonic()

        async with backend(port):
            ready = asyncio.create_task(become_ready(), name="engine")
            row = await measure(Row("warmfleet"), ours.port, ready)
            row.wakes = len(ours.wakes)
            return row


async def measure_peer(peer: Peer, folder: Path) -> Row:
    """Measure another router: the backend answered once, is gone, and comes back."""
    port = free_port()
    async with backend(port):
        running = peers.running(peer, port, folder / f"{peer.name}.log")
        router, _ = await running.__aenter__()
        try:
            await until_answered(router)
        except BaseException:
            await running.__aexit__(None, None, None)
            raise
    try:
        ended = asyncio.Event()

        async def become_ready(moment: asyncio.Future[float]) -> None:
            await asyncio.sleep(READY_SECONDS)
            async with backend(port):
                moment.set_result(time.monotonic())
                await ended.wait()

        moment: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        engine = asyncio.create_task(become_ready(moment), name="engine")

        async def at() -> float:
            return await moment

        try:
            return await measure(Row(peer.name), router, asyncio.create_task(at()))
        finally:
            ended.set()
            await engine
    finally:
        await running.__aexit__(None, None, None)


async def until_answered(port: int) -> None:
    """Wait until a router answers for its backend.

    Raises:
        UnavailableError: it does not.
    """
    for _ in range(300):
        if (await ask(port))[0] == "200":
            return
        await asyncio.sleep(0.1)
    raise UnavailableError("it answers no request though its backend is there")


async def run() -> int:
    """Measure all, print the table, write the figures; return the exit code."""
    console = Console(width=120)
    rows, missing = [], {}
    with tempfile.TemporaryDirectory(prefix="warmfleet-bench-") as directory:
        folder = Path(directory)
        ours = await measure_ours(folder)
        rows.append(ours)
        for peer in (each for each in PEERS if each.how == AS_INSTALLED):
            try:
                rows.append(await measure_peer(peer, folder))
            except UnavailableError as error:
                missing[peer.name] = str(error)
    figures.show(console, f"{REQUESTS} requests for a model whose engine is there after {READY_SECONDS:.0f} s", rows)
    for name, why in missing.items():
        console.print(f"{name}: not measured: {why}")
    found = {
        "answered_fraction": ours.answered / REQUESTS,
        "wakes": ours.wakes,
        "added_seconds_p99": ours.added_seconds_p99,
        "peers": {row.router: row.answered / REQUESTS for row in rows[1:]},
        "rows": [asdict(row) for row in rows],
        "not_measured": missing,
    }
    figures.write(RESULT, found)
    return 0 if ours.answered == REQUESTS and ours.wakes == 1 else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(run()))
