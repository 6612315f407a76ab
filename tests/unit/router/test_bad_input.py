"""What clients send that is wrong, slow or hostile costs them an answer and nobody else anything."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from support.router import RoutedFleet, routed_fleet
from support.smuggling import CORPUS, NEXT
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Request

KEY, OTHER_KEY = "sk-0123456789abcdef", "sk-fedcba9876543210"
HEAD_SECONDS = 0.3
WRITE_SECONDS = 0.3
CLIENTS = 50


@pytest.fixture
async def fleet() -> AsyncIterator[RoutedFleet]:
    limits: Any = {"head_seconds": HEAD_SECONDS, "body_seconds": HEAD_SECONDS, "write_seconds": WRITE_SECONDS}
    async with routed_fleet(body_bytes=100_000, **limits) as each:
        each.model()
        await each.runner()
        yield each


async def say(fleet: RoutedFleet, data: bytes, seconds: float = 5.0) -> bytes:
    """Send bytes on a connection of their own; return all that comes until it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.router_port)
    try:
        writer.write(data)
        async with asyncio.timeout(seconds):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def post(body: bytes, *headers: str) -> bytes:
    """Return a chat request on a connection of its own."""
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: a", "connection: close", f"content-length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


def told(answer: bytes) -> tuple[int, str]:
    """Return status and code of an error in OpenAI's shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head[9:12]), error["code"]


@pytest.mark.parametrize("case", CORPUS)
async def test_what_could_be_read_in_two_ways_reaches_no_runner(fleet: RoutedFleet, case: str) -> None:
    answer = await say(fleet, CORPUS[case])
    status, _ = told(answer)
    assert 400 <= status < 600 and answer.count(b"\r\n\r\n") == 1, "what follows is never served"
    assert fleet.runners[0].served == []
    assert (await fleet.reply())[0] == 200


async def test_a_smuggled_request_would_be_seen(fleet: RoutedFleet) -> None:
    """The control: what follows a request in the ordinary way is served."""
    last = NEXT.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    assert (await say(fleet, NEXT + last)).count(b"\r\n\r\n") == 2


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (post(b'{"model": "nobody"}'), (404, "model_not_found")),
        (post(b'{"model": "m"'), (400, "invalid_json")),
        (post(b"\xff\xfe"), (400, "invalid_json")),
        (post(b""), (400, "invalid_json")),
        (post(b'{"model": "m", "stream": "yes"}'), (400, "invalid_request")),
        (post(b'{"model": "m"}', "content-encoding: gzip"), (415, "unsupported_encoding")),
        (post(b'{"model": "m"}', "x-warmfleet-deadline-milliseconds: soon"), (400, "invalid_request")),
        (post(b" " * 100_001), (413, "invalid_request")),
        (post(b"{}", *(f"x-{number}: y" for number in range(10_000))), (431, "invalid_request")),
        (post(b"{}", "x: " + "y" * 100_000), (431, "invalid_request")),
    ],
)
async def test_what_can_not_be_served_is_told_so_in_openais_shape(
    fleet: RoutedFleet, data: bytes, expected: tuple[int, str]
) -> None:
    assert told(await say(fleet, data)) == expected
    assert fleet.runners[0].served == []
    assert (await fleet.reply())[0] == 200


async def test_keys_that_are_unknown_or_another_tenants_open_nothing(fleet: RoutedFleet) -> None:
    fleet.model("theirs", namespace="elsewhere")
    fleet.tenant("search", KEY)
    fleet.tenant("chat", OTHER_KEY, namespace="elsewhere")
    body = b'{"model": "elsewhere/theirs"}'
    assert told(await say(fleet, post(body, "authorization: Bearer sk-unknown-unknown"))) == (401, "invalid_api_key")
    answer = await say(fleet, post(body, f"authorization: Bearer {KEY}"))
    assert told(answer) == (404, "model_not_found") and b"served: m" in answer, "it is not there for this tenant"
    for odd in ("Bearer", "Basic " + KEY, "Bearer " + "x" * 5000, "Bearer \xff"):
        assert told(await say(fleet, post(b'{"model": "m"}', f"authorization: {odd}")))[0] == 401


async def dribble(fleet: RoutedFleet) -> bytes:
    """Send a head byte by byte and never end it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.router_port)
    try:
        for index in range(1000):
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nx: "[index : index + 1] or b"y")
            await asyncio.sleep(0.02)
            if reader.at_eof():
                break
    except ConnectionError:
        pass
    finally:
        writer.close()
    return b""


async def half_a_body(fleet: RoutedFleet) -> bytes:
    """Send half of a body and wait."""
    return await say(fleet, post(b'{"model": "m"}')[:-5])


async def take_nothing(fleet: RoutedFleet) -> bytes:
    """Ask for a stream and read one byte of it now and then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", fleet.router_port, limit=1)
    writer.write(post(b'{"model": "m", "stream": true, "user": "endless"}'))
    try:
        for _ in range(1000):
            await reader.readexactly(1)
            await asyncio.sleep(0.1)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()
    return b""


async def endless(request: Request, answer: Answer) -> None:
    """Answer as fast as the client takes it; whoever says so without an end."""
    answer.start(200, [(b"content-type", b"text/event-stream")])
    while b"endless" in request.body:
        answer.write(b'data: {"padding": "' + b"x" * 60_000 + b'"}\n\n')
        await answer.drain()
        await asyncio.sleep(0)
    answer.finish(b"data: [DONE]\n\n")


@pytest.mark.parametrize("slow", [dribble, half_a_body, take_nothing])
async def test_slow_clients_are_cut_off_and_keep_nobody_waiting(
    fleet: RoutedFleet, slow: Callable[[RoutedFleet], Coroutine[Any, Any, bytes]]
) -> None:
    fleet.runners[0].behaviour = endless
    clients = [asyncio.create_task(slow(fleet)) for _ in range(CLIENTS)]
    began = time.monotonic()
    while time.monotonic() - began < 3 * HEAD_SECONDS:
        assert "[DONE]" in await fleet.events()
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    await fleet.until(lambda: fleet.value("warmfleet_router_requests_in_flight") == 0)
    assert "[DONE]" in await fleet.events()
