"""What engines do wrong, and what a client sees of it."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest

from support.front import Front
from support.runner_process import simulated
from warmfleet_api import names
from warmfleet_api.assignment import LoraAdapter
from warmfleet_api.vocabulary import EngineState
from warmfleet_http import fallback
from warmfleet_http.pool import Patience
from warmfleet_runtime.admission import Queue
from warmfleet_runtime.front import relay

Script = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
ATTEMPTS = itertools.count(1)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(body), body)


def whole(body: bytes, status: bytes = b"200 OK", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 " + status, b"content-type: application/json", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@asynccontextmanager
async def scripted(front: Front, script: Script) -> AsyncIterator[list[bytes]]:
    """Put a scripted engine in place of `m`; give what it was sent."""
    seen: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                request = head + await reader.readexactly(length)
                seen.append(request)
                await script(request, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    path = front.folder / "m.sock"
    path.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(talk, path)
    front.set("m", EngineState.READY, engine=simulated("m"), attempt=next(ATTEMPTS), accepts=True)
    try:
        yield seen
    finally:
        server.close()


def saying(*answers: bytes, close: bool = False) -> Script:
    """Answer each request with the same bytes."""

    async def script(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers:
            writer.write(answer)
            await writer.drain()
        if close:
            writer.close()
            raise ConnectionResetError

    return script


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-filler: " + b"a" * 100_000 + b"\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
    ],
)
async def test_an_engine_that_gives_no_answer_costs_a_503_that_says_when_to_come_again(
    front: Front, answer: bytes
) -> None:
    async with scripted(front, saying(answer, close=True)), front.ask() as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "model_not_ready")
        assert int(response.headers["Retry-After"]) >= 1
    assert front.running() == 0


async def test_a_complete_answer_that_breaks_is_cut_so_that_nobody_takes_it_for_whole(front: Front) -> None:
    async with scripted(front, saying(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf", close=True)):
        with pytest.raises(aiohttp.ClientError):
            await front.status_of()


async def test_a_stream_that_breaks_within_an_event_ends_it_before_it_says_so(front: Front) -> None:
    script = saying(STREAM_HEAD + chunk(b'data: {"half'), close=True)
    async with scripted(front, script), front.ask(stream=True) as response:
        events = (await response.text()).split("\n\n")
    assert events[0] == 'data: {"half'
    assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "engine_lost"
    assert events[2:] == [""], "and no [DONE]"


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_a_stream_that_breaks_before_its_first_byte_becomes_the_complete_answer_in_one_event(
    front: Front, wants_usage: bool
) -> None:
    async def script(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if json.loads(request.partition(b"\r\n\r\n")[2])["stream"]:
            await saying(STREAM_HEAD, close=True)(request, reader, writer)
        await saying(whole(json.dumps(WHOLE).encode()))(request, reader, writer)

    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if wants_usage else {}
    async with scripted(front, script) as seen, front.ask(stream=True, **more) as response:
        assert response.content_type == "text/event-stream"
        events = [event.removeprefix("data: ") for event in (await response.text()).split("\n\n") if event]
    assert events.pop() == "[DONE]"
    first, *rest = map(json.loads, events)
    assert first["object"] == "chat.completion.chunk" and "usage" not in first
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "hello"}
    assert [event["usage"]["completion_tokens"] for event in rest] == ([2] if wants_usage else [])
    assert len(seen) == 2


async def test_tool_calls_of_a_complete_answer_get_the_index_that_streams_need() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": {"name": "f"}}]}
    answer = WHOLE | {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    event = json.loads(fallback.as_stream(json.dumps(answer).encode(), b"{}").split(b"\n\n")[0][6:])
    delta = {"role": "assistant", "tool_calls": [{"index": 0, "id": "a", "function": {"name": "f"}}]}
    assert event["choices"] == [{"index": 0, "delta": delta, "finish_reason": "tool_calls"}]


async def test_a_stream_whose_engine_is_gone_is_not_asked_for_twice(front: Front) -> None:
    async with scripted(front, saying(b"", close=True)) as seen:
        assert await front.status_of(stream=True) == 503
        assert len(seen) == 1


async def test_an_engine_that_does_not_begin_in_time_costs_a_504(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "WHOLE", Patience(first_seconds=0.1))
    async with scripted(front, saying(b"")), front.ask() as response:
        assert (response.status, (await response.json())["error"]["code"]) == (504, "engine_timeout")


async def test_a_stream_that_stands_still_ends_with_an_error(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "STREAM", Patience(next_seconds=0.1))
    async with scripted(front, saying(STREAM_HEAD + chunk(b"data: {}\n\n"))), front.ask(stream=True) as response:
        text = await response.text()
    assert "engine_lost" in text and "[DONE]" not in text
    assert front.running() == 0


@pytest.mark.parametrize("status", [b"429 Too Many Requests", b"500 Internal Server Error", b"503 Service Unavailable"])
async def test_an_engines_refusal_without_retry_after_gets_one(front: Front, status: bytes) -> None:
    async with scripted(front, saying(whole(b"{}", status))), front.ask() as response:
        assert (response.status, response.headers["Retry-After"]) == (int(status[:3]), "1")
    async with scripted(front, saying(whole(b"{}", status, b"retry-after: 7"))), front.ask() as response:
        assert response.headers.getall("Retry-After") == ["7"]


async def test_a_connection_that_the_engine_closed_while_idle_costs_nothing(front: Front) -> None:
    closing: list[asyncio.StreamWriter] = []

    async def script(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b"{}"))
        if closing:
            return
        closing.append(writer)
        # The next request comes before the front has noticed.
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        raise ConnectionResetError

    async with scripted(front, script) as seen:
        assert await front.status_of() == 200
        assert await front.status_of() == 200
        assert len(seen) == 2


async def test_the_body_reaches_the_engine_as_it_came_and_secrets_do_not(front: Front) -> None:
    body = b'{ "model":"m","prompt":"hi", "unknown_field": [1,2,{"a":null}] , "n":1}'
    headers = {
        "Authorization": "Bearer secret",
        names.HEADER_TOKEN: "token",
        "X-Request-Id": "7",
        "Content-Type": "application/json",
    }
    post = front.http.post(front.url + "/v1/completions", data=body, headers=headers)
    async with scripted(front, saying(whole(b"{}"))) as seen, post as response:
        assert response.status == 200
    head, _, got = seen[0].partition(b"\r\n\r\n")
    assert got == body
    assert b"x-request-id: 7" in head and b"secret" not in head and b"token" not in head.lower()


@pytest.mark.parametrize("ends", [(b"data: {}\n\n", b"data: [DONE]\n\n"), (b"data: {}\n\ndata: [DONE]\n\n",)])
async def test_the_end_of_a_stream_is_not_counted_as_a_token(
    front: Front, ends: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(Queue, "finish", lambda queue, key, tokens, now: counted.append(tokens))

    async def script(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for data in (b"data: {}\n\n", *ends):
            writer.write(chunk(data))
            await writer.drain()
            await asyncio.sleep(0.01)  # else they may come as one
        writer.write(b"0\r\n\r\n")

    async with scripted(front, script):
        assert await front.status_of(stream=True) == 200
    assert counted == [2]


async def test_one_connection_carries_one_request_after_another(front: Front) -> None:
    connections: set[int] = set()

    async def script(request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(id(writer))
        writer.write(STREAM_HEAD + chunk(b"data: {}\n\n") + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with scripted(front, script) as seen:
        for _ in range(5):
            assert await front.status_of(stream=True) == 200
        assert (len(seen), len(connections)) == (5, 1)


async def test_adapters_are_served_under_their_own_names_and_say_their_parent(front: Front) -> None:
    engine = simulated("m")
    adapters = (LoraAdapter(name="sql", uri="hf://org/sql", folder="/weights/sql"),)
    async with scripted(front, saying(whole(b"{}"))) as seen:
        spec = msgspec.structs.replace(engine.engine, adapters=adapters)
        front.set("m", EngineState.READY, engine=msgspec.structs.replace(engine, engine=spec), accepts=True)
        assert await front.status_of("sql") == 200
        assert b'"model": "sql"' in seen[0]
        async with front.http.get(front.url + "/v1/models") as response:
            models = {each["id"]: each["parent"] for each in (await response.json())["data"]}
    assert models == {"m": None, "sql": "m"}
