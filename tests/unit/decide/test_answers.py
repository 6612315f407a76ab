"""What the API tells of the queue and the fleet, put together from a snapshot and a round's decisions."""

from dataclasses import replace
from typing import Any

import msgspec

from support import make
from warmfleet_api.operator_api import NodeEntry, PendingEntry
from warmfleet_api.status import PendingStart
from warmfleet_api.vocabulary import DesiredState, EngineState, Priority, Reason, Stage, StartType, WakePolicy
from warmfleet_operator.decide.actions import Decisions, Forecast, Waiting
from warmfleet_operator.decide.answers import fleet_answer, queue_answer, wake_answer
from warmfleet_operator.decide.fleet import Fleet, Model

GIB = 1024**3
LATE = Forecast(40.0, StartType.WARM, "room in 30 s, then 10 s Warm on n1", misses_deadline_seconds=20.0)


def pending(model: Model, queued_seconds: float = 10, **fields: Any) -> Model:
    """The model with a start that waits since then."""
    start = PendingStart(
        position=1,
        of=1,
        start_type=StartType.WARM,
        stage=Stage.QUEUED,
        queued_time=make.ago(queued_seconds),
        summary="waits",
        **fields,
    )
    return replace(model, status=model.status.model_copy(update={"pending_start": start}))


def starts(fleet: Fleet, decisions: Decisions, namespace: str = "") -> tuple[PendingEntry, ...]:
    return queue_answer(fleet, decisions, make.NOW, round_seconds=0.1, namespace=namespace).starts


def test_the_queue_lists_who_waits_in_the_order_of_turns_and_then_who_starts() -> None:
    first, second = make.model("zebra"), pending(make.model("ape", coldStart={"deadlineSeconds": 30}))
    lost, begun = make.model("lost"), make.model("begun")
    runner = make.says(make.runner(begun, "n1"), EngineState.STARTING, stage=Stage.WEIGHTS_LOADED)
    fleet = make.fleet(make.node("n1"), first, second, lost, begun, runner)
    decisions = Decisions(
        waiting={
            lost.key: Waiting(lost.key, 0, 2, Reason.NEVER_FITS, "no node is that large"),
            second.key: Waiting(second.key, 2, 2, Reason.NO_FREE_MEMORY, "no room", "take less", place="n1"),
            first.key: Waiting(first.key, 1, 2, Reason.WAITING_FOR_TURN, "others come first"),
        },
        forecasts={second.key: LATE, begun.key: Forecast(3.0, StartType.COLD, "3 s left")},
    )
    found = starts(fleet, decisions)
    assert [(each.model, each.position) for each in found] == [("zebra", 1), ("ape", 2), ("lost", 0), ("begun", 0)]
    ape, under_way = found[1], found[3]
    assert (ape.waited_seconds, ape.ready_seconds, ape.deadline_seconds) == (10, 40, 20)
    assert (ape.misses_deadline_seconds, ape.forecast) == (20, LATE.reason)
    assert (ape.blocker, ape.place, ape.start_type) == ("no room; take less", "n1", StartType.WARM)
    assert (under_way.reason, under_way.stage, under_way.ready_seconds) == (None, Stage.WEIGHTS_LOADED, 3)
    assert under_way.place == "begun-0-1 on n1"


def test_who_serves_or_sleeps_is_not_in_the_queue_and_other_namespaces_are_left_out() -> None:
    serving, elsewhere = make.model("serving"), make.model("elsewhere", namespace="other")
    runner = make.serving(make.runner(serving, "n1"))
    fleet = make.fleet(make.node("n1"), serving, elsewhere, runner)
    wait = Waiting(elsewhere.key, 1, 1, Reason.NO_FREE_MEMORY, "no room")
    decisions = Decisions(waiting={elsewhere.key: wait})
    assert [each.model for each in starts(fleet, decisions)] == ["elsewhere"]
    assert starts(fleet, decisions, "default") == ()


def only_node(fleet: Fleet, namespace: str = "") -> NodeEntry:
    (node,) = fleet_answer(fleet, Decisions(), make.NOW, namespace=namespace).nodes
    return node


def test_a_node_tells_of_its_gpus_whoever_holds_them() -> None:
    model = make.model(gpus=2, priority="High")
    runner = make.serving(make.runner(model, "n1"))
    nodes = make.node("n1", gpus=8, gpu_memory_mib=1024), make.node("n2")
    node = only_node(make.fleet(*nodes, model, runner, make.stranger("other", "n1", gpus=3)))
    assert (node.name, node.gpus, node.gpus_used, node.gpu_memory_bytes) == ("n1", 8, 5, GIB)
    (shown,) = node.runners
    assert (shown.name, shown.pool, shown.gpus) == ("llama-0-1", "", 2)
    (engine,) = shown.engines
    assert (engine.model, engine.priority, engine.state, engine.gpus) == (
        "llama",
        Priority.HIGH,
        EngineState.READY,
        (0, 1),
    )


def test_an_engine_reserves_its_awake_memory_until_its_runner_says_that_it_sleeps() -> None:
    model, pool = make.model(), make.pool()
    hosting = make.hosting(make.up(make.pool_runner(pool, "n1")), model)
    assert hosting.assignment is not None and hosting.status is not None
    engine = msgspec.structs.replace(
        hosting.assignment.engines[0],
        state=DesiredState.ASLEEP,
        wake=WakePolicy.ON_ASSIGNMENT,
        awake_bytes=4 * GIB,
        asleep_bytes=GIB,
    )
    ordered = make.assigned_to(hosting, msgspec.structs.replace(hosting.assignment, engines=(engine,)))

    def reserved(state: EngineState) -> int:
        told = msgspec.structs.replace(hosting.status.engines[0], state=state)  # type: ignore[union-attr]
        says = replace(ordered, status=msgspec.structs.replace(hosting.status, engines=(told,)))  # type: ignore[type-var]
        return only_node(make.fleet(make.node("n1"), model, pool, says)).runners[0].engines[0].reserved_bytes

    assert reserved(EngineState.READY) == 4 * GIB
    assert reserved(EngineState.DRAINING) == 4 * GIB
    assert reserved(EngineState.ASLEEP) == GIB


def test_runners_of_other_namespaces_are_not_shown_to_who_asks_of_one() -> None:
    model = make.model()
    fleet = make.fleet(make.node("n1", gpus=1), model, make.serving(make.runner(model, "n1")))
    assert only_node(fleet, "other").runners == ()
    assert len(only_node(fleet, "default").runners) == 1


def test_a_model_whose_spec_can_not_be_read_is_answered_with_why() -> None:
    answer = wake_answer(make.model().key, "spec.replicas is no number", Decisions(), make.NOW)
    assert (answer.state, answer.message) == ("NoEngine", "spec.replicas is no number")
