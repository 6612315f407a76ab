"""Clients and backends that know nothing of Warmfleet: OpenAI's SDK and schemathesis in front, a stranger behind."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from openai import AsyncOpenAI

from support import router as support
from support.foreign import fuzz
from support.router import RoutedFleet, routed_fleet
from support.runner_process import QUICK, RunnerProcess, running_runner, simulated
from warmfleet_api import names
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Request
from warmfleet_kube.objects import Metadata
from warmfleet_router.records import Pod, PodStatus

pytestmark = pytest.mark.timeout(180)
HELLO: Any = [{"role": "user", "content": "Hello"}]
KEY = "sk-0123456789abcdef"


@pytest.fixture
async def fleet() -> AsyncIterator[RoutedFleet]:
    async with routed_fleet() as each:
        each.model()
        yield each


@pytest.fixture
async def runner(fleet: RoutedFleet, tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    """A real runner with a Simulated engine behind the router."""
    host = "127.0.0.99"
    async with running_runner(tmp_path, "--stop-seconds=2", host=host, port=fleet.port) as runner:
        runner.assign(1, simulated("m", QUICK))
        await runner.wait_ready("m")
        introduce(fleet, host, m="Ready")
        yield runner


def introduce(fleet: RoutedFleet, host: str, **states: str) -> None:
    """Tell the router of a pod with these labels."""
    labels = {names.LABEL_RUNNER: names.RUNNER_FOREIGN} | {names.serve_label(each): states[each] for each in states}
    metadata = Metadata(name=f"pod-{host}", namespace="ns", uid="pod-uid", labels=labels)
    fleet.parts.pod_changed(None, Pod(metadata=metadata, status=PodStatus(phase="Running", pod_ip=host)))


def client_of(fleet: RoutedFleet, key: str = KEY, *, retries: int = 0) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=key, max_retries=retries, timeout=30)


async def test_the_sdk_chats_streams_completes_embeds_and_lists(fleet: RoutedFleet, runner: RunnerProcess) -> None:
    async with client_of(fleet) as client:
        answer = await client.chat.completions.create(model="m", messages=HELLO, max_tokens=2)
        assert answer.choices[0].message.content == "token 0 token 1 "
        stream = await client.chat.completions.create(
            model="ns/m", messages=HELLO, max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert [chunk.choices[0].delta.content for chunk in chunks[:-1]] == ["token 0 ", "token 1 ", "token 2 "]
        assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 3
        assert (await client.completions.create(model="m", prompt="Hello", max_tokens=2)).choices[0].text
        embedded = await client.embeddings.create(model="m", input="Hello", encoding_format="float")
        assert embedded.data[0].embedding
        assert [model.id async for model in client.models.list()] == ["m"]
        assert (await client.models.retrieve("ns/m")).object == "model"


async def test_requests_made_from_the_routers_document_find_no_server_error(
    fleet: RoutedFleet, runner: RunnerProcess
) -> None:
    fuzzed = await fuzz(fleet.url, examples=2, seed=1, bound_seconds=150)
    assert fuzzed.is_clean, fuzzed.report


async def test_requests_made_from_the_routers_document_find_an_engine_whose_answers_break_it(
    fleet: RoutedFleet,
) -> None:
    """The control of the test above."""

    async def no_json(_: Request, answer: Answer) -> None:
        answer.reply(200, b"what the document does not know", [(b"content-type", b"text/plain")])

    await fleet.runner(no_json)
    fuzzed = await fuzz(fleet.url, examples=1, seed=1, bound_seconds=150, path="/v1/embeddings")
    assert not fuzzed.is_clean
    assert "Undocumented Content-Type" in fuzzed.report, fuzzed.report


async def test_the_sdk_raises_what_the_error_is(fleet: RoutedFleet) -> None:
    await fleet.runner()
    fleet.model("stopped", replicas=0)
    async with client_of(fleet) as client:
        with pytest.raises(openai.NotFoundError, match="served: m, stopped"):
            await client.chat.completions.create(model="other", messages=HELLO)
        with pytest.raises(openai.BadRequestError) as bad:
            await client.chat.completions.create(model="m", messages=HELLO, extra_body={"stream": "yes"})
        assert (bad.value.param, bad.value.code) == ("stream", "invalid_request")
        with pytest.raises(openai.InternalServerError, match="kubectl -n ns scale mdl stopped") as stopped:
            await client.chat.completions.create(model="stopped", messages=HELLO)
        assert (stopped.value.status_code, stopped.value.code) == (503, "model_stopped")
        fleet.tenant("search", "sk-another-0123456789", models=["m"])
        with pytest.raises(openai.AuthenticationError):
            await client.chat.completions.create(model="m", messages=HELLO)
        assert [model.id async for model in client.models.list()] == []
    fleet.tenant("search", KEY, models=["m"], limits={"requestsPerMinute": 1})
    async with client_of(fleet) as client:
        await client.chat.completions.create(model="m", messages=HELLO)
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(model="m", messages=HELLO)
        assert int(limited.value.response.headers["retry-after"]) > 1
        with pytest.raises(openai.NotFoundError):
            await client.chat.completions.create(model="stopped", messages=HELLO)


async def test_the_sdk_comes_back_when_it_is_told_to(fleet: RoutedFleet) -> None:
    await fleet.runner(support.after(0.5))
    fleet.tenant("search", KEY, limits={"concurrency": 1})
    async with client_of(fleet, retries=2) as client:
        asks = client.chat.completions.with_raw_response
        answers = await asyncio.gather(*(asks.create(model="m", messages=HELLO) for _ in range(2)))
    assert sorted(each.retries_taken for each in answers) == [0, 1]
    assert fleet.value("warmfleet_router_refused_requests_total", code="concurrency_limit") == 1


async def test_a_stream_that_the_sdk_closes_ends_the_engines_work(fleet: RoutedFleet) -> None:
    async def endless(_: Request, answer: Answer) -> None:
        answer.start(200, [(b"content-type", b"text/event-stream")])
        while True:
            answer.write(b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n')
            await asyncio.sleep(0.01)

    runner = await fleet.runner(endless)
    async with client_of(fleet) as client:
        stream = await client.chat.completions.create(model="m", messages=HELLO, stream=True)
        async for chunk in stream:
            assert chunk.choices[0].delta.content == "x"
            break
        await stream.close()
        await fleet.until(lambda: runner.cancelled == 1)
    assert fleet.value("warmfleet_router_requests_in_flight") == 0


async def test_a_stream_that_breaks_is_an_error_to_the_sdk(fleet: RoutedFleet) -> None:
    await fleet.runner(support.breaks_late)
    async with client_of(fleet) as client:
        with pytest.raises(openai.APIError, match="did not end its answer"):
            async for _ in await client.chat.completions.create(model="m", messages=HELLO, stream=True):
                pass


async def test_a_backend_that_is_no_runner_serves_a_model(fleet: RoutedFleet) -> None:
    """It tells no load and no state, and knows neither our headers nor our errors."""
    heard: list[web.Request] = []

    async def chat(request: web.Request) -> web.StreamResponse:
        heard.append(request)
        body = await request.json()
        if len(heard) == 1:
            raise web.HTTPServiceUnavailable(text="warming up")
        if not body.get("stream"):
            return web.json_response({"model": body["model"], "choices": []})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: {}\n\ndata: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    serving = web.AppRunner(app)
    await serving.setup()
    await web.TCPSite(serving, "127.0.0.98", fleet.port).start()
    introduce(fleet, "127.0.0.98", m="Ready")
    try:
        async with fleet.ask() as response:
            assert (response.status, await response.text()) == (503, "warming up"), "its own errors pass on"
        assert (await fleet.reply())[2] == {"model": "m", "choices": []}
        assert await fleet.events() == "data: {}\n\ndata: [DONE]\n\n"
        await serving.cleanup()
        waiting = asyncio.create_task(fleet.reply())
        await fleet.until(lambda: fleet.value("warmfleet_router_runners_lost_total") == 1)
        serving = web.AppRunner(app)
        await serving.setup()
        await web.TCPSite(serving, "127.0.0.98", fleet.port).start()
        assert (await waiting)[0] == 200, "it was held until the backend was back"
    finally:
        await serving.cleanup()
