"""Passes a request to an engine's socket and the answer back, byte for byte, counting what goes by."""

import logging
import re
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Message, Scope, Send

from warmfleet_runtime.front import fallback
from warmfleet_runtime.front.admission import Place
from warmfleet_runtime.front.exchange import Connection, EngineLostError, Header
from warmfleet_runtime.front.replies import is_event_stream
from warmfleet_runtime.front.upstream import Upstream
from warmfleet_runtime.front.watch import CLIENT, Wait, Watch
from warmfleet_runtime.link import Route

FIRST_BYTES_SECONDS = 600.0
"""How long an engine may take to begin a stream."""
NEXT_BYTES_SECONDS = 120.0
"""How long an answer may stand still: an engine that preempts a request computes it anew meanwhile."""
WHOLE_SECONDS = 3600.0
"""How long a complete answer may take, of which nothing is seen before it is there."""

_REQUEST_HEADERS = frozenset({b"accept", b"x-request-id", b"traceparent", b"tracestate"})
# Of every body that was read. vLLM refuses what curl says of one it is given by -d alone.
_JSON = (b"content-type", b"application/json")
# Those of the hop, and those the server sets itself.
_DROPPED_RESPONSE_HEADERS = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"date", b"server", b"upgrade", b"trailer"}
)
_BUSY_STATUSES = frozenset({429, 500, 503})
_TAIL_BYTES = 4096
_log = logging.getLogger("front.relay")
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d{1,12})')


class EngineTimeoutError(Exception):
    """The engine did not answer in time; the message says what was waited for."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request on its way to the engine."""

    route: Route
    scope: Scope
    body: bytes
    stream: bool
    place: Place
    watch: Watch


class Forward(Protocol):
    """Brings a request to an engine and the answer back."""

    async def __call__(self, request: Outgoing, send: Send) -> None:
        """Send the whole answer.

        Raises:
            EngineLostError: the engine did not answer, or broke off.
        """


def _too_late(what: str, seconds: float) -> Wait:
    return Wait(seconds, lambda: EngineTimeoutError(f"the engine did not {what} within {seconds:.0f} s"))


_FIRST_BYTES = _too_late("begin its answer", FIRST_BYTES_SECONDS)
_NEXT_BYTES = _too_late("go on with its answer", NEXT_BYTES_SECONDS)
_WHOLE = _too_late("answer", WHOLE_SECONDS)


class Relay:
    """Forwards to the engines' sockets."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def __call__(self, request: Outgoing, send: Send) -> None:
        """Forward one request; see `Forward`. Its watch ends what takes too long."""
        request.watch.wait(_FIRST_BYTES if request.stream else _WHOLE)
        async with self._ask(request, request.body) as connection:
            try:
                # The head waits for the body's first bytes: an answer that breaks before them can still be refused.
                first = await connection.read()
            except EngineLostError as error:
                if not (request.stream and is_event_stream(_start(connection))):
                    raise
                _log.warning("a stream broke before its first byte (%s); asking for the complete answer", error)
            else:
                await _pass_on(connection, first, request, send)
                return
        await self._send_complete(request, send)

    async def _send_complete(self, request: Outgoing, send: Send) -> None:
        """Ask for the complete answer instead, once, and send it as the stream that was asked for."""
        request.watch.wait(_WHOLE)
        async with self._ask(request, fallback.without_stream(request.body)) as connection:
            answer = b""
            while chunk := await connection.read():
                answer += chunk
            start = _start(connection)
        if connection.status == 200:
            _count_exactly(answer, request.place)
            answer = fallback.as_stream(answer, request.body)
            start["headers"] = [(b"content-type", b"text/event-stream; charset=utf-8")]
        request.watch.wait(CLIENT)
        await send(start)
        await send({"type": "http.response.body", "body": answer})

    def _ask(self, request: Outgoing, body: bytes) -> AbstractAsyncContextManager[Connection]:
        route, scope = request.route, request.scope
        headers = [_JSON, *(header for header in scope["headers"] if header[0] in _REQUEST_HEADERS)]
        return self._upstream.exchange(route.socket, route.attempt, scope["path"], headers, body)


async def _pass_on(connection: Connection, chunk: bytes, request: Outgoing, send: Send) -> None:
    watch, saw = request.watch, request.place.saw
    start = _start(connection)
    watch.wait(CLIENT)
    await send(start)
    is_stream = is_event_stream(start)
    tail = b""
    while chunk:
        if is_stream:
            # An event ends with an empty line, and JSON has no line ends of its own: events can be counted unread.
            saw(chunk.count(b"\n\n"))
            tail = chunk
        else:
            tail = (tail + chunk)[-_TAIL_BYTES:] if len(chunk) < _TAIL_BYTES else chunk
        watch.wait(CLIENT)
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        watch.wait(_NEXT_BYTES)
        chunk = await connection.read()
    _count_exactly(tail, request.place)
    watch.wait(CLIENT)
    await send({"type": "http.response.body", "body": b""})


def _count_exactly(tail: bytes, place: Place) -> None:
    """Take the engine's own count where the answer ends with it; in a text of the answer its quotes are escaped."""
    if counts := _COMPLETION_TOKENS.findall(tail, max(0, len(tail) - _TAIL_BYTES)):
        place.tokens = int(counts[-1])


def _start(connection: Connection) -> Message:
    headers: list[Header] = [header for header in connection.headers if header[0] not in _DROPPED_RESPONSE_HEADERS]
    if connection.status in _BUSY_STATUSES and not any(name == b"retry-after" for name, _ in headers):
        headers.append((b"retry-after", b"1"))
    return {"type": "http.response.start", "status": connection.status, "headers": headers}
