"""When a runner calls itself Ready to Kubernetes: its pod then gets the requests of all its models."""

import pytest

from warmfleet_api import names
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState
from warmfleet_runtime.front.board import Board
from warmfleet_runtime.link import Table


def is_ready(runner_of: str, *states: EngineState, can_take_engines: bool = True, draining: bool = False) -> bool:
    engines = tuple(
        EngineStatus(id=f"e-{number}", model="m", model_uid="u", hash="h", state=state)
        for number, state in enumerate(states)
    )
    board = Board(runner_of=runner_of)
    status = RunnerStatus(pod_uid="uid", revision=1, draining=draining, engines=engines)
    board.update(Table(status=status, can_take_engines=can_take_engines))
    return board.is_ready


def test_a_free_runner_of_a_pool_is_ready_once_it_takes_engines() -> None:
    assert not is_ready(names.WARM_POOL_KIND, can_take_engines=False)
    assert is_ready(names.WARM_POOL_KIND)


def test_an_engine_that_starts_or_fails_takes_no_other_out_of_service() -> None:
    assert is_ready(names.WARM_POOL_KIND, EngineState.READY, EngineState.STARTING, EngineState.FAILED)


def test_engines_stay_in_service_while_a_lost_zygote_is_replaced() -> None:
    assert is_ready(names.WARM_POOL_KIND, EngineState.READY, can_take_engines=False)


@pytest.mark.parametrize("runner_of", [names.WARM_POOL_KIND, names.MODEL_DEPLOYMENT_KIND])
def test_a_runner_that_drains_is_not_ready(runner_of: str) -> None:
    assert not is_ready(runner_of, EngineState.READY, draining=True)


def test_an_own_runner_is_ready_with_its_model() -> None:
    assert not is_ready(names.MODEL_DEPLOYMENT_KIND, EngineState.STARTING)
    assert is_ready(names.MODEL_DEPLOYMENT_KIND, EngineState.READY)
