"""Errors in OpenAI's shape, and the answers a server gives before any handler is asked."""

from typing import Any

import msgspec

JSON = (b"content-type", b"application/json")
DONE = b"data: [DONE]\n\n"
"""The last event of a whole stream."""


def openai_error(message: str, kind: str, code: str, param: str | None = None) -> dict[str, Any]:
    """Return an error body as OpenAI's clients read it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad_request(message: str, code: str = "invalid_request") -> bytes:
    """Return the body of an answer to a request that can't be served whatever the state of the server."""
    return msgspec.json.encode(openai_error(message, "invalid_request_error", code))


def broken_stream(message: str) -> bytes:
    """Return the last event of a stream that ends before its answer does; no `[DONE]` follows it."""
    return b"data: " + msgspec.json.encode(openai_error(message, "server_error", "engine_lost")) + b"\n\n"
