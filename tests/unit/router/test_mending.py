"""Streams that break off at their engine, and whose rest comes from another one."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from support.kept import CHAT, GREEDY, assign, chat, text_of
from support.router import Behaviour, RoutedFleet, routed_fleet
from warmfleet_api.vocabulary import BrokenStream
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Request
from warmfleet_http.replies import broken_stream
from warmfleet_router import mending
from warmfleet_router.mending import Wanted

TEXT = "the whole answer of five words"
COMPLETE: dict[str, Any] = {"serving": {"brokenStream": "Complete"}}
BROKEN = "warmfleet_router_broken_streams_total"


@pytest.fixture
async def fleet() -> AsyncIterator[RoutedFleet]:
    async with routed_fleet() as each:
        each.model(**COMPLETE)
        yield each


def breaks_after(words: int, text: str = TEXT) -> Behaviour:
    """Stream, and break off; give the complete answer where that is asked for."""

    async def behave(request: Request, answer: Answer) -> None:
        await chat(answer, msgspec.json.decode(request.body), text, words=words)

    return behave


async def fails_within(request: Request, answer: Answer) -> None:
    """End a stream as a runner does whose engine died: with an error, and whole as HTTP."""
    body = msgspec.json.decode(request.body)
    if not body.get("stream"):
        await chat(answer, body, TEXT)
        return
    chunk = {"id": "c", "created": 1, "model": "m", "choices": [{"index": 0, "delta": {"content": "the"}}]}
    answer.start(200, [(b"content-type", b"text/event-stream")])
    answer.write(b"data: " + msgspec.json.encode(chunk) + b"\n\n")
    answer.finish(broken_stream("the engine ended"))


@pytest.mark.parametrize("behaviour", [breaks_after(1), breaks_after(3), breaks_after(5), fails_within])
@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
async def test_the_rest_of_a_broken_stream_comes_from_another_engine(
    fleet: RoutedFleet, behaviour: Behaviour, options: dict[str, Any]
) -> None:
    await fleet.runner(behaviour)
    await fleet.runner(behaviour)
    events = await fleet.events(**GREEDY, **options)
    assert text_of(events) == TEXT
    assert events.endswith("data: [DONE]\n\n") and '"error"' not in events
    assert ('"total_tokens":7' in events) == bool(options)
    assert events.count('"finish_reason":"stop"') == 1
    assert sorted(len(each.served) for each in fleet.runners) == [1, 1], "the one that broke is not asked again"
    assert fleet.value(BROKEN, result="completed") == 1


async def test_the_test_sees_a_stream_that_is_not_completed(fleet: RoutedFleet) -> None:
    """A control: the same without the setting."""
    fleet.model()
    await fleet.runner(breaks_after(3))
    await fleet.runner(breaks_after(3))
    events = await fleet.events(**GREEDY)
    assert text_of(events) == "the whole answer" and "engine_lost" in events and "[DONE]" not in events


async def test_a_rest_that_does_not_fit_is_an_error_unless_a_client_wants_the_whole_answer(fleet: RoutedFleet) -> None:
    async def differs(request: Request, answer: Answer) -> None:
        body = msgspec.json.decode(request.body)
        await chat(answer, body, TEXT if body.get("stream") else "another answer", words=3)

    await fleet.runner(differs)
    await fleet.runner(differs)
    events = await fleet.events(**GREEDY)
    assert "engine_lost" in events and "[DONE]" not in events
    events = await fleet.events(temperature=1, headers={"X-Warmfleet-Broken-Stream": "replace"})
    last, done, _ = events.split("\n\n")[-3:]
    assert msgspec.json.decode(last[6:])["choices"][0]["message"]["content"] == "another answer"
    assert msgspec.json.decode(last[6:])["object"] == "chat.completion" and done == "data: [DONE]"
    assert (fleet.value(BROKEN, result="given_up"), fleet.value(BROKEN, result="replaced")) == (1, 1)


async def test_what_may_differ_is_not_asked_for_twice(fleet: RoutedFleet) -> None:
    await fleet.runner(breaks_after(3))
    events = await fleet.events(temperature=1)
    assert "engine_lost" in events
    assert sum(len(each.served) for each in fleet.runners) == 1
    status, _, _ = await fleet.reply(stream=True, headers={"X-Warmfleet-Broken-Stream": "Repair"})
    assert status == 400


async def test_a_client_may_want_the_error(fleet: RoutedFleet) -> None:
    await fleet.runner(breaks_after(3))
    await fleet.runner(breaks_after(3))
    assert "engine_lost" in await fleet.events(**GREEDY, headers={"X-Warmfleet-Broken-Stream": "Error"})


async def test_nobody_else_to_ask_ends_with_the_error(fleet: RoutedFleet) -> None:
    fleet.model(serving={"brokenStream": "Complete", "hold": {"timeoutSeconds": 1}})
    runner = await fleet.runner(breaks_after(3))

    async def breaks_and_refuses(request: Request, answer: Answer) -> None:
        if msgspec.json.decode(request.body).get("stream"):
            await chat(answer, msgspec.json.decode(request.body), TEXT, words=3)
        else:
            answer.reply(500, {"error": {"code": "simulated"}})

    runner.behaviour = breaks_and_refuses
    events = await fleet.events(**GREEDY)
    assert text_of(events) == "the whole answer" and events.count("engine_lost") == 1


async def test_a_completed_stream_is_kept_for_those_who_ask_again(fleet: RoutedFleet) -> None:
    fleet.model(serving={"brokenStream": "Complete", "responseCache": {}})
    for _ in range(2):
        assign(fleet, await fleet.runner(breaks_after(3)))
    first = await fleet.events(**GREEDY)
    assert text_of(first) == TEXT
    assert await fleet.events(**GREEDY) == first
    assert sum(len(each.served) for each in fleet.runners) == 2


def _chunk(**delta: Any) -> bytes:
    return b"data: " + msgspec.json.encode({"id": "a", "choices": [{"index": 0, "delta": delta}]}) + b"\n\n"


def _whole(**message: Any) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "tool_calls"}
    return msgspec.json.encode({"id": "b", "object": "chat.completion", "choices": [choice]})


def test_the_rest_of_a_tool_call_is_the_rest_of_its_arguments() -> None:
    def call(name: str, arguments: str) -> dict[str, Any]:
        return {"id": "call-2", "type": "function", "function": {"name": name, "arguments": arguments}}

    sent = _chunk(tool_calls=[{"index": 0, **call("f", "")}]) + _chunk(
        tool_calls=[{"index": 0, "function": {"arguments": '{"a": '}}]
    )
    rest = mending.rest(sent, _whole(content=None, tool_calls=[call("f", '{"a": 1}'), call("g", "{}")]), b"{}")
    assert rest is not None
    event = msgspec.json.decode(rest.split(b"\n\n")[0][6:])
    assert event["id"] == "a"
    assert event["choices"][0]["delta"]["tool_calls"] == [
        {"index": 0, "function": {"arguments": "1}"}},
        {"index": 1, **call("g", "{}")},
    ]
    assert mending.rest(sent, _whole(tool_calls=[call("h", '{"a": 1}')]), b"{}") is None
    assert mending.rest(sent, _whole(content="no call"), b"{}") is None


@pytest.mark.parametrize("whole", [b"", b"[]", b"{}", b'{"choices": [1]}', b'{"choices": [{"index": 0}]}'])
def test_an_answer_that_is_none_completes_nothing(whole: bytes) -> None:
    assert mending.rest(_chunk(content="x"), whole, b"{}") is None


def test_a_model_says_what_its_streams_get_and_a_request_says_it_better() -> None:
    assert mending.wanted(b"", BrokenStream.COMPLETE) is Wanted.COMPLETE
    assert mending.wanted(b"error", BrokenStream.COMPLETE) is Wanted.ERROR
    assert not mending.can_mend("/v1/embeddings", b"{}", Wanted.REPLACE)
    assert mending.can_mend(CHAT, b'{"seed": 1}', Wanted.COMPLETE)
    assert not mending.can_mend(CHAT, b"{}", Wanted.COMPLETE)
