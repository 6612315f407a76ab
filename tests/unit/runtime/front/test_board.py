"""What the front says of itself: readiness of a runner, and which engine a name means."""

import pytest

from support.front import Front
from support.runner_process import simulated
from warmfleet_api import names
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import EngineState
from warmfleet_runtime.front.board import Board, Nap
from warmfleet_runtime.link import Table


@pytest.mark.parametrize(
    ("state", "wakes", "ready"),
    [
        (EngineState.READY, False, True),
        (EngineState.ASLEEP, True, True),
        (EngineState.ASLEEP, False, False),
        (EngineState.STARTING, False, False),
        (EngineState.FAILED, False, False),
    ],
)
async def test_an_own_runner_is_ready_when_all_its_engines_answer_or_wake_for_a_request(
    front: Front, state: EngineState, wakes: bool, ready: bool
) -> None:
    await front.host("a")
    assert front.board.is_ready
    front.set("b", state, engine=simulated("b"), attempt=1, wakes_on_request=wakes)
    assert front.board.is_ready is ready


async def test_a_runner_of_a_pool_is_ready_when_it_can_take_engines() -> None:
    board = Board(runner_of=names.WARM_POOL_KIND)
    board.update(Table(status=RunnerStatus(pod_uid="p")))
    assert not board.is_ready
    board.update(Table(status=RunnerStatus(pod_uid="p"), can_take_engines=True))
    assert board.is_ready, "before it has any"
    board.update(Table(status=RunnerStatus(pod_uid="p", draining=True), can_take_engines=True))
    assert not board.is_ready


async def test_of_two_engines_with_one_name_the_ready_one_answers_then_the_one_that_wakes(front: Front) -> None:
    for key in ("new", "old"):
        engine = simulated("m", id=key, order=0 if key == "new" else 1)
        front.set(key, EngineState.STARTING, engine=engine, attempt=1)
    found = [front.board.find("m")]
    front.set("old", EngineState.ASLEEP, wakes_on_request=True)
    found.append(front.board.find("m"))
    front.set("old", EngineState.READY, accepts=True)
    found.append(front.board.find("m"))
    front.set("new", EngineState.READY, accepts=True)
    found.append(front.board.find("m"))
    assert [each and each[0] for each in found] == ["new", "old", "old", "new"]


async def test_a_request_that_reached_an_engine_after_it_fell_asleep_wakes_it(front: Front) -> None:
    front.set("a", EngineState.ASLEEP, engine=simulated("a"), attempt=1, wakes_on_request=True)
    board = front.board
    with board.request("a", 1):
        board.naps["a"] = Nap(1, asleep=False)
        assert not board.report().engines["a"].wake_requested, "it still falls asleep, once the request has ended"
        board.naps["a"] = Nap(1, asleep=True)
        assert board.report().engines["a"].wake_requested
    assert not board.report().engines["a"].wake_requested


async def test_the_status_tells_how_much_an_engine_takes_at_once_and_how_soon_it_answers(front: Front) -> None:
    await front.host(max_sequences=4)

    def told() -> tuple[int, int | None]:
        (engine,) = front.board.status().engines
        return engine.window, engine.first_token_milliseconds

    assert told() == (4, None)
    assert await front.status_of(stream=True) == 200
    window, milliseconds = told()
    assert window == 4
    assert milliseconds is not None and 0 <= milliseconds < 10_000
    activity = front.board.activity("m")
    activity.began(1000.0, 0.2)
    activity.began(1020.0, 0.4)
    assert activity.first_token_milliseconds(1_000_031.0) is None, "those of long ago are forgotten"
