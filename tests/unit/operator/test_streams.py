"""Status streams: who is woken by what a runner says, and by its silence."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec import structs

from support.scripted import until
from warmfleet_api import names, runner_status
from warmfleet_api.runner_status import SILENT_SECONDS, EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState
from warmfleet_kube.objects import Metadata
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import Pod, PodSpec, PodStatus
from warmfleet_operator.streams import DOUBT_SECONDS, STALL_SECONDS, Streams

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
        streams.tell()
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


async def test_a_pod_that_gets_another_address_is_heard_there_and_no_longer_at_the_former_one() -> None:
    async with runner() as fake, runner() as other, followed(fake) as (streams, _):
        fake.lines.put_nowait(status())
        await until(lambda: streams.status("u") is not None)
        streams.changed(fake.pod(), other.pod())
        assert streams.status("u") is None
        fake.lines.put_nowait(status(EngineState.FAILED))
        other.lines.put_nowait(status(EngineState.READY))
        await until(lambda: streams.status("u") is not None)
        await asyncio.sleep(0.1)
        assert streams.status("u") == status(EngineState.READY)


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
        async with asyncio.timeout(5):
            while len(woken) == 2:  # what it says into the silent stream, as that is given up, is not heard
                fake.lines.put_nowait(status())
                await asyncio.sleep(0.05)
        assert len(woken) == 3


async def test_a_runner_that_never_says_anything_wakes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmfleet_operator.streams.SILENT_SECONDS", 0.1)
    async with runner() as fake, followed(fake) as (streams, woken):
        await until(lambda: woken == ["u"])
        assert streams.status("u") is None
        silent = streams.silent_seconds("u")
        assert silent is not None
        assert silent >= 0.1


async def test_silence_in_which_this_process_itself_stood_still_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("warmfleet_operator.streams.SILENT_SECONDS", 1.0)
    async with runner() as fake, followed(fake) as (streams, woken):
        fake.lines.put_nowait(status())
        await until(lambda: woken == ["u"])
        fake.lines.put_nowait(status())  # a heartbeat, which is not read before the pause is over
        time.sleep(1.5)  # noqa: ASYNC251 - as a long decision does
        silent = streams.silent_seconds("u")
        assert silent is not None and silent < 1.0
        await asyncio.sleep(0.1)
        assert woken == ["u"]
        await until(lambda: woken == ["u", "u"])  # the control: from then on it says nothing


async def test_an_address_that_belongs_to_another_pod_by_now_says_nothing_of_this_one() -> None:
    async with runner() as fake, followed(fake) as (streams, woken):
        fake.lines.put_nowait(status(uid="another"))
        await until(lambda: fake.connections == 2)
        assert streams.status("u") is None
        assert woken == []


@pytest.mark.exact_time
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


async def test_a_follower_hears_and_tells_nobody_until_it_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmfleet_operator.streams.SILENT_SECONDS", 0.3)
    woken: list[str] = []
    read: list[RunnerStatus] = []
    async with (
        runner() as fake,
        Streams(lambda pod: woken.append(pod.metadata.uid), Metrics(), lambda _, line: read.append(line)) as streams,
    ):
        streams.follow([fake.pod()])
        fake.lines.put_nowait(status())
        await until(lambda: streams.status("u") == status())
        await until(lambda: (streams.silent_seconds("u") or 0.0) >= 0.3)
        assert (woken, read) == ([], [])
        streams.tell()
        assert read == [status()]
        fake.lines.put_nowait(status(EngineState.READY))
        await until(lambda: woken == ["u"])
        assert read == [status(), status(EngineState.READY)]


async def test_a_pod_that_is_known_to_be_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmfleet_operator.streams.SILENT_SECONDS", 0.1)
    async with runner() as fake, followed(fake) as (streams, woken):
        await until(lambda: woken == ["u"])
        async with asyncio.timeout(5):
            await streams.settle(60)
        assert streams.status("u") is None


@asynccontextmanager
async def on_one_node(there: set[str], *fakes: FakeRunner) -> AsyncIterator[tuple[Streams, list[str]]]:
    """Streams of runners on one node; the addresses in `there` answer when they are asked for."""
    woken: list[str] = []

    async def is_there(host: str, _: int) -> bool:
        return host in there

    async with Streams(lambda pod: woken.append(pod.metadata.uid), Metrics(), is_there=is_there) as streams:
        streams.tell()
        for number, fake in enumerate(fakes):
            streams.follow([structs.replace(fake.pod(f"u{number}"), spec=PodSpec(node_name="n1"))])
            fake.lines.put_nowait(status(uid=f"u{number}"))
        await until(lambda: all(streams.status(f"u{number}") is not None for number in range(len(fakes))))
        woken.clear()
        yield streams, woken


def is_silent(streams: Streams, uid: str) -> bool:
    seconds = streams.silent_seconds(uid)
    return seconds is not None and seconds >= SILENT_SECONDS


async def test_a_runner_whose_machine_is_gone_is_lost_after_one_missed_heartbeat_and_its_neighbours_with_it() -> None:
    async with runner() as one, runner() as other, on_one_node(set(), one, other) as (streams, woken):
        begun = time.monotonic()
        await until(lambda: {"u0", "u1"} <= set(woken))
        assert is_silent(streams, "u0")
        assert is_silent(streams, "u1")
        assert time.monotonic() - begun < SILENT_SECONDS / 2


async def test_a_runner_that_only_says_nothing_is_not_lost_sooner() -> None:
    async with runner() as fake, on_one_node({fake.address}, fake) as (streams, woken):
        await asyncio.sleep(2 * DOUBT_SECONDS)
        assert not is_silent(streams, "u0")
        assert not woken


async def test_nobody_is_asked_for_whose_heartbeats_this_process_was_too_slow_to_read() -> None:
    asked: list[str] = []

    async def is_there(host: str, _: int) -> bool:
        asked.append(host)
        return True

    async with runner() as fake, Streams(lambda _: None, Metrics(), is_there=is_there) as streams:
        streams.follow([fake.pod()])
        fake.lines.put_nowait(status())
        await until(lambda: streams.status("u") is not None)
        time.sleep(DOUBT_SECONDS + 2 * STALL_SECONDS)  # noqa: ASYNC251 - it stands still
        await asyncio.sleep(0.1)
        assert not asked
        # The control: one that goes on saying nothing is asked for, although late.
        await until(lambda: bool(asked))


@pytest.mark.exact_time
async def test_of_a_node_whose_runners_all_say_nothing_one_at_a_time_is_asked_for() -> None:
    asked: list[float] = []

    async def is_there(_: str, __: int) -> bool:
        asked.append(time.monotonic())
        return True

    async with runner() as one, runner() as other, Streams(lambda _: None, Metrics(), is_there=is_there) as streams:
        for uid, fake in (("u0", one), ("u1", other)):
            streams.follow([structs.replace(fake.pod(uid), spec=PodSpec(node_name="n1"))])
            fake.lines.put_nowait(status(uid=uid))
            # In turn, so that the other's heartbeat is late while the answer to the first question counts.
            await until(partial(streams.status, uid))
            await asyncio.sleep(0.2)
        await until(lambda: len(asked) == 3)
    assert all(later - sooner >= DOUBT_SECONDS for sooner, later in itertools.pairwise(asked))


async def test_one_that_was_lost_and_speaks_again_has_returned_and_one_that_was_slow_to_begin_has_not() -> None:
    async with runner() as fake, on_one_node(set(), fake) as (streams, woken):
        await until(lambda: "u0" in woken)
        assert streams.returned_seconds("u0") is None
        woken.clear()
        fake.lines.put_nowait(status(uid="u0"))
        await until(lambda: "u0" in woken)
        assert not is_silent(streams, "u0")
        returned = streams.returned_seconds("u0")
        assert returned is not None
        assert returned < SILENT_SECONDS
