"""Nodes of the emulated fleet that lose their power: who is Ready again, where, when, and in which order."""

from typing import Any

import pytest
from pydantic import ValidationError

from warmfleet_emulator.outcome import Outcome, Start
from warmfleet_emulator.policies import POLICIES
from warmfleet_emulator.scenario import Scenario
from warmfleet_emulator.snapshot import UNREACHABLE_SECONDS
from warmfleet_emulator.world import World

LOST_AT = 60.0


def fleet(*models: dict[str, Any], runners: int = 6, **fields: Any) -> Scenario:
    """Three nodes in three zones with two GPUs each, and a pool whose runners have one; zone a is lost."""
    return Scenario.model_validate(
        {
            "untilSeconds": 600,
            "nodes": [{"name": f"n-{zone}", "gpus": 2, "zone": zone} for zone in "abc"],
            "pools": [{"name": "default", "spec": {"replicas": runners, "gpus": 1, "cpu": "1", "memory": "8Gi"}}],
            "models": list(models),
            "losses": [{"atSeconds": LOST_AT, "zone": "a"}],
        }
        | fields
    )


def model(name: str, *, count: int = 1, priority: str = "Normal") -> dict[str, Any]:
    spec = {
        "engine": {"type": "Simulated"},
        "resources": {"gpus": 1, "memory": "1Gi"},
        "priority": priority,
        "idle": {"policy": "Keep"},
    }
    return {"name": name, "count": count, "spec": spec, "start": {"cpuSeconds": 1, "initializeSeconds": 2}}


def outcome_of(scenario: Scenario) -> Outcome:
    outcome = World(scenario, POLICIES["ours"], "ours").run()
    assert outcome.problems == []
    return outcome


def after_the_loss(outcome: Outcome) -> list[Start]:
    return sorted((each for each in outcome.starts if each.wanted >= LOST_AT), key=lambda each: each.assigned)


def test_models_of_a_lost_zone_are_ready_elsewhere_once_the_loss_is_seen() -> None:
    again = after_the_loss(outcome_of(fleet(model("m", count=3))))
    assert again
    for start in again:
        assert start.wanted == LOST_AT
        assert start.node != "n-a"
        assert UNREACHABLE_SECONDS < start.seconds < UNREACHABLE_SECONDS + 5


def test_who_was_elsewhere_goes_on_serving() -> None:
    outcome = outcome_of(fleet(model("m", count=3)))
    lost = {each.model for each in outcome.spans if each.node == "n-a" and each.what == "Ready" and each.end == LOST_AT}
    assert {each.model for each in after_the_loss(outcome)} == lost
    assert lost != {each.model for each in outcome.starts}


def test_where_room_is_for_fewer_a_higher_class_is_first() -> None:
    classes = [model(name, priority=name.title()) for name in ("low", "normal", "high")]
    again = after_the_loss(outcome_of(fleet(*classes, {**model("other"), "count": 2}, runners=6)))
    ranks = [each.priority.rank for each in again]
    assert ranks == sorted(ranks)


def test_nothing_new_goes_to_a_node_without_power() -> None:
    own = model("own", count=4)
    outcome = outcome_of(fleet(own, pools=[]))
    assert after_the_loss(outcome)
    assert all(each.node != "n-a" for each in after_the_loss(outcome))


def test_a_model_without_room_elsewhere_is_said_not_to_be_ready() -> None:
    outcome = outcome_of(fleet(model("m", count=6)))
    lost = {each.model for each in outcome.spans if each.node == "n-a" and each.what == "Ready"}
    assert set(outcome.unfinished) == lost
    assert all(outcome.unfinished.values())


def test_a_loss_of_nothing_changes_nothing() -> None:
    outcome = outcome_of(fleet(model("m", count=2), losses=[]))
    assert after_the_loss(outcome) == []


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        ({"zone": "d"}, "losses.0.zone: there is no zone d; there are a, b, c"),
        ({"nodes": ["x"]}, "losses.0.nodes: there is no node x; there are n-a, n-b, n-c"),
        ({}, "losses.0.zone: it names no node; write zone: or nodes:"),
    ],
)
def test_a_loss_of_what_is_not_there_is_refused(loss: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says.replace(".", r"\.")):
        fleet(model("m"), losses=[{"atSeconds": 1} | loss])
