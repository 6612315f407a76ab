"""Chunks that pass as they came: the same bytes for the client, the same end, whatever an engine sends and however."""

import asyncio
from typing import cast

import httptools
from hypothesis import example, given
from hypothesis import strategies as st

from warmfleet_http.answer import Answer
from warmfleet_http.chunks import body_of_one
from warmfleet_http.connection import Exchange
from warmfleet_http.errors import UpstreamError
from warmfleet_http.messages import Header

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
BODIES = st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b"a" * 300]), max_size=8)


def framed(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


class Sent(Answer):
    """What a client was sent, and how it came."""

    def __init__(self, *, takes_chunks: bool) -> None:
        self.takes_chunks = takes_chunks
        self.body = b""
        self.passed = 0
        self.is_whole = False

    def write_chunk(self, chunk: bytes, body: bytes) -> None:
        assert chunk == framed(body)
        self.passed += 1
        self.body += body

    def abort(self) -> None: ...

    async def drain(self) -> None: ...

    def _start(self, status: int, headers: list[Header]) -> None: ...

    def _write(self, data: bytes) -> None:
        self.body += data

    def _finish(self, data: bytes) -> None:
        self.body += data
        self.is_whole = True


class Wire(asyncio.Transport):
    """Takes what is written, and says whether it was cut."""

    is_cut = False

    def write(self, data: object) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None:
        self.is_cut = True


def piped(reads: list[bytes], *, takes_chunks: bool) -> tuple[bytes, bytes, bool, bool, int]:
    """Let an engine's answer come in these reads; return what was sent, what was seen, whether it was whole, or cut."""

    async def pipe() -> tuple[bytes, bytes, bool, bool, int]:
        exchange, wire, answer, seen = Exchange(), Wire(), Sent(takes_chunks=takes_chunks), bytearray()
        exchange.connection_made(wire)
        exchange.send(b"POST", b"/", [])
        exchange.data_received(HEAD)
        await exchange.head()
        answer.start(200, [])
        piping = asyncio.ensure_future(exchange.pipe(answer, seen.extend))
        await asyncio.sleep(0)
        for read in reads:
            if not wire.is_cut:
                exchange.data_received(read)
        exchange.connection_lost(None)
        try:
            await piping
        except UpstreamError:
            assert not answer.is_whole
        return answer.body, bytes(seen), answer.is_whole, wire.is_cut, answer.passed

    return asyncio.run(pipe())


def cut_into(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(each, len(data)) for each in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


@given(st.binary(min_size=1, max_size=600))
def test_a_chunk_framed_as_ours_is_known_with_its_body(body: bytes) -> None:
    assert body_of_one(framed(body)) == body


@given(st.binary(max_size=12) | BODIES.map(lambda each: b"".join(map(framed, each))))
@example(b"0\r\n\r\n")
@example(b"A\r\n0123456789\r\n")
@example(b"03\r\nabc\r\n")
@example(b"3;x=y\r\nabc\r\n")
@example(b"+3\r\nabc\r\n")
@example(b"3\r\nabcd\r\n")
@example(b"3\r\nabc\r\n3\r\nabc\r\n")
def test_what_is_taken_for_one_chunk_is_one_to_the_parser(data: bytes) -> None:
    body = body_of_one(data)
    if body is not None:
        told: list[bytes] = []

        class Parts:
            def on_body(self, part: bytes) -> None:
                told.append(part)

            def on_chunk_complete(self) -> None:
                told.append(b"|")

            def on_message_complete(self) -> None:
                raise AssertionError("the last chunk is not one")

        httptools.HttpResponseParser(cast("httptools.HttpResponseParser", Parts())).feed_data(HEAD + data)
        assert told == [body, b"|"]


@given(
    BODIES,
    st.lists(st.integers(0, 400), max_size=6),
    st.none() | st.tuples(st.integers(0, 400), st.binary(max_size=2), st.integers(0, 2)),
)
def test_clients_get_the_same_whether_chunks_pass_as_they_came_or_are_read(
    bodies: list[bytes], places: list[int], damage: tuple[int, bytes, int] | None
) -> None:
    data = b"".join(map(framed, bodies)) + b"0\r\n\r\n"
    if damage:
        at, put, dropped = damage
        data = data[:at] + put + data[at + dropped :]
    reads = cut_into(data, places)
    assert piped(reads, takes_chunks=True)[:4] == piped(reads, takes_chunks=False)[:4]


@given(BODIES)
def test_of_whole_chunks_all_but_the_first_and_the_end_pass_as_they_came(bodies: list[bytes]) -> None:
    reads = [*map(framed, bodies), b"0\r\n\r\n"]
    assert piped(reads, takes_chunks=True) == (b"".join(bodies),) * 2 + (True, False, max(0, len(bodies) - 1))


def test_a_size_in_two_reads_is_not_taken_for_a_chunk_of_its_own() -> None:
    # "1" and "2\r\nab\r\n" are 18 bytes of which two came, and no chunk of two.
    reads = [framed(b"abc"), b"1", framed(b"ab")]
    assert piped(reads, takes_chunks=True) == (b"abcab\r\n", b"abcab\r\n", False, False, 0)
