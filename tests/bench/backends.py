"""`make bench-backends`: what clients notice when one of four backends, or one of two routers, is killed.

Real runners with Simulated engines, our router as its own process, and clients at a steady rate, half of them for
streams. Nobody tells the router that a backend is gone or back (as if operator and API server were away): it finds out
by itself. Routers stand behind a Service that drops a killed one after a second, and clients that send a request again
as OpenAI's SDK does. Controls show that the harness sees losses: the same clients straight to the four backends, and
routers that leave at once before clients that try once.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import uvloop
from rich.console import Console
from rich.status import Status

from bench import figures, traffic
from bench.load import Target
from bench.routed import Ours, our_router
from bench.simulated import MODEL, Backend, backends, engine, introduce
from bench.traffic import Outcome, Seen, SteadyRequests
from support.cluster import REPOSITORY
from warmfleet_api.assignment import SimulatedEngine
from warmfleet_router.process import LEAVE_SECONDS

RESULT = REPOSITORY / "build" / "bench" / "backends.json"
BACKENDS = 4
ROUTERS = 2
TOKENS = 12
ENGINE = SimulatedEngine(
    load_milliseconds=50, initialize_milliseconds=50, first_token_milliseconds=20, tokens_per_second=100
)
AWAY_SECONDS = 5.0
SETTLE_SECONDS = 3.0
AFTER_SECONDS = 5.0
SERVICE_SECONDS = 1.0
"""After a router's end, or its SIGTERM, the Service gives it no new connections."""
LOG_SECONDS = 1.0
"""A router's access log is written by then."""


@dataclass
class BackendRow:
    """One kill and return, or all of them together."""

    way: str
    killed: str
    requests: int
    answered: int
    errors_before_first_byte: int
    broken_after_first_byte: int
    """Streams that the killed backend was sending."""
    first_byte_seconds_p99: float | None
    listening_to_first_request_seconds: float | None = None
    """From the first connection its front took to the first request the router sent there and got answered."""
    ready_to_first_request_seconds: float | None = None
    """The same from when its engine was Ready; below 0: the router was quicker than the look at it."""


@dataclass
class RouterRow:
    """One end of one of two routers."""

    how: str
    leaves_after_seconds: float
    tries: int
    requests: int
    answered: int
    answered_fraction: float
    in_flight_streams_lost: int
    """Streams that the router was sending when it was killed: no client can ask for the rest of one."""
    other_losses: int
    answered_fraction_of_others: float
    """Of all requests but those streams."""
    sent_again: int


async def half(service: Target, number: int, *, tries: int = 1) -> Seen:
    """Ask for a stream or a complete answer, in turns."""
    stream = number % 2 == 0
    request = traffic.completion(MODEL, TOKENS, stream=stream)
    return await traffic.ask(service, request, stream=stream, tries=tries)


@contextmanager
def progress(console: Console, what: str) -> Iterator[Status]:
    """Show what is done; where there is no terminal, say it."""
    if not console.is_terminal:
        console.print(what)
    with console.status(what) as status:
        yield status


# Backends -------------------------------------------------------------------------------------------------------------


async def kill_backends(console: Console, runners: list[Backend], per_second: float, rounds: int) -> list[BackendRow]:
    """Kill and return one backend after another behind the router; return a row for each."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="warmfleet-bench-") as directory:
        folder = Path(directory)
        async with our_router(folder, runners[0].address[1]) as router:
            router.tell(model=MODEL)
            introduce(router, runners)
            service = Target(("127.0.0.1", router.port))
            for number in range(rounds):
                victim = runners[number % len(runners)]
                with progress(console, f"kill and return {number + 1} of {rounds}: {victim.name}"):
                    requests = SteadyRequests(partial(half, service), per_second)
                    listening, ready = await kill_and_return(victim)
                    row = backend_row("router", victim, await requests.stop())
                    await asyncio.sleep(LOG_SECONDS)
                    first = first_answered(folder / "access.log", victim.name, listening)
                    if first is not None:
                        row.listening_to_first_request_seconds = round(first - listening, 3)
                        row.ready_to_first_request_seconds = round(first - ready, 3)
                    rows.append(row)
            service.close()
    return rows


async def kill_without_router(console: Console, runners: list[Backend], per_second: float) -> BackendRow:
    """The control: the same clients at the backends themselves, one of which is killed."""
    service = Target(*(each.address for each in runners))
    with progress(console, f"control: {runners[0].name} is killed, without a router"):
        requests = SteadyRequests(partial(half, service), per_second)
        await kill_and_return(runners[0])
        row = backend_row("none (control)", runners[0], await requests.stop())
    service.close()
    return row


async def kill_and_return(victim: Backend) -> tuple[float, float]:
    """Kill a backend and start it again; return when it listened and when its engine was Ready (unix seconds)."""
    await asyncio.sleep(SETTLE_SECONDS)
    await victim.kill()
    await asyncio.sleep(AWAY_SECONDS)
    returning = asyncio.create_task(victim.listens(), name="listens")
    await victim.start(engine(ENGINE))
    listening = await returning
    await victim.ready()
    ready = time.time()
    await asyncio.sleep(AFTER_SECONDS)
    return listening, ready


def backend_row(way: str, victim: Backend, seen: list[Seen]) -> BackendRow:
    """Count what clients met."""
    counts = traffic.outcomes(seen)
    return BackendRow(
        way=way,
        killed=victim.name,
        requests=len(seen),
        answered=counts[Outcome.ANSWERED],
        errors_before_first_byte=counts[Outcome.LOST] + counts[Outcome.REFUSED],
        broken_after_first_byte=counts[Outcome.BROKEN],
        first_byte_seconds_p99=figures.p([each.first_seconds for each in seen if each.first_at], 0.99),
    )


def first_answered(log: Path, runner: str, after: float) -> float | None:
    """Return when the first request came after a moment that this runner answered, by the router's access log."""
    begun = []
    for line in log.read_bytes().splitlines():
        told = json.loads(line)
        if told.get("runner") == runner and told.get("status") == 200 and told["time"] > after:
            begun.append(told["time"] - told["seconds"] + told.get("heldSeconds", 0.0))
    later = [each for each in begun if each > after]
    return min(later, default=None)


# Routers --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def two_routers(runners: list[Backend], leave_seconds: float) -> AsyncIterator[list[Ours]]:
    """Run two routers that know the same."""
    with tempfile.TemporaryDirectory(prefix="warmfleet-bench-") as directory:
        folder, port, flag = Path(directory), runners[0].address[1], f"--leave-seconds={leave_seconds}"
        async with our_router(folder, port, flag, name="first") as first, our_router(folder, port, flag) as second:
            for router in (first, second):
                router.tell(model=MODEL)
                introduce(router, runners)
            yield [first, second]


async def end_router(
    runners: list[Backend], number: signal.Signals, per_second: float, *, leave_seconds: float, tries: int
) -> RouterRow:
    """End one of two routers by a signal; return what clients noticed.

    Raises:
        RuntimeError: it did not end by itself after SIGTERM.
    """
    async with two_routers(runners, leave_seconds) as routers:
        victim = routers[0]
        address = ("127.0.0.1", victim.port)
        service = Target(*(("127.0.0.1", each.port) for each in routers))
        requests = SteadyRequests(partial(half, service, tries=tries), per_second)
        await asyncio.sleep(SETTLE_SECONDS)
        os.kill(victim.pid, number)
        at = time.monotonic()
        await asyncio.sleep(SERVICE_SECONDS)
        service.addresses.remove(address)
        await asyncio.sleep(LEAVE_SECONDS + AFTER_SECONDS - SERVICE_SECONDS)
        seen = await requests.stop()
        service.close()
        if number is signal.SIGTERM and victim.process.returncode != 0:
            raise RuntimeError(f"the router did not end well after SIGTERM: {victim.process.returncode}")
    begun = [
        each
        for each in seen
        if each.outcome is Outcome.BROKEN and each.stream and each.address == address and each.first_at <= at + 0.1
    ]
    counts = traffic.outcomes(seen)
    others = len(seen) - len(begun)
    return RouterRow(
        how=number.name,
        leaves_after_seconds=leave_seconds,
        tries=tries,
        requests=len(seen),
        answered=counts[Outcome.ANSWERED],
        answered_fraction=round(counts[Outcome.ANSWERED] / len(seen), 5),
        in_flight_streams_lost=len(begun),
        other_losses=others - counts[Outcome.ANSWERED],
        answered_fraction_of_others=round(counts[Outcome.ANSWERED] / others, 5),
        sent_again=sum(each.tries > 1 for each in seen),
    )


async def end_routers(console: Console, runners: list[Backend], per_second: float) -> list[RouterRow]:
    """End a router in all ways."""
    rows = []
    for number, leave_seconds, tries in (
        (signal.SIGTERM, LEAVE_SECONDS, traffic.TRIES),
        (signal.SIGTERM, LEAVE_SECONDS, 1),
        (signal.SIGKILL, LEAVE_SECONDS, traffic.TRIES),
        (signal.SIGTERM, 0.0, 1),
        (signal.SIGKILL, LEAVE_SECONDS, 1),
    ):
        with progress(console, f"{number.name}, {leave_seconds:g} s to leave, {tries} tries"):
            rows.append(await end_router(runners, number, per_second, leave_seconds=leave_seconds, tries=tries))
    return rows


# All ------------------------------------------------------------------------------------------------------------------


async def run(per_second: float, rounds: int) -> int:
    """Measure all, print tables, write the figures; return the exit code."""
    console = Console(width=170)
    async with backends(BACKENDS) as runners:
        with progress(console, f"starting {BACKENDS} runners"):
            for each in runners:
                await each.start(engine(ENGINE))
            for each in runners:
                await each.ready()
        killed = await kill_backends(console, runners, per_second, rounds)
        control = await kill_without_router(console, runners, per_second)
        ended = await end_routers(console, runners, per_second)
    figures.show(
        console, f"one of {BACKENDS} backends killed and returned, {per_second:g} requests/s", [*killed, control]
    )
    figures.show(console, f"one of {ROUTERS} routers ended, {per_second:g} requests/s", ended)
    back = [each.listening_to_first_request_seconds for each in killed]
    graceful, graceful_one_try, sigkill, at_once, sigkill_one_try = ended
    found = {
        "requests_per_second": per_second,
        "backend_errors_before_first_byte": sum(each.errors_before_first_byte for each in killed),
        "backend_back_in_rotation_seconds": None if None in back else max(each for each in back if each is not None),
        "backend_ready_to_first_request_seconds": [each.ready_to_first_request_seconds for each in killed],
        "backend_control_errors_before_first_byte": control.errors_before_first_byte,
        "router_graceful_answered_fraction": graceful.answered_fraction,
        "router_graceful_one_try_answered_fraction": graceful_one_try.answered_fraction,
        "router_sigkill_answered_fraction": sigkill.answered_fraction,
        "router_sigkill_answered_fraction_without_streams_in_flight": sigkill.answered_fraction_of_others,
        "router_control_graceful_without_leaving_losses": at_once.requests - at_once.answered,
        "router_control_sigkill_one_try_losses": sigkill_one_try.requests - sigkill_one_try.answered,
        "backends": [asdict(each) for each in (*killed, control)],
        "routers": [asdict(each) for each in ended],
    }
    figures.write(RESULT, found)
    sees_losses = control.errors_before_first_byte and at_once.requests > at_once.answered
    is_good = not found["backend_errors_before_first_byte"] and graceful.answered == graceful.requests
    return 0 if sees_losses and is_good and sigkill.answered_fraction_of_others >= 0.99 else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=300.0, help="requests per second")
    parser.add_argument("--rounds", type=int, default=4, help="backends to kill, one after the other")
    given = parser.parse_args()
    sys.exit(uvloop.run(run(given.rate, given.rounds)))
