"""The client that counts what others lose: each kind of loss has to be seen as what it is."""

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from bench import load, traffic
from bench.load import Target
from bench.traffic import Arrival, Outcome, SteadyRequests

EVENT = b'data: {"text": "a"}\n\n'
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
REFUSAL = b'HTTP/1.1 429 Busy\r\nRetry-After: 3\r\ncontent-length: 15\r\n\r\n{"code": "full"}'[:-1]
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
CUT = b""
"""An answer after which the connection ends."""


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@asynccontextmanager
async def server(*answers: tuple[bytes, ...]) -> AsyncIterator[Target]:
    """A server whose answers are these, one after the other, in pieces; a piece that is empty ends the connection."""
    left = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                for piece in next(left):
                    if piece == CUT:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    target = Target(listening.sockets[0].getsockname()[:2])
    try:
        yield target
    finally:
        target.close()
        listening.close()
        await listening.wait_closed()


async def outcome(*answer: bytes, stream: bool) -> tuple[Outcome, str]:
    async with server(answer) as target:
        seen = await traffic.ask(target, traffic.completion("m", 1, stream=stream), stream=stream)
        return seen.outcome, seen.trouble


async def test_an_answer_is_answered_and_its_connection_kept() -> None:
    async with server((WHOLE,), (WHOLE[:30], WHOLE[30:])) as target:
        for _ in range(2):
            seen = await traffic.ask(target, traffic.completion("m", 1, stream=False), stream=False)
            assert (seen.outcome, seen.body, seen.trouble) == (Outcome.ANSWERED, b"{}", "")
            target.addresses.clear()  # the next one goes by the connection that is open


async def test_a_refusal_is_refused_with_its_words() -> None:
    found, trouble = await outcome(REFUSAL, stream=True)
    assert (found, trouble) == (Outcome.REFUSED, '429 {"code": "full"')


async def test_headers_are_found_whatever_their_case() -> None:
    answer = load.Answer(head=REFUSAL.partition(b"\r\n\r\n")[0])
    assert load.header(answer, b"retry-after") == b"3"
    assert load.header(answer, b"after") == b""


async def test_a_whole_stream_is_answered() -> None:
    pieces = (STREAM, chunk(EVENT), chunk(EVENT)[:7], chunk(EVENT)[7:], chunk(DONE), chunk(b""))
    assert await outcome(*pieces, stream=True) == (Outcome.ANSWERED, "")


async def test_a_stream_without_its_done_is_broken_and_counted_whatever_its_tokens() -> None:
    seen = await outcome(STREAM, chunk(EVENT), chunk(b""), stream=True)
    assert seen == (Outcome.BROKEN, "200 a stream without its end")


async def test_a_stream_that_ends_with_an_error_is_counted_by_the_error() -> None:
    found, trouble = await outcome(STREAM, chunk(EVENT), chunk(b'data: {"error": "gone"}\n\n'), chunk(b""), stream=True)
    assert found is Outcome.BROKEN
    assert trouble.startswith('200 a stream without its end: {"error": "gone"}')


@pytest.mark.parametrize(
    ("pieces", "found"),
    [
        ((CUT,), Outcome.LOST),
        ((STREAM, CUT), Outcome.LOST),
        ((STREAM, chunk(EVENT), CUT), Outcome.BROKEN),
        ((WHOLE[:-1], CUT), Outcome.BROKEN),
    ],
)
async def test_a_connection_that_ends_is_a_loss_or_a_break_by_whether_the_body_began(
    pieces: tuple[bytes, ...], found: Outcome
) -> None:
    assert (await outcome(*pieces, stream=True))[0] is found


async def test_what_nobody_answered_is_sent_again_as_often_as_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "FIRST_PAUSE_SECONDS", 0.001)
    request = traffic.completion("m", 1, stream=True)
    async with server((CUT,), (CUT,), (STREAM, chunk(DONE), chunk(b""))) as target:
        seen = await traffic.ask(target, request, stream=True, tries=3)
        assert (seen.outcome, seen.tries) == (Outcome.ANSWERED, 3)
    async with server((STREAM, chunk(EVENT), CUT)) as target:
        seen = await traffic.ask(target, request, stream=True, tries=3)
        assert (seen.outcome, seen.tries) == (Outcome.BROKEN, 1)


async def test_nobody_there_is_a_loss() -> None:
    async with server() as target:
        address = target.addresses[0]
    seen = await traffic.ask(Target(address), traffic.completion("m", 1, stream=False), stream=False)
    assert seen.outcome is Outcome.LOST
    assert "Connect" in seen.trouble


async def test_a_changed_rate_counts_from_the_next_request_on() -> None:
    async with server(*itertools.repeat((WHOLE,), 200)) as target:
        request = traffic.completion("m", 1, stream=False)
        requests = SteadyRequests(lambda _: traffic.ask(target, request, stream=False), 200.0)
        await asyncio.sleep(0.02)
        requests.per_second = 0.1
        await asyncio.sleep(0.05)
        seen = await requests.stop()
        assert 1 <= len(seen) <= 20
        assert all(each.outcome is Outcome.ANSWERED for each in seen)
        assert len(seen) == requests.sent


async def test_traffic_from_a_thread_tells_of_each_request_and_of_each_span() -> None:
    async with server((WHOLE,), (WHOLE,), (CUT,)) as target:
        (address,) = target.addresses
        assert isinstance(address, tuple)
        arrivals = [
            Arrival(number / 1000, traffic.completion("m", 1, stream=False), stream=False) for number in range(3)
        ]

        def watch() -> traffic.Traffic:
            with traffic.traffic(*address, arrivals) as seen:
                traffic.wait_answered(seen, 3, 10)
            return seen

        seen = await asyncio.to_thread(watch)
    found = seen.since(0)
    assert (found.requests, found.lost, seen.sent) == (3, 1, 3)
    assert found.success == pytest.approx(2 / 3)
    assert seen.since(0, until=1).requests == 0


def test_an_error_of_the_plan_is_not_hidden_by_the_thread() -> None:
    asked = threading.Event()

    def broken() -> Iterator[Arrival]:
        asked.set()
        raise RuntimeError("the plan broke")
        yield

    with pytest.raises(RuntimeError, match="the plan broke"), traffic.traffic("127.0.0.1", 1, broken()) as seen:
        assert asked.wait(10)
        assert not seen.ended
