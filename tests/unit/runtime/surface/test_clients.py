"""Good and bad clients of a whole runner with a Simulated engine: OpenAI's SDK, schemathesis, and hostile ones."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from openai import AsyncOpenAI

from support.foreign import fuzz
from support.runner_process import QUICK, RunnerProcess, fault, running_runner, simulated
from warmfleet_api.assignment import EngineAssignment, Serving, SimulatedEngine

pytestmark = pytest.mark.timeout(180)
HELLO: Any = [{"role": "user", "content": "Hello"}]
JSON = {"content-type": "application/json"}
MEMORY_SLACK_KIB = 40_000
"""What a front may grow by over a hundred bodies of 10 MB: allocators keep some, a leak would be a gigabyte."""


def engine(behaviour: SimulatedEngine = QUICK, **fields: Any) -> EngineAssignment:
    assigned = simulated("m", behaviour, **fields)
    return msgspec.structs.replace(assigned, engine=msgspec.structs.replace(assigned.engine, max_model_len=64))


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    async with running_runner(tmp_path, "--stop-seconds=2") as runner:
        runner.assign(1, engine())
        await runner.wait_ready("m")
        yield runner


@pytest.fixture
async def client(runner: RunnerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{runner.api}/v1", api_key="none", max_retries=0, timeout=30) as client:
        yield client


async def is_served(runner: RunnerProcess) -> bool:
    async with runner.chat("m", tokens=1) as response:
        status: int = response.status
    return status == 200


async def test_the_sdk_chats_completes_embeds_and_lists(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="m", messages=HELLO, max_tokens=3, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content for chunk in chunks[:-1]] == ["token 0 ", "token 1 ", "token 2 "]
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens == 3
    assert (await client.completions.create(model="m", prompt="Hello", max_tokens=2)).choices[0].text
    assert (await client.embeddings.create(model="m", input="Hello", encoding_format="float")).data[0].embedding
    assert [model.id async for model in client.models.list()] == ["m"]


async def test_the_sdk_raises_what_the_error_is(runner: RunnerProcess, client: AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="m", messages=HELLO, n=1000)
    assert (bad.value.param, bad.value.code) == ("n", "invalid_request")
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="other", messages=HELLO)
    runner.assign(2, engine(SimulatedEngine(load_milliseconds=60_000), hash="h2"))
    await runner.wait(lambda status: status.engines[0].state.value == "Starting")
    with pytest.raises(openai.InternalServerError) as starting:
        await client.chat.completions.create(model="m", messages=HELLO)
    assert (starting.value.status_code, starting.value.code) == (503, "model_not_ready")


async def test_a_full_queue_is_a_rate_limit_to_the_sdk(runner: RunnerProcess, client: AsyncOpenAI) -> None:
    slow = SimulatedEngine(load_milliseconds=0, initialize_milliseconds=0, tokens_per_second=5)
    runner.assign(2, engine(slow, hash="h2", serving=Serving(max_requests=1)))
    await runner.wait(lambda status: status.revision == 2)
    await runner.wait_ready("m")
    asks = [
        asyncio.create_task(client.chat.completions.create(model="m", messages=HELLO, max_tokens=20, n=128))
        for _ in range(12)
    ]
    done, waiting = await asyncio.wait(asks, timeout=20, return_when=asyncio.FIRST_EXCEPTION)
    errors = [each.exception() for each in done if each.exception()]
    for task in waiting:
        task.cancel()
    await asyncio.gather(*asks, return_exceptions=True)
    assert errors and all(isinstance(each, openai.RateLimitError) for each in errors)
    limited = errors[0]
    assert isinstance(limited, openai.RateLimitError)
    assert (limited.code, int(limited.response.headers["retry-after"]) > 0) == ("queue_full", True)


async def test_requests_made_from_our_own_document_find_no_server_error(runner: RunnerProcess) -> None:
    fuzzed = await fuzz(runner.api, examples=20, seed=1, bound_seconds=150)
    assert fuzzed.is_clean, fuzzed.report


async def test_an_engine_that_fails_is_found_by_the_same_requests(runner: RunnerProcess) -> None:
    """The control: schemathesis sees a server error where there is one."""
    runner.assign(2, engine(fault("FailRequests"), hash="h2"))
    await runner.wait(lambda status: status.revision == 2)
    await runner.wait_ready("m")
    fuzzed = await fuzz(runner.api, examples=1, seed=1, bound_seconds=150)
    assert not fuzzed.is_clean and "Server error" in fuzzed.report


async def test_ten_thousand_headers_are_refused(runner: RunnerProcess) -> None:
    head = "GET /v1/models HTTP/1.1\r\nhost: x\r\n" + "".join(f"x-{number}: y\r\n" for number in range(10_000))
    assert b" 431 " in await raw(runner, head.encode())
    assert await is_served(runner)


async def test_a_hundred_prompts_of_ten_megabytes_leave_no_memory_behind(runner: RunnerProcess) -> None:
    body = b'{"model":"m","prompt":"' + b"a b " * 2_500_000 + b'"}'
    (front,) = runner.processes("warmfleet_runtime.front")

    async def send() -> None:
        async with runner.http.post(runner.api + "/v1/completions", data=io.BytesIO(body), headers=JSON) as response:
            assert response.status == 400, "more than the context can hold"

    for _ in range(5):
        await send()
    before = resident_kib(front)
    for _ in range(95):
        await send()
    assert resident_kib(front) - before < MEMORY_SLACK_KIB
    assert await is_served(runner)


async def test_clients_that_dribble_their_heads_keep_nobody_waiting(runner: RunnerProcess) -> None:
    connections = [await connect(runner) for _ in range(200)]
    for _, writer in connections:
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx-slow: ")
    for _, writer in connections:
        writer.write(b"a")
    assert await is_served(runner)
    for _, writer in connections:
        writer.close()
    assert await is_served(runner)


async def connect(runner: RunnerProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = runner.api.removeprefix("http://").partition(":")
    return await asyncio.open_connection(host, int(port))


async def raw(runner: RunnerProcess, data: bytes) -> bytes:
    """Send bytes as they are, and return what came back before the connection was closed."""
    reader, writer = await connect(runner)
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
