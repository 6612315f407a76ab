"""Tenants as their clients meet them, over real sockets."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support import router as support
from support.router import RoutedFleet, routed_fleet
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Request
from warmfleet_router.catalog import ModelKey
from warmfleet_router.usage import Usage

KEY, OTHER_KEY = "sk-0123456789abcdef", "sk-fedcba9876543210"


def shows(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
async def fleet() -> AsyncIterator[RoutedFleet]:
    async with routed_fleet() as each:
        each.model()
        await each.runner()
        yield each


async def test_a_namespace_with_a_tenant_answers_to_its_keys_only(fleet: RoutedFleet) -> None:
    fleet.tenant("search", KEY)
    fleet.tenant("chat", OTHER_KEY, namespace="elsewhere")
    assert (await fleet.reply(headers=shows(KEY)))[0] == 200
    for headers in (None, shows("sk-unknown-unknown")):
        status, _, body = await fleet.reply(headers=headers)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    status, _, body = await fleet.reply(headers=shows(OTHER_KEY))
    assert (status, body["error"]["message"]) == (404, "model 'm' is not served; served: none")


async def test_a_namespace_without_a_tenant_answers_to_everybody(fleet: RoutedFleet) -> None:
    fleet.tenant("chat", OTHER_KEY, namespace="elsewhere")
    for headers in (None, shows("none"), shows(OTHER_KEY)):
        assert (await fleet.reply(headers=headers))[0] == 200


async def test_runners_hear_of_tenant_and_class(fleet: RoutedFleet) -> None:
    fleet.tenant("search", KEY, priority="High")
    await fleet.reply(headers={**shows(KEY), "X-Warmfleet-Class": "Critical"})
    (request,) = fleet.runners[0].served
    assert request.header(b"x-warmfleet-class") == b"High"
    assert request.header(b"x-warmfleet-tenant") == b"ns/search"
    assert request.header(b"authorization") is None


async def test_only_what_a_caller_may_ask_for_is_listed(fleet: RoutedFleet) -> None:
    fleet.model("other")
    fleet.tenant("search", KEY, models=["other"])

    async def listed(headers: Any) -> list[str]:
        async with fleet.http.get(fleet.url + "/v1/models", headers=headers) as response:
            return [each["id"] for each in (await response.json())["data"]]

    assert await listed(shows(KEY)) == ["other"]
    assert await listed(None) == []


async def test_requests_over_the_limit_are_told_when_to_come_back(fleet: RoutedFleet) -> None:
    fleet.tenant("search", KEY, limits={"requestsPerMinute": 2})
    results = [await fleet.reply(headers=shows(KEY)) for _ in range(3)]
    assert [status for status, _, _ in results] == [200, 200, 429]
    _, headers, body = results[-1]
    assert body["error"]["code"] == "requests_limit" and 1 <= int(headers["Retry-After"]) <= 30


async def test_held_requests_count_as_being_served(fleet: RoutedFleet) -> None:
    fleet.label(fleet.runners[0], m="Asleep")
    fleet.tenant("search", KEY, limits={"concurrency": 1})
    held = asyncio.create_task(fleet.reply(headers=shows(KEY)))
    await fleet.until(lambda: fleet.parts.dispatcher.held(ModelKey("ns", "m")) == 1)
    assert (await fleet.reply(headers=shows(KEY)))[0] == 429
    fleet.label(fleet.runners[0], m="Ready")
    assert (await held)[0] == 200
    assert (await fleet.reply(headers=shows(KEY)))[0] == 200


async def test_a_client_that_leaves_gives_its_place_back(fleet: RoutedFleet) -> None:
    fleet.runners[0].behaviour = support.after(30)
    fleet.tenant("search", KEY, limits={"concurrency": 1})
    leaving = asyncio.create_task(fleet.reply(headers=shows(KEY)))
    await fleet.until(lambda: fleet.runners[0].served)
    leaving.cancel()
    await fleet.until(lambda: fleet.runners[0].cancelled)
    fleet.runners[0].behaviour = support.answers
    assert (await fleet.reply(headers=shows(KEY)))[0] == 200


async def test_tokens_are_charged_as_the_engine_counts_them(fleet: RoutedFleet) -> None:
    async def costly(_: Request, answer: Answer) -> None:
        answer.reply(200, {"choices": [], "usage": {"prompt_tokens": 5, "total_tokens": 700, "completion_tokens": 695}})

    fleet.runners[0].behaviour = costly
    fleet.tenant("search", KEY, limits={"tokensPerMinute": 600})
    results = [await fleet.reply(headers=shows(KEY)) for _ in range(2)]
    assert [status for status, _, _ in results] == [200, 429]
    assert results[1][2]["error"]["code"] == "tokens_limit"
    assert fleet.value("warmfleet_router_tokens_total", tenant="ns/search") == 700


def test_a_stream_that_tells_no_usage_is_counted_by_its_events() -> None:
    usage = Usage(prompt_bytes=40, stream=True)
    for piece in (b"data: 1\n\nda", b"ta: 2\n\n", b"data: [DONE]\n\n"):
        usage.saw(piece)
    assert usage.tokens == 10 + 2


def test_a_count_that_comes_in_pieces_is_read() -> None:
    usage = Usage(prompt_bytes=40, stream=True)
    for piece in (b'data: {"usage": {"total_', b'tokens": 12', b"34}}\n\n"):
        usage.saw(piece)
    assert usage.tokens == 1234


def test_what_was_not_answered_costs_nothing() -> None:
    assert Usage(prompt_bytes=4000, stream=False).tokens == 0
