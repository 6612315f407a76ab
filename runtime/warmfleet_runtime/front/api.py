"""The OpenAI-compatible API: who asks for what, its place in the engine's queue, and the answer.

    parse → find the engine by `model` → class and tenant → queue → engine → answer, byte for byte

A client that leaves takes its request with it, wherever it is by then; one that reads nothing is cut off.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from warmfleet_api import openapi
from warmfleet_api.vocabulary import EngineState
from warmfleet_http.answer import Answer
from warmfleet_http.errors import ClientGoneError, NotConnectedError, UpstreamError
from warmfleet_http.messages import Limits, Request
from warmfleet_runtime import admission
from warmfleet_runtime.front import answers, request
from warmfleet_runtime.front.admission import Admission, NotReadyError, Place, RefusedError
from warmfleet_runtime.front.board import Board, ServedName, WarmUp
from warmfleet_runtime.front.metrics import MeasuredRequest, RequestMetrics
from warmfleet_runtime.front.relay import Forward, Outgoing
from warmfleet_runtime.front.request import BadRequest, ParsedRequest
from warmfleet_runtime.front.trust import Sender, Trust
from warmfleet_runtime.link import Route

FORWARDED_PATHS = frozenset(openapi.PATHS)
LIMITS = Limits(body_bytes=32 * 1024 * 1024)
"""Of the API port."""
UNKNOWN_CONTEXT_TOKENS = 8192
"""Taken for the context of a model of which neither its assignment nor its engine tells it."""


class Api:
    """Handler of the API port's requests."""

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

    async def __call__(self, request: Request, answer: Answer) -> None:
        """Answer one request."""
        path = request.path
        expected = "POST" if path in FORWARDED_PATHS else "GET"
        if path not in FORWARDED_PATHS and path not in {openapi.MODELS, openapi.HEALTH, openapi.PATH}:
            answers.bad_request(answer, f"no such path: {path}", "not_found", 404)
        elif request.method != expected:
            answers.wrong_method(answer, path, expected)
        elif path == openapi.PATH:
            answer.reply(200, openapi.runner_document(tuple(served.name for served in self._board.served)))
        elif path == openapi.HEALTH:
            answer.reply(200 if self._board.is_ready else 503)
        elif path == openapi.MODELS:
            answer.reply(200, model_list(self._board.served))
        elif work := self._accept(request, answer):
            await self._serve_measured(work, answer)

    def _accept(self, asked: Request, answer: Answer) -> "_Work | None":
        """Find who serves a request; None: nobody does, and it was told so."""
        parsed = request.parse(asked.path, asked.headers, asked.body)
        if isinstance(parsed, BadRequest):
            self._metrics.refused(parsed.code)
            answers.bad_body(answer, parsed)
            return None
        found = self._board.find(parsed.model)
        if found is None:
            self._metrics.refused("model_not_found")
            answers.unknown_model(answer, parsed.model, (served.name for served in self._board.served))
            return None
        key, route = found
        try:
            sender = self._trust.sender(asked.headers, route.engine.serving.priority)
        except ValueError as error:
            answers.bad_request(answer, str(error))
            return None
        known = self._board.warm_ups.get(key) or WarmUp(route.attempt)
        context = known.context_tokens or route.engine.engine.max_model_len
        if parsed.path in known.missing_paths:
            message = f"model {parsed.model!r} can't do this: its engine has no {parsed.path}"
            self._metrics.refused("path_not_served")
            answers.bad_request(answer, message, "path_not_served", 404)
            return None
        if context and (too_long := parsed.exceeds(context)):
            self._metrics.refused(too_long.code)
            answers.bad_body(answer, too_long)
            return None
        return _Work(asked, parsed, sender, key, route, context or UNKNOWN_CONTEXT_TOKENS, known.bytes_per_token)

    async def _serve_measured(self, work: "_Work", answer: Answer) -> None:
        """Serve a request; what goes wrong is said in an answer of its own, or at the end of the one begun."""
        with self._metrics.request(work.route.engine.model) as measured:
            try:
                await self._serve(work, answer)
                measured.code = str(answer.status)
            except (asyncio.CancelledError, ClientGoneError):
                measured.code = str(answer.status) if answer.is_told else "cancelled"
                raise
            except RefusedError as error:
                measured.code = str(error.refused.status)
                answers.refused(answer, error.refused, self.admission.queues[work.key].load)
            except NotReadyError:
                measured.code = "503"
                self._reply_not_ready(answer, work)
            except UpstreamError as error:
                self._explain(error, work, answer, measured)
            finally:
                if answer.first_body_at:
                    measured.first_token_seconds = answer.first_body_at - work.asked.arrived

    def _explain(self, error: UpstreamError, work: "_Work", answer: Answer, measured: MeasuredRequest) -> None:
        """Say that the engine did not answer, or not to the end."""
        if answer.status:
            measured.code = "broken"
            answer.break_off("the engine ended before its answer did")
        elif error.timed_out and not isinstance(error, NotConnectedError):
            measured.code = "504"
            answers.too_late(answer, f"of the engine: {error}")
        else:
            measured.code = "503"
            self._reply_not_ready(answer, work, "the engine closed the connection before it answered")

    async def _serve(self, work: "_Work", answer: Answer) -> None:
        queue = self.admission.open_queue(work.key)
        asked = work.admission_request(self.admission.next_id())
        if asked.merge_key is None:
            with queue.enter(asked) as place:
                await self._generate(work, place, answer)
            return

        async def generate(place: Place, shared: Answer) -> None:
            await self._generate(work, place, shared)

        with queue.share(asked, answer, generate) as reader:
            await reader.read()

    async def _generate(self, work: "_Work", place: Place, answer: Answer) -> None:
        """Bring one generation from its place in the queue to its end."""
        route = await place.turn()
        queue = self.admission.queues[work.key]
        measured = self._metrics.generation(
            route.engine.model, place, prompt_tokens=work.prompt_tokens, running=queue.running_sequences
        )
        parsed = work.parsed
        with self._board.request(work.key, route.attempt), measured:
            outgoing = Outgoing(route, parsed.path, work.asked.headers, parsed.body, parsed.stream, place, queue.load)
            await self._forward_to_engine(outgoing, answer)

    def _reply_not_ready(self, answer: Answer, work: "_Work", reason: str = "") -> None:
        status = self._board.engine_status(work.key)
        state = status.state if status else EngineState.DRAINING
        if not reason and status and status.error:
            reason = status.error.message
        answers.not_ready(answer, work.parsed.model, state, reason)


@dataclass(frozen=True, slots=True)
class _Work:
    """One request, and where it goes."""

    asked: Request
    parsed: ParsedRequest
    sender: Sender
    key: str
    route: Route
    context_tokens: int
    bytes_per_token: float

    @property
    def prompt_tokens(self) -> int:
        """All its prompts together, estimated."""
        return self.parsed.prompt_tokens_at(self.bytes_per_token)

    def admission_request(self, request_id: int) -> admission.Request:
        """Return the request as the queue sees it."""
        parsed = self.parsed
        answer_tokens = parsed.answer_tokens
        if answer_tokens is None:
            longest = parsed.longest_prompt_tokens_at(self.bytes_per_token)
            answer_tokens = max(1, self.context_tokens - longest)
        merges = self.route.engine.serving.merge_window_milliseconds > 0
        patience = self.sender.patience_seconds
        return admission.Request(
            id=request_id,
            tenant=self.sender.tenant,
            session=self.sender.session,
            priority=self.sender.priority,
            arrived=self.asked.arrived,
            deadline=None if patience is None else self.asked.arrived + patience,
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
