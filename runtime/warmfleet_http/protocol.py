"""One client's connection, read and written by callbacks: the parser's events become requests, handlers write bytes.

A request is handed over once it is whole, so a handler never waits for its client but in `drain`. The next request of a
connection begins when the answer to the last has ended. Reading goes on meanwhile, because that is how a client that
leaves is noticed.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from enum import IntEnum
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn.server import ServerState

from warmfleet_http import framing
from warmfleet_http.answer import Answer
from warmfleet_http.errors import ClientGoneError
from warmfleet_http.messages import Header, Limits, Request
from warmfleet_http.replies import JSON, bad_request
from warmfleet_http.sweep import NEVER, sweep_of

Handler = Callable[[Request, Answer], Coroutine[Any, Any, None]]
"""Answers one request. What it returns is run as a task, which is cancelled when the client leaves."""

_PIPELINED = 8
"""How many requests of one connection may wait for their turn; beyond it nothing more is read."""
_LINGER_SECONDS = 2.0
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BODILESS = frozenset({204, 304})
_OURS = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server", b"upgrade", b"trailer"})
"""Headers of an answer that the connection itself decides."""
_log = logging.getLogger("http")


class State(ServerState):
    """What all connections of a server share."""

    is_leaving = False
    """Each answer asks its client to open the next connection elsewhere."""


class _Part(IntEnum):
    """Which part of a request is to come next."""

    NONE = 0
    HEAD = 1
    BODY = 2


class HttpProtocol(asyncio.Protocol):
    """A connection of uvicorn's server: it adds itself to the server's state, and knows how to shut down."""

    def __init__(self, handler: Handler, limits: Limits, state: State) -> None:
        self._handler = handler
        self._limits = limits
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._target = b""
        self._version = ""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._is_head_open = True
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._part = self._timed_part = _Part.NONE
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._answer: _Answer | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self._lingers = False
        self._is_reading = True
        self._writable: asyncio.Future[None] | None = None
        self._date: tuple[list[Header], bytes] | None = None
        self.due = NEVER
        """When the connection is cut if what it waits for has not happened."""

    # Of the transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: a request is expected soon."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._limits.buffered_bytes)
        self._state.connections.add(self)  # type: ignore[arg-type] # it names its own
        sweep_of(self._loop).add(self)
        self._wait_for(self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or we let it go."""
        self._state.connections.discard(self)
        self._is_closing = True
        sweep_of(self._loop).discard(self)
        self._waiting.clear()
        if self._writable and not self._writable.done():
            self._writable.set_exception(ClientGoneError())
            self._writable.exception()  # whoever waited may have left
        if self._answer and not self._answer.is_ended:
            self._answer.is_gone = True
            if self._task and self._answer.has_begun:
                self._task.cancel()
        # The parser and the task hold us: without this each connection would be left for the collector.
        self._answer = self._task = None
        self._parser = cast(httptools.HttpRequestParser, None)

    def data_received(self, data: bytes) -> None:
        """Parse; whole requests go to the handler."""
        if self._is_closing:
            return
        if self._is_head_open:
            # What a head may cost is known before it is complete.
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._part is not self._timed_part:
                self._time_part()
        except httptools.HttpParserUpgrade:
            # Nobody is obliged to switch protocols; but what follows would be another one's.
            self._close_after_answer()
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _RefusedError):
                self._refuse(error.__context__.status, str(error.__context__))
            else:
                raise
        except httptools.HttpParserError as error:
            self._refuse(400, f"this is no HTTP: {error}")
        else:
            if self._is_head_open and self._head_bytes > self._limits.head_bytes:
                self._refuse(431, self._head_too_large)

    def eof_received(self) -> bool:
        """A client that sends no more takes no more."""
        return False

    def pause_writing(self) -> None:
        """The client is behind."""
        self._writable = self._loop.create_future()
        if self._answer and self._answer.source:
            self._answer.source.pause_reading()
        self._wait_for(self._limits.write_seconds)

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
        if self._answer is None:
            self._wait_for(self._limits.idle_seconds)
            return
        self.due = NEVER
        if self._answer.source:
            self._answer.source.resume_reading()

    # Of the parser --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._part = _Part.HEAD

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """Take a header; those behind a chunked body say nothing we want to hear."""
        if self._is_head_open:
            headers = self._headers
            headers.append((name.lower(), value or b""))
            if len(headers) > self._limits.headers:
                # At once: the rest of ten thousand would be parsed for nothing, and all others wait meanwhile.
                raise _RefusedError(431, f"more than {self._limits.headers} headers")

    def on_headers_complete(self) -> None:
        """Refuse what is not clear or too large; then the body has its time."""
        self._is_head_open = False
        # Parts of the body may have come with it: only what is surely the head's counts.
        if self._head_bytes > self._limits.head_bytes and self._parsed_head_bytes > self._limits.head_bytes:
            raise _RefusedError(431, self._head_too_large)
        self._head_bytes = 0
        self._part = _Part.BODY
        parser, headers, limits = self._parser, self._headers, self._limits
        self._version = parser.get_http_version()
        if found := framing.problem(parser.get_method(), self._version, self._target, headers):
            raise _RefusedError(*found)
        for name, value in headers:
            if name == b"content-length" and int(value) > limits.body_bytes:
                raise _RefusedError(413, self._too_large)
            if name == b"expect" and value.lower() == b"100-continue" and self._answer is None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            raise _RefusedError(413, self._too_large)
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the request over, or let it wait for its turn."""
        target, parts = self._target, self._body
        if b"://" in target and not target.startswith(b"/"):
            target = b"/" + target.split(b"://", 1)[1].partition(b"/")[2]
        path = target.partition(b"?")[0].decode("latin-1")
        is_old = self._version == "1.0"
        request = Request(
            self._parser.get_method().decode("ascii"),
            unquote(path) if "%" in path else path,
            target,
            self._headers,
            parts[0] if len(parts) == 1 else b"".join(parts),
            time.monotonic(),
            is_old,
        )
        keeps_alive = not is_old and self._parser.should_keep_alive()
        self._is_head_open = True
        self._part = _Part.NONE
        self._head_bytes = self._body_bytes = 0
        self._target, self._headers, self._body = b"", [], []
        if self._answer is None:
            self._begin(request, keeps_alive=keeps_alive)
            return
        self._waiting.append((request, keeps_alive))
        if len(self._waiting) >= _PIPELINED and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()

    # Requests -------------------------------------------------------------------------------------------------------

    def _begin(self, request: Request, *, keeps_alive: bool) -> None:
        self.due = NEVER
        answer = self._answer = _Answer(self, self._transport, keeps_alive=keeps_alive)
        answer.is_bodiless = request.method == "HEAD"
        answer.is_old = request.is_old
        try:
            rest = self._handler(request, answer)
        except Exception:
            _log.exception("%s %s: the handler has a bug", request.method, request.path)
            answer.fail()
        else:
            self._run(answer, rest)

    def _run(self, answer: "_Answer", rest: Coroutine[Any, Any, None]) -> None:
        """Let what answers a request run as a task of this connection."""
        if answer.is_gone:
            rest.close()
            return
        task = self._loop.create_task(self._handle(answer, rest), name="request")
        if self._answer is answer:
            self._task = task
        self._state.tasks.add(task)

    async def _handle(self, answer: "_Answer", rest: Coroutine[Any, Any, None]) -> None:
        answer.has_begun = True
        try:
            if answer.is_gone:
                rest.close()
            else:
                await rest
        except ClientGoneError:
            answer.abort()
        except asyncio.CancelledError:
            answer.abort()
            if not answer.is_gone:
                raise
        except Exception:
            _log.exception("the handler of a request has a bug")
        finally:
            # Not by a callback of the task: the loop would have to call it.
            self._state.tasks.discard(cast(asyncio.Task[None], asyncio.current_task()))
        if not answer.is_ended and not answer.is_gone:
            answer.fail()

    def ended(self, *, keeps_alive: bool) -> None:
        """An answer has ended: the connection is free for the next request."""
        self._state.total_requests += 1
        self._answer = self._task = None
        if not keeps_alive or self._is_closing:
            self._is_closing = True
            if self._lingers:
                # A close on unread bytes is a reset, which takes the answer away from a client that still sends.
                self._transport.write_eof()
                self._wait_for(_LINGER_SECONDS)
            else:
                self._transport.close()
                self._wait_for(self._limits.write_seconds)
        elif self._waiting:
            request, keeps = self._waiting.popleft()
            if not self._is_reading:
                self._is_reading = True
                self._transport.resume_reading()
            self._begin(request, keeps_alive=keeps)
        else:
            self._wait_for(self._limits.idle_seconds)
            self._timed_part = _Part.NONE
            if self._part is not _Part.NONE:
                self._time_part()

    def shutdown(self) -> None:
        """End: at once between requests, else with the answer. Asked by uvicorn."""
        if self._answer is None:
            self._is_closing = True
            self._transport.close()
        else:
            self._close_after_answer()

    def _close_after_answer(self) -> None:
        if self._answer:
            self._answer.keeps_alive = False
            self._waiting.clear()
        else:
            self._is_closing = True
            self._transport.close()

    @property
    def _parsed_head_bytes(self) -> int:
        return len(self._target) + sum(len(name) + len(value) for name, value in self._headers)

    @property
    def _head_too_large(self) -> str:
        return f"request line and headers are over {self._limits.head_bytes} bytes"

    @property
    def _too_large(self) -> str:
        return f"the body is over {self._limits.body_bytes} bytes"

    @property
    def is_leaving(self) -> bool:
        """Whether answers ask their clients to go elsewhere for the next request."""
        return self._state.is_leaving

    @property
    def default_lines(self) -> bytes:
        """What the server adds to all answers: the date, written once a second."""
        headers = self._state.default_headers
        if self._date is None or self._date[0] is not headers:
            self._date = headers, b"".join(b"%b: %b\r\n" % each for each in headers)
        return self._date[1]

    async def writable(self) -> None:
        """Wait until the client is not behind.

        Raises:
            ClientGoneError: it left.
        """
        if self._writable:
            await asyncio.shield(self._writable)

    def _refuse(self, status: int, message: str) -> None:
        """Answer what is no request, and hang up: nobody knows where the next one would begin."""
        if self._answer:
            # It came behind a request that is being answered.
            self._close_after_answer()
            return
        self._lingers = True
        answer = self._answer = _Answer(self, self._transport, keeps_alive=False)
        answer.reply(status, bad_request(message), [JSON])

    # Time -----------------------------------------------------------------------------------------------------------

    def _wait_for(self, seconds: float) -> None:
        """Cut the connection if what it waits for has not happened by then."""
        self.due = self._loop.time() + seconds

    def _time_part(self) -> None:
        """Give the part of a request that is under way its time; while an answer is, its client may take that long."""
        self._timed_part = self._part
        if self._answer is None and not self._is_closing and self._part is not _Part.NONE:
            is_head = self._part is _Part.HEAD
            self._wait_for(self._limits.head_seconds if is_head else self._limits.body_seconds)

    def overdue(self, now: float) -> None:
        """What the connection waits for has not happened."""
        self.due = NEVER
        if self._answer is None and not self._is_closing and self._part is _Part.BODY:
            self._refuse(408, f"the body did not come within {self._limits.body_seconds:.0f} s")
        else:
            self._transport.abort()


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Answer(Answer):
    """Writes to the transport; the head goes out with the first bytes of the body."""

    has_begun = False
    """Its task runs: it may be cancelled. Before, what it would run has to be closed instead."""
    is_old = False
    _is_sized = False
    _left = -1

    def __init__(self, connection: HttpProtocol, transport: asyncio.Transport, *, keeps_alive: bool) -> None:
        self._connection = connection
        self._transport = transport
        self.keeps_alive = keeps_alive
        # Looked at with each piece of a stream: of the class that would cost more than it saves here.
        self.is_ended = self.is_gone = self.is_bodiless = self._is_chunked = False
        self.first_body_at = None
        self._head = b""

    async def drain(self) -> None:
        if self.is_gone:
            raise ClientGoneError
        await self._connection.writable()

    def abort(self) -> None:
        if not self.is_ended:
            self.is_ended = True
            self._transport.abort()

    def fail(self) -> None:
        """Answer for a handler that did not."""
        if self.status:
            self.abort()
        else:
            self.reply(500, bad_request("the server has a bug; its log says which", "internal_error"), [JSON])

    def _start(self, status: int, headers: list[Header]) -> None:
        connection = self._connection
        self._left = -1
        head = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in headers:
            if name in _OURS:
                continue
            if name == b"content-length":
                self._left = int(value)
            head.append(b"%b: %b\r\n" % (name, value))
        self._is_sized = self._left >= 0
        self.is_bodiless = self.is_bodiless or status in _BODILESS
        self._is_chunked = not (self._is_sized or self.is_bodiless or self.is_old)
        if self._is_chunked:
            head.append(b"transfer-encoding: chunked\r\n")
        if connection.is_leaving:
            self.keeps_alive = False
        if not self.keeps_alive:
            head.append(b"connection: close\r\n")
        lines = len(head)
        whole = b"".join(head)
        if whole.count(b"\n") != lines or whole.count(b"\r") != lines:
            raise ValueError(f"a header holds a line end: {whole!r}")
        self._head = b"%b%b\r\n" % (whole, connection.default_lines)

    def _write(self, data: bytes) -> None:
        if data and not (self.is_ended or self.is_gone or self.is_bodiless):
            head, self._head = self._head, b""
            if self._is_chunked:
                self._transport.write(b"%b%x\r\n%b\r\n" % (head, len(data), data))
                self.takes_chunks = True
            else:
                self._left -= len(data)
                self._transport.write(head + data if head else data)

    def write_chunk(self, chunk: bytes, body: bytes) -> None:
        if not (self.is_ended or self.is_gone):
            self.last = body
            self._transport.write(chunk)

    def _finish(self, data: bytes) -> None:
        if self.is_gone:
            return
        head, self._head = self._head, b""
        if self.is_bodiless:
            data = b""
        if self._is_chunked:
            data = b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n"
        else:
            self._left -= len(data)
        if last := head + data if head else data:
            self._transport.write(last)
        if self._is_sized and self._left and not self.is_bodiless:
            # Not what was promised: only the end of the connection says so.
            self.keeps_alive = False
        self._connection.ended(keeps_alive=self.keeps_alive)
