"""Small answers over plain ASGI, and errors in OpenAI's shape."""

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.types import Message, Receive, Send

from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState
from warmfleet_runtime.admission import Refused

T = TypeVar("T")
WRITE_SECONDS = 60.0
"""A client that takes nothing for this long is cut off."""


class ClientGoneError(Exception):
    """The client closed the connection, or reads nothing."""


class Answer:
    """Where an answer is sent to, and what went there so far: an ASGI `send`."""

    __slots__ = ("_is_stream", "_last", "_send", "first_body_at", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._is_stream = False
        self._last = b""
        self.status = 0
        """0: nothing was sent yet."""
        self.first_body_at: float | None = None
        """Monotonic seconds."""

    async def __call__(self, message: Message) -> None:
        """Send one ASGI message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._is_stream = is_event_stream(message)
        elif body := message.get("body", b""):
            self._last = body
            if self.first_body_at is None:
                self.first_body_at = time.monotonic()
        await self._send(message)

    async def break_off(self, message: str) -> None:
        """End an answer that has begun and will not be whole.

        A stream ends with an error as its last event, and without [DONE]: no client takes it for complete. Any other
        answer is left unfinished, which cuts the connection.
        """
        if self._is_stream:
            event = b"data: " + msgspec.json.encode(openai_error(message, "server_error", "engine_lost")) + b"\n\n"
            body = event if self._last.endswith(b"\n\n") or not self._last else b"\n\n" + event
            await write(self._send, {"type": "http.response.body", "body": body})


def is_event_stream(start: Message) -> bool:
    """Whether an answer begins as a stream of server-sent events."""
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in start["headers"])


def openai_error(message: str, kind: str, code: str) -> dict[str, Any]:
    """Return an error body as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


async def reply(
    send: Send, status: int, body: Any, headers: Mapping[str, str] | None = None, content_type: str = "application/json"
) -> None:
    """Send a whole answer; bytes as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    fields = {"content-type": content_type, "content-length": str(len(content)), **(headers or {})}
    encoded = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await write(send, {"type": "http.response.start", "status": status, "headers": encoded})
    await write(send, {"type": "http.response.body", "body": content})


async def write(send: Send, message: dict[str, Any]) -> None:
    """Send one ASGI message.

    Raises:
        ClientGoneError: the client takes nothing.
    """
    try:
        async with asyncio.timeout(WRITE_SECONDS):
            await send(message)
    except TimeoutError:
        raise ClientGoneError from None


async def unless_client_leaves(work: Coroutine[None, None, T], receive: Receive) -> T | None:
    """Do the work of a request; end it when the client leaves, and return None then. The body must have been read."""
    working = asyncio.create_task(work, name="request")
    leaving = asyncio.create_task(_until_disconnect(receive), name="client")
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def reply_bad_request(send: Send, message: str, code: str = "invalid_request", status: int = 400) -> None:
    """Refuse what the client sent."""
    await reply(send, status, openai_error(message, "invalid_request_error", code))


async def reply_unknown_model(send: Send, model: str, served: Iterable[str]) -> None:
    """Refuse a model that is not served here, and name those that are."""
    known = ", ".join(sorted(served)) or "none"
    await reply_bad_request(send, f"model {model!r} is not served here; served: {known}", "model_not_found", 404)


async def reply_refused(send: Send, refused: Refused) -> None:
    """Say that the queue does not serve a request."""
    kind = "rate_limit_error" if refused.status == 429 else "invalid_request_error"
    headers = {"retry-after": str(refused.retry_after_seconds)} if refused.retry_after_seconds is not None else {}
    await reply(send, refused.status, openai_error(refused.message, kind, refused.code), headers)


async def reply_not_ready(send: Send, model: str, state: EngineState, reason: str = "") -> None:
    """Say that the engine does not take requests now, and when to ask again."""
    message = f"model {model!r} is {state}" + (f": {reason}" if reason else "")
    # A draining engine has or gets a successor behind the same Service; a starting one takes seconds at least.
    headers = {"retry-after": "1" if state is EngineState.DRAINING else "5", names.HEADER_STATE: state}
    await reply(send, 503, openai_error(message, "service_unavailable", "model_not_ready"), headers)
