"""Standbys: where they are, what is held for them, who takes it, and how one takes over for a lost replica."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support import make
from support.world import World
from warmfleet_api import names
from warmfleet_api.vocabulary import DesiredState, EngineState
from warmfleet_operator.build.pod import runner_pod
from warmfleet_operator.build.template import template_hash
from warmfleet_operator.decide.actions import CreateRunner, Decisions, PatchRunner, StandingBy
from warmfleet_operator.decide.events import EventReason
from warmfleet_operator.decide.fleet import Model, ModelKey
from warmfleet_operator.decide.model import ModelDecision, ModelView, decide_model
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.schedule import schedule

KEY = ModelKey("default", "llama")
HOT = {"mode": "Hot"}
ZONES = {"topologyKey": names.NODE_LABEL_ZONE}


def world(*, nodes: int = 3, runners: int = 3, gpus: int = 1, **fields: Any) -> World:
    """A pool with a runner of one GPU on each of some nodes, in zones a and b by turns."""
    made = World()
    for number in range(nodes):
        made.add(make.node(f"n{number}", gpus=gpus, zone="ab"[number % 2]))
    made.add(make.pool(replicas=runners, gpus=1, memory="8Gi", maxEngines=4))
    made.settle()
    made.add(model(**fields))
    made.settle()
    return made


def model(name: str = "llama", **fields: Any) -> Model:
    spec: dict[str, Any] = {"gpus": 1, "pools": ["pool"], "standby": {}, **fields}
    served = make.model(name, **spec)
    return make.model(name, status={"servedHash": served.hash}, **spec)


def resting(it: World, name: str = "llama") -> list[Member]:
    return [each for each in it.members(name) if each.is_told_to_sleep]


def standby_of(it: World, name: str = "llama") -> StandingBy:
    return schedule(it.fleet(), make.NOW).standbys[ModelKey("default", name)]


def lose(it: World, node: str) -> None:
    """Let everything on a node fall silent."""
    for name, runner in it.runners.items():
        if runner.pod.spec.node_name == node:
            it.change(name, make.silent)


def heal(it: World, node: str) -> None:
    """Let everything on a node be heard again."""
    for name, runner in it.runners.items():
        if runner.pod.spec.node_name == node:
            it.change(name, lambda each: replace(each, silent_seconds=0.2, returned_seconds=1.0))


def told(decisions: Decisions) -> dict[str, list[DesiredState]]:
    """What runners are told of their engines, by node."""
    patches = [each for each in decisions.actions if isinstance(each, PatchRunner) and each.assignment is not None]
    return {
        each.pod.spec.node_name: [engine.state for engine in each.assignment.engines]
        for each in patches
        if each.assignment is not None
    }


def seen(it: World, status: dict[str, Any] | None = None, decisions: Decisions | None = None) -> ModelDecision:
    """The status of the model after a round."""
    found = decisions or schedule(it.fleet(), make.NOW)
    of = it.models["llama"]
    if status is not None:
        of = make.model("llama", status=status, gpus=1, pools=["pool"], standby=HOT)
    promotion = next(iter(found.promotions), None)
    view = ModelView(of, tuple(it.runners.values()), it.nodes, standby=found.standbys.get(KEY), promotion=promotion)
    return decide_model(view, make.NOW)


# Hot ----------------------------------------------------------------------------------------------------------------


def test_a_hot_standby_sleeps_on_another_node_and_is_no_replica() -> None:
    it = world(standby=HOT)
    (serves,), (rests,) = it.serving("llama"), resting(it)
    assert serves.node != rests.node
    assert rests.engine is not None
    assert rests.engine.state is EngineState.ASLEEP
    assert standby_of(it) == StandingBy((rests.node,), 1)
    status = seen(it).status
    assert (status.replicas, status.ready_replicas) == (1, 1)
    assert status.standby is not None
    assert (status.standby.ready_replicas, status.standby.nodes) == (1, [rests.node])
    assert not any(each.type == "Degraded" for each in status.conditions)


def test_a_hot_standby_is_in_another_zone_where_the_label_of_zones_is_named() -> None:
    it = world(standby=HOT | ZONES)
    (serves,), (rests,) = it.serving("llama"), resting(it)
    assert int(serves.node[1]) % 2 != int(rests.node[1]) % 2


def test_a_lost_replica_wakes_its_standby_in_the_round_that_sees_the_loss_and_tells_of_it() -> None:
    it = world(standby=HOT)
    (serves,), (rests,) = it.serving("llama"), resting(it)
    lose(it, serves.node)
    decisions = it.round()
    assert told(decisions)[rests.node] == [DesiredState.READY]
    assert [each.model for each in decisions.promotions] == [KEY]
    events = [each for each in seen(it, decisions=decisions).events if each.reason is EventReason.STANDBY_PROMOTED]
    assert serves.node in events[0].message
    assert rests.node in events[0].message


def test_the_promoted_standby_is_replaced_and_the_lost_replica_goes() -> None:
    it = world(standby=HOT)
    (serves,), (rests,) = it.serving("llama"), resting(it)
    lose(it, serves.node)
    it.settle()
    assert [each.node for each in it.serving("llama")] == [rests.node]
    assert {each.node for each in resting(it)} == {"n0", "n1", "n2"} - {serves.node, rests.node}
    assert serves.name not in {each.name for each in it.members("llama")}


def test_a_standby_gives_way_to_whatever_serves_and_its_model_says_what_it_lacks() -> None:
    it = world(runners=2, nodes=2, standby=HOT)
    assert resting(it)
    it.add(model("other", standby=None, priority="Low"))
    it.settle()
    assert it.serving("other")
    assert it.serving("llama")
    lost = [each for each in resting(it) if each.wakes_on_request]
    assert not lost, "it keeps no memory that somebody else serves with"


def test_a_promoted_standby_takes_back_its_room_from_lower_classes_only() -> None:
    it = world(runners=2, nodes=2, standby=HOT)
    it.add(model("other", standby=None, priority="High"))
    it.settle()
    (serves,) = it.serving("llama")
    lose(it, serves.node)
    for name, runner in it.runners.items():
        known = runner.status.engines if runner.status is not None else ()
        awake = {each.id: 1000.0 for each in known}
        it.change(name, lambda each, awake=awake: replace(each, awake_seconds=awake))  # type: ignore[misc]
    decisions = it.round()
    assert [each.victim.name for each in decisions.preemptions] == ["other"]


def test_a_node_that_flaps_costs_one_promotion() -> None:
    it = world(standby=HOT)
    (serves,) = it.serving("llama")
    promotions = 0
    for _ in range(30):
        lose(it, serves.node)
        for _ in range(3):
            promotions += len(it.round().promotions)
            it.progress()
        heal(it, serves.node)
        for _ in range(3):
            promotions += len(it.round().promotions)
            it.progress()
    assert promotions == 1
    (now,) = it.serving("llama")
    assert now.node != serves.node
    assert all(each.node != serves.node for each in resting(it))


def test_one_that_returns_before_its_replacement_serves_gives_way_to_it() -> None:
    it = world(standby=HOT)
    (serves,), (rests,) = it.serving("llama"), resting(it)
    lose(it, serves.node)
    it.round()
    heal(it, serves.node)
    it.settle()
    assert [each.node for each in it.serving("llama")] == [rests.node]


def test_an_engine_on_its_way_to_sleep_is_not_labelled_ready() -> None:
    it = world(standby=HOT)
    (rests,) = resting(it)
    name = rests.pod.metadata.name
    it.change(name, lambda each: make.tells(each, {rests.name: EngineState.READY}))
    it.round()
    assert it.runners[name].pod.metadata.labels[names.serve_label("llama")] == EngineState.ASLEEP


def test_a_drained_node_hands_over_to_the_standby() -> None:
    it = world(standby=HOT)
    (serves,), (rests,) = it.serving("llama"), resting(it)
    it.add(make.node(serves.node, gpus=1, zone="a", cordoned_seconds=1))
    it.settle()
    assert [each.node for each in it.serving("llama")] == [rests.node]


def test_a_model_that_sleeps_keeps_its_hot_standby_asleep_and_says_nothing_of_it() -> None:
    it = world(standby=HOT)
    (rests,) = resting(it)
    sleeps = {"time": make.ago(5), "reason": "no request for 300 s"}
    it.add(make.model("llama", gpus=1, pools=["pool"], standby=HOT, status={"dormant": sleeps}))
    it.settle()
    assert rests.name in {each.name for each in resting(it)}
    assert not schedule(it.fleet(), make.NOW).standbys


def test_a_changed_spec_takes_the_standby_with_it() -> None:
    it = world(standby=HOT)
    it.add(model(standby=HOT, engine={"type": "Simulated", "args": [], "maxModelLen": 1024}))
    it.settle()
    assert {each.hash for each in it.members("llama")} == {it.models["llama"].hash}
    assert len(resting(it)) == 1


def test_without_the_field_the_standby_goes() -> None:
    it = world(standby=HOT)
    it.add(model(standby=None))
    it.settle()
    assert not resting(it)
    assert len(it.serving("llama")) == 1


# Warm and Cold ------------------------------------------------------------------------------------------------------


def test_a_warm_standby_holds_room_that_no_other_standby_has_and_no_engine() -> None:
    it = world(standby={"mode": "Warm"})
    (serves,) = it.serving("llama")
    first = standby_of(it)
    assert first.ready == 1
    assert serves.node not in first.nodes
    assert len(it.members("llama")) == 1
    it.add(model("other"))
    it.settle()
    assert standby_of(it).ready + standby_of(it, "other").ready == 1, "one free runner is room for one"
    missing = standby_of(it, "other").missing or standby_of(it).missing
    assert "kubectl -n default scale wp/pool --replicas=" in missing


def test_a_warm_standby_takes_over_in_a_free_runner_as_a_critical_start() -> None:
    it = world(standby={"mode": "Warm"}, priority="Low")
    (serves,) = it.serving("llama")
    lose(it, serves.node)
    decisions = it.round()
    assert [each.model for each in decisions.promotions] == [KEY]
    it.settle()
    assert [each.node for each in it.serving("llama")] != [serves.node]


def test_a_cold_standby_holds_nothing_and_names_where_its_weights_are_to_be() -> None:
    it = world(nodes=2, runners=2, standby={"mode": "Cold"})
    it.add(model("other", standby=None))
    it.settle()
    found = standby_of(it)
    assert (found.ready, len(found.nodes), found.missing) == (1, 1, "")


@pytest.mark.parametrize(
    ("nodes", "standby", "words"),
    [
        (1, {"mode": "Warm"}, "all nodes that suit are where the replicas are"),
        (3, {"mode": "Warm", "topologyKey": "example.com/rack"}, "kubectl label node"),
        (3, {"mode": "Hot", "topologyKey": "example.com/rack"}, "kubectl label node"),
        (1, {"mode": "Cold"}, "add nodes or runners elsewhere"),
    ],
)
def test_a_standby_that_can_be_nowhere_says_what_to_do(nodes: int, standby: dict[str, Any], words: str) -> None:
    it = world(nodes=nodes, runners=nodes, standby=standby)
    assert words in standby_of(it).missing
    degraded = next(each for each in seen(it).status.conditions if each.type == "Degraded")
    assert (degraded.status, degraded.reason) == ("True", "StandbyMissing")
    assert words in degraded.message
    assert len(it.serving("llama")) == 1


def test_nothing_thrashes_when_the_zone_with_all_standbys_is_gone() -> None:
    it = world(standby=HOT | ZONES)
    (rests,) = resting(it)
    for node in [each for each in it.nodes if int(each[1]) % 2 == int(rests.node[1]) % 2]:
        it.add(msgspec.structs.replace(it.nodes[node], status=make.node(node, ready=False).status))
    it.settle()
    assert len(it.serving("llama")) == 1
    assert not it.round().actions
    assert standby_of(it).missing


# Runners of the model's own ------------------------------------------------------------------------------------------


def own(**standby: Any) -> World:
    it = World()
    for number in range(3):
        it.add(make.node(f"n{number}", gpus=1))
    served = make.model("llama", gpus=1, standby=standby)
    it.add(make.model("llama", gpus=1, standby=standby, status={"servedHash": served.hash}))
    it.settle()
    return it


@pytest.mark.parametrize("mode", ["Hot", "Warm"])
def test_an_own_runner_stands_by_and_takes_over(mode: str) -> None:
    it = own(mode=mode)
    (serves,) = it.serving("llama")
    others = [each for each in it.members("llama") if each.name != serves.name]
    assert len(others) == 1
    engines = others[0].runner.assignment.engines if others[0].runner.assignment is not None else ()
    assert [each.state for each in engines] == ([DesiredState.ASLEEP] if mode == "Hot" else [])
    lose(it, serves.node)
    decisions = it.round()
    assert told(decisions)[others[0].node] == [DesiredState.READY]
    it.settle()
    assert [each.node for each in it.serving("llama")] == [others[0].node]


@pytest.mark.parametrize(
    ("mode", "environment"),
    [
        ("Hot", {"STANDBY_MODE": "hot", "LOAD_ON_DEMAND": "false"}),
        ("Warm", {"STANDBY_MODE": "warm", "LOAD_ON_DEMAND": "false"}),
        ("Cold", {"STANDBY_MODE": "cold", "LOAD_ON_DEMAND": "true"}),
    ],
)
def test_the_pod_shows_as_what_it_stands_by(mode: str, environment: dict[str, str]) -> None:
    it = World()
    for number in range(2):
        it.add(make.node(f"n{number}", gpus=1))
    served = make.model("llama", gpus=1, standby={"mode": mode})
    it.add(make.model("llama", gpus=1, standby={"mode": mode}, status={"servedHash": served.hash}))
    created: list[CreateRunner] = []
    for _ in range(12):
        created += [each for each in it.round().actions if isinstance(each, CreateRunner)]
        it.progress()
    if mode == "Cold":
        assert len(created) == 1, "nothing is held"
        lose(it, it.serving("llama")[0].node)
        created += [each for each in it.round().actions if isinstance(each, CreateRunner)]
    first, last = (runner_pod(each, make.LIMITS)["spec"]["containers"][0]["env"] for each in (created[0], created[-1]))
    assert not {each["name"] for each in first} & environment.keys()
    assert {each["name"]: each.get("value") for each in last}.items() >= environment.items()


def test_a_standby_in_a_runner_of_its_own_gives_way_to_whatever_serves() -> None:
    it = own(mode="Hot")
    for name in ("b", "c"):
        it.add(make.model(name, gpus=1, priority="Low"))
    it.settle()
    assert it.serving("b")
    assert it.serving("c")
    assert it.serving("llama")


# Always -------------------------------------------------------------------------------------------------------------


def test_switching_standby_on_is_no_new_spec() -> None:
    without, with_ = make.model("llama"), make.model("llama", standby=HOT)
    assert template_hash(without.spec, "image") == template_hash(with_.spec, "image")


@settings(max_examples=10, deadline=None)
@given(
    mode=st.sampled_from(["Hot", "Warm", "Cold"]),
    key=st.sampled_from(["kubernetes.io/hostname", names.NODE_LABEL_ZONE]),
    replicas=st.integers(1, 2),
    steps=st.lists(st.tuples(st.booleans(), st.integers(0, 4)), max_size=4),
)
def test_whatever_is_lost_and_returns_what_can_serve_does_and_no_standby_shares_a_domain(
    mode: str, key: str, replicas: int, steps: list[tuple[bool, int]]
) -> None:
    it = world(nodes=5, runners=5, replicas=replicas, standby={"mode": mode, "topologyKey": key})
    gone: set[str] = set()
    for is_loss, number in steps:
        node = f"n{number}"
        if is_loss and len(gone) < 2:
            lose(it, node)
            gone.add(node)
        elif not is_loss and node in gone:
            heal(it, node)
            gone.discard(node)
        it.settle()
        serving = it.serving("llama")
        assert len(serving) >= replicas
        assert not it.over_committed()
        domains = {it.nodes[each.node].metadata.labels.get(key, each.node) for each in serving}
        for node in standby_of(it).nodes:
            assert it.nodes[node].metadata.labels.get(key, node) not in domains


def test_a_fleet_without_standbys_decides_nothing_about_them() -> None:
    assert not schedule(world(standby=None).fleet(), make.NOW).standbys


def test_a_standby_that_its_runner_woke_for_a_request_goes_on_resting_for_the_plan() -> None:
    it = world(standby=HOT)
    (rests,) = resting(it)
    it.change(rests.pod.metadata.name, lambda each: make.tells(each, {rests.name: EngineState.READY}))
    status = seen(it).status
    assert (status.replicas, status.ready_replicas) == (1, 1)
