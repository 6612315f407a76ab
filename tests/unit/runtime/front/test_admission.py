"""Requests in front of an engine: who waits, goes, is refused, and what becomes of them when the engine changes."""

import asyncio
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.front import POD_UID, Front, until
from support.tokens import public_key, signed_token
from warmfleet_api import names
from warmfleet_api.assignment import AdmissionLimits, Serving, SimulatedEngine
from warmfleet_api.vocabulary import EngineState, Priority
from warmfleet_runtime.front.board import Activity

ENDLESS = 10_000
SLOW = SimulatedEngine(load_milliseconds=0, initialize_milliseconds=0, first_token_milliseconds=5, tokens_per_second=20)
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)


def trusted(tenant: str = "", priority: str = "") -> dict[str, str]:
    headers = {names.HEADER_TOKEN: signed_token(KEY, POD_UID, time.time() + 60)}
    if tenant:
        headers[names.HEADER_TENANT] = tenant
    if priority:
        headers[names.HEADER_CLASS] = priority
    return headers


async def occupy(front: Front, requests: int, **fields: Any) -> list[asyncio.Task[int]]:
    """Send endless requests, and wait until as many are at the engine as may."""
    tasks = [asyncio.create_task(front.status_of(tokens=ENDLESS, stream=True, **fields)) for _ in range(requests)]
    await until(lambda: front.running() + front.waiting() == requests, what=f"{requests} requests at the front")
    await until(lambda: front.at_engine() == front.running(), what="the engine to count them")
    return tasks


async def end(tasks: list[asyncio.Task[int]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_only_as_many_run_as_the_engine_takes_at_once_and_the_rest_wait(front: Front) -> None:
    await front.host(behaviour=SLOW, max_sequences=2)
    tasks = await occupy(front, 5)
    assert (front.running(), front.waiting(), front.at_engine()) == (2, 3, 2)
    status = front.board.status().engines[0]
    assert (status.running, status.waiting) == (2, 3), "as the status tells it"
    for left in (4, 3):
        tasks[0].cancel()
        tasks = tasks[1:]
        await until(lambda left=left: front.running() == 2 and front.waiting() == left - 2)
    await end(tasks)
    await until(lambda: front.running() == 0 == front.waiting() == front.at_engine())
    assert await front.status_of() == 200


async def test_a_full_queue_refuses_with_429_and_says_when_to_come_again(front: Front) -> None:
    await front.host(behaviour=SLOW, max_sequences=1, serving=Serving(max_requests=2))
    tasks = await occupy(front, 3)
    async with front.ask() as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"], error["type"]) == (429, "queue_full", "rate_limit_error")
        assert int(response.headers["Retry-After"]) >= 1
    await end(tasks)


async def test_a_deadline_that_passes_in_the_queue_ends_the_wait(front: Front) -> None:
    await front.host(behaviour=SLOW, max_sequences=1)
    tasks = await occupy(front, 1)
    async with front.ask(headers={names.HEADER_DEADLINE: "200"}) as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
    assert front.waiting() == 0
    await end(tasks)


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "9" * 20, ""])
async def test_a_deadline_that_is_no_number_is_refused(front: Front, value: str) -> None:
    await front.host()
    async with front.ask(headers={names.HEADER_DEADLINE: value}) as response:
        assert response.status == 400
        assert names.HEADER_DEADLINE in (await response.json())["error"]["message"]


async def test_room_is_kept_for_trusted_requests_of_a_higher_class(front: Front) -> None:
    front.trusted_keys = (public_key(KEY),)
    await front.host(behaviour=SLOW, max_sequences=8)
    tasks = await occupy(front, 20)
    assert front.running() < 8, "some room is kept"
    assert await front.status_of(headers=trusted(priority="Critical")) == 200
    assert await front.status_of(headers=trusted(priority="High")) == 200
    waiting = front.waiting()
    unproven = asyncio.create_task(front.status_of(headers={names.HEADER_CLASS: "Critical"}))
    await until(lambda: front.waiting() == waiting + 1, what="a class without a proof to wait with the others")
    await end([*tasks, unproven])


async def test_without_keys_nobody_could_use_the_room_so_none_is_kept(front: Front) -> None:
    await front.host(behaviour=SLOW, max_sequences=8)
    tasks = await occupy(front, 20)
    assert front.running() == 8
    await end(tasks)


async def test_a_trusted_request_without_a_class_has_that_of_its_model(front: Front) -> None:
    front.trusted_keys = (public_key(KEY),)
    await front.host(behaviour=SLOW, max_sequences=8, serving=Serving(priority=Priority.CRITICAL))
    tasks = await occupy(front, 20)
    assert await front.status_of(headers=trusted()) == 200
    await end(tasks)


async def test_an_unknown_class_of_a_trusted_sender_is_refused(front: Front) -> None:
    front.trusted_keys = (public_key(KEY),)
    await front.host()
    assert await front.status_of(headers=trusted(priority="Urgent")) == 400
    assert await front.status_of(headers={names.HEADER_CLASS: "Urgent"}) == 200, "without a token it is not read"


async def test_a_tenant_is_held_to_its_limit_and_others_are_not(front: Front) -> None:
    front.trusted_keys = (public_key(KEY),)
    serving = Serving(limits=AdmissionLimits(sequences_per_tenant=2, sequences_per_session=1))
    await front.host(behaviour=SLOW, serving=serving)
    tasks = await occupy(front, 2, headers=trusted("a"))
    async with front.ask(headers=trusted("a")) as response:
        error = (await response.json())["error"]
        assert response.status == 429 and "Retry-After" in response.headers, error
    assert await front.status_of(headers=trusted("b")) == 200
    session = {names.HEADER_SESSION: "s", **trusted("c")}
    tasks += await occupy_more(front, headers=session)
    assert await front.status_of(headers=session) == 429
    assert await front.status_of(headers=trusted("c")) == 200
    await end(tasks)
    await until(lambda: front.running() == 0)
    assert await front.status_of(headers=trusted("a")) == 200, "a limit counts what is held, not what was"


async def occupy_more(front: Front, **fields: Any) -> list[asyncio.Task[int]]:
    before = front.running()
    task = asyncio.create_task(front.status_of(tokens=ENDLESS, stream=True, **fields))
    await until(lambda: front.running() == before + 1)
    return [task]


async def test_requests_for_an_engine_that_wakes_on_request_wait_until_it_is_awake(front: Front) -> None:
    await front.host()
    front.set("m", EngineState.ASLEEP, wakes_on_request=True)
    assert not front.board.report().engines["m"].wake_requested
    front.board.changed.clear()
    asked = [asyncio.create_task(front.status_of(stream=stream)) for stream in (True, False)]
    await until(lambda: front.waiting() == 2)
    assert front.board.changed.is_set(), "the supervisor hears at once"
    report = front.board.report().engines["m"]
    assert report.wake_requested and report.busy
    assert front.at_engine() == 0
    front.set("m", EngineState.READY, accepts=True)
    assert await asyncio.gather(*asked) == [200, 200]
    assert not front.board.report().engines["m"].wake_requested


async def test_an_engine_that_does_not_wake_in_time_costs_the_request_no_more_than_its_deadline(front: Front) -> None:
    await front.host(serving=Serving(timeout_seconds=1))
    front.set("m", EngineState.ASLEEP, wakes_on_request=True)
    async with front.ask() as response:
        assert response.status in {429, 503} and "Retry-After" in response.headers
    assert not front.board.report().engines["m"].wake_requested


@pytest.mark.parametrize("state", [EngineState.ASLEEP, EngineState.STARTING, EngineState.FAILED])
async def test_an_engine_that_takes_nothing_says_its_state_and_when_to_come_again(
    front: Front, state: EngineState
) -> None:
    await front.host()
    front.set("m", state)
    async with front.ask() as response:
        assert (response.status, response.headers[names.HEADER_STATE]) == (503, state)
        assert int(response.headers["Retry-After"]) >= 1


async def test_a_draining_engine_finishes_what_runs_and_sends_back_what_waits(front: Front) -> None:
    await front.host(behaviour=SLOW, max_sequences=1)
    running = asyncio.create_task(front.status_of(tokens=8, stream=True))
    await until(lambda: front.at_engine() == 1)
    waiting = [asyncio.create_task(front.ask().__aenter__()) for _ in range(3)]
    await until(lambda: front.waiting() == 3)
    front.set("m", EngineState.DRAINING, drains=True)
    for task in waiting:
        response = await task
        assert (response.status, response.headers[names.HEADER_STATE]) == (503, "Draining")
        assert int(response.headers["Retry-After"]) >= 1
        response.release()
    assert not front.board.report().engines["m"].drained
    assert await running == 200
    assert front.board.report().engines["m"].drained
    assert await front.status_of() == 503


async def test_what_waits_outlives_a_crash_of_the_engine_and_what_runs_ends_cleanly(front: Front) -> None:
    await front.host(behaviour=SLOW, max_sequences=1)
    running = asyncio.create_task(last_event(front))
    places = front.api.admission.queues["m"]._running
    await until(lambda: any(place.first_token_at for place in places.values()), what="its first token")
    waiting = asyncio.create_task(front.status_of())
    await until(lambda: front.waiting() == 1)
    front.set("m", EngineState.STARTING, attempt=1)
    await front.kill("m")
    assert "the engine ended before its answer did" in await running
    front.set("m", EngineState.STARTING, attempt=2)
    await asyncio.sleep(0.05)
    assert not waiting.done(), "control: it is still waiting"
    await front.start("m", front.apps["m"])
    front.set("m", EngineState.READY, attempt=2, accepts=True)
    assert await waiting == 200


async def last_event(front: Front) -> str:
    async with front.ask(tokens=ENDLESS, stream=True) as response:
        assert response.status == 200
        text: str = (await response.read()).decode()
        return text.strip().rpartition("\n\n")[2]


async def test_what_waits_for_an_engine_that_failed_is_refused_at_once(front: Front) -> None:
    await front.host(behaviour=SLOW, max_sequences=1)
    tasks = await occupy(front, 2)
    front.set("m", EngineState.FAILED)
    done, _ = await asyncio.wait(tasks, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert [task.result() for task in done] == [503]
    await end(tasks)


async def test_a_changed_assignment_changes_the_queue_and_restarts_nothing(front: Front) -> None:
    await front.host(behaviour=SLOW, max_sequences=1)
    tasks = await occupy(front, 3)
    front.set("m", EngineState.READY, accepts=True, max_sequences=3)
    await until(lambda: front.running() == 3 and front.waiting() == 0)
    assert not any(task.done() for task in tasks)
    await end(tasks)


async def test_an_engine_is_busy_while_it_has_requests_and_for_its_idle_time_after(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    await front.host(behaviour=SLOW, idle_seconds=30)
    front.board._activities["m"] = Activity(last_at=time.monotonic() - 31)
    assert not front.board.report().engines["m"].busy
    front.board.changed.clear()
    tasks = await occupy(front, 1)
    assert front.board.changed.is_set(), "no request may be slept over for a second"
    assert front.board.report().engines["m"].busy
    await end(tasks)
    await until(lambda: front.running() == 0)
    assert front.board.report().engines["m"].busy
    front.board.activity("m").last_at -= 31
    assert not front.board.report().engines["m"].busy
