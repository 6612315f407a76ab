"""Who sleeps, wakes and gives way, case by case."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from support import make, make_weights
from support.sleepers import Sleepers
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.status import PendingStart
from warmfleet_api.vocabulary import DesiredState, Priority, Reason, Stage, StartType, WakePolicy
from warmfleet_operator.decide.actions import DeleteRunner
from warmfleet_operator.decide.fleet import Demand, Model
from warmfleet_operator.decide.give_way import Rules
from warmfleet_operator.decide.schedule import schedule
from warmfleet_operator.decide.turns import turn_of

AWAKE, RESERVED, ORDERED = "awake", "asleep with its memory", "asleep without"


def pooled(name: str, **fields: Any) -> Model:
    resources = {"gpus": 1, "gpuMemory": "60Gi", "memory": "4Gi"}
    return make.model(name, **{"pools": ["pool"], "resources": resources, **fields})


def one_gpu(*models: Model) -> Sleepers:
    """A pool of one runner with one GPU, in which the first of the models is awake."""
    world = Sleepers()
    world.add(make.node("a", gpus=1, gpu_memory_mib=80 * 1024), make.pool(gpus=1, memory="33Gi"), models[0])
    world.settle()
    world.add(*models[1:])
    return world


def states(world: Sleepers) -> dict[str, str]:
    """Model → how its engine is assigned."""
    (runner,) = [each for _, each in world.pooled()]
    assert runner.assignment is not None
    return {each.model: state(each) for each in runner.assignment.engines}


def state(engine: EngineAssignment) -> str:
    if engine.state is DesiredState.READY:
        return AWAKE
    return RESERVED if engine.wake is WakePolicy.ON_REQUEST else ORDERED


# Sleep and wakes ---------------------------------------------------------------------------------------------------


def test_a_dormant_model_sleeps_with_its_memory_reserved_while_nobody_wants_it() -> None:
    world = one_gpu(pooled("a"))
    world.sleep("a")
    world.settle()
    assert states(world) == {"a": RESERVED}
    assert world.round().waiting == {}
    world.wake("a")
    world.settle()
    assert states(world) == {"a": AWAKE}


def test_it_gives_its_memory_to_who_wants_it_and_wakes_on_the_same_gpu_when_that_one_sleeps() -> None:
    a, b = pooled("a"), pooled("b")
    world = one_gpu(a, b)
    world.sleep("a")
    world.settle()
    assert states(world) == {"a": ORDERED, "b": AWAKE}
    world.wake("a")
    found = world.round()
    assert found.waiting[a.key].reason is Reason.FLOORS_HELD
    assert found.waiting[a.key].start_type is StartType.HOT
    world.sleep("b")
    world.settle()
    assert states(world) == {"a": AWAKE, "b": ORDERED}


def test_a_start_begins_only_when_the_runner_says_that_the_other_sleeps() -> None:
    world = one_gpu(pooled("a"), pooled("b"))
    world.sleep("a")
    (name,) = [name for name, _ in world.pooled()]
    world.round()
    assert states(world) == {"a": ORDERED}
    world.obey(name)  # it drains
    waiting = world.round().waiting
    assert states(world) == {"a": ORDERED}
    (wait,) = waiting.values()
    assert (wait.reason, wait.place) == (Reason.WAITING_FOR_TURN, name)
    assert wait.available_seconds is not None
    world.obey(name)  # it sleeps
    world.round()
    assert states(world) == {"a": ORDERED, "b": AWAKE}


def test_a_dormant_models_own_runner_goes_when_its_nodes_room_is_needed() -> None:
    world = Sleepers()
    first, second = make.model("first", gpus=1), make.model("second", gpus=1)
    world.add(make.node("a", gpus=1), first)
    world.settle()
    world.sleep("first")
    world.settle()
    assert [each.name for each in world.members("first")] == ["first-0-1"]
    world.add(second)
    deleted = [each.pod.metadata.name for each in world.round().actions if isinstance(each, DeleteRunner)]
    assert deleted == ["first-0-1"]
    world.settle()
    assert world.serving("second")


# Idle engines ------------------------------------------------------------------------------------------------------


def test_an_idle_engine_yields_after_ten_seconds_without_requests_and_its_residency() -> None:
    a, b = pooled("a"), pooled("b")
    world = one_gpu(a, b)
    world.idle["a"], world.awake_seconds = 3.0, 1000.0
    found = schedule(world.fleet(), world.now)
    assert found.yields == {}
    assert found.waiting[b.key].blocker == "in 7 s room is made in pool-0-1: default/a is without requests"
    assert found.recheck_seconds == pytest.approx(7.0)
    world.idle["a"], world.awake_seconds = 11.0, 20.0
    assert schedule(world.fleet(), world.now).recheck_seconds == pytest.approx(40.0)
    world.awake_seconds = 61.0
    assert list(schedule(world.fleet(), world.now).yields) == [a.key]


def test_an_engine_that_somebody_asks_for_or_that_is_to_stay_awake_does_not_yield() -> None:
    for fields, demand in (({}, Demand(queued=1)), ({"idle": {"policy": "Keep"}}, None)):
        a, b = pooled("a", **fields), pooled("b")
        world = one_gpu(a, b)
        world.idle["a"] = 100.0
        if demand is not None:
            world.demand["a"] = demand
        found = schedule(world.fleet(), world.now)
        assert found.yields == {}
        assert found.waiting[b.key].reason is Reason.FLOORS_HELD
        assert "held by default/a" in found.waiting[b.key].blocker
        assert found.waiting[b.key].available_seconds is None


def test_a_runner_spends_a_fifth_of_ten_minutes_on_changes_and_may_always_make_one() -> None:
    slow = {"type": "Simulated", "simulated": {"loadMilliseconds": 50_000, "initializeMilliseconds": 0}}
    a, b = pooled("a"), pooled("b", engine=slow)
    world = one_gpu(a, b)
    world.idle["a"] = 100.0
    world.switches = {"pool-0-1": (100.0, 400.0)}
    found = schedule(world.fleet(), world.now)
    assert found.yields == {}
    assert found.recheck_seconds == pytest.approx(600 - 400)
    world.switches = {"pool-0-1": (700.0, 400.0)}
    assert list(schedule(world.fleet(), world.now).yields) == [a.key]


# Preemption --------------------------------------------------------------------------------------------------------


def test_a_busy_engine_of_a_lower_class_is_ordered_asleep_after_its_residency() -> None:
    low, high = pooled("low", priority="Low"), pooled("high", priority="High")
    world = one_gpu(low, high)
    world.awake_seconds = 50.0
    found = schedule(world.fleet(), world.now)
    assert found.preemptions == ()
    assert found.recheck_seconds == pytest.approx(10.0)
    world.awake_seconds = 61.0
    (preemption,) = world.round().preemptions
    assert (preemption.victim, preemption.winner, preemption.runner) == (low.key, high.key, "pool-0-1")
    assert preemption.reason == "makes room for default/high: default/low is of the lower class Low"
    assert states(world) == {"low": ORDERED}
    world.settle()
    assert states(world) == {"low": ORDERED, "high": AWAKE}
    assert world.round().waiting[low.key].reason is Reason.FLOORS_HELD


@pytest.mark.parametrize(("holder", "comer"), [("Normal", "Normal"), ("High", "Low"), ("Critical", "Critical")])
def test_nobody_preempts_its_own_class_or_a_higher_one(holder: str, comer: str) -> None:
    a, b = pooled("a", priority=holder), pooled("b", priority=comer)
    world = one_gpu(a, b)
    found = schedule(world.fleet(), world.now)
    assert (found.preemptions, found.yields) == ((), {})
    assert found.waiting[b.key].blocker.endswith(
        f"held by default/a ({holder}, busy). A higher priority than theirs makes busy models give way, "
        "idle.policy: Yield idle ones"
    )


# Turns -------------------------------------------------------------------------------------------------------------


def waiting(name: str, seconds: float, **fields: Any) -> Model:
    model = pooled(name, **fields)
    pending = PendingStart(
        position=1, of=1, start_type=StartType.WARM, stage=Stage.QUEUED, queued_time=make.ago(seconds), summary="waits"
    )
    return replace(model, status=model.status.model_copy(update={"pending_start": pending}))


def order(*models: Model, seconds: float = 0.0) -> list[str]:
    fleet, now = make.fleet(*models), make.NOW + timedelta(seconds=seconds)
    return [each.key.name for each in sorted(models, key=lambda each: turn_of(each, fleet, now, StartType.WARM))]


def test_turns_go_by_class_then_deadline_then_shortness_then_age() -> None:
    slow = {"type": "Simulated", "simulated": {"loadMilliseconds": 50_000}}
    assert order(
        waiting("young", 1),
        waiting("old", 100),
        waiting("long", 200, engine=slow),
        waiting("due", 1, coldStart={"deadlineSeconds": 60}),
        waiting("overdue", 90, coldStart={"deadlineSeconds": 5}),
        waiting("low", 500, priority="Low"),
        waiting("critical", 1, priority="Critical"),
    ) == ["critical", "overdue", "due", "old", "young", "long", "low"]


def test_how_long_a_start_takes_is_told_by_its_own_weights_whoever_was_asked_about_before() -> None:
    small = make_weights.model("small", bytes=make.GIB)
    large = make_weights.model("large", bytes=100 * make.GIB)
    assert small.hash == large.hash
    told = []
    for models in ((small, large), (large, small)):
        rules = Rules(make.fleet(*models), {}, {})
        told.append({model.key: rules.start_seconds_of(model, StartType.COLD) for model in models})
    assert told[0] == told[1]
    assert told[0][small.key] < told[0][large.key]


def test_a_start_climbs_one_class_per_max_wait_and_has_the_first_turn_of_all_after_the_stated_bound() -> None:
    patient = {"maxWaitSeconds": 60}
    low = waiting("low", 0, priority="Low", coldStart=patient)
    turns = [
        turn_of(low, make.fleet(low), make.NOW + timedelta(seconds=each), StartType.WARM) for each in (59, 61, 121)
    ]
    assert [each.rank for each in turns] == [Priority.LOW.rank, Priority.NORMAL.rank, Priority.HIGH.rank]
    bound = 3 * 60
    endless = [
        replace(waiting(f"c{number}", -bound - number, priority="Critical", coldStart={"deadlineSeconds": 1}))
        for number in range(5)
    ]
    assert order(low, *endless, seconds=bound + 10)[0] == "low"


def test_who_climbed_makes_nobody_give_way_for_it() -> None:
    world = one_gpu(pooled("normal"), waiting("low", 3 * 600, priority="Low"))
    assert schedule(world.fleet(), world.now).preemptions == ()
