"""A request's way through the router, over real sockets."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from support import router as support
from support.router import RoutedFleet, routed_fleet
from support.tokens import public_key
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Request
from warmfleet_router.catalog import ModelKey
from warmfleet_runtime.front.trust import Trust

M = ModelKey("ns", "m")


@pytest.fixture
async def fleet() -> AsyncIterator[RoutedFleet]:
    async with routed_fleet() as each:
        each.model()
        yield each


async def test_an_answer_comes_through_as_the_runner_gave_it(fleet: RoutedFleet) -> None:
    runner = await fleet.runner()
    status, headers, body = await fleet.reply(headers={"X-Request-Id": "mine"})
    assert (status, body) == (200, {"model": "m", "choices": []}), body
    assert headers["X-Request-Id"] == "mine"
    assert runner.served[0].header(b"x-request-id") == b"mine"
    assert await fleet.events() == "".join(f'data: {{"index": {index}}}\n\n' for index in range(3)) + "data: [DONE]\n\n"


async def test_a_request_carries_proof_of_its_sender_and_no_class_of_its_client(fleet: RoutedFleet) -> None:
    runner = await fleet.runner()
    spoofed = {"X-Warmfleet-Class": "Critical", "X-Warmfleet-Tenant": "boss", "X-Warmfleet-Token": "forged"}
    await fleet.reply(headers={**spoofed, "X-Warmfleet-Session": "s", "Cookie": "c", "Authorization": "Bearer k"})
    (request,) = runner.served
    trust = Trust()
    trust.follow("uid-runner-2", (public_key(fleet.key),))
    trust.check(request.header(b"x-warmfleet-token") or b"")
    assert request.header(b"x-warmfleet-class") is None
    assert request.header(b"x-warmfleet-tenant") == b"direct"
    assert request.header(b"x-warmfleet-session") == b"s"
    assert request.header(b"cookie") is None and request.header(b"authorization") is None


async def test_a_model_of_a_namespace_is_asked_for_by_the_name_its_engine_knows(fleet: RoutedFleet) -> None:
    runner = await fleet.runner()
    status, _, body = await fleet.reply("ns/m", temperature=0.5)
    assert (status, body["model"]) == (200, "m")
    assert msgspec.json.decode(runner.served[0].body)["temperature"] == 0.5


async def test_requests_are_spread(fleet: RoutedFleet) -> None:
    all_are_there = asyncio.Event()

    async def waits(request: Request, answer: Answer) -> None:
        await all_are_there.wait()
        await support.answers(request, answer)

    runners = [await fleet.runner(waits) for _ in range(4)]
    replies = asyncio.gather(*(fleet.reply() for _ in range(40)))
    await fleet.until(lambda: sum(len(each.served) for each in runners) == 40)
    assert Counter(len(each.served) for each in runners) == {10: 4}
    all_are_there.set()
    await replies


@pytest.mark.parametrize(
    ("path", "method", "body", "expected"),
    [
        ("/v1/chat/completions", "POST", b"{", (400, "invalid_json")),
        ("/v1/chat/completions", "POST", b"[" * 100_000, (400, "invalid_request")),
        ("/v1/chat/completions", "POST", b'{"messages": []}', (400, "invalid_request")),
        ("/v1/chat/completions", "POST", b'{"model": 7}', (400, "invalid_request")),
        ("/v1/chat/completions", "POST", b'{"model": "nobody"}', (404, "model_not_found")),
        ("/v1/chat/completions", "POST", b'{"model": "\xff"}', (400, "invalid_json")),
        ("/v1/chat/completions", "GET", b"", (405, "method_not_allowed")),
        ("/v1/models", "POST", b"{}", (405, "method_not_allowed")),
        ("/v1/models/nobody", "GET", b"", (404, "model_not_found")),
        ("/v2/chat", "POST", b"{}", (404, "not_found")),
        ("/v1/../admin", "POST", b"{}", (404, "not_found")),
        ("/metrics", "GET", b"", (404, "not_found")),
    ],
)
async def test_bad_requests_are_answered_in_openais_shape(
    fleet: RoutedFleet, path: str, method: str, body: bytes, expected: tuple[int, str]
) -> None:
    runner = await fleet.runner()
    async with fleet.http.request(method, fleet.url + path, data=body) as response:
        answer = await response.json()
    assert (response.status, answer["error"]["code"]) == expected
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert runner.served == []


async def test_an_unknown_model_is_told_which_there_are(fleet: RoutedFleet) -> None:
    _, _, body = await fleet.reply("nobody")
    assert body["error"]["message"] == "model 'nobody' is not served; served: m"


async def test_a_body_over_the_limit_is_refused() -> None:
    async with routed_fleet(body_bytes=1000) as fleet:
        fleet.model()
        status, _, _ = await fleet.reply(padding="x" * 1000)
        assert status == 413


async def test_models_are_listed_with_their_state(fleet: RoutedFleet) -> None:
    pending = {"position": 1, "of": 2, "readyTime": "2026-01-01T00:00:00Z", "blocker": "waits"}
    fleet.model("asleep", status={"conditions": [{"type": "Ready", "status": "True", "reason": "Asleep"}]})
    fleet.model("queued", status={"pendingStart": pending})
    await fleet.runner()
    async with fleet.http.get(fleet.url + "/v1/models") as response:
        listed = {each["id"]: each["warmfleet"] for each in (await response.json())["data"]}
    assert {name: each["state"] for name, each in listed.items()} == {
        "m": "Serving",
        "asleep": "Asleep",
        "queued": "Queued",
    }
    assert (listed["queued"]["position"], listed["queued"]["readyTime"]) == (1, "2026-01-01T00:00:00Z")
    async with fleet.http.get(fleet.url + "/v1/models/ns/m") as response:
        assert (await response.json())["root"] == "m"


# Hold and wake ------------------------------------------------------------------------------------------------------


async def test_a_hundred_requests_for_a_sleeping_model_wake_it_once_and_are_all_answered(fleet: RoutedFleet) -> None:
    asking = [asyncio.create_task(fleet.reply()) for _ in range(100)]
    await fleet.until(lambda: fleet.parts.dispatcher.all_held() == 100)
    assert fleet.wakes == [M]
    assert fleet.value("warmfleet_router_held_requests") == 100
    await fleet.runner()
    assert {status for status, _, _ in await asyncio.gather(*asking)} == {200}
    assert fleet.value("warmfleet_router_hold_seconds_count", namespace="ns", model="m") == 100


async def test_what_the_harness_counts_as_lost_is_lost_where_nothing_is_held(fleet: RoutedFleet) -> None:
    """Control of the test above."""
    fleet.model(serving={"hold": {"maxRequests": 1}})
    asking = [asyncio.create_task(fleet.reply()) for _ in range(100)]
    await fleet.until(lambda: sum(each.done() for each in asking) == 99)
    await fleet.runner()
    counts = Counter(status for status, _, _ in await asyncio.gather(*asking))
    assert counts == {429: 99, 200: 1}


async def test_a_client_that_waits_no_longer_is_told_when_to_come_back(fleet: RoutedFleet) -> None:
    status, headers, body = await fleet.reply(headers={"X-Warmfleet-Deadline-Milliseconds": "50"})
    assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "hold_timeout", "10")


async def test_what_is_left_of_a_clients_patience_goes_to_the_runner(fleet: RoutedFleet) -> None:
    asking = asyncio.create_task(fleet.reply(headers={"X-Warmfleet-Deadline-Milliseconds": "60000"}))
    await asyncio.sleep(0.1)
    runner = await fleet.runner()
    await asking
    assert 30_000 < int(runner.served[0].header(b"x-warmfleet-deadline-milliseconds") or b"0") <= 59_950


async def test_a_held_stream_shows_that_it_is_alive_and_then_begins(fleet: RoutedFleet) -> None:
    asking = asyncio.create_task(fleet.events(headers={"X-Warmfleet-Heartbeat-Seconds": "1"}))
    await asyncio.sleep(1.2)
    await fleet.runner()
    text = await asking
    assert text.startswith(": waking\n\ndata: ") and text.endswith("data: [DONE]\n\n")


async def test_a_held_stream_that_is_refused_after_a_sign_of_life_ends_with_an_error(fleet: RoutedFleet) -> None:
    signs = {"X-Warmfleet-Heartbeat-Seconds": "1", "X-Warmfleet-Deadline-Milliseconds": "1200"}
    text = await fleet.events(headers=signs)
    assert text.startswith(": waking\n\n") and "did not answer within 1 s" in text and "[DONE]" not in text


async def test_a_client_that_leaves_is_held_no_more(fleet: RoutedFleet) -> None:
    asking = asyncio.create_task(fleet.reply())
    await fleet.until(lambda: fleet.parts.dispatcher.all_held() == 1)
    asking.cancel()
    await fleet.until(lambda: fleet.parts.dispatcher.all_held() == 0)
    await fleet.until(
        lambda: fleet.value("warmfleet_router_requests_total", namespace="ns", model="m", code="cancelled") == 1
    )


async def test_a_client_that_leaves_at_the_last_event_has_not_cancelled(fleet: RoutedFleet) -> None:
    runner = await fleet.runner(support.lingers)
    async with fleet.ask("m", stream=True) as response:
        async for line in response.content:
            if line == b"data: [DONE]\n":
                break
        response.close()
    await fleet.until(lambda: runner.cancelled == 1)
    codes = {"200": 1, "cancelled": 0}
    await fleet.until(lambda: not fleet.metrics.in_flight)
    for code, count in codes.items():
        assert fleet.value("warmfleet_router_requests_total", namespace="ns", model="m", code=code) == count


async def test_a_client_that_leaves_ends_the_work_behind_it(fleet: RoutedFleet) -> None:
    runner = await fleet.runner(support.after(30))
    asking = asyncio.create_task(fleet.reply())
    await fleet.until(lambda: runner.served)
    asking.cancel()
    await fleet.until(lambda: runner.cancelled == 1)
    (endpoint,) = fleet.parts.endpoints.of(M)
    await fleet.until(lambda: endpoint.in_flight == 0)


async def test_who_waits_for_a_model_that_is_deleted_gets_the_one_that_has_its_name_then(fleet: RoutedFleet) -> None:
    fleet.model("other", model={"uri": "hf://a/b", "servedNames": ["m"]})
    asking = [asyncio.create_task(fleet.reply()) for _ in range(10)]
    await fleet.until(lambda: fleet.parts.dispatcher.held(M) == 10)
    fleet.deleted("m")
    await fleet.until(lambda: fleet.parts.dispatcher.held(ModelKey("ns", "other")) == 10)
    runner = await fleet.runner(other="Ready")
    assert {status for status, _, _ in await asyncio.gather(*asking)} == {200}
    assert len(runner.served) == 10


async def test_who_waits_for_a_model_that_is_deleted_is_told_so_where_nobody_has_its_name(fleet: RoutedFleet) -> None:
    fleet.model("other")
    asking = asyncio.create_task(fleet.reply())
    await fleet.until(lambda: fleet.parts.dispatcher.held(M) == 1)
    fleet.deleted("m")
    status, _, body = await asking
    assert (status, body["error"]["code"]) == (404, "model_not_found")
    assert body["error"]["message"] == "model 'm' was deleted"


async def test_a_stopped_model_is_not_woken(fleet: RoutedFleet) -> None:
    fleet.model(replicas=0)
    status, headers, body = await fleet.reply()
    assert (status, body["error"]["code"]) == (503, "model_stopped")
    assert "kubectl -n ns scale mdl m --replicas=1" in body["error"]["message"]
    assert "Retry-After" not in headers and fleet.wakes == []


# Other tries --------------------------------------------------------------------------------------------------------


async def test_an_engine_that_fell_asleep_meanwhile_costs_time_and_no_request(fleet: RoutedFleet) -> None:
    runner = await fleet.runner(support.state("Asleep"))
    asking = [asyncio.create_task(fleet.reply()) for _ in range(10)]
    await fleet.until(lambda: fleet.wakes)
    await asyncio.sleep(0.3)
    runner.behaviour = support.answers
    assert {status for status, _, _ in await asyncio.gather(*asking)} == {200}
    assert len(runner.served) < 60, "it is not asked all the time"


async def test_an_engine_that_moved_away_is_looked_for(fleet: RoutedFleet) -> None:
    runner = await fleet.runner(support.status(404, "model_not_found"))
    asking = asyncio.create_task(fleet.reply())
    await fleet.until(lambda: runner.served)
    await fleet.runner()
    assert (await asking)[0] == 200


@pytest.mark.parametrize(
    "behaviour", [support.breaks, support.state("Draining"), support.status(500), support.status(429, "queue_full")]
)
async def test_another_runner_answers_what_one_did_not(fleet: RoutedFleet, behaviour: support.Behaviour) -> None:
    bad, _ = await fleet.runner(behaviour), await fleet.runner()
    results = [await fleet.reply() for _ in range(6)]
    assert {status for status, _, _ in results} == {200}
    assert bad.served, "it was tried"


async def test_a_refusal_for_load_passes_on_where_there_is_no_other_runner(fleet: RoutedFleet) -> None:
    runner = await fleet.runner(support.status(429, "queue_full"))
    seconds = []
    for _ in range(3):
        began = time.monotonic()
        status, headers, body = await fleet.reply()
        seconds.append(time.monotonic() - began)
        assert (status, headers["Retry-After"], body["error"]["code"]) == (429, "7", "queue_full")
    assert fleet.value("warmfleet_router_hold_seconds_count", namespace="ns", model="m") == 0, "it waited for nothing"
    assert min(seconds) < 0.05 and len(runner.served) == 3


async def test_an_error_of_the_only_runner_passes_on(fleet: RoutedFleet) -> None:
    await fleet.runner(support.status(500))
    status, _, body = await fleet.reply()
    assert (status, body["error"]["code"]) == (500, "simulated")


async def test_a_request_that_kills_engines_kills_three_at_most(fleet: RoutedFleet) -> None:
    runners = [await fleet.runner(support.breaks) for _ in range(5)]
    status, headers, body = await fleet.reply()
    assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "engine_lost", "1")
    assert sum(len(each.served) for each in runners) == 3


async def test_five_failures_take_a_runner_out_and_never_the_last(fleet: RoutedFleet) -> None:
    bad = await fleet.runner(support.status(500))
    for _ in range(5):
        await fleet.reply()
    assert fleet.value("warmfleet_router_breakers_opened_total") == 1
    await fleet.reply()
    assert len(bad.served) == 6, "the last one is not taken out"
    await fleet.runner()
    for _ in range(5):
        assert (await fleet.reply())[0] == 200
    assert len(bad.served) == 6


async def test_a_stream_that_breaks_ends_with_an_error_and_is_not_tried_again(fleet: RoutedFleet) -> None:
    await fleet.runner(support.breaks_late)
    other = await fleet.runner(m="Starting")
    text = await fleet.events()
    assert text.startswith('data: {"index": 0}\n\n') and '"engine_lost"' in text and "[DONE]" not in text
    assert other.served == []
    assert fleet.value("warmfleet_router_requests_total", namespace="ns", model="m", code="broken") == 1


async def test_a_complete_answer_that_breaks_is_cut(fleet: RoutedFleet) -> None:
    async def breaks(_: Request, answer: Answer) -> None:
        answer.start(200, [(b"content-type", b"application/json"), (b"content-length", b"100")])
        answer.write(b"{")
        await asyncio.sleep(0.02)
        answer.abort()

    await fleet.runner(breaks)
    with pytest.raises(aiohttp.ClientPayloadError):
        await fleet.reply()


async def test_no_client_notices_that_one_of_four_runners_is_killed_and_comes_back(fleet: RoutedFleet) -> None:
    runners = [await fleet.runner(support.after(0.01)) for _ in range(4)]
    victim = runners[0]
    statuses: list[int] = []
    ends = asyncio.Event()

    async def client() -> None:
        while not ends.is_set():
            statuses.append((await fleet.reply())[0])

    clients = [asyncio.create_task(client()) for _ in range(8)]
    await fleet.until(lambda: len(victim.served) > 10)
    await victim.kill()
    await fleet.until(lambda: fleet.value("warmfleet_router_runners_lost_total") == 1)
    answered = len(statuses)
    await fleet.until(lambda: len(statuses) > answered + 100)
    before = len(victim.served)
    await victim.start()
    returned = time.monotonic()
    await fleet.until(lambda: len(victim.served) > before, 1.0)
    assert time.monotonic() - returned < 1.0
    ends.set()
    await asyncio.gather(*clients)
    assert fleet.value("warmfleet_router_runners_lost_total") == 1
    assert Counter(statuses).keys() == {200}


async def test_load_that_a_runner_tells_reaches_the_choice_and_no_client(fleet: RoutedFleet) -> None:
    async def busy(request: Request, answer: Answer) -> None:
        answer.reply(200, {}, [(b"x-warmfleet-load", b"running=16;waiting=200;window=16;queue=256")])

    loaded = await fleet.runner(busy)
    free = await fleet.runner()
    for _ in range(10):
        _, headers, _ = await fleet.reply()
        assert "X-Warmfleet-Load" not in headers
    assert len(loaded.served) == 1 and len(free.served) == 9


async def test_the_access_log_says_what_became_of_each_request(fleet: RoutedFleet) -> None:
    runner = await fleet.runner()
    await fleet.reply(headers={"X-Request-Id": "mine"})
    await fleet.reply("nobody")
    writing = asyncio.create_task(fleet.access_log.run())
    await fleet.until(lambda: fleet.log.getvalue().count(b"\n") == 2)
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    good, bad = map(json.loads, fleet.log.getvalue().splitlines())
    assert (good["requestId"], good["runner"], good["status"], good["tries"]) == ("mine", runner.name, 200, 1)
    assert 0 < good["firstByteSeconds"] <= good["seconds"]
    assert (bad["status"], bad["code"]) == (404, "model_not_found")


async def test_series_of_a_model_end_with_it(fleet: RoutedFleet) -> None:
    await fleet.runner()
    await fleet.reply()
    assert b'model="m"' in fleet.metrics.render()
    fleet.metrics.forget(M)
    assert b'model="m"' not in fleet.metrics.render()


@pytest.mark.parametrize("how", ["lost", "gone"])
async def test_a_request_that_waits_for_its_first_byte_goes_elsewhere_when_its_runner_is_lost(
    fleet: RoutedFleet, how: str
) -> None:
    first = await fleet.runner(support.after(30))
    asked = asyncio.create_task(fleet.reply())
    await fleet.until(lambda: first.served)
    second = await fleet.runner()
    done, _ = await asyncio.wait({asked}, timeout=0.1)
    assert not done, "while its runner is known to be there it waits"
    if how == "lost":
        fleet.label(first, m="Lost")
    else:
        fleet.gone(first)
    status, _, _ = await asyncio.wait_for(asked, 5)
    assert (status, len(second.served)) == (200, 1)


async def test_a_stream_that_began_goes_on_while_its_runner_is_thought_lost(fleet: RoutedFleet) -> None:
    async def slowly(_: Request, answer: Answer) -> None:
        answer.start(200, [(b"content-type", b"text/event-stream")])
        answer.write(b"data: 1\n\n")
        await asyncio.sleep(0.2)
        answer.finish(b"data: [DONE]\n\n")

    runner = await fleet.runner(slowly)
    async with fleet.ask(stream=True) as response:
        assert await response.content.readline() == b"data: 1\n"
        fleet.label(runner, m="Lost")
        assert (await response.text()).endswith("[DONE]\n\n")
