"""The same handlers over plain ASGI: slower, and independent of how we read and write connections.

uvicorn's own protocol reads the request, with bounds added; an answer is what ASGI's `send` makes of it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from warmfleet_http import framing
from warmfleet_http.answer import Answer
from warmfleet_http.errors import ClientGoneError
from warmfleet_http.messages import Header, Limits, Request
from warmfleet_http.protocol import Handler
from warmfleet_http.replies import JSON, bad_request

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_ABORT, _SERVER = "abort", "server"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_HOP = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server", b"upgrade", b"trailer"})
_log = logging.getLogger("http.asgi")


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a bound on the size of request line and headers, and on the time they take."""

    limits = Limits()
    _head_bytes = 0
    _is_head_open = False
    _head_timer: asyncio.TimerHandle | None = None
    _takes_headers = True

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that is not complete yet."""
        if self._head_timer is None and self._head_bytes == 0 and self._is_between_requests():
            self._head_timer = self.loop.call_later(self.limits.head_seconds, self._give_up)
            self._is_head_open = True
        super().data_received(data)
        if self._is_head_open:
            self._head_bytes += len(data)
            if self._head_bytes > self.limits.head_bytes:
                self.transport.write(_TOO_LARGE)
                self._give_up()

    def on_message_begin(self) -> None:
        """A request begins: let the application cut its connection, see `cut_off`."""
        super().on_message_begin()
        self._takes_headers = True
        self.scope["state"] |= {_ABORT: self.transport.abort, _SERVER: self.server_state}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; those behind a chunked body are none."""
        if self._takes_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete: what follows is bounded by the application."""
        self._takes_headers = False
        self._close_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._close_head()
        super().connection_lost(exc)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_head(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
        self._head_timer = None
        self._head_bytes = 0
        self._is_head_open = False

    def _give_up(self) -> None:
        self._close_head()
        self.transport.close()


def cut_off(scope: Any) -> None:
    """Close a request's connection without sending what its client does not take: a mere close would wait for that."""
    if abort := scope.get("state", {}).get(_ABORT):
        abort()


class AsgiHandler:
    """An ASGI application around a handler."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        self._handler = handler
        self._limits = limits

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request."""
        assert scope["type"] == "http"
        answer = _Answer(send, scope, self._limits)
        pump = asyncio.create_task(answer.pump(), name="answer")
        try:
            await self._serve(scope, receive, answer)
            await pump
        except ClientGoneError:
            answer.abort()
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    async def _serve(self, scope: Any, receive: Receive, answer: "_Answer") -> None:
        request = await self._read(scope, receive, answer)
        if request is None:
            return
        task = asyncio.current_task()
        assert task is not None
        leaving = asyncio.create_task(_until_client_leaves(receive, answer, task), name="client")
        try:
            await self._handler(request, answer)
        except asyncio.CancelledError:
            answer.abort()
            if not answer.is_gone or task.uncancel():
                raise
        except ClientGoneError:
            answer.abort()
        except Exception:
            _log.exception("%s %s: the handler has a bug", request.method, request.path)
        finally:
            leaving.cancel()
        if not answer.is_ended:
            if answer.status:
                answer.abort()
            else:
                answer.reply(500, bad_request("the server has a bug; its log says which", "internal_error"), [JSON])

    async def _read(self, scope: Any, receive: Receive, answer: "_Answer") -> Request | None:
        """Return the whole request; None: it was refused, or the client left."""
        headers: list[Header] = list(scope["headers"])
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        if found := framing.problem(scope["method"].encode(), scope["http_version"], target, headers):
            _refuse(answer, *found)
        elif len(headers) > self._limits.headers:
            _refuse(answer, 431, f"more than {self._limits.headers} headers")
        elif len(target) + sum(len(name) + len(value) for name, value in headers) > self._limits.head_bytes:
            # It came whole at once: what came before its end was within the bound.
            _refuse(answer, 431, f"request line and headers are over {self._limits.head_bytes} bytes")
        else:
            body = await self._read_body(receive, answer)
            if body is not None:
                return Request(scope["method"], scope["path"], target, headers, body, time.monotonic())
        return None

    async def _read_body(self, receive: Receive, answer: "_Answer") -> bytes | None:
        parts: list[bytes] = []
        size, limits = 0, self._limits
        try:
            async with asyncio.timeout(limits.body_seconds):
                while True:
                    message: Any = await receive()
                    if message["type"] == "http.disconnect":
                        answer.is_gone = True
                        answer.abort()
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limits.body_bytes:
                        _refuse(answer, 413, f"the body is over {limits.body_bytes} bytes")
                        return None
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            _refuse(answer, 408, f"the body did not come within {limits.body_seconds:.0f} s")
            return None


def _refuse(answer: Answer, status: int, message: str) -> None:
    answer.reply(status, bad_request(message), [JSON, (b"connection", b"close")])


class _Answer(Answer):
    """Puts ASGI's messages in a line, which a task sends."""

    def __init__(self, send: Send, scope: Any, limits: Limits) -> None:
        self._send = send
        self._scope = scope
        self._limits = limits
        self._line: deque[dict[str, Any]] = deque()
        self._waiting_bytes = 0
        self._more = asyncio.Event()
        self._caught_up = asyncio.Event()
        self._caught_up.set()

    async def pump(self) -> None:
        """Send what is in the line until the answer has ended."""
        try:
            while self._line or not self.is_ended:
                if not self._line:
                    self._more.clear()
                    await self._more.wait()
                    continue
                message = self._line.popleft()
                async with asyncio.timeout(self._limits.write_seconds):
                    await self._send(message)
                self._waiting_bytes -= len(message.get("body", b""))
                if self._waiting_bytes <= self._limits.buffered_bytes:
                    self._go_on()
        except TimeoutError:
            self.is_gone = True
            self.abort()
        finally:
            self._go_on()

    async def drain(self) -> None:
        await self._caught_up.wait()
        if self.is_gone:
            raise ClientGoneError

    def abort(self) -> None:
        if not self.is_ended:
            self.is_ended = True
            self._line.clear()
            self._more.set()
            cut_off(self._scope)

    def _start(self, status: int, headers: list[Header]) -> None:
        for name, value in headers:
            if b"\n" in value or b"\r" in value or b"\n" in name or b"\r" in name:
                raise ValueError(f"header {name!r} holds a line end")
        kept = [each for each in headers if each[0] not in _HOP or each == (b"connection", b"close")]
        server = self._scope.get("state", {}).get(_SERVER)
        if server is not None and server.is_leaving:
            kept.append((b"connection", b"close"))
        self._add({"type": "http.response.start", "status": status, "headers": kept})

    def _write(self, data: bytes) -> None:
        if self.is_ended or self.is_gone:
            return
        self._waiting_bytes += len(data)
        self._add({"type": "http.response.body", "body": data, "more_body": True})
        if self._waiting_bytes > self._limits.buffered_bytes and self._caught_up.is_set():
            self._caught_up.clear()
            if self.source:
                self.source.pause_reading()

    def _finish(self, data: bytes) -> None:
        self._waiting_bytes += len(data)
        self._add({"type": "http.response.body", "body": data})

    def _add(self, message: dict[str, Any]) -> None:
        self._line.append(message)
        self._more.set()

    def _go_on(self) -> None:
        if not self._caught_up.is_set():
            self._caught_up.set()
            if self.source:
                self.source.resume_reading()


async def _until_client_leaves(receive: Receive, answer: _Answer, task: "asyncio.Task[None]") -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    if answer.is_gone or not answer.is_ended:
        answer.is_gone = True
        task.cancel()
