"""Routers that keep answers, and runners whose answers tell who gave them."""

import asyncio
import itertools
from typing import Any

import msgspec

from support.router import Behaviour, RoutedFleet, ScriptedRunner
from warmfleet_api import assignment, names
from warmfleet_api.assignment import Assignment, EngineAssignment, EngineSpec
from warmfleet_api.vocabulary import EngineType
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Request
from warmfleet_kube.objects import Metadata
from warmfleet_router.records import Pod, PodStatus

CHAT = "/v1/chat/completions"
GREEDY: dict[str, Any] = {"temperature": 0}


def assign(fleet: RoutedFleet, runner: ScriptedRunner, engine_hash: str = "h1", model: str = "m") -> None:
    """Say that the runner's Ready engine was started from the spec with this hash."""
    spec = EngineSpec(type=EngineType.SIMULATED, uri="hf://a/b", served_names=(model,))
    engine = EngineAssignment(id="e", model=model, model_uid="u", hash=engine_hash, engine=spec)
    metadata = Metadata(
        name=runner.name,
        namespace="ns",
        uid=f"uid-{runner.name}",
        labels={names.serve_label(model): "Ready"},
        annotations={
            names.ANNOTATION_ASSIGNMENT: assignment.encode(Assignment(version=1, revision=1, engines=(engine,)))
        },
    )
    fleet.parts.pod_changed(None, Pod(metadata=metadata, status=PodStatus(phase="Running", pod_ip=runner.host)))


def numbered(seconds: float = 0.0) -> Behaviour:
    """Answer as vLLM does, each answer with another number and the tenant it was for."""
    numbers = itertools.count(1)

    async def answer_it(request: Request, answer: Answer) -> None:
        body = msgspec.json.decode(request.body)
        await asyncio.sleep(seconds)
        tenant = (request.header(b"x-warmfleet-tenant") or b"").decode()
        await chat(answer, body, f"answer {next(numbers)} for {tenant}")

    return answer_it


async def chat(answer: Answer, body: dict[str, Any], text: str, *, words: int | None = None) -> None:
    """Give a chat completion, or a stream of its words; `words`: break off after so many."""
    head: dict[str, Any] = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    if not body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        answer.reply(200, head | {"object": "chat.completion", "choices": [choice], "usage": usage})
        return
    head["object"] = "chat.completion.chunk"
    answer.start(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
    pieces = text.split(" ")
    for index, piece in enumerate(pieces):
        if index == words:
            answer.abort()
            return
        delta = {"content": piece if index == 0 else f" {piece}"}
        last = "stop" if index == len(pieces) - 1 else None
        answer.write(_event(head | {"choices": [{"index": 0, "delta": delta, "finish_reason": last}]}))
        await asyncio.sleep(0.002)
    if (body.get("stream_options") or {}).get("include_usage"):
        answer.write(_event(head | {"choices": [], "usage": usage}))
    answer.write(b"data: [DONE]\n\n")
    answer.finish()


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def text_of(events: str) -> str:
    """Return what a client reads from a stream."""
    found = [msgspec.json.decode(each[6:]) for each in events.split("\n\n") if each.startswith("data: {")]
    return "".join(
        choice["delta"].get("content") or "" for each in found if "error" not in each for choice in each["choices"]
    )
