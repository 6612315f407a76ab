"""The API in front of real vLLM, as its clients see it: nothing is lost on the way, and nothing breaks it."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from support import engine
from support.foreign import fuzz
from support.runner_process import RunnerProcess, running_runner
from support.waiting import PATIENCE
from warmfleet_api.assignment import Warmup
from warmfleet_api.runner_status import EngineStatus
from warmfleet_api.vocabulary import WarmupMode

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]

MODEL = "tiny"
SYSTEM = "You are the harbour master of a small town, and you answer in one sentence. " * 4
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]},
    },
}
NAMED = {"type": "function", "function": {"name": "weather"}}
HELLO: Any = [{"role": "user", "content": "Hello"}]
BOUND = aiohttp.ClientTimeout(total=PATIENCE * 60)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runner(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> AsyncIterator[RunnerProcess]:
    folder = tmp_path_factory.mktemp("surface")
    async with running_runner(folder, "--stop-seconds=5", python=engine.RUNTIME_PYTHON) as runner:
        args = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
        warmup = Warmup(mode=WarmupMode.PROGRESSIVE, requests=2, prompts=(SYSTEM,))
        runner.assign(1, engine.assigned(MODEL, tiny, *args, warmup=warmup))
        await runner.wait_ready(MODEL, seconds=engine.START_SECONDS)
        # Behind Ready: the longest context, and the prompt.
        await runner.wait_metric('warmfleet_queue_finished_total{class="Low",model="tiny"}', 2, seconds=60)
        yield runner


@pytest_asyncio.fixture(loop_scope="module")
async def client(runner: RunnerProcess) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{runner.api}/v1", api_key="none", max_retries=0, timeout=PATIENCE * 60) as client:
        yield client


async def direct(runner: RunnerProcess, path: str, body: Any) -> tuple[int, Any]:
    """Ask the engine itself, on its own socket."""
    socket = runner.folder.parent / "run" / f"{MODEL}.sock"
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=BOUND) as http,
        http.post(f"http://engine{path}", json=body) as response,
    ):
        return response.status, comparable(await response.text())


async def through(runner: RunnerProcess, path: str, body: Any) -> tuple[int, Any]:
    async with runner.http.post(runner.api + path, json=body, timeout=BOUND) as response:
        return response.status, comparable(await response.text())


def comparable(text: str) -> Any:
    """Return an answer without what differs each time; of a stream, what its events say together."""
    if not text.startswith("data: "):
        return without_ids(json.loads(text))
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    return [line if line == "[DONE]" else without_ids(json.loads(line)) for line in lines]


def without_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [without_ids(each) for each in value]
    if isinstance(value, dict):
        return {name: without_ids(each) for name, each in value.items() if name not in {"id", "created"}}
    return value


CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 24}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": HELLO}),
        (CHAT, {"messages": HELLO, "logprobs": True, "top_logprobs": 3}),
        (CHAT, {"messages": HELLO, "n": 3, "temperature": 1, "seed": 7}),
        (CHAT, {"messages": HELLO, "tools": [TOOL], "tool_choice": NAMED}),
        (CHAT, {"messages": HELLO, "tools": [TOOL], "tool_choice": "required"}),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_schema", "json_schema": {
            "name": "answer", "schema": {"enum": ["yes", "no"]}}}}),
        (CHAT, {"messages": HELLO, "structured_outputs": {"choice": ["left", "right"]}}),
        (CHAT, {"messages": HELLO, "stop": ["e"], "include_stop_str_in_output": True}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]}),
        (COMPLETIONS, {"prompt": ["Hello", "Good evening"], "logprobs": 2, "echo": True}),
        (COMPLETIONS, {"prompt": [75, 104, 111], "ignore_eos": True, "min_tokens": 24}),
        (COMPLETIONS, {"prompt": "Hello", "logit_bias": {"75": 50}}),
        ("/tokenize", {"prompt": "Hello", "return_token_strs": True}),
        ("/detokenize", {"tokens": [75, 104]}),
        # Refusals, as clear as the engine's own because they are the engine's own.
        (CHAT, {"messages": [{"role": "user", "content": "x " * 1000}]}),
        (CHAT, {"messages": HELLO, "temperature": 9}),
        (CHAT, {"messages": HELLO, "tools": []}),
        (CHAT, {"messages": HELLO, "response_format": {"type": "json_schema"}}),
        (COMPLETIONS, {"prompt": "Hello", "structured_outputs": {"regex": "("}}),
    ],
)  # fmt: skip
async def test_what_vllm_answers_arrives_as_it_left(runner: RunnerProcess, path: str, body: dict[str, Any]) -> None:
    asked = {**GREEDY, **body} if path in {CHAT, COMPLETIONS} else {"model": MODEL, **body}
    assert await through(runner, path, asked) == await direct(runner, path, asked)


async def test_the_sdk_reads_a_stream_with_its_usage(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=5, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens <= 5
    assert chunks[-1].choices == []


async def test_the_sdk_gets_its_own_kinds_of_errors(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="served: tiny"):
        await client.chat.completions.create(model="other", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="messages has to be a list, and is empty"):
        await client.chat.completions.create(model=MODEL, messages=[])
    with pytest.raises(openai.BadRequestError, match="max_tokens") as too_long:
        await client.completions.create(model=MODEL, prompt="Hello", max_tokens=513)
    assert too_long.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError, match="can't do this"):
        await client.embeddings.create(model=MODEL, input="Hello")


async def test_a_body_may_be_called_what_curl_calls_it(runner: RunnerProcess) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    body = json.dumps({"model": MODEL, "prompt": "Hello", "max_tokens": 1}).encode()
    async with runner.http.post(runner.api + COMPLETIONS, data=body, headers=form, timeout=BOUND) as response:
        assert response.status == 200


async def test_a_cancelled_answer_leaves_the_engine(runner: RunnerProcess, client: AsyncOpenAI) -> None:
    endless: Any = {"ignore_eos": True}
    stream = await client.completions.create(
        model=MODEL, prompt="Hello", max_tokens=500, stream=True, extra_body=endless
    )
    async for _ in stream:
        break
    assert await runner.metric("vllm:num_requests_running") == 1, "the control: it runs while somebody reads"
    await stream.close()
    await runner.wait_metric("vllm:num_requests_running", 0)
    whole = asyncio.create_task(
        client.completions.create(model=MODEL, prompt="Hello", max_tokens=500, extra_body=endless)
    )
    await runner.wait_metric("vllm:num_requests_running", 1)
    whole.cancel()
    await asyncio.gather(whole, return_exceptions=True)
    await runner.wait_metric("vllm:num_requests_running", 0)


async def test_a_warmed_up_prompt_is_in_the_prefix_cache(runner: RunnerProcess, client: AsyncOpenAI) -> None:
    before = await runner.metric("vllm:prefix_cache_hits_total")
    system: Any = {"role": "system", "content": SYSTEM}
    await client.chat.completions.create(model=MODEL, messages=[system, *HELLO], max_tokens=1)
    assert await runner.metric("vllm:prefix_cache_hits_total") > before
    in_chat = await runner.metric("vllm:prefix_cache_hits_total")
    await client.completions.create(model=MODEL, prompt=SYSTEM, max_tokens=1)
    assert await runner.metric("vllm:prefix_cache_hits_total") > in_chat
    other = await runner.metric("vllm:prefix_cache_hits_total")
    await client.completions.create(model=MODEL, prompt=SYSTEM[::-1], max_tokens=1)
    assert await runner.metric("vllm:prefix_cache_hits_total") == other, "the control: a prompt it has not seen"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"tiny","prompt":"' + b"a b " * 2_500_000 + b'"}',
        b'{"model":"tiny","prompt":"x","n":1000000}',
        b'{"model":"tiny","prompt":"x","max_tokens":9223372036854775808}',
        b'{"model":"tiny","prompt":"x","top_k":1180591620717411303424}',
        b'{"model":"tiny","prompt":"x","stream_interval":1180591620717411303424}',
        b'{"model":"tiny","prompt":"x","stop":"\\ud800"}',
        b'{"model":"tiny","prompt":"x","temperature":NaN}',
        b'{"model":"tiny","prompt":"\xff\xfe"}',
        b'{"model":"tiny","prompt":"x","field":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=["10 MB", "n", "max_tokens", "top_k", "stream_interval", "surrogate", "NaN", "UTF-8", "depth"],
)
async def test_a_hostile_body_is_refused_and_the_next_good_one_is_served(
    runner: RunnerProcess, client: AsyncOpenAI, body: bytes
) -> None:
    headers = {"content-type": "application/json"}
    sent = io.BytesIO(body)
    async with runner.http.post(runner.api + COMPLETIONS, data=sent, headers=headers, timeout=BOUND) as response:
        answer = await response.json()
        assert (response.status, answer["error"]["type"]) == (400, "invalid_request_error")
    assert (await client.completions.create(model=MODEL, prompt="Hello", max_tokens=1)).usage


async def test_requests_made_from_our_own_document_find_no_server_error(runner: RunnerProcess) -> None:
    fuzzed = await fuzz(runner.api, examples=10, seed=1, bound_seconds=240)
    assert fuzzed.is_clean, fuzzed.report
    status: EngineStatus = (await runner.status()).engines[0]
    assert (status.state.value, status.starts) == ("Ready", 1)
