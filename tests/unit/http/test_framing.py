"""No request is read in two ways: what another server could take for something else is refused, and hung up on."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.serving import echo, serving
from support.smuggling import CORPUS, HEAD, NEXT
from warmfleet_http import framing
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Limits, Request


@pytest.mark.parametrize("case", CORPUS)
async def test_what_could_be_read_in_two_ways_is_refused_and_what_follows_is_never_served(case: str) -> None:
    seen: list[str] = []

    async def handler(request: Request, answer: Answer) -> None:
        seen.append(request.path)
        await echo(request, answer)

    async with serving(handler) as served:
        answer = await served.say(CORPUS[case])
        assert answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.1 5"), answer
        assert b"connection: close" in answer and answer.count(b"\r\n\r\n") == 1
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"
        assert seen == []
        assert b"200 OK" in await served.say(NEXT.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")), (
            "others go on"
        )


@pytest.mark.parametrize(
    "case", ["two lengths", "length and chunks", "a folded header", "bare LF in the head", "no host", "chunked twice"]
)
async def test_plain_asgi_refuses_them_too(case: str) -> None:
    seen: list[str] = []

    async def handler(request: Request, answer: Answer) -> None:
        seen.append(request.path)
        await echo(request, answer)

    async with serving(handler, plain=True) as served:
        answer = await served.say(CORPUS[case])
        assert answer.startswith(b"HTTP/1.1 4"), answer
        assert seen == []


async def test_trailers_of_a_chunked_body_are_no_headers_and_extensions_are_dropped(plain: bool) -> None:
    said = (
        HEAD
        + b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        + b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nx-class: Critical\r\n\r\n"
    )
    async with serving(echo, plain=plain) as served:
        told = json.loads((await served.say(said)).partition(b"\r\n\r\n")[2])
    assert told["body"] == "abcde"
    assert "x-class" not in dict(told["headers"])


async def test_bytes_that_come_one_by_one_make_the_same_request(plain: bool) -> None:
    async with serving(echo, plain=plain) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        said = b"POST /a%20b?c HTTP/1.1\r\nHost: a\r\nX: y\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
        said += b"3\r\nabc\r\n0\r\n\r\n"
        for index in range(len(said)):
            writer.write(said[index : index + 1])
            await asyncio.sleep(0)
        async with asyncio.timeout(2):
            told = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
        writer.close()
    assert (told["method"], told["path"], told["body"]) == ("POST", "/a b", "abc")
    assert ["x", "y"] in told["headers"]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET /x HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 20_000, b"431"),
        (b"GET /x HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", b"431"),
        (b"GET /x HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 300 + b"\r\n", b"431"),
        (b"GET /x HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 300, b"431"),
        (b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2000\r\n\r\n", b"413"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n7d0\r\n" + b"a" * 2000, b"413"),
        (b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 20\r\n\r\nhalf", b"408"),
        (b"GET /x HTTP/1.1\r\nhost: ", b""),
        (b"", b""),
    ],
)
async def test_what_is_too_much_or_too_slow_is_refused(said: bytes, status: bytes) -> None:
    limits = Limits(head_bytes=10_000, body_bytes=1000, head_seconds=0.2, body_seconds=0.2)
    async with serving(echo, limits=limits) as served:
        assert (await served.say(said)).split(b" ")[1:2] == ([status] if status else [])


NAMES = st.sampled_from([b"content-length", b"transfer-encoding", b"host", b"x"])
VALUES = st.sampled_from([b"3", b"chunked", b"a", b"", b"0", b"identity"])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5), st.sampled_from(["1.0", "1.1", "2.0"]))
def test_a_head_that_is_taken_frames_its_body_in_one_way(headers: list[tuple[bytes, bytes]], version: str) -> None:
    if framing.problem(b"POST", version, b"/", headers) is None:
        framings = [value for name, value in headers if name in {b"content-length", b"transfer-encoding"}]
        assert len(framings) <= 1
        assert all(value == b"chunked" or value.isdigit() for value in framings)
        assert version == "1.0" or sum(name == b"host" for name, _ in headers) == 1
