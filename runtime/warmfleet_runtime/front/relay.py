"""Passes a request to an engine's socket and the answer back, byte for byte, counting what goes by."""

import logging
import re
from dataclasses import dataclass
from typing import Protocol

from warmfleet_http import fallback
from warmfleet_http.answer import Answer
from warmfleet_http.connection import Exchange
from warmfleet_http.errors import BrokenError
from warmfleet_http.messages import Header
from warmfleet_http.pool import Asking, Patience, Pool
from warmfleet_runtime.front.admission import Place
from warmfleet_runtime.front.upstream import CONNECT_SECONDS, origin_of
from warmfleet_runtime.link import Route

STREAM = Patience(CONNECT_SECONDS, first_seconds=600.0, next_seconds=120.0)
"""How long an engine may take to begin a stream, and how long that may stand still: an engine that preempts a request
computes it anew meanwhile."""
WHOLE = Patience(CONNECT_SECONDS, first_seconds=3600.0, next_seconds=120.0)
"""The same of a complete answer, of which nothing is seen before it is there."""
MAX_ANSWER_BYTES = 256 * 1024 * 1024
"""Of a complete answer that stands in for a stream."""

_REQUEST_HEADERS = frozenset({b"accept", b"x-request-id", b"traceparent", b"tracestate"})
# Of every body that was read. vLLM refuses what curl says of one it is given by -d alone.
_OWN_HEADERS = ((b"host", b"engine"), (b"content-type", b"application/json"))
_BUSY_STATUSES = frozenset({429, 500, 503})
_EVENT_STREAM = (b"content-type", b"text/event-stream; charset=utf-8")
_TAIL_BYTES = 4096
_log = logging.getLogger("front.relay")
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d{1,12})')


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request on its way to the engine."""

    route: Route
    path: str
    headers: list[Header]
    """As they came from the client; few of them go on."""
    body: bytes
    stream: bool
    place: Place
    load: Header
    """Told with the answer: how busy the engine is."""


class Forward(Protocol):
    """Brings a request to an engine and the answer back."""

    async def __call__(self, request: Outgoing, answer: Answer) -> None:
        """Send the whole answer.

        Raises:
            UpstreamError: the engine did not answer, or broke off.
        """


class Relay:
    """Forwards to the engines' sockets."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def __call__(self, request: Outgoing, answer: Answer) -> None:
        """Forward one request; see `Forward`."""
        async with self._ask(request, request.body, STREAM if request.stream else WHOLE) as exchange:
            try:
                # The head waits for the body's first bytes: an answer that breaks before them can still be refused.
                await exchange.begun()
            except BrokenError as error:
                if error.timed_out or not (request.stream and exchange.is_stream):
                    raise
                _log.warning("a stream broke before its first byte (%s); asking for the complete answer", error)
            else:
                await _pass_on(exchange, request, answer)
                return
        await self._send_complete(request, answer)

    async def _send_complete(self, request: Outgoing, answer: Answer) -> None:
        """Ask for the complete answer instead, once, and send it as the stream that was asked for."""
        async with self._ask(request, fallback.without_stream(request.body), WHOLE) as exchange:
            whole = await exchange.whole(MAX_ANSWER_BYTES)
        if exchange.status == 200:
            _count_exactly(whole, request.place)
            answer.reply(200, fallback.as_stream(whole, request.body), [_EVENT_STREAM, request.load])
        else:
            answer.reply(exchange.status, whole, _without_length(_headers(exchange, request)))

    def _ask(self, request: Outgoing, body: bytes, patience: Patience) -> Asking:
        headers = [*_OWN_HEADERS, *(header for header in request.headers if header[0] in _REQUEST_HEADERS)]
        return self._pool.ask(
            origin_of(request.route), b"POST", request.path.encode(), headers, body, patience=patience
        )


async def _pass_on(exchange: Exchange, request: Outgoing, answer: Answer) -> None:
    place, tail = request.place, b""

    def keep_end(data: bytes) -> None:
        nonlocal tail
        tail = (tail + data)[-_TAIL_BYTES:] if len(data) < _TAIL_BYTES else data

    answer.start(exchange.status, _headers(exchange, request))
    if exchange.is_stream:
        await exchange.pipe(answer, place.saw_of_stream)
        tail = answer.last
    else:
        await exchange.pipe(answer, keep_end)
    _count_exactly(tail, place)


def _count_exactly(tail: bytes, place: Place) -> None:
    """Take the engine's own count where the answer ends with it; in a text of the answer its quotes are escaped."""
    if counts := _COMPLETION_TOKENS.findall(tail, max(0, len(tail) - _TAIL_BYTES)):
        place.tokens = int(counts[-1])


def _headers(exchange: Exchange, request: Outgoing) -> list[Header]:
    headers = [*exchange.headers, request.load]
    if exchange.status in _BUSY_STATUSES and exchange.header(b"retry-after") is None:
        headers.append((b"retry-after", b"1"))
    return headers


def _without_length(headers: list[Header]) -> list[Header]:
    return [header for header in headers if header[0] != b"content-length"]
