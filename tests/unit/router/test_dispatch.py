"""Holding requests, and giving them out when endpoints have room."""

import asyncio
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from support.scripted import until
from warmfleet_api import names
from warmfleet_api.operator_api import WakeAnswer
from warmfleet_kube.objects import Metadata
from warmfleet_router.catalog import Model, ModelKey, Pending, ServedName
from warmfleet_router.dispatch import Bounds, Dispatcher, Wish
from warmfleet_router.endpoints import Endpoint, Endpoints, Load
from warmfleet_router.records import Pod, PodStatus
from warmfleet_router.refusals import RefusedError

M = ModelKey("ns", "m")
MODEL = Model(M, "2026-01-01T00:00:00Z", (ServedName("m"),), state="Asleep")


def pod(name: str, state: str) -> Pod:
    labels = {names.serve_label("m"): state}
    metadata = Metadata(name=name, namespace="ns", uid=f"uid-{name}", labels=labels)
    return Pod(metadata=metadata, status=PodStatus(phase="Running", pod_ip="10.0.0.1"))


class Desk:
    """A dispatcher with endpoints of its own."""

    def __init__(self) -> None:
        self.wakes: list[ModelKey] = []
        self.endpoints = Endpoints(self._changed)
        self.dispatcher = Dispatcher(self.endpoints, Bounds(1000, 2000), self.wakes.append)

    def _changed(self, key: ModelKey) -> None:
        self.dispatcher.has_news(key)

    def wish(self, patience: float = 5.0, model: Model = MODEL, size: int = 1) -> Wish:
        return Wish(model, "m", time.monotonic() + patience, size)

    async def hold(self, count: int = 1, **fields: Any) -> list[asyncio.Task[Endpoint]]:
        tasks = [asyncio.create_task(self.dispatcher.wait(self.wish(**fields))) for _ in range(count)]
        await asyncio.sleep(0)
        return tasks

    def becomes(self, state: str, name: str = "p") -> Endpoint:
        self.endpoints.follow(pod(name, state))
        return next(each for each in self.endpoints.of(M) if each.runner.name == name)


async def refusal(task: asyncio.Task[Endpoint]) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        await task
    return caught.value


def answer(ready_seconds: float | None, **fields: Any) -> WakeAnswer:
    return WakeAnswer(namespace="ns", model="m", state="Waking", ready_seconds=ready_seconds, **fields)


async def test_a_ready_endpoint_is_given_at_once() -> None:
    desk = Desk()
    assert desk.dispatcher.choose(desk.wish()) is None
    endpoint = desk.becomes("Ready")
    assert desk.dispatcher.choose(desk.wish()) is endpoint
    assert endpoint.in_flight == 1
    desk.dispatcher.done(endpoint)
    assert endpoint.in_flight == 0


async def test_a_hundred_requests_wake_the_model_once_and_all_go_out_when_it_is_ready() -> None:
    desk = Desk()
    tasks = await desk.hold(100)
    assert desk.wakes == [M]
    assert desk.dispatcher.held(M) == 100
    endpoint = desk.becomes("Ready")
    for _ in range(5):
        await asyncio.sleep(0)  # No more than the turns it takes to pass the word on.
    assert [task.done() and task.result() for task in tasks] == [endpoint] * 100
    assert endpoint.in_flight == 100 and desk.dispatcher.held(M) == 0


async def test_held_requests_go_out_in_the_order_of_deadlines_as_there_is_room() -> None:
    desk = Desk()
    order: list[int] = []

    async def one(index: int, patience: float) -> None:
        await desk.dispatcher.wait(desk.wish(patience))
        order.append(index)

    tasks = [asyncio.create_task(one(index, 9.0 - index)) for index in range(6)]
    await asyncio.sleep(0)
    endpoint = desk.becomes("Starting")
    endpoint.told(Load(running=0, waiting=0, window=1, queue=1), time.monotonic())
    desk.becomes("Ready")
    await asyncio.sleep(0.01)
    assert order == [5, 4], "it has room for two"
    desk.dispatcher.done(endpoint)
    await asyncio.sleep(0.01)
    assert order == [5, 4, 3]
    for _ in range(3):
        desk.dispatcher.done(endpoint)
    await asyncio.gather(*tasks)
    assert order == [5, 4, 3, 2, 1, 0]


async def test_nobody_overtakes_those_who_are_held() -> None:
    desk = Desk()
    endpoint = desk.becomes("Starting")
    endpoint.told(Load(0, 0, 1, 0), time.monotonic())
    first, second = await desk.hold(2)
    desk.becomes("Ready")
    assert await first is endpoint
    assert desk.dispatcher.choose(desk.wish()) is None
    desk.dispatcher.done(endpoint)
    assert await second is endpoint
    assert desk.dispatcher.choose(desk.wish()) is endpoint


async def test_an_awake_endpoint_is_given_more_than_it_has_room_for_and_a_sleeping_one_is_not() -> None:
    desk = Desk()
    endpoint = desk.becomes("Ready")
    endpoint.told(Load(8, 8, 8, 8), time.monotonic())
    assert desk.dispatcher.choose(desk.wish()) is endpoint
    endpoint.state, endpoint.wakes = "Asleep", True
    assert desk.dispatcher.choose(desk.wish()) is None


async def test_a_pause_that_ends_lets_held_requests_go_without_any_news() -> None:
    desk = Desk()
    endpoint = desk.becomes("Ready")
    endpoint.pause.again(time.monotonic())
    (task,) = await desk.hold()
    assert await asyncio.wait_for(task, 1.0) is endpoint


async def test_a_request_is_held_until_its_deadline_and_told_when_to_come_back() -> None:
    desk = Desk()
    (task,) = await desk.hold(patience=0.05)
    error = await refusal(task)
    assert (error.status, error.code, error.retry_after_seconds) == (503, "hold_timeout", 10)
    assert desk.dispatcher.held(M) == 0


async def test_what_is_predicted_too_late_is_refused_at_once_with_position_and_time() -> None:
    desk = Desk()
    patient, hasty = (await desk.hold(patience=60.0))[0], (await desk.hold(patience=5.0))[0]
    desk.dispatcher.heard(answer(12.3, position=2, of=3, blocker="waits for a GPU"))
    error = await refusal(hasty)
    assert (error.status, error.code, error.retry_after_seconds) == (503, "model_waking", 13)
    assert error.body()["warmfleet"] == {
        "state": "Waking",
        "position": 2,
        "of": 3,
        "readySeconds": 12.3,
        "blocker": "waits for a GPU",
    }
    assert "number 2 of 3" in str(error) and "in 13 s" in str(error)
    with pytest.raises(RefusedError):
        await desk.dispatcher.wait(desk.wish(5.0))
    assert not patient.done()
    patient.cancel()
    await asyncio.gather(patient, return_exceptions=True)


async def test_the_status_of_the_object_tells_the_time_while_the_operator_says_nothing() -> None:
    desk = Desk()
    pending = msgspec.json.decode(b'{"position": 4, "of": 9, "readyTime": "2999-01-01T00:00:00Z"}', type=Pending)
    with pytest.raises(RefusedError, match="number 4 of 9"):
        await desk.dispatcher.wait(desk.wish(model=replace(MODEL, pending=pending)))
    assert desk.wakes == []


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"replicas": 0}, 503, "model_stopped"),
        ({"stalled": "no node is large enough"}, 503, "model_stalled"),
    ],
)
async def test_nothing_is_held_for_what_never_comes(change: dict[str, Any], status: int, code: str) -> None:
    desk = Desk()
    (held,) = await desk.hold()
    model = replace(MODEL, **change)
    desk.dispatcher.model_changed(model)
    (late,) = await desk.hold(model=model)
    for task in (held, late):
        error = await refusal(task)
        assert (error.status, error.code) == (status, code)


async def test_a_deleted_model_refuses_those_who_wait_for_it() -> None:
    desk = Desk()
    (held,) = await desk.hold()
    desk.dispatcher.model_gone(M)
    assert (await refusal(held)).status == 404


async def test_what_is_over_a_bound_is_refused_and_what_left_makes_room() -> None:
    desk = Desk()
    small = replace(MODEL, hold_requests=2)
    first, second = await desk.hold(2, model=small)
    (third,) = await desk.hold(model=small)
    error = await refusal(third)
    assert (error.status, error.code) == (429, "hold_full")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    (fourth,) = await desk.hold(model=small)
    assert not fourth.done()
    (big,) = await desk.hold(model=small, size=1001)
    assert (await refusal(big)).code == "hold_full"
    endpoint = desk.becomes("Ready")
    assert set(await asyncio.gather(second, fourth)) == {endpoint}
    assert desk.dispatcher._budget.bytes_left == 2000


async def test_a_client_that_leaves_in_the_moment_of_its_turn_gives_its_place_back() -> None:
    desk = Desk()
    (task,) = await desk.hold()
    endpoint = desk.becomes("Ready")
    assert endpoint.in_flight == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert endpoint.in_flight == 0


async def test_a_client_is_shown_that_it_is_not_forgotten() -> None:
    desk = Desk()
    beats: list[float] = []

    async def beat() -> None:
        beats.append(time.monotonic())

    begun = time.monotonic()
    task = asyncio.create_task(desk.dispatcher.wait(desk.wish(), beat, 0.02))
    await until(lambda: len(beats) == 8)
    desk.becomes("Ready")
    await task
    # The shortest: a machine that stood still for a moment lengthens the others.
    assert 0.02 <= min(later - earlier for earlier, later in pairwise([begun, *beats])) < 0.03


async def test_levels_name_what_is_held_and_what_is_at_runners() -> None:
    desk = Desk()
    (task,) = await desk.hold(patience=30.0)
    (level,) = desk.dispatcher.levels()
    assert (level.namespace, level.model, level.held, level.queued) == ("ns", "m", 1, 0)
    assert level.deadline_seconds is not None and 29.0 < level.deadline_seconds <= 30.0
    endpoint = desk.becomes("Ready")
    await task
    (level,) = desk.dispatcher.levels()
    assert (level.held, level.queued, level.deadline_seconds) == (0, 1, None)
    desk.dispatcher.done(endpoint)
    assert list(desk.dispatcher.levels()) == []


async def test_another_endpoint_is_one_that_did_not_fail_the_request_before() -> None:
    desk = Desk()
    first = desk.becomes("Ready", "a")
    wish = desk.wish()
    wish.avoid = frozenset({first.runner.uid})
    assert desk.dispatcher.choose_another(wish) is None
    second = desk.becomes("Ready", "b")
    assert desk.dispatcher.choose_another(wish) is second
