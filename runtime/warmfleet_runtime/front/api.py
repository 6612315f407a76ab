"""The OpenAI-compatible API: who asks for what, its place in the engine's queue, and the answer.

    parse → find the engine by `model` → class and tenant → queue → engine → answer, byte for byte

A client that leaves takes its request with it, wherever it is by then; one that reads nothing is cut off.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from warmfleet_api.vocabulary import EngineState
from warmfleet_runtime.admission import Request
from warmfleet_runtime.front import openapi, replies, request
from warmfleet_runtime.front.admission import Admission, NotReadyError, Place, RefusedError
from warmfleet_runtime.front.board import Board, ServedName, WarmUp
from warmfleet_runtime.front.exchange import EngineLostError
from warmfleet_runtime.front.metrics import MeasuredRequest, RequestMetrics
from warmfleet_runtime.front.relay import EngineTimeoutError, Forward, Outgoing
from warmfleet_runtime.front.replies import Answer, ClientGoneError
from warmfleet_runtime.front.request import BadRequest, ParsedRequest
from warmfleet_runtime.front.server import cut_off
from warmfleet_runtime.front.trust import Sender, Trust
from warmfleet_runtime.front.watch import Watch
from warmfleet_runtime.link import Route

FORWARDED_PATHS = frozenset(request.PATHS)
MAX_BODY_BYTES = 32 * 1024 * 1024
BODY_SECONDS = 60.0
UNKNOWN_CONTEXT_TOKENS = 8192
"""Taken for the context of a model of which neither its assignment nor its engine tells it."""


class Api:
    """ASGI application of the API port."""

    def __init__(self, board: Board, forward: Forward, metrics: RequestMetrics) -> None:
        self._board = board
        self._forward_to_engine = forward
        self._metrics = metrics
        self._trust = Trust()
        self.admission = Admission(board)

    def follow(self) -> None:
        """Take over a new table of the board."""
        table = self._board.table
        self._trust.follow(table.status.pod_uid, table.trusted_keys)
        self.admission.follow(reserves=self._trust.has_keys)

    def turn_away(self) -> None:
        """Refuse all that wait."""
        for queue in self.admission.queues.values():
            queue.turn_away()

    async def close(self) -> None:
        """End what is under way."""
        await self.admission.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            await self._answer(scope, receive, send)
        except ClientGoneError:
            cut_off(scope)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        expected = "POST" if path in FORWARDED_PATHS else "GET"
        if path not in FORWARDED_PATHS and path not in {openapi.MODELS, openapi.HEALTH, openapi.PATH}:
            await replies.reply_bad_request(send, f"no such path: {path}", "not_found", 404)
        elif scope["method"] != expected:
            error = replies.openai_error(f"{path} takes {expected}", "invalid_request_error", "method_not_allowed")
            await replies.reply(send, 405, error, {"allow": expected})
        elif path == openapi.PATH:
            await replies.reply(send, 200, openapi.document(tuple(served.name for served in self._board.served)))
        elif path == openapi.HEALTH:
            await replies.reply(send, 200 if self._board.is_ready else 503, b"", content_type="text/plain")
        elif path == openapi.MODELS:
            await replies.reply(send, 200, model_list(self._board.served))
        else:
            await self._take(scope, receive, send)

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read a request, find who serves it, and serve it."""
        body = await read_body(receive, send)
        if body is None:
            return
        arrived = time.monotonic()
        parsed = request.parse(scope["path"], scope["headers"], body)
        if isinstance(parsed, BadRequest):
            self._metrics.refused(parsed.code)
            await replies.reply(send, parsed.status, parsed.body)
            return
        found = self._board.find(parsed.model)
        if found is None:
            self._metrics.refused("model_not_found")
            await replies.reply_unknown_model(send, parsed.model, (served.name for served in self._board.served))
            return
        key, route = found
        try:
            sender = self._trust.sender(scope["headers"], route.engine.serving.priority)
        except ValueError as error:
            await replies.reply_bad_request(send, str(error))
            return
        known = self._board.warm_ups.get(key) or WarmUp(route.attempt)
        if parsed.path in known.missing_paths:
            message = f"model {parsed.model!r} can't do this: its engine has no {parsed.path}"
            self._metrics.refused("path_not_served")
            await replies.reply_bad_request(send, message, "path_not_served", 404)
            return
        context = known.context_tokens or route.engine.engine.max_model_len
        if context and (too_long := parsed.exceeds(context)):
            self._metrics.refused(too_long.code)
            await replies.reply(send, too_long.status, too_long.body)
            return
        context = context or UNKNOWN_CONTEXT_TOKENS
        work = _Work(scope, parsed, sender, key, route, arrived, context, known.bytes_per_token)
        answer = Answer(send)
        with self._metrics.request(route.engine.model) as measured:
            try:
                await self._serve_and_explain(work, receive, answer, measured)
            finally:
                if answer.first_body_at:
                    measured.first_token_seconds = answer.first_body_at - arrived

    async def _serve_and_explain(
        self, work: "_Work", receive: Receive, answer: Answer, measured: MeasuredRequest
    ) -> None:
        """Serve a request; what goes wrong is said in an answer of its own, or at the end of the one begun."""
        try:
            async with Watch(receive) as watch:
                await self._serve(work, watch, answer)
            measured.code = str(answer.status)
        except ClientGoneError:
            measured.code = "cancelled"
            raise
        except RefusedError as error:
            measured.code = str(error.refused.status)
            await replies.reply_refused(answer, error.refused)
        except NotReadyError:
            measured.code = "503"
            await self._reply_not_ready(answer, work)
        except (EngineLostError, EngineTimeoutError) as error:
            if answer.status:
                measured.code = "broken"
                await answer.break_off("the engine ended before its answer did")
            elif isinstance(error, EngineTimeoutError):
                measured.code = "504"
                await replies.reply(answer, 504, replies.openai_error(str(error), "timeout", "engine_timeout"))
            else:
                measured.code = "503"
                await self._reply_not_ready(answer, work, "the engine closed the connection before it answered")

    async def _serve(self, work: "_Work", watch: Watch, answer: Answer) -> None:
        queue = self.admission.open_queue(work.key)
        asked = work.admission_request(self.admission.next_id())
        if asked.merge_key is None:
            with queue.enter(asked) as place:
                await self._generate(work, place, watch, answer)
            return

        async def generate(place: Place, send: Send) -> None:
            async with Watch() as patience:
                await self._generate(work, place, patience, send)

        with queue.share(asked, generate) as reader:
            await reader.pass_to(answer, watch)

    async def _generate(self, work: "_Work", place: Place, watch: Watch, send: Send) -> None:
        """Bring one generation from its place in the queue to its end."""
        route = await place.turn()
        running = self.admission.queues[work.key].running_sequences
        measured = self._metrics.generation(
            route.engine.model, place, prompt_tokens=work.prompt_tokens, running=running
        )
        with self._board.request(work.key, route.attempt), measured:
            outgoing = Outgoing(route, work.scope, work.parsed.body, work.parsed.stream, place, watch)
            await self._forward_to_engine(outgoing, send)

    async def _reply_not_ready(self, send: Send, work: "_Work", reason: str = "") -> None:
        status = self._board.engine_status(work.key)
        state = status.state if status else EngineState.DRAINING
        if not reason and status and status.error:
            reason = status.error.message
        await replies.reply_not_ready(send, work.parsed.model, state, reason)


@dataclass(frozen=True, slots=True)
class _Work:
    """One request, and where it goes."""

    scope: Scope
    parsed: ParsedRequest
    sender: Sender
    key: str
    route: Route
    arrived: float
    context_tokens: int
    bytes_per_token: float

    @property
    def prompt_tokens(self) -> int:
        """All its prompts together, estimated."""
        return self.parsed.prompt_tokens_at(self.bytes_per_token)

    def admission_request(self, request_id: int) -> Request:
        """Return the request as the queue sees it."""
        parsed = self.parsed
        answer_tokens = parsed.answer_tokens
        if answer_tokens is None:
            longest = parsed.longest_prompt_tokens_at(self.bytes_per_token)
            answer_tokens = max(1, self.context_tokens - longest)
        merges = self.route.engine.serving.merge_window_milliseconds > 0
        patience = self.sender.patience_seconds
        return Request(
            id=request_id,
            tenant=self.sender.tenant,
            session=self.sender.session,
            priority=self.sender.priority,
            arrived=self.arrived,
            deadline=None if patience is None else self.arrived + patience,
            prompt_tokens=self.prompt_tokens,
            answer_tokens=answer_tokens,
            sequences=parsed.sequences,
            merge_key=parsed.merge_key if merges else None,
        )


def model_list(served: Iterable[ServedName | str]) -> dict[str, object]:
    """Return the body of `/v1/models`."""
    models = []
    for each in sorted(served):
        name, parent = (each, None) if isinstance(each, str) else each
        model: dict[str, object] = {"id": name, "object": "model", "created": 0, "owned_by": "warmfleet"}
        models.append(model | {"root": name, "parent": parent})
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
