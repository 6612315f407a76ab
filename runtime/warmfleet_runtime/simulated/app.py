"""The OpenAI API of a Simulated engine, over plain ASGI. The fleet player serves the same."""

import asyncio
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from starlette.types import Receive, Scope, Send

from warmfleet_api.assignment import EngineSpec, SimulatedEngine
from warmfleet_http.errors import ClientGoneError
from warmfleet_http.replies import openai_error
from warmfleet_runtime.front import replies
from warmfleet_runtime.front.api import model_list
from warmfleet_runtime.front.prober import WARM_UP_ID
from warmfleet_runtime.simulated.sleep import CutOffError, FailedSleepError, Hold, Sleep, say_only

_DEFAULT_TOKENS = 16
_EMBEDDING = [0.0, 1.0]


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Request(msgspec.Struct):
    """What the simulation reads of a completion or chat request."""

    model: str
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    prompt: Any = None
    messages: Any = None
    input: Any = None

    @property
    def tokens(self) -> int:
        return self.max_completion_tokens or self.max_tokens or _DEFAULT_TOKENS


class SimulatedApp:
    """ASGI application of one engine. `answered` is set once a request was answered well."""

    def __init__(self, spec: EngineSpec, hold: Hold = say_only) -> None:
        self.answered = asyncio.Event()
        self._names = spec.served_names
        self._behaviour = spec.simulated or SimulatedEngine()
        self.sleep = Sleep(self._behaviour, hold)
        # Under vLLM's names: whoever watches an engine watches these.
        self._registry = CollectorRegistry()
        self._running = Gauge("vllm:num_requests_running", "Requests being answered.", registry=self._registry)
        self._ended = Counter(
            "vllm:request_success", "Requests that ended.", ["finished_reason"], registry=self._registry
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            match scope["method"], scope["path"]:
                case "GET", "/health":
                    await replies.reply(send, 200, b"", content_type="text/plain")
                case "GET", "/metrics":
                    await replies.reply(send, 200, generate_latest(self._registry), content_type="text/plain")
                case "GET", "/v1/models":
                    await replies.reply(send, 200, model_list(list(self._names)))
                case "POST", "/v1/completions" | "/v1/chat/completions" | "/v1/embeddings" as path:
                    await self._generate(path, scope, receive, send)
                case "GET", "/is_sleeping":
                    await replies.reply(send, 200, {"is_sleeping": self.sleep.is_asleep})
                case "POST", "/sleep":
                    await self._begin_sleep(scope, send)
                case "POST", "/wake_up":
                    await replies.unless_client_leaves(self.sleep.end(), receive)
                    await replies.reply(send, 200, {"status": "awake"})
                case _, path:
                    await replies.reply_bad_request(send, f"no such path: {path}", "not_found", 404)
        except (ClientGoneError, CutOffError):
            return

    async def _begin_sleep(self, scope: Scope, send: Send) -> None:
        try:
            await self.sleep.begin(abort=b"mode=wait" not in scope["query_string"])
        except FailedSleepError as failed:
            await replies.reply(send, 500, openai_error(str(failed), "server_error", "simulated"))
            return
        await replies.reply(send, 200, {"status": "sleeping"})

    async def _generate(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        body = await replies.read_body(receive, send)
        if body is None:
            return
        try:
            request = msgspec.json.decode(body, type=_Request)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            await replies.reply_bad_request(send, str(error))
            return
        if request.model not in self._names:
            await replies.reply_unknown_model(send, request.model, self._names)
            return
        fault = self._behaviour.fault
        # An engine that fails its warm-up is not Ready, and fails no one's requests.
        is_warm_up = (b"x-request-id", WARM_UP_ID.encode()) in scope["headers"]
        if fault and fault.kind == "FailRequests" and not is_warm_up:
            await replies.reply(send, 500, openai_error("simulated fault", "server_error", "simulated"))
            return
        with self._running.track_inprogress():
            finished = await replies.unless_client_leaves(self._answer(path, request, send), receive)
        self._ended.labels("length" if finished else "abort").inc()
        if finished:
            self.answered.set()

    async def _answer(self, path: str, request: _Request, send: Send) -> bool:
        async with self.sleep.answering():
            await self._answer_awake(path, request, send)
        return True

    async def _answer_awake(self, path: str, request: _Request, send: Send) -> None:
        answer = _Answer(path, request)
        started = time.monotonic()
        first = self._behaviour.first_token_milliseconds / 1000
        if path == "/v1/embeddings":
            await _sleep_until(started + first)
            await replies.reply(send, 200, answer.embedding())
        elif not request.stream:
            await _sleep_until(started + first + (request.tokens - 1) / self._behaviour.tokens_per_second)
            await replies.reply(send, 200, answer.whole())
        else:
            await self._stream(answer, started + first, send)

    async def _stream(self, answer: "_Answer", first_at: float, send: Send) -> None:
        await _sleep_until(first_at)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await replies.write(send, {"type": "http.response.start", "status": 200, "headers": headers})
        for index, chunk in enumerate(answer.chunks()):
            await _sleep_until(first_at + index / self._behaviour.tokens_per_second)
            event = b"data: " + msgspec.json.encode(chunk) + b"\n\n"
            await replies.write(send, {"type": "http.response.body", "body": event, "more_body": True})
        await replies.write(send, {"type": "http.response.body", "body": b"data: [DONE]\n\n"})


class _Answer:
    """The bodies of one answer: `token 0`, `token 1`, … up to the number asked for."""

    def __init__(self, path: str, request: _Request) -> None:
        self._is_chat = path == "/v1/chat/completions"
        self._request = request
        self._head = {
            "id": f"simulated-{time.monotonic_ns():x}",
            "created": int(time.time()),
            "model": request.model,
        }

    def whole(self) -> dict[str, Any]:
        text = "".join(_token(index) for index in range(self._request.tokens))
        content = {"message": {"role": "assistant", "content": text}} if self._is_chat else {"text": text}
        choice = {"index": 0, "finish_reason": "length", "logprobs": None, **content}
        kind = "chat.completion" if self._is_chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice], "usage": self._usage()}

    def chunks(self) -> Iterator[dict[str, Any]]:
        kind = "chat.completion.chunk" if self._is_chat else "text_completion"
        head = {**self._head, "object": kind}
        last = self._request.tokens - 1
        for index in range(self._request.tokens):
            text = _token(index)
            content = {"delta": {"role": "assistant", "content": text}} if self._is_chat else {"text": text}
            finish = "length" if index == last else None
            yield {**head, "choices": [{"index": 0, "finish_reason": finish, "logprobs": None, **content}]}
        options = self._request.stream_options
        if options and options.include_usage:
            yield {**head, "choices": [], "usage": self._usage()}

    def embedding(self) -> dict[str, Any]:
        data = [{"object": "embedding", "index": 0, "embedding": _EMBEDDING}]
        prompt_tokens = self._prompt_tokens()
        usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
        return {"object": "list", "model": self._request.model, "data": data, "usage": usage}

    def _usage(self) -> dict[str, int]:
        prompt, tokens = self._prompt_tokens(), self._request.tokens
        return {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}

    def _prompt_tokens(self) -> int:
        """Words stand for tokens."""
        return len(str(self._request.prompt or self._request.messages or self._request.input or "").split())


def _token(index: int) -> str:
    return f"token {index} "


async def _sleep_until(moment: float) -> None:
    """Sleep until a monotonic time; gives way to others even when it is past."""
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
