"""Answers that are given again: never another's, never another revision's, and never later than without them."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from support import router as support
from support.kept import CHAT, GREEDY, assign, chat, numbered, text_of
from support.redis_server import RedisServer, redis_server
from support.router import RoutedFleet, ScriptedRunner, routed_fleet
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Request
from warmfleet_router.cache import guard as guards
from warmfleet_router.cache import rules
from warmfleet_router.cache.disk_tier import DiskTier
from warmfleet_router.cache.redis_tier import RedisTier
from warmfleet_router.cache.rules import Whose
from warmfleet_router.wiring import KeptBounds

SERVING: dict[str, Any] = {"responseCache": {}}
MERGED = "warmfleet_router_merged_requests_total"
ANSWERS = "warmfleet_router_cache_requests_total"


@pytest.fixture
async def fleet() -> AsyncIterator[RoutedFleet]:
    async with routed_fleet() as each:
        each.model(serving=SERVING)
        yield each


@pytest.fixture
async def runner(fleet: RoutedFleet) -> ScriptedRunner:
    return await kept_runner(fleet)


async def kept_runner(fleet: RoutedFleet, seconds: float = 0.0, engine_hash: str = "h1") -> ScriptedRunner:
    each = await fleet.runner(numbered(seconds))
    assign(fleet, each, engine_hash)
    return each


async def content(fleet: RoutedFleet, **fields: Any) -> tuple[str, str]:
    """Ask; return how the cache took it, and the answer's text."""
    _, headers, body = await fleet.reply(**{**GREEDY, **fields})
    return headers.get("X-Warmfleet-Cache", ""), body["choices"][0]["message"]["content"]


def count(fleet: RoutedFleet, result: str) -> float:
    return fleet.value(ANSWERS, namespace="ns", model="m", result=result)


async def test_a_greedy_request_gets_the_same_answer_again(fleet: RoutedFleet, runner: ScriptedRunner) -> None:
    assert await content(fleet) == ("miss", "answer 1 for direct")
    assert await content(fleet) == ("hit", "answer 1 for direct")
    assert await content(fleet, user="somebody") == ("hit", "answer 1 for direct")
    assert await content(fleet, max_tokens=5) == ("miss", "answer 2 for direct")
    _, headers, body = await fleet.reply(**GREEDY, headers={"X-Request-Id": "mine"})
    assert (headers["Age"], headers["X-Request-Id"], body["usage"]["total_tokens"]) == ("0", "mine", 7)
    assert len(runner.served) == 2
    assert (count(fleet, "memory"), count(fleet, "miss")) == (3, 2)


@pytest.mark.parametrize(
    ("fields", "again"),
    [
        ({"temperature": 0}, "hit"),
        ({"temperature": 0.7, "seed": 1}, "hit"),
        ({"temperature": 0, "n": 2, "tools": [{"type": "function", "function": {"name": "f"}}]}, "hit"),
        ({}, "bypass"),
        ({"temperature": 0.7}, "bypass"),
        ({"temperature": None, "seed": None}, "bypass"),
        ({"temperature": 0, "kv_transfer_params": {"do_remote_decode": True}}, "bypass"),
    ],
)
async def test_only_requests_whose_answer_can_not_differ_are_kept(
    fleet: RoutedFleet, runner: ScriptedRunner, fields: dict[str, Any], again: str
) -> None:
    for _ in range(2):
        _, headers, _ = await fleet.reply(**fields)
    assert headers["X-Warmfleet-Cache"] == again
    assert len(runner.served) == (1 if again == "hit" else 2)


async def test_a_client_says_what_may_be_kept(fleet: RoutedFleet, runner: ScriptedRunner) -> None:
    allow = {"X-Warmfleet-Cache": "allow"}
    assert [await content(fleet, temperature=1, headers=allow) for _ in range(2)] == [
        ("miss", "answer 1 for direct"),
        ("hit", "answer 1 for direct"),
    ]
    bypass = {"X-Warmfleet-Cache": "bypass"}
    assert await content(fleet, temperature=1, headers=bypass) == ("bypass", "answer 2 for direct")
    no_store = {"Cache-Control": "no-store", **allow}
    assert await content(fleet, temperature=1, headers=no_store) == ("bypass", "answer 3 for direct")
    no_cache = {"Cache-Control": "no-cache", **allow}
    assert await content(fleet, temperature=1, headers=no_cache) == ("miss", "answer 4 for direct")
    assert await content(fleet, temperature=1, headers=allow) == ("hit", "answer 4 for direct")
    kept_only = {"Cache-Control": "only-if-cached"}
    assert await content(fleet, temperature=1, headers={**kept_only, **allow}) == ("hit", "answer 4 for direct")
    status, _, body = await fleet.reply(**GREEDY, headers=kept_only)
    assert (status, body["error"]["code"]) == (504, "not_kept")
    status, _, _ = await fleet.reply(**GREEDY, headers={"X-Warmfleet-Cache": "perhaps"})
    assert status == 400


async def test_a_model_without_the_block_keeps_nothing(fleet: RoutedFleet, runner: ScriptedRunner) -> None:
    fleet.model()
    _, headers, _ = await fleet.reply(**GREEDY)
    _, headers, _ = await fleet.reply(**GREEDY)
    assert "X-Warmfleet-Cache" not in headers and len(runner.served) == 2


async def test_no_tenant_gets_the_answer_of_another(fleet: RoutedFleet, runner: ScriptedRunner) -> None:
    keys = {"one": "key-of-tenant-one", "two": "key-of-tenant-two"}
    for tenant, key in keys.items():
        fleet.tenant(tenant, key)
    for _ in range(2):
        for tenant, key in keys.items():
            _, text = await content(fleet, headers={"Authorization": f"Bearer {key}"})
            assert text.endswith(f"for ns/{tenant}"), text
    assert len(runner.served) == 2
    # At once, so that they could share what is under way.
    asked = [
        content(fleet, max_tokens=7, headers={"Authorization": f"Bearer {key}"}) for key in keys.values() for _ in "abc"
    ]
    assert {text.rpartition(" ")[2] for _, text in await asyncio.gather(*asked)} == {"ns/one", "ns/two"}
    assert len(runner.served) == 4


async def test_the_test_of_tenants_sees_an_answer_of_another(
    fleet: RoutedFleet, runner: ScriptedRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control: with keys that hold no tenant and shelves for all, the second tenant is given the first one's."""
    key = rules._key

    def of_nobody(whose: Whose, *rest: Any) -> bytes:
        return key(msgspec_replace(whose, tenant=""), *rest)

    monkeypatch.setattr(rules, "_key", of_nobody)
    kept = fleet.parts._answers._kept
    near = kept._memory.get
    monkeypatch.setattr(type(kept._memory), "get", lambda _, shelf, *rest: near(("ns/one", shelf[1]), *rest))
    fleet.tenant("one", "key-of-tenant-one")
    fleet.tenant("two", "key-of-tenant-two")
    await content(fleet, headers={"Authorization": "Bearer key-of-tenant-one"})
    _, text = await content(fleet, headers={"Authorization": "Bearer key-of-tenant-two"})
    assert text.endswith("for ns/one")


def msgspec_replace(whose: Whose, **changes: str) -> Whose:
    import dataclasses

    return dataclasses.replace(whose, **changes)


async def test_answers_are_those_of_the_engines_that_serve_now(fleet: RoutedFleet, runner: ScriptedRunner) -> None:
    assert await content(fleet) == ("miss", "answer 1 for direct")
    second = await kept_runner(fleet, engine_hash="h2")
    assert (await content(fleet))[0] == "bypass", "two revisions serve, nobody knows which one would"
    fleet.gone(runner)
    assert (await content(fleet))[0] == "miss"
    assert (await content(fleet))[0] == "hit"
    fleet.gone(second)
    fleet.model(serving=SERVING, status={"observedGeneration": 0, "servedHash": "h2"})
    assert (await content(fleet))[0] == "hit", "nothing has to wake for what is kept"
    fleet.model(serving=SERVING, replicas=0, status={"observedGeneration": 0, "servedHash": "h2"})
    status, _, body = await fleet.reply(**GREEDY)
    assert (status, body["error"]["code"]) == (503, "model_stopped")


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
async def test_a_stream_is_given_again_as_the_stream_it_was(
    fleet: RoutedFleet, runner: ScriptedRunner, options: dict[str, Any]
) -> None:
    first = await fleet.events(**GREEDY, **options)
    assert await fleet.events(**GREEDY, **options) == first
    assert text_of(first) == "answer 1 for direct" and first.endswith("data: [DONE]\n\n")
    assert ('"total_tokens"' in first) == bool(options)
    assert len(runner.served) == 1
    assert await content(fleet) == ("miss", "answer 2 for direct"), "whole answers are kept apart"


async def test_identical_requests_share_one_answer_from_its_first_byte(fleet: RoutedFleet) -> None:
    runner = await kept_runner(fleet, 0.05)
    streams = await asyncio.gather(*(fleet.events(**GREEDY) for _ in range(20)))
    assert set(streams) == {streams[0]} and text_of(streams[0]) == "answer 1 for direct"
    answers = await asyncio.gather(*(content(fleet, stream=False) for _ in range(20)))
    assert {text for _, text in answers} == {"answer 2 for direct"}
    assert len(runner.served) == 2
    assert count(fleet, "shared") == 38
    assert fleet.value(MERGED, namespace="ns", model="m") == 38


async def test_what_runners_merged_is_counted(fleet: RoutedFleet) -> None:
    async def merges(_: Request, answer: Answer) -> None:
        answer.reply(200, {}, [(b"x-warmfleet-load", b"running=1;waiting=0;window=1;queue=1;merged=1")])

    await fleet.runner(merges)
    _, headers, _ = await fleet.reply()
    assert fleet.value(MERGED, namespace="ns", model="m") == 1 and "X-Warmfleet-Load" not in headers
    (endpoint,) = fleet.parts.endpoints.all()
    assert endpoint.load(time.monotonic()) is not None


async def test_the_client_that_asked_first_may_leave_and_the_others_are_answered(fleet: RoutedFleet) -> None:
    runner = await kept_runner(fleet, 0.2)
    first = asyncio.create_task(content(fleet))
    await fleet.until(lambda: runner.served)
    others = [asyncio.create_task(content(fleet)) for _ in range(5)]
    await fleet.until(lambda: count(fleet, "shared") == 5)
    first.cancel()
    assert set(await asyncio.gather(*others)) == {("miss", "answer 1 for direct")}
    assert (len(runner.served), runner.cancelled) == (1, 0)


async def test_an_answer_nobody_waits_for_any_more_is_ended_at_its_engine(fleet: RoutedFleet) -> None:
    runner = await kept_runner(fleet, 5)
    tasks = [asyncio.create_task(content(fleet)) for _ in range(3)]
    await fleet.until(lambda: count(fleet, "shared") == 2)
    for task in tasks:
        task.cancel()
    await fleet.until(lambda: runner.cancelled == 1)
    assert not fleet.parts._answers._under_way


async def test_a_refusal_is_for_whoever_asked_first(fleet: RoutedFleet) -> None:
    statuses = [400]

    async def refuses_once(request: Request, answer: Answer) -> None:
        await asyncio.sleep(0.05)
        if statuses:
            answer.reply(statuses.pop(), {"error": {"code": "simulated"}})
        else:
            await chat(answer, msgspec.json.decode(request.body), "good")

    assign(fleet, await fleet.runner(refuses_once))
    found = await asyncio.gather(*(fleet.reply(**GREEDY) for _ in range(5)))
    assert sorted(status for status, _, _ in found) == [200] * 4 + [400]


async def test_each_waits_for_a_shared_answer_until_its_own_deadline(fleet: RoutedFleet) -> None:
    runner = await kept_runner(fleet, 0.5)
    first = asyncio.create_task(content(fleet))
    await fleet.until(lambda: runner.served)
    began = time.monotonic()
    await fleet.reply(**GREEDY, headers={"X-Warmfleet-Deadline-Milliseconds": "50"})
    # It asked for itself when its time was over, as if nobody had asked before; this runner knows no deadlines.
    assert len(runner.served) == 2 and time.monotonic() - began >= 0.5
    assert (await first)[1] == "answer 1 for direct"


async def test_a_client_that_reads_slowly_holds_up_nobody(fleet: RoutedFleet) -> None:
    async def long(request: Request, answer: Answer) -> None:
        answer.start(200, [(b"content-type", b"text/event-stream")])
        for _ in range(400):
            answer.write(b'data: {"choices": [], "padding": "' + b"x" * 8192 + b'"}\n\n')
            await answer.drain()
        answer.finish(b"data: [DONE]\n\n")

    assign(fleet, await fleet.runner(long))
    body = msgspec.json.encode({"model": "m", "messages": [], "stream": True, **GREEDY})
    port = int(fleet.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (CHAT.encode(), len(body), body))
    await fleet.until(lambda: count(fleet, "miss") == 1)
    other = asyncio.create_task(fleet.http.post(fleet.url + CHAT, data=body))
    size = 0
    while piece := await asyncio.wait_for(reader.read(65536), 5):
        size += len(piece)
        if piece.endswith(b"0\r\n\r\n"):
            break
    response = await other
    assert size > 400 * 8192 and (await response.read()).endswith(b"data: [DONE]\n\n")
    writer.close()
    assert fleet.value("warmfleet_router_cache_bytes", tier="memory") == 0, "3 MB are more than is kept of one"


@pytest.mark.parametrize(
    "behaviour",
    [
        support.status(500),
        support.breaks_late,
        pytest.param(lambda _, answer: _replies(answer, b'data: {"choices": []}\n\n'), id="no [DONE]"),
        pytest.param(
            lambda _, answer: _replies(answer, b'data: {"error": {"message": "x"}}\n\ndata: [DONE]\n\n'), id="an error"
        ),
        pytest.param(
            lambda _, answer: _replies(answer, b"data: [DONE]\n\n", (b"cache-control", b"no-store")), id="not to keep"
        ),
    ],
)
async def test_what_is_not_whole_is_not_kept(
    fleet: RoutedFleet, behaviour: Callable[[Request, Answer], Awaitable[None]]
) -> None:
    assign(fleet, await fleet.runner(behaviour))
    await fleet.events(**GREEDY)
    assert fleet.value("warmfleet_router_cache_bytes", tier="memory") == 0


async def _replies(answer: Answer, data: bytes, *headers: tuple[bytes, bytes]) -> None:
    answer.start(200, [(b"content-type", b"text/event-stream"), *headers])
    answer.finish(data)


async def test_memory_is_bounded_by_answers_and_bytes() -> None:
    async with routed_fleet(kept=KeptBounds(bytes_in_memory=4000)) as fleet:
        fleet.model(serving={"responseCache": {"maxEntries": 3}})
        await kept_runner(fleet)
        for seed in range(5):
            await content(fleet, seed=seed)
        assert [(await content(fleet, seed=seed))[0] for seed in (4, 3, 2, 1)] == ["hit", "hit", "hit", "miss"]
        fleet.model(serving={"responseCache": {"maxEntries": 1000}})
        for seed in range(50):
            await content(fleet, seed=seed)
        assert 2000 < fleet.value("warmfleet_router_cache_bytes", tier="memory") <= 4000
        assert fleet.value("warmfleet_router_cache_evictions_total", tier="memory") > 40


async def test_answers_grow_old() -> None:
    async with routed_fleet() as fleet:
        fleet.model(serving={"responseCache": {"ttlSeconds": 1}})
        await kept_runner(fleet)
        assert [(await content(fleet))[0] for _ in range(2)] == ["miss", "hit"]
        assert (await content(fleet, headers={"Cache-Control": "max-age=0"}))[0] == "miss"
        await asyncio.sleep(1.01)
        assert (await content(fleet))[0] == "miss"


async def test_the_access_log_tells_of_the_cache(fleet: RoutedFleet, runner: ScriptedRunner) -> None:
    for _ in range(2):
        await content(fleet)
    fleet.access_log._write(fleet.access_log._take())
    lines = [json.loads(line) for line in fleet.log.getvalue().splitlines()]
    assert [(each["cache"], each.get("runner", "")) for each in lines] == [("miss", runner.name), ("memory", "")]


# Tiers outside of the process ---------------------------------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a tier is to answer, it may take its time on a busy machine."""
    monkeypatch.setattr(guards, "READ_SECONDS", 10.0)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as each:
        yield each


@pytest.mark.usefixtures("patient")
async def test_routers_share_what_redis_keeps(redis: RedisServer) -> None:
    for result in ("miss", "redis"):
        async with routed_fleet(tiers=lambda: [RedisTier(redis.url)]) as fleet:
            fleet.model(serving=SERVING)
            await kept_runner(fleet)
            await content(fleet)
            assert count(fleet, result) == 1
            await fleet.parts._answers._kept.flushed()


@pytest.mark.usefixtures("patient")
async def test_disk_keeps_over_a_restart_and_damage_costs_a_miss(tmp_path: Path) -> None:
    async def ask() -> str:
        async with routed_fleet(tiers=lambda: [DiskTier(tmp_path / "kept", 1_000_000)]) as fleet:
            fleet.model(serving=SERVING)
            await kept_runner(fleet)
            await content(fleet)
            await fleet.parts._answers._kept.flushed()
            return next(result for result in ("disk", "miss") if count(fleet, result))

    assert [await ask(), await ask()] == ["miss", "disk"]
    (file,) = [each for each in (tmp_path / "kept").rglob("*") if each.is_file()]
    data = file.read_bytes()
    for damage in (data[: len(data) // 2], b"", data[:-1] + bytes([data[-1] ^ 1])):
        file.write_bytes(damage)
        assert [await ask(), await ask()] == ["miss", "disk"]
    (tmp_path / "kept" / ".tmp-left").write_bytes(b"half")
    assert await ask() == "disk"
    assert not (tmp_path / "kept" / ".tmp-left").exists()


async def test_disk_is_bounded_and_the_least_used_goes_first(tmp_path: Path) -> None:
    disk = DiskTier(tmp_path, 350)
    keys = [bytes([index]) * 32 for index in range(5)]
    for key in keys[:3]:
        await disk.put(key, b"x" * 100, 60)
    await disk.get(keys[0])
    for key in keys[3:]:
        await disk.put(key, b"x" * 100, 60)
    assert [await disk.get(key) is not None for key in keys] == [True, False, False, True, True]
    assert (disk.size_bytes, disk.evicted) == (300, 2)
    await disk.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_redis_that_dies_or_hangs_costs_misses_and_nothing_else(
    redis: RedisServer, number: signal.Signals
) -> None:
    async with routed_fleet(tiers=lambda: [RedisTier(redis.url)]) as fleet:
        fleet.model(serving=SERVING)
        await kept_runner(fleet)
        slowest, failed, asked = 0.0, 0, 0

        async def ask_on(worker: int) -> None:
            nonlocal slowest, failed, asked
            for turn in range(60):
                began = time.monotonic()
                try:
                    status, _, _ = await fleet.reply(**GREEDY, seed=worker * 1000 + turn)
                except aiohttp.ClientError:
                    status = 0
                failed += status != 200
                asked += 1
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.005)

        workers = [asyncio.create_task(ask_on(each)) for each in range(4)]
        await fleet.until(lambda: asked >= 60)
        redis.signal(number)
        await asyncio.gather(*workers)
        assert (asked, failed) == (240, 0)
        assert fleet.value("warmfleet_router_cache_failures_total", tier="redis") >= guards.FAILURES
        assert slowest < 3, "a request waits for it once, for 0.1 s"
        assert (await content(fleet, seed=3059))[0] == "hit", "memory has it"


@pytest.mark.usefixtures("patient")
async def test_a_redis_that_comes_back_is_used_again(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "SHUT_SECONDS", 0.05)
    async with routed_fleet(tiers=lambda: [RedisTier(redis.url)]) as fleet:
        fleet.model(serving=SERVING)
        await kept_runner(fleet)
        redis.kill()
        for seed in range(10):
            await content(fleet, seed=seed)
        redis.start()
        await asyncio.sleep(0.06)
        await content(fleet, seed=100)
        await content(fleet, seed=101)
        await fleet.parts._answers._kept.flushed()
        fleet.parts._answers.forget("")
        assert count(fleet, "redis") == 0
        await content(fleet, seed=101)
        assert count(fleet, "redis") == 1
