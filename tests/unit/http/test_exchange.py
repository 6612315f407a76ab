"""From a client through a handler to somebody else and back: bytes, their pace, and every way it can end early."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from support.front import until
from support.serving import Served, echo, serving
from warmfleet_http.answer import Answer
from warmfleet_http.connection import MAX_BUFFERED_BYTES
from warmfleet_http.errors import BrokenError, LostError, NotConnectedError, UpstreamError
from warmfleet_http.messages import Limits, Request
from warmfleet_http.pool import Origin, Patience, Pool

ASK = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi"
CLOSE = ASK.replace(b"content-length", b"connection: close\r\ncontent-length")
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HOST = [(b"host", b"engine")]
LIMITS, PATIENCE = Limits(), Patience()
Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Engine:
    """Somebody else, scripted: what it does after each whole request."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.origin = Origin("")
        self.connections = self.open = self.requests = 0

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
                self.requests += 1
                await self._script(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self.open -= 1
            writer.close()


@asynccontextmanager
async def engine(script: Script) -> AsyncIterator[Engine]:
    each = Engine(script)
    server = await asyncio.start_server(each.talk, "127.0.0.1", 0)
    each.origin = Origin(server.sockets[0].getsockname()[:2], "pod-1")
    try:
        yield each
    finally:
        server.close()


@asynccontextmanager
async def passing(
    to: Engine, *, plain: bool, limits: Limits = LIMITS, patience: Patience = PATIENCE, pause_seconds: float = 0.0
) -> AsyncIterator[tuple[Served, list[UpstreamError]]]:
    """Serve what passes requests on, after a pause at each answer's beginning; give also what went wrong behind it."""
    pool, errors = Pool(idle_seconds=5), list[UpstreamError]()

    async def handler(request: Request, answer: Answer) -> None:
        try:
            async with pool.ask(to.origin, b"POST", request.target, HOST, request.body, patience=patience) as exchange:
                await exchange.begun()
                await asyncio.sleep(pause_seconds)
                answer.start(exchange.status, exchange.headers)
                await exchange.pipe(answer)
        except UpstreamError as error:
            errors.append(error)
            if answer.status:
                answer.break_off("lost")
            else:
                answer.reply(503)

    try:
        async with serving(handler, plain=plain, limits=limits) as served:
            yield served, errors
    finally:
        pool.close()


def saying(*pieces: bytes, close: bool = False) -> Script:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            raise ConnectionResetError

    return script


async def test_an_answer_comes_as_it_was_and_connections_carry_one_request_after_another(plain: bool) -> None:
    async with (
        engine(saying(STREAM, b"3\r\nabc\r\n", b"2\r\nde\r\n0\r\n\r\n")) as behind,
        passing(behind, plain=plain) as (served, errors),
    ):
        reader, writer = await asyncio.open_connection(*served.address)
        for _ in range(3):
            writer.write(ASK)
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 2)
            assert b"transfer-encoding: chunked" in answer.lower() and b"abc" in answer and b"de" in answer
        writer.close()
        assert (behind.requests, behind.connections, errors) == (3, 1, [])


async def test_pipelined_requests_are_answered_in_order(plain: bool) -> None:
    async with serving(echo, plain=plain) as served:
        paths = [b"/%d" % index for index in range(20)]
        said = b"".join(ASK.replace(b"/x", path) for path in paths) + CLOSE.replace(b"/x", b"/end")
        answer = await served.say(said)
    assert [part.partition(b'"')[0] for part in answer.split(b'"path":"')[1:]] == [*paths, b"/end"]


async def test_a_client_that_leaves_ends_the_work_behind_it_wherever_it_is(plain: bool) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if behind.requests > 1:
            writer.write(STREAM + b"3\r\nabc\r\n")
        await reader.read()

    async with engine(silent) as behind, passing(behind, plain=plain) as (served, errors):
        for number in (1, 2):
            reader, writer = await asyncio.open_connection(*served.address)
            writer.write(ASK)
            await until(lambda: behind.requests == number)  # noqa: B023
            assert behind.open == 1
            if number == 2:
                await reader.readuntil(b"abc")
            writer.close()
            await until(lambda: behind.open == 0)
        assert errors == []


async def test_a_client_that_reads_slowly_holds_the_engine_back_and_gets_everything(plain: bool) -> None:
    size, sent = 400, 0

    async def much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(STREAM)
        for _ in range(size):
            writer.write(b"10000\r\n" + b"a" * 65536 + b"\r\n")
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")

    async with engine(much) as behind, passing(behind, plain=plain) as (served, _):
        reader, writer = await asyncio.open_connection(*served.address, limit=65536)
        writer.write(CLOSE)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)
        assert sent < size / 2, "it waits"
        async with asyncio.timeout(20):
            assert (await reader.read()).count(b"a") == size * 65536
        writer.close()


async def test_an_answer_of_which_much_came_before_it_is_passed_on_is_passed_on_whole(plain: bool) -> None:
    body = b"x" * 16 * MAX_BUFFERED_BYTES
    whole = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    async with (
        engine(saying(whole)) as behind,
        passing(behind, plain=plain, pause_seconds=0.2) as (served, errors),
    ):
        answer = await served.say(CLOSE, 5)
    assert answer.endswith(b"\r\n\r\n" + body)
    assert not errors


async def test_a_client_that_takes_nothing_is_cut_and_its_work_ended(plain: bool) -> None:
    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        while True:
            writer.write(b"10000\r\n" + b"a" * 65536 + b"\r\n")
            await writer.drain()

    async with engine(endless) as behind, passing(behind, plain=plain, limits=Limits(write_seconds=0.2)) as (served, _):
        _, writer = await asyncio.open_connection(*served.address, limit=65536)
        writer.write(ASK)
        await until(lambda: behind.open == 1)
        await until(lambda: behind.open == 0)
        writer.transport.abort()


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (saying(close=True), LostError),
        (saying(b"HTTP/1.1 20", close=True), BrokenError),
        (saying(STREAM, close=True), BrokenError),
        (saying(STREAM + b"3\r\nabc\r\n", close=True), BrokenError),
        (saying(b"HTTP/1.1 200 OK\r\n\r\nuntil the end", close=True), BrokenError),
        (saying(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"), BrokenError),
        (saying(b"SSH-2.0-x\r\n"), BrokenError),
    ],
)
async def test_what_goes_wrong_behind_says_how_far_it_came(script: Script, kind: type[UpstreamError]) -> None:
    async with engine(script) as behind, passing(behind, plain=False) as (served, errors):
        await served.say(CLOSE)
        assert [type(error) for error in errors] == [kind]
        assert not errors[0].timed_out


async def test_a_stream_that_breaks_ends_with_an_error_event_and_another_answer_is_cut(plain: bool) -> None:
    async with (
        engine(saying(STREAM + b"7\r\ndata: a\r\n", close=True)) as behind,
        passing(behind, plain=plain) as (served, _),
    ):
        answer = await served.say(CLOSE)
        assert answer.endswith(b"0\r\n\r\n") and b'"engine_lost"' in answer and b"[DONE]" not in answer
    async with (
        engine(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", close=True)) as behind,
        passing(behind, plain=plain) as (served, _),
    ):
        try:
            answer = await served.say(CLOSE)
        except ConnectionError:
            answer = b""
        assert len(answer.partition(b"\r\n\r\n")[2]) < 9


async def test_silence_is_bounded_before_the_body_and_within_it() -> None:
    patience = Patience(first_seconds=0.1, next_seconds=0.2)
    for script in (saying(), saying(STREAM), saying(STREAM + b"3\r\nabc\r\n")):
        async with engine(script) as behind, passing(behind, plain=False, patience=patience) as (served, errors):
            await served.say(CLOSE)
            assert [error.timed_out for error in errors] == [True]


async def test_nobody_there_is_told_from_nobody_answering() -> None:
    pool = Pool(idle_seconds=5)
    with pytest.raises(NotConnectedError):
        async with pool.ask(Origin(("127.0.0.1", 1)), b"GET", b"/", HOST):
            pass
    with pytest.raises(NotConnectedError):
        await pool.open(Origin("/nowhere.sock"), 1, 1.0)
    pool.close()


async def test_a_pool_keeps_no_connection_of_one_that_is_gone_nor_one_that_grew_old() -> None:
    pool = Pool(idle_seconds=0.2)
    async with engine(saying(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")) as behind:
        await pool.open(behind.origin, 3, 1.0)
        await until(lambda: behind.open == 3)
        async with pool.ask(behind.origin, b"GET", b"/", HOST) as exchange:
            assert await exchange.whole(10) == b""
        assert behind.connections == 3
        pool.keep_only({behind.origin})
        await asyncio.sleep(0)
        assert behind.open == 3
        pool.drop(behind.origin)
        await until(lambda: behind.open == 0)
        await pool.open(behind.origin, 1, 1.0)
        await until(lambda: behind.open == 1)
        await until(lambda: behind.open == 0)
    pool.close()


async def test_a_handler_with_a_bug_costs_its_client_a_500_and_nobody_else_anything(
    plain: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: Request, answer: Answer) -> None:
        if request.path == "/x":
            raise ValueError("a bug")
        if request.path == "/silent":
            return
        await echo(request, answer)

    async with serving(handler, plain=plain) as served:
        assert b" 500 " in await served.say(CLOSE)
        assert b" 500 " in await served.say(CLOSE.replace(b"/x", b"/silent"))
        assert b" 200 " in await served.say(CLOSE.replace(b"/x", b"/y"))
    assert "a bug" in caplog.text


async def test_a_header_with_a_line_end_is_never_sent(plain: bool) -> None:
    async def handler(request: Request, answer: Answer) -> None:
        answer.reply(200, b"", [(b"x", b"a\r\nset-cookie: b")])

    async with serving(handler, plain=plain) as served:
        answer = await served.say(CLOSE)
        assert b" 500 " in answer and b"set-cookie" not in answer


async def test_old_clients_heads_alone_and_expectations_are_answered(plain: bool) -> None:
    async def handler(request: Request, answer: Answer) -> None:
        answer.start(200, [])
        answer.write(b"abc")
        await answer.drain()
        answer.finish()

    async with serving(handler, plain=plain) as served:
        assert (await served.say(b"GET /x HTTP/1.0\r\n\r\n")).endswith(b"abc") or plain
        head = await served.say(b"HEAD /x HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        assert head.endswith(b"\r\n\r\n") and b"abc" not in head
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(b"POST /x HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert (await asyncio.wait_for(reader.readline(), 2)) == b"HTTP/1.1 100 Continue\r\n"
        writer.write(b"hi")
        assert b"abc" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), 2)
        writer.close()


async def test_a_server_that_ends_lets_an_answer_end_and_closes_what_is_idle(plain: bool) -> None:
    go_on = asyncio.Event()

    async def handler(request: Request, answer: Answer) -> None:
        answer.start(200, [])
        answer.write(b"abc")
        await go_on.wait()
        answer.finish()

    async with serving(handler, plain=plain) as served:
        served.server.config.timeout_graceful_shutdown = 5
        idle, idle_writer = await asyncio.open_connection(*served.address)
        busy, busy_writer = await asyncio.open_connection(*served.address)
        busy_writer.write(ASK)
        await busy.readuntil(b"abc")
        served.server.should_exit = True
        assert await asyncio.wait_for(idle.read(), 2) == b""
        go_on.set()
        assert (await asyncio.wait_for(busy.read(), 2)).endswith(b"0\r\n\r\n")
        for writer in (idle_writer, busy_writer):
            writer.close()


async def test_a_server_that_leaves_closes_connections_with_an_answer_that_says_so() -> None:
    async def handler(request: Request, answer: Answer) -> None:
        answer.reply(200)

    async with serving(handler, plain=False) as served:
        reader, writer = await asyncio.open_connection(*served.address)
        writer.write(ASK)
        assert b"connection" not in (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 2)).lower()
        served.server.leave()
        writer.write(ASK)
        assert b"connection: close" in await asyncio.wait_for(reader.read(), 2)
        writer.close()
