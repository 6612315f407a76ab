"""What was lost with a pool's runner comes back before the runner is replaced."""

from dataclasses import replace
from typing import Any

import pytest

from support import make
from support.world import World
from warmfleet_api.vocabulary import EngineState, Reason
from warmfleet_operator.decide.actions import CreateRunner, Decisions
from warmfleet_operator.decide.fleet import Model, Runner
from warmfleet_operator.decide.recovery import RECOVERY_SECONDS
from warmfleet_operator.decide.schedule import schedule

POOL = make.pool(replicas=2, memory="4Gi")
NODES = [make.node(name) for name in ("a", "b", "c")]


def decide(*parts: object) -> Decisions:
    return schedule(make.fleet(POOL, *NODES, *parts), make.NOW)  # type: ignore[arg-type]


def pooled(name: str = "llama", **fields: Any) -> Model:
    return make.model(name, pools=["pool"], memory="1Gi", **fields)


def lost(*models: Model, seconds: float = 6) -> Runner:
    return make.silent(make.hosting(make.pool_runner(POOL, "a"), *models), seconds)


def other(*engines: tuple[Model, str], **states: EngineState) -> Runner:
    runner = make.pool_runner(POOL, "b", slot=1)
    return make.hosting(runner, *engines, states=states) if engines else make.up(runner)


def created(decisions: Decisions) -> list[str]:
    return [each.node for each in decisions.actions if isinstance(each, CreateRunner)]


def test_a_lost_runner_is_not_replaced_in_the_round_in_which_its_engine_starts_elsewhere_and_the_pool_says_so() -> None:
    found = decide(pooled(), lost(pooled()), other())
    assert created(found) == []
    waiting = found.waiting[POOL.key]
    assert waiting.reason is Reason.WAITING_FOR_TURN
    assert waiting.blocker == "default/llama, lost with a runner, serve again before that is replaced"
    assert found.recheck_seconds is not None and found.recheck_seconds <= RECOVERY_SECONDS - 6


def test_it_is_not_replaced_while_the_start_elsewhere_is_under_way_either() -> None:
    starting = make.hosting(
        make.pool_runner(POOL, "b", slot=1), (pooled(), "llama-0-2"), states={"llama-0-2": EngineState.STARTING}
    )
    assert created(decide(pooled(), lost(pooled()), starting)) == []


def test_it_is_replaced_once_the_model_serves_elsewhere() -> None:
    assert created(decide(pooled(), lost(pooled()), other((pooled(), "llama-0-2")))) == ["c"]


def test_it_is_replaced_at_once_where_nothing_was_lost_with_it() -> None:
    assert created(decide(lost(), other())) == ["c"]


@pytest.mark.parametrize("seconds", [RECOVERY_SECONDS, 1000.0])
def test_it_is_replaced_half_a_minute_after_the_loss_whatever_became_of_the_model(seconds: float) -> None:
    assert created(decide(pooled(), lost(pooled(), seconds=seconds), other())) == ["c"]


def test_it_is_replaced_at_once_where_a_start_finds_no_room_in_the_runners_that_are_there() -> None:
    large = [make.model(name, pools=["pool"], memory="3Gi") for name in ("one", "two")]
    full = make.hosting(make.pool_runner(POOL, "b", slot=1), large[0])
    assert created(decide(*large, lost(large[1]), full)) == ["c"]


def test_it_is_replaced_at_once_where_another_model_waits_for_room() -> None:
    waits = make.model("waits", pools=["pool"], memory="3500Mi")
    starting = make.hosting(
        make.pool_runner(POOL, "b", slot=1), (pooled(), "llama-0-2"), states={"llama-0-2": EngineState.STARTING}
    )
    assert created(decide(pooled(), waits, lost(pooled()), starting)) == ["c"]


def test_a_model_that_sleeps_by_itself_is_not_waited_for() -> None:
    asleep = pooled(status={"dormant": {"reason": "no request for 300 s", "time": make.ago(60)}})
    assert created(decide(asleep, lost(asleep), other())) == ["c"]


def test_a_missing_runner_of_which_nothing_was_ever_heard_is_not_waited_with() -> None:
    unheard = replace(lost(pooled()), silent_seconds=None)
    gone = [node for node in NODES if node.metadata.name != "a"]
    found = schedule(make.fleet(POOL, *gone, pooled(), unheard, other()), make.NOW)
    assert created(found) == ["c"]


def test_after_a_loss_the_fleet_comes_to_rest_with_all_runners_and_all_models() -> None:
    it = World()
    it.add(*NODES, POOL, *(pooled(name) for name in ("m-1", "m-2", "m-3")))
    it.settle()
    name = next(name for name, runner in it.runners.items() if runner.pod.spec.node_name == "a")
    it.change(name, make.silent)
    it.settle()
    assert all(len(it.serving(name)) == 1 for name in ("m-1", "m-2", "m-3"))
    assert sorted(each.pod.spec.node_name for each in it.runners.values()) == ["b", "c"]
