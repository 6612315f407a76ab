"""The OpenAI-compatible API: finds the engine by `model` and passes bytes through, both ways.

A client that leaves takes its request with it: the connection to the engine is closed, which frees its slot there.
"""

import asyncio
from typing import Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from warmfleet_runtime.front import replies
from warmfleet_runtime.front.board import Board
from warmfleet_runtime.front.metrics import MeasuredRequest, RequestMetrics
from warmfleet_runtime.front.replies import ClientGoneError
from warmfleet_runtime.link import Route

FORWARDED_PATHS = frozenset(
    {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"},
)
MAX_BODY_BYTES = 32 * 1024 * 1024
BODY_SECONDS = 60.0


class _Body(msgspec.Struct):
    model: str


_decode_body = msgspec.json.Decoder(_Body).decode


class Forward(Protocol):
    """Brings a request to an engine and the answer back."""

    async def __call__(self, route: Route, scope: Scope, body: bytes, measured: MeasuredRequest, send: Send) -> int:
        """Return the status that was sent; 503: nothing was sent, because the engine did not answer."""


class Api:
    """ASGI application of the API port."""

    def __init__(self, board: Board, forward: Forward, metrics: RequestMetrics) -> None:
        self._board = board
        self._forward_to_engine = forward
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self._answer(scope, receive, send)
        except ClientGoneError:
            return

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        expected = "POST" if path in FORWARDED_PATHS else "GET"
        if path not in FORWARDED_PATHS and path not in {"/v1/models", "/health"}:
            await replies.reply_bad_request(send, f"no such path: {path}", "not_found", 404)
        elif scope["method"] != expected:
            await replies.reply_bad_request(send, f"{path} takes {expected}", "method_not_allowed", 405)
        elif path == "/health":
            await replies.reply(send, 200 if self._board.is_ready else 503, b"", content_type="text/plain")
        elif path == "/v1/models":
            await replies.reply(send, 200, model_list(self._board.served_names))
        else:
            await self._forward(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive, send)
        if body is None:
            return
        try:
            model = _decode_body(body).model
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            await replies.reply_bad_request(send, f"the body has to be a JSON object with `model`: {error}")
            return
        found = self._board.find(model)
        if found is None:
            await replies.reply_unknown_model(send, model, self._board.served_names)
            return
        key, route = found
        if not route.accepts:
            await self._reply_not_ready(send, key, model)
            return
        with self._board.request(key, route.attempt), self._metrics.request(route.engine.model) as measured:
            forwarding = self._forward_to_engine(route, scope, body, measured, send)
            status = await replies.unless_client_leaves(forwarding, receive)
            measured.code = "cancelled" if status is None else str(status)
            if status == 503:
                await self._reply_not_ready(send, key, model, "the engine closed the connection before it answered")

    async def _reply_not_ready(self, send: Send, key: str, model: str, reason: str = "") -> None:
        status = self._board.engine_status(key)
        await replies.reply_not_ready(
            send, model, status.state, reason or (status.error.message if status.error else "")
        )


def model_list(served_names: list[str]) -> dict[str, object]:
    """Return the body of `/v1/models`."""
    models = [{"id": name, "object": "model", "created": 0, "owned_by": "warmfleet"} for name in sorted(served_names)]
    return {"object": "list", "data": models}


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
                    await replies.reply_bad_request(
                        send, f"the body is over {MAX_BODY_BYTES} bytes", "body_too_large", 413
                    )
                    return None
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        await replies.reply_bad_request(send, f"the body did not come within {BODY_SECONDS:.0f} s", "body_timeout", 408)
        return None
