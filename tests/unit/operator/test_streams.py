"""Status streams: who is woken by what a runner says, and by its silence."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from support.scripted import until
from warmfleet_api import names, runner_status
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState
from warmfleet_kube.objects import Metadata
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import Pod, PodSpec, PodStatus
from warmfleet_operator.streams import Streams

_addresses = (f"127.86.{high}.{low}" for high, low in itertools.product(range(256), range(1, 255)))


class FakeRunner:
    """Serves the status stream on an address of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.lines: asyncio.Queue[RunnerStatus | None] = asyncio.Queue()
        """What it says next; None ends the stream."""
        self.connections = 0

    async def serve(self, request: web.Request) -> web.StreamResponse:
        assert request.query["watch"] == "1"
        self.connections += 1
        response = web.StreamResponse()
        await response.prepare(request)
        while (status := await self.lines.get()) is not None:
            await response.write(runner_status.encode(status) + b"\n")
        return response

    def pod(self, uid: str = "u") -> Pod:
        return Pod(
            metadata=Metadata(name="r", namespace="n", uid=uid), spec=PodSpec(), status=PodStatus(pod_ip=self.address)
        )


def status(state: EngineState = EngineState.STARTING, uid: str = "u", memory: int = 0) -> RunnerStatus:
    engine = EngineStatus(id="e", model="m", model_uid="x", hash="h", state=state, memory_bytes=memory)
    return RunnerStatus(pod_uid=uid, engines=(engine,))


@asynccontextmanager
async def runner() -> AsyncIterator[FakeRunner]:
    fake = FakeRunner(next(_addresses))
    application = web.Application()
    application.router.add_get(names.PATH_STATUS, fake.serve)
    server = TestServer(application, host=fake.address, port=names.STATUS_PORT)
    await server.start_server(shutdown_timeout=0.0)
    try:
        yield fake
    finally:
        fake.lines.put_nowait(None)
        await server.close()


@asynccontextmanager
async def followed(fake: FakeRunner) -> AsyncIterator[tuple[Streams, list[str]]]:
    woken: list[str] = []
    async with Streams(lambda pod: woken.append(pod.metadata.uid), Metrics()) as streams:
        streams.follow([fake.pod()])
        yield streams, woken


async def test_a_change_wakes_at_once_and_heartbeats_and_memory_do_not() -> None:
    async with runner() as fake, followed(fake) as (streams, woken):
        for line in (status(), status(), status(memory=5), status(EngineState.READY)):
            fake.lines.put_nowait(line)
        await until(lambda: streams.status("u") == status(EngineState.READY))
        assert woken == ["u", "u"]
        silent = streams.silent_seconds("u")
        assert silent is not None
        assert silent < 1


async def test_a_broken_stream_is_opened_again() -> None:
    async with runner() as fake, followed(fake) as (streams, woken):
        fake.lines.put_nowait(status())
        await until(lambda: streams.status("u") is not None)
        fake.lines.put_nowait(None)
        await until(lambda: fake.connections == 2)
        assert woken == ["u"]
        fake.lines.put_nowait(status(EngineState.READY))
        await until(lambda: len(woken) == 2)


async def test_silence_wakes_once_and_so_does_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmfleet_operator.streams.SILENT_SECONDS", 0.2)
    async with runner() as fake, followed(fake) as (streams, woken):
        fake.lines.put_nowait(status())
        await until(lambda: len(woken) == 2)
        silent = streams.silent_seconds("u")
        assert silent is not None
        assert silent >= 0.2
        await asyncio.sleep(0.3)
        assert len(woken) == 2
        fake.lines.put_nowait(status())
        await until(lambda: len(woken) == 3)


async def test_a_runner_that_never_says_anything_wakes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmfleet_operator.streams.SILENT_SECONDS", 0.1)
    async with runner() as fake, followed(fake) as (streams, woken):
        await until(lambda: woken == ["u"])
        assert streams.status("u") is None
        silent = streams.silent_seconds("u")
        assert silent is not None
        assert silent >= 0.1


async def test_an_address_that_belongs_to_another_pod_by_now_says_nothing_of_this_one() -> None:
    async with runner() as fake, followed(fake) as (streams, woken):
        fake.lines.put_nowait(status(uid="another"))
        await until(lambda: fake.connections == 2)
        assert streams.status("u") is None
        assert woken == []


async def test_settling_ends_with_the_first_report_of_the_last_runner_or_with_its_time() -> None:
    async with runner() as fake, followed(fake) as (streams, _):
        loop = asyncio.get_running_loop()
        started = loop.time()
        await streams.settle(0.05)
        assert loop.time() - started >= 0.05
        fake.lines.put_nowait(status())
        async with asyncio.timeout(5):
            await streams.settle(60)
        assert streams.status("u") is not None


async def test_a_runner_that_is_gone_is_followed_no_more() -> None:
    async with runner() as fake, followed(fake) as (streams, _):
        fake.lines.put_nowait(status())
        await until(lambda: streams.status("u") is not None)
        streams.changed(fake.pod(), None)
        assert streams.status("u") is None
        assert streams.silent_seconds("u") is None
