"""What is read from the audit log of a zone's loss: the control that shows a start out of turn would be seen."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from localcluster.audit import Request
from support.lost_zone import NONE, STANDBYS, Member, Zoned, overtaken, recoveries_in
from warmfleet_api import names
from warmfleet_api.assignment import Assignment, EngineAssignment, EngineSpec, encode
from warmfleet_api.vocabulary import DesiredState, EngineType, Priority

LOST_AT = datetime(2026, 1, 1, tzinfo=UTC)
HIGH, LOW = Member("high", Priority.HIGH, "Hot"), Member("low", Priority.LOW, "Warm")
DEAD = {"dead-0", "dead-1"}
_ASSIGNMENT = "/metadata/annotations/" + names.ANNOTATION_ASSIGNMENT.replace("/", "~1")


def patch(seconds: float, runner: str, *operations: dict[str, Any]) -> Request:
    return Request(
        time=LOST_AT + timedelta(seconds=seconds),
        verb="patch",
        resource="pods",
        subresource="",
        namespace="ns",
        name=runner,
        user="u",
        user_agent="a",
        code=200,
        path="/",
        body=msgspec.json.encode(operations),
    )


def says(seconds: float, runner: str, model: str, state: str) -> Request:
    path = "/metadata/labels/" + names.serve_label(model).replace("/", "~1")
    return patch(seconds, runner, {"op": "add", "path": path, "value": state})


def told(seconds: float, runner: str, model: str) -> Request:
    spec = EngineSpec(type=EngineType.SIMULATED, uri="hf://x/y", served_names=(model,))
    engine = EngineAssignment(
        id=f"{model}-0-2", model=model, model_uid="u", hash="h", gpus=(0,), state=DesiredState.READY, engine=spec
    )
    value = encode(Assignment(version=1, revision=2, engines=(engine,)))
    return patch(seconds, runner, {"op": "add", "path": _ASSIGNMENT, "value": value})


def out_of_turn(*requests: Request, members: tuple[Member, ...] = (HIGH, LOW)) -> list[str]:
    return overtaken(requests, "ns", members, DEAD)


def test_a_lower_class_before_a_higher_one_that_is_known_to_be_lost_is_seen() -> None:
    lost = says(2, "dead-0", "high", "Lost"), says(2, "dead-1", "low", "Lost")
    assert out_of_turn(*lost, told(3, "r0", "low"), told(4, "r1", "high")) == [
        "low (Low) before high (High) by 1.000 s"
    ]
    assert out_of_turn(*lost, told(3, "r0", "low")) == ["low (Low) before high (High), which got none"]
    assert out_of_turn(*lost, told(3, "r1", "high"), told(4, "r0", "low")) == []


def test_what_was_decided_before_the_higher_one_was_known_overtook_nobody() -> None:
    first = says(2, "dead-1", "low", "Lost"), told(2.1, "r0", "low")
    assert out_of_turn(*first, says(2.5, "dead-0", "high", "Lost"), told(2.6, "r1", "high")) == []


def test_a_model_without_a_standby_is_nobody_who_is_overtaken() -> None:
    lost = says(2, "dead-0", "high", "Lost"), says(2, "dead-1", "low", "Lost")
    bare = Member("high", Priority.HIGH, NONE)
    assert out_of_turn(*lost, told(3, "r0", "low"), told(4, "r1", "high"), members=(bare, LOW)) == []


def test_a_recovery_ends_when_the_label_says_ready_elsewhere() -> None:
    requests = [
        says(0.5, "dead-0", "high", "Ready"),
        told(2, "r0", "high"),
        says(2.1, "r0", "high", "Starting"),
        says(3, "r0", "high", "Ready"),
        told(2, "r1", "low"),
    ]
    (found,) = recoveries_in(requests, "ns", LOST_AT, (HIGH, LOW), DEAD)
    assert (found.member, found.placed_seconds, found.ready_seconds) == (HIGH, 2.0, 3.0)


@pytest.mark.parametrize(("nodes", "zones"), [(9, 3), (10, 3), (500, 4)])
def test_cluster_and_emulator_get_the_same_fleet(nodes: int, zones: int) -> None:
    zoned = Zoned(models=64, nodes=nodes, zones=zones, gpus=4)
    pool, models = zoned.objects()
    scenario = zoned.scenario()
    assert len(scenario.node_names()) == nodes == pool["spec"]["replicas"]
    assert {each.zone for each in scenario.nodes} == set(zoned.zone_names())
    assert [each["metadata"]["name"] for each in models] == scenario.model_names()
    combinations = {(each.standby, each.priority) for each in zoned.members()}
    assert combinations == {(standby, priority) for standby in STANDBYS for priority in Priority}
