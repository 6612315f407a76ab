"""One client's connection, read and written by callbacks: the parser's events become requests, handlers write bytes.

A request is handed over once it is whole, so a handler never waits for its client but in `drain`. The next request of a
connection begins when the answer to the last has ended. Reading goes on meanwhile, because that is how a client that
leaves is noticed.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import cast
from urllib.parse import unquote

import httptools
from uvicorn.server import ServerState

from warmfleet_http import framing
from warmfleet_http.answer import Answer
from warmfleet_http.errors import ClientGoneError
from warmfleet_http.messages import Header, Limits, Request
from warmfleet_http.replies import JSON, bad_request

Handler = Callable[[Request, Answer], Awaitable[None]]
"""Answers one request. It is cancelled when the client leaves."""

_PIPELINED = 8
"""How many requests of one connection may wait for their turn; beyond it nothing more is read."""
_LINGER_SECONDS = 2.0
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_BODILESS = frozenset({204, 304})
_OURS = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server", b"upgrade", b"trailer"})
"""Headers of an answer that the connection itself decides."""
_log = logging.getLogger("http")


class HttpProtocol(asyncio.Protocol):
    """A connection of uvicorn's server: it adds itself to the server's state, and knows how to shut down."""

    def __init__(self, handler: Handler, limits: Limits, state: ServerState) -> None:
        self._handler = handler
        self._limits = limits
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._target = b""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._is_head_open = True
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._waiting: deque[tuple[Request, bool]] = deque()
        self._answer: _Answer | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_closing = False
        self._lingers = False
        self._is_reading = True
        self._writable: asyncio.Future[None] | None = None
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    # Of the transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected: a request is expected soon."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._limits.buffered_bytes)
        self._state.connections.add(self)  # type: ignore[arg-type] # it names its own
        self._wait_until(self._limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client left, or we let it go."""
        self._state.connections.discard(self)
        self._is_closing = True
        self._due = None
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._waiting.clear()
        if self._writable and not self._writable.done():
            self._writable.set_exception(ClientGoneError())
            self._writable.exception()  # whoever waited may have left
        if self._answer and not self._answer.is_ended:
            self._answer.is_gone = True
            if self._task:
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
                self._refuse(431, f"request line and headers are over {self._limits.head_bytes} bytes")

    def eof_received(self) -> bool:
        """A client that sends no more takes no more."""
        return False

    def pause_writing(self) -> None:
        """The client is behind."""
        self._writable = self._loop.create_future()
        if self._answer and self._answer.source:
            self._answer.source.pause_reading()
        self._wait_until(self._limits.write_seconds)

    def resume_writing(self) -> None:
        """It has caught up."""
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
        if self._answer is None:
            self._wait_until(self._limits.idle_seconds)
            return
        self._due = None
        if self._answer.source:
            self._answer.source.resume_reading()

    # Of the parser --------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A request begins."""
        self._target = b""
        self._headers = []
        self._body = []
        self._body_bytes = 0
        self._is_head_open = True
        if self._answer is None:
            self._wait_until(self._limits.head_seconds)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """Take a header; those behind a chunked body say nothing we want to hear."""
        if not self._is_head_open:
            return
        if len(self._headers) >= self._limits.headers:
            raise _RefusedError(431, f"more than {self._limits.headers} headers")
        self._headers.append((name.lower(), value or b""))

    def on_headers_complete(self) -> None:
        """Refuse what is not clear; then the body has its time."""
        self._is_head_open = False
        self._head_bytes = 0
        parser = self._parser
        if found := framing.problem(parser.get_method(), parser.get_http_version(), self._target, self._headers):
            raise _RefusedError(*found)
        for name, value in self._headers:
            if name == b"content-length" and int(value) > self._limits.body_bytes:
                raise _RefusedError(413, self._too_large)
            if name == b"expect" and value.lower() == b"100-continue" and self._answer is None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._answer is None:
            self._wait_until(self._limits.body_seconds)

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._body_bytes += len(body)
        if self._body_bytes > self._limits.body_bytes:
            raise _RefusedError(413, self._too_large)
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Hand the request over, or let it wait for its turn."""
        parser, target = self._parser, self._target
        self._is_head_open = True
        self._head_bytes = 0
        if b"://" in target and not target.startswith(b"/"):
            target = b"/" + target.split(b"://", 1)[1].partition(b"/")[2]
        path = target.partition(b"?")[0].decode("latin-1")
        request = Request(
            method=parser.get_method().decode("ascii"),
            path=unquote(path) if "%" in path else path,
            target=target,
            headers=self._headers,
            body=self._body[0] if len(self._body) == 1 else b"".join(self._body),
            arrived=time.monotonic(),
            is_old=parser.get_http_version() == "1.0",
        )
        self._body = []
        keeps_alive = parser.get_http_version() == "1.1" and parser.should_keep_alive()
        if self._answer is None:
            self._begin(request, keeps_alive=keeps_alive)
            return
        self._waiting.append((request, keeps_alive))
        if len(self._waiting) >= _PIPELINED and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()

    # Requests -------------------------------------------------------------------------------------------------------

    def _begin(self, request: Request, *, keeps_alive: bool) -> None:
        self._due = None
        answer = self._answer = _Answer(self, self._transport, keeps_alive=keeps_alive)
        answer.is_bodiless = request.method == "HEAD"
        answer.is_old = request.is_old
        task = self._task = self._loop.create_task(self._handle(request, answer), name="request")
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    async def _handle(self, request: Request, answer: "_Answer") -> None:
        try:
            await self._handler(request, answer)
        except ClientGoneError:
            answer.abort()
        except asyncio.CancelledError:
            answer.abort()
            if not answer.is_gone:
                raise
        except Exception:
            _log.exception("%s %s: the handler has a bug", request.method, request.path)
        if not answer.is_ended:
            if answer.status:
                answer.abort()
            else:
                answer.reply(500, bad_request("the server has a bug; its log says which", "internal_error"), [JSON])

    def ended(self, *, keeps_alive: bool) -> None:
        """An answer has ended: the connection is free for the next request."""
        self._state.total_requests += 1
        self._answer = None
        if not keeps_alive or self._is_closing:
            self._is_closing = True
            if self._lingers:
                # A close on unread bytes is a reset, which takes the answer away from a client that still sends.
                self._transport.write_eof()
                self._wait_until(_LINGER_SECONDS)
            else:
                self._transport.close()
                self._wait_until(self._limits.write_seconds)
        elif self._waiting:
            request, keeps = self._waiting.popleft()
            if not self._is_reading:
                self._is_reading = True
                self._transport.resume_reading()
            self._begin(request, keeps_alive=keeps)
        else:
            self._wait_until(self._limits.idle_seconds)

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
    def _too_large(self) -> str:
        return f"the body is over {self._limits.body_bytes} bytes"

    @property
    def default_headers(self) -> list[Header]:
        """What the server adds to all answers: the date, written once a second."""
        return self._state.default_headers

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

    def _wait_until(self, seconds: float) -> None:
        """Cut the connection if what it waits for has not happened by then; one timer looks after all of it."""
        due = self._due = self._loop.time() + seconds
        if self._timer is None or due < self._timer_at:
            self._arm(due)

    def _arm(self, due: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._loop.time() < self._due:
            self._arm(self._due)
        elif self._answer is None and not self._is_closing and not self._is_head_open:
            self._refuse(408, f"the body did not come within {self._limits.body_seconds:.0f} s")
        else:
            self._transport.abort()


class _RefusedError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Answer(Answer):
    """Writes to the transport; the head goes out with the first bytes of the body."""

    __slots__ = (
        "_connection",
        "_head",
        "_is_chunked",
        "_is_sized",
        "_left",
        "_transport",
        "is_bodiless",
        "is_old",
        "keeps_alive",
    )

    def __init__(self, connection: HttpProtocol, transport: asyncio.Transport, *, keeps_alive: bool) -> None:
        super().__init__()
        self._connection = connection
        self._transport = transport
        self._head = b""
        self.is_bodiless = False
        self.is_old = False
        self._is_chunked = self._is_sized = False
        self._left = -1
        self.keeps_alive = keeps_alive

    async def drain(self) -> None:
        if self.is_gone:
            raise ClientGoneError
        await self._connection.writable()

    def abort(self) -> None:
        if not self.is_ended:
            self.is_ended = True
            self._transport.abort()

    def _start(self, status: int, headers: list[Header]) -> None:
        head = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in self._connection.default_headers:
            head += (name, b": ", value, b"\r\n")
        for name, value in headers:
            if name in _OURS:
                continue
            if name == b"content-length":
                self._left = int(value)
            head += (name, b": ", value, b"\r\n")
        self._is_sized = self._left >= 0
        self.is_bodiless = self.is_bodiless or status in _BODILESS
        if not self._is_sized and not self.is_bodiless and not self.is_old:
            self._is_chunked = True
            head.append(b"transfer-encoding: chunked\r\n")
        if not self.keeps_alive:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        self._head = b"".join(head)

    def _write(self, data: bytes) -> None:
        if data and not (self.is_ended or self.is_gone or self.is_bodiless):
            self._transport.write(self._take_head() + self._framed(data))

    def _finish(self, data: bytes) -> None:
        if self.is_gone:
            return
        end = b"0\r\n\r\n" if self._is_chunked else b""
        if last := self._take_head() + self._framed(data) + end:
            self._transport.write(last)
        if self._is_sized and self._left and not self.is_bodiless:
            # Not what was promised: only the end of the connection says so.
            self.keeps_alive = False
        self._connection.ended(keeps_alive=self.keeps_alive)

    def _framed(self, data: bytes) -> bytes:
        """Return a piece of the body as it goes over the wire."""
        if not data or self.is_bodiless:
            return b""
        if self._is_chunked:
            return b"%x\r\n%b\r\n" % (len(data), data)
        self._left -= len(data)
        return data

    def _take_head(self) -> bytes:
        """Return the head if it was not sent."""
        head, self._head = self._head, b""
        return head
