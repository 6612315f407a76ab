"""Sleep and wake as the front asks for them, of a Simulated engine behind a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from support.runner_process import simulated
from warmfleet_api.assignment import EngineAssignment, SimulatedEngine, SimulatedFault
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import WakePolicy
from warmfleet_http.server import asgi_server
from warmfleet_runtime.front.board import Board
from warmfleet_runtime.front.sleeper import Sleeper
from warmfleet_runtime.front.upstream import Upstream
from warmfleet_runtime.link import EngineReport, Route, Table
from warmfleet_runtime.simulated.app import SimulatedApp

AWAKE_BYTES, ASLEEP_BYTES = 1000, 10
BEHAVIOUR = SimulatedEngine(
    first_token_milliseconds=0,
    tokens_per_second=100,
    sleep_milliseconds=5,
    wake_milliseconds=5,
    memory=AWAKE_BYTES,
    asleep_memory=ASLEEP_BYTES,
)
BOUND_SECONDS = 10.0


@dataclass
class Scene:
    """A front's sleeper in front of one engine; `tell` is the supervisor."""

    engine: EngineAssignment
    socket: Path
    app: SimulatedApp
    held: list[int]
    board: Board
    sleeper: Sleeper
    upstream: Upstream

    def tell(self, attempt: int = 1, **wishes: bool) -> None:
        route = Route(
            attempt=attempt,
            socket=str(self.socket),
            engine=self.engine,
            **{"accepts": False, "warms_up": False, "drains": False, **wishes},
        )
        self.board.update(Table(status=RunnerStatus(pod_uid=""), routes={"e": route}))
        self.sleeper.follow()

    @property
    def report(self) -> EngineReport:
        return self.board.report().engines["e"]

    async def until(self, condition: Callable[[EngineReport], Any]) -> EngineReport:
        async with asyncio.timeout(BOUND_SECONDS):
            while not condition(self.report):
                await self.board.changed.wait()
                self.board.changed.clear()
        return self.report

    def complete(self, tokens: int) -> Any:
        body = {"model": "e", "prompt": "hi", "max_tokens": tokens}
        return self.upstream.session(str(self.socket), 1).post("/v1/completions", json=body)


@asynccontextmanager
async def scene(folder: Path, behaviour: SimulatedEngine = BEHAVIOUR, **fields: Any) -> AsyncIterator[Scene]:
    engine = simulated("e", behaviour, **fields)
    held: list[int] = []
    app = SimulatedApp(engine.engine, held.append)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "e.sock"))
    listening.listen()
    serving = asgi_server(app, shutdown_seconds=1)
    task = asyncio.create_task(serving.serve([listening]))
    board, upstream = Board(), Upstream()
    sleeper = Sleeper(board, upstream)
    try:
        yield Scene(engine, folder / "e.sock", app, held, board, sleeper, upstream)
    finally:
        await sleeper.close()
        await upstream.close()
        serving.should_exit = True
        await asyncio.wait_for(task, BOUND_SECONDS)


async def test_an_engine_falls_asleep_and_wakes_once_for_each_wish(tmp_path: Path) -> None:
    async with scene(tmp_path) as front:
        front.tell(sleeps=True)
        assert not front.report.asleep
        await front.until(lambda report: report.asleep)
        front.tell(sleeps=True)
        front.tell()
        assert front.report.asleep
        front.tell(attempt=2, wakes=True)
        assert front.report.asleep, "a wake that has only begun must not be taken for done"
        await front.until(lambda report: not report.asleep)
        front.tell(attempt=2, wakes=True)
        front.tell(attempt=2, accepts=True)
        assert (front.report.attempt, front.report.asleep, front.report.sleep_error) == (2, False, "")
        assert front.held == [AWAKE_BYTES, ASLEEP_BYTES, AWAKE_BYTES]


async def test_a_front_that_was_restarted_wakes_an_engine_it_never_put_to_sleep(tmp_path: Path) -> None:
    async with scene(tmp_path) as front:
        await front.app.sleep.begin(abort=False)
        front.tell(attempt=2, wakes=True)
        await front.until(lambda report: not report.asleep)
        assert not front.app.sleep.is_asleep


async def test_a_request_that_meets_a_sleeping_engine_is_answered_after_the_wake(tmp_path: Path) -> None:
    async with scene(tmp_path) as front:
        front.tell(sleeps=True)
        await front.until(lambda report: report.asleep)
        request = asyncio.create_task(_status(front.complete(tokens=1)))
        await asyncio.sleep(0.05)
        assert not request.done()
        front.tell(attempt=2, wakes=True)
        assert await asyncio.wait_for(request, BOUND_SECONDS) == 200


@pytest.mark.parametrize("wake, outcome", [(WakePolicy.ON_REQUEST, 200), (WakePolicy.ON_ASSIGNMENT, 500)])
async def test_an_order_cuts_requests_off_and_idleness_does_not(tmp_path: Path, wake: WakePolicy, outcome: int) -> None:
    async with scene(tmp_path, wake=wake) as front:
        request = asyncio.create_task(_status(front.complete(tokens=30)))
        await asyncio.sleep(0.05)
        front.tell(sleeps=True)
        await front.until(lambda report: report.asleep)
        assert await asyncio.wait_for(request, BOUND_SECONDS) == outcome


async def test_an_engine_that_can_not_sleep_is_reported_and_goes_on_answering(tmp_path: Path) -> None:
    behaviour = msgspec.structs.replace(BEHAVIOUR, fault=SimulatedFault(kind="FailSleep"))
    async with scene(tmp_path, behaviour) as front:
        front.tell(sleeps=True)
        report = await front.until(lambda report: report.sleep_error)
        assert not report.asleep
        assert report.sleep_error == "/sleep gave 500: simulated fault: FailSleep"
        assert await asyncio.wait_for(_status(front.complete(tokens=1)), BOUND_SECONDS) == 200


async def test_a_wake_that_hangs_is_reported_after_the_start_budget(tmp_path: Path) -> None:
    behaviour = msgspec.structs.replace(BEHAVIOUR, fault=SimulatedFault(kind="HangAtWake"))
    async with scene(tmp_path, behaviour, start_budget_seconds=1) as front:
        front.tell(sleeps=True)
        await front.until(lambda report: report.asleep)
        front.tell(attempt=2, wakes=True)
        report = await front.until(lambda report: report.sleep_error)
        assert (report.asleep, report.sleep_error) == (True, "/wake_up: no answer within 1 s")


async def test_an_engine_whose_process_is_gone_is_reported(tmp_path: Path) -> None:
    async with scene(tmp_path) as front:
        (tmp_path / "e.sock").unlink()
        front.tell(sleeps=True)
        report = await front.until(lambda report: report.sleep_error)
        assert report.sleep_error.startswith("/sleep: ")


async def _status(request: Any) -> int:
    async with request as response:
        await response.read()
        status: int = response.status
        return status
