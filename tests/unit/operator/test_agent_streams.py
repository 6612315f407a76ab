"""What agents tell of transfers: by key, from the right node, and nothing once they are silent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from support.scripted import until
from warmfleet_api import agent_status, names
from warmfleet_api.agent_status import AgentStatus, Transfer
from warmfleet_api.vocabulary import EntryState, Tier
from warmfleet_kube.objects import Metadata
from warmfleet_operator import agent_streams
from warmfleet_operator.agent_streams import AgentStreams
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import Pod, PodSpec, PodStatus

ADDRESS = "127.87.0.1"
POD = Pod(
    metadata=Metadata(name="a", namespace=names.AGENT_NAMESPACE, uid="u"),
    spec=PodSpec(node_name="n1"),
    status=PodStatus(pod_ip=ADDRESS),
)


def fetching(done: int) -> Transfer:
    return Transfer(
        key="llama-1",
        source=Tier.REMOTE,
        target=Tier.MEMORY,
        state=EntryState.FETCHING,
        bytes=100,
        done_bytes=done,
        bytes_per_second=10,
        seconds_left=(100 - done) // 10,
    )


@asynccontextmanager
async def agent(*lines: AgentStatus) -> AsyncIterator[None]:
    async def serve(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(agent_status.encode(line) + b"\n")
        await gone.wait()
        return response

    gone = asyncio.Event()
    application = web.Application()
    application.router.add_get(names.PATH_STATUS, serve)
    server = TestServer(application, host=ADDRESS, port=names.AGENT_PORT)
    await server.start_server(shutdown_timeout=0.0)
    try:
        yield
    finally:
        gone.set()
        await server.close()


async def test_progress_is_known_by_key_and_wakes_nobody() -> None:
    woken: list[str] = []
    lines = [AgentStatus(node="n1", transfers=(fetching(done),)) for done in (0, 10, 20)]
    async with agent(*lines), AgentStreams(lambda pod: woken.append(pod.metadata.name), Metrics()) as streams:
        streams.tell()
        streams.changed(None, POD)
        await until(lambda: "llama-1" in streams.transfers("u") and streams.transfers("u")["llama-1"].done_bytes == 20)
        assert streams.transfers("u")["llama-1"].seconds_left == 8
        assert woken == ["a"]


async def test_an_agent_of_another_node_at_the_same_address_is_not_believed() -> None:
    async with agent(AgentStatus(node="n2")), AgentStreams(lambda _: None, Metrics()) as streams:
        streams.changed(None, POD)
        await until(lambda: streams.silent_seconds("u") is not None)
        assert streams.status("u") is None
        assert streams.transfers("u") == {}


async def test_what_a_silent_agent_last_told_counts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    line = AgentStatus(node="n1", transfers=(fetching(0),))
    async with agent(line), AgentStreams(lambda _: None, Metrics()) as streams:
        streams.changed(None, POD)
        await until(lambda: bool(streams.transfers("u")))
        monkeypatch.setattr(agent_streams, "SILENT_SECONDS", 0.0)
        assert streams.transfers("u") == {}
        assert streams.transfers("nobody") == {}
