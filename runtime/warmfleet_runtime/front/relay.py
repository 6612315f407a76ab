"""Passes a request to an engine's socket and the answer back, byte for byte."""

import logging
import time

import aiohttp
import msgspec
from starlette.types import Scope, Send

from warmfleet_runtime.front import replies
from warmfleet_runtime.front.metrics import MeasuredRequest
from warmfleet_runtime.front.replies import openai_error
from warmfleet_runtime.front.upstream import Upstream
from warmfleet_runtime.link import Route

_REQUEST_HEADERS = {b"content-type", b"accept", b"x-request-id", b"traceparent", b"tracestate"}
# Those of the hop, and those the server sets itself.
_DROPPED_RESPONSE_HEADERS = {"connection", "keep-alive", "transfer-encoding", "date", "server", "upgrade", "trailer"}
_log = logging.getLogger("front.relay")


class Relay:
    """Forwards to the engines' sockets."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def __call__(self, route: Route, scope: Scope, body: bytes, measured: MeasuredRequest, send: Send) -> int:
        """Return the status that was sent; 503: nothing was sent, because the engine did not answer."""
        session = self._upstream.session(route.socket, route.attempt)
        started = time.monotonic()
        headers = {
            name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _REQUEST_HEADERS
        }
        try:
            response = await session.post(scope["path"], data=body, headers=headers)
        except TimeoutError:
            message = "the engine did not answer in time"
            await replies.reply(send, 504, openai_error(message, "timeout", "engine_timeout"))
            return 504
        except (aiohttp.ClientError, OSError):
            return 503
        async with response:
            await _pass_through(response, measured, started, send)
        return response.status


async def _pass_through(
    response: aiohttp.ClientResponse, measured: MeasuredRequest, started: float, send: Send
) -> None:
    headers = [
        (name.lower().encode(), value.encode("latin-1"))
        for name, value in response.headers.items()
        if name.lower() not in _DROPPED_RESPONSE_HEADERS
    ]
    await replies.write(send, {"type": "http.response.start", "status": response.status, "headers": headers})
    last = b"\n\n"
    try:
        async for chunk in response.content.iter_any():
            if not measured.first_token_seconds:
                measured.first_token_seconds = time.monotonic() - started
            last = chunk[-2:]
            await replies.write(send, {"type": "http.response.body", "body": chunk, "more_body": True})
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        _log.warning("an engine broke off its answer: %r", error)
        # Any other body is left unfinished, which cuts the connection: nobody can take it for the whole.
        if response.content_type == "text/event-stream":
            await _end_stream(send, is_between_events=last == b"\n\n")
        return
    await replies.write(send, {"type": "http.response.body", "body": b""})


async def _end_stream(send: Send, *, is_between_events: bool) -> None:
    """End the event that was begun, then say what happened; without [DONE] no client takes it for complete."""
    error = openai_error("the engine ended before its answer did", "server_error", "engine_lost")
    event = b"data: " + msgspec.json.encode(error) + b"\n\n"
    body = event if is_between_events else b"\n\n" + event
    await replies.write(send, {"type": "http.response.body", "body": body})
