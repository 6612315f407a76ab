"""Small answers over plain ASGI: of the status port and the Simulated engine."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive, Send

from warmfleet_http.errors import ClientGoneError
from warmfleet_http.replies import openai_error

T = TypeVar("T")
WRITE_SECONDS = 60.0
"""A client that takes nothing for this long is cut off."""
MAX_BODY_BYTES = 32 * 1024 * 1024
BODY_SECONDS = 60.0


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


async def read_body(receive: Receive, send: Send) -> bytes | None:
    """Read a whole body; None if it was refused or the client left meanwhile."""
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > MAX_BODY_BYTES:
                    await reply_bad_request(send, f"the body is over {MAX_BODY_BYTES} bytes", "body_too_large", 413)
                    return None
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        await reply_bad_request(send, f"the body did not come within {BODY_SECONDS:.0f} s", "body_timeout", 408)
        return None
