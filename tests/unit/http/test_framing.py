"""No request is read in two ways: what another server could take for something else is refused, and hung up on."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.serving import echo, serving
from warmfleet_http import framing
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Limits, Request

HEAD = b"POST /x HTTP/1.1\r\nhost: a\r\n"
NEXT = b"GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n"
CORPUS = {
    "two lengths": HEAD + b"content-length: 0\r\ncontent-length: 40\r\n\r\n" + NEXT,
    "two equal lengths": HEAD + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc" + NEXT,
    "a list of lengths": HEAD + b"content-length: 3, 3\r\n\r\nabc" + NEXT,
    "length and chunks": HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunks and length": HEAD + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + NEXT,
    "a signed length": HEAD + b"content-length: +3\r\n\r\nabc" + NEXT,
    "a hexadecimal length": HEAD + b"content-length: 0x3\r\n\r\nabc" + NEXT,
    "a length beyond 64 bits": HEAD + b"content-length: 99999999999999999999\r\n\r\n" + NEXT,
    "an empty length": HEAD + b"content-length:\r\n\r\n" + NEXT,
    "an unknown encoding": HEAD + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + NEXT,
    "an encoding before chunked": HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunked twice": HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "chunked, then identity": HEAD
    + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n"
    + NEXT,
    "chunked behind a tab and a control": HEAD + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + NEXT,
    "a space before the colon": HEAD + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "a folded header": HEAD + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n" + NEXT,
    "a folded encoding": HEAD + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "a header before all with a space": b"POST /x HTTP/1.1\r\n host: a\r\ncontent-length: 0\r\n\r\n" + NEXT,
    "bare LF in the head": b"POST /x HTTP/1.1\nhost: a\ncontent-length: 0\n\n" + NEXT,
    "one bare LF in the head": HEAD + b"x: y\ncontent-length: 0\r\n\r\n" + NEXT,
    "a bare CR in a header": HEAD + b"x: y\rcontent-length: 40\r\n\r\n" + NEXT,
    "a NUL in a header": HEAD + b"x: a\x00b\r\ncontent-length: 0\r\n\r\n" + NEXT,
    "bare LF behind a chunk size": HEAD + b"transfer-encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n" + NEXT,
    "bare LF behind a chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n" + NEXT,
    "no end of a chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n" + NEXT,
    "a negative chunk": HEAD + b"transfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n" + NEXT,
    "a prefixed chunk size": HEAD + b"transfer-encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n" + NEXT,
    "a chunk size beyond 64 bits": HEAD
    + b"transfer-encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n"
    + NEXT,
    "a space behind the chunk size": HEAD + b"transfer-encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n" + NEXT,
    "bare LF in a chunk extension": HEAD + b"transfer-encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n" + NEXT,
    "chunks in HTTP/1.0": b"POST /x HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + NEXT,
    "no host": b"GET /x HTTP/1.1\r\n\r\n" + NEXT,
    "two hosts": b"GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n" + NEXT,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another version": b"GET /x HTTP/1.2\r\nhost: a\r\n\r\n" + NEXT,
    "no version": b"GET /x\r\n\r\n" + NEXT,
    "a tunnel": b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n" + NEXT,
    "no path": b"GET x HTTP/1.1\r\nhost: a\r\n\r\n" + NEXT,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


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
        (b"GET /x HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 300 + b"\r\n", b"431"),
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
