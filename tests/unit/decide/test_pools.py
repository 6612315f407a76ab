"""Engines in the runners of pools, case by case: where they go, when they move, what is said while they wait."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from support import make, make_weights
from support.world import World
from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState, Priority, Reason
from warmfleet_operator.decide.actions import CreateRunner, Decisions, DeleteRunner, PatchRunner
from warmfleet_operator.decide.fleet import Model
from warmfleet_operator.decide.schedule import schedule


def decide(*parts: object, **more: object) -> Decisions:
    return schedule(make.fleet(*parts, **more), make.NOW)  # type: ignore[arg-type]


def patches(decisions: Decisions) -> dict[str, PatchRunner]:
    return {each.pod.metadata.name: each for each in decisions.actions if isinstance(each, PatchRunner)}


def hosted(decisions: Decisions) -> dict[str, list[str]]:
    """Runner → ids of the engines that its new assignment has."""
    return {
        name: [engine.id for engine in patch.assignment.engines]
        for name, patch in patches(decisions).items()
        if patch.assignment is not None
    }


def blocker(decisions: Decisions, name: str) -> tuple[Reason, str]:
    waiting = next(each for key, each in decisions.waiting.items() if key.name == name)
    return waiting.reason, waiting.blocker


def deletes(decisions: Decisions) -> dict[str, str]:
    return {each.pod.metadata.name: each.reason for each in decisions.actions if isinstance(each, DeleteRunner)}


def creates(decisions: Decisions) -> list[str]:
    return [f"{each.owner.key.name} on {each.node}" for each in decisions.actions if isinstance(each, CreateRunner)]


def pooled(name: str = "llama", **fields: Any) -> Model:
    return make.model(name, **{"pools": ["pool"], **fields})


# Where engines go --------------------------------------------------------------------------------------------------


def test_a_pool_gets_as_many_free_runners_as_replicas_spread_over_nodes() -> None:
    pool = make.pool(replicas=2)
    decisions = decide(pool, make.node("a"), make.node("b"))
    assert creates(decisions) == ["pool on a", "pool on b"]
    first = decisions.actions[0]
    assert isinstance(first, CreateRunner) and first.assignment.engines == ()


def test_pools_of_the_same_name_in_two_namespaces_have_nothing_to_do_with_each_other() -> None:
    node = make.node("a", memory="64Gi")
    theirs, ours = make.pool(namespace="theirs", memory="4Gi"), make.pool(namespace="ours", memory="4Gi")
    full = make.hosting(make.pool_runner(theirs, "a"), pooled("busy", namespace="theirs", memory="3Gi"))
    # Two slots, as the maker gives runners their uid by pool and slot alone.
    free = make.up(make.pool_runner(ours, "a", slot=1))
    there = [pooled(each, namespace="theirs", memory="3Gi", age_seconds=999) for each in ("busy", "early")]
    decisions = decide(node, theirs, ours, full, free, *there, pooled("late", namespace="ours", memory="3Gi"))
    assert hosted(decisions) == {"pool-1-1": ["late-0-1"]}
    assert "pool-0-1" in blocker(decisions, "early")[1]


def test_a_model_starts_in_a_running_runner_by_one_patch() -> None:
    pool, model = make.pool(), pooled()
    runner = make.up(make.pool_runner(pool, "a"))
    patch = patches(decide(pool, model, runner, make.node("a")))["pool-0-1"]
    assert patch.assignment is not None and patch.assignment.revision == 2
    assert [engine.id for engine in patch.assignment.engines] == ["llama-0-1"]
    assert patch.labels == {names.serve_label("llama"): "Starting"}
    assert patch.reason == "llama-0-1 starts: replica 1 of 1; an engine of llama starts"


def test_a_second_model_starts_in_the_same_runner_beside_the_first() -> None:
    pool, first, second = make.pool(), pooled("first"), pooled("second")
    runner = make.hosting(make.pool_runner(pool, "a"), first)
    found = decide(pool, first, second, runner, make.node("a"))
    assert hosted(found) == {"pool-0-1": ["first-0-1", "second-0-1"]}
    assert creates(found) == []


def test_models_go_to_the_pool_named_default_where_there_is_one() -> None:
    pool = make.pool("default")
    runner = make.up(make.pool_runner(pool, "a"))
    model = make.model(has_default_pool=True)
    assert hosted(decide(pool, model, runner, make.node("a"))) == {"default-0-1": ["llama-0-1"]}


def test_a_model_that_shapes_its_own_runners_gets_them_beside_a_default_pool() -> None:
    assert make.model(has_default_pool=True, podTemplate={"nodeSelector": {"x": "y"}}).pools == ()


def test_pools_are_tried_in_the_order_of_preference() -> None:
    small, large = make.pool("small", memory="2Gi"), make.pool("large", memory="8Gi")
    runners = make.up(make.pool_runner(small, "a")), make.up(make.pool_runner(large, "a"))
    fits_both = make.model("both", memory="1Gi", pools=["small", "large"])
    fits_one = make.model("one", memory="4Gi", pools=["small", "large"])
    found = decide(small, large, *runners, fits_both, fits_one, make.node("a"))
    assert hosted(found) == {"small-0-1": ["both-0-1"], "large-0-1": ["one-0-1"]}


def test_replicas_go_to_different_runners_on_different_nodes() -> None:
    pool, model = make.pool(replicas=3), pooled(replicas=2)
    runners = [make.up(make.pool_runner(pool, node, slot=slot)) for slot, node in enumerate("aab")]
    found = decide(pool, model, *runners, make.node("a"), make.node("b"))
    assert hosted(found) == {"pool-0-1": ["llama-0-1"], "pool-2-1": ["llama-1-1"]}


def test_engines_share_out_the_gpus_of_a_runner_and_are_loaded_one_after_the_other() -> None:
    pool = make.pool(gpus=4, memory="65Gi")
    models = [pooled(f"m-{number}", gpus=2, memory="8Gi", age_seconds=90 - number) for number in range(3)]
    runner = make.up(make.pool_runner(pool, "a"))
    found = decide(pool, *models, runner, make.node("a", gpus=4))
    assignment = patches(found)["pool-0-1"].assignment
    assert assignment is not None
    assert [engine.gpus for engine in assignment.engines] == [(0, 1)]
    assert blocker(found, "m-1") == (Reason.WAITING_FOR_TURN, "pool-0-1 loads m-0-0-1 first, one at a time")
    assert blocker(found, "m-2")[0] is Reason.WAITING_FOR_TURN
    there = make.hosting(runner, models[0])
    assignment = patches(decide(pool, *models, there, make.node("a", gpus=4)))["pool-0-1"].assignment
    assert assignment is not None
    assert [engine.gpus for engine in assignment.engines] == [(0, 1), (2, 3)]


def test_classes_go_first_and_what_waits_holds_the_room_it_comes_nearest_to() -> None:
    pool = make.pool(memory="5Gi")
    big = pooled("big", memory="4Gi", priority="High")
    small = pooled("small", memory="1Gi", priority="Low")
    present = pooled("present", memory="1Gi", priority="High", age_seconds=999)
    runner = make.hosting(make.pool_runner(pool, "a"), present)
    found = decide(pool, big, small, present, runner, make.node("a"))
    assert hosted(found) == {}
    assert blocker(found, "big") == (
        Reason.FLOORS_HELD,
        "all 1 runners of pool pool are full: needs 4.0 GiB memory, at most 3.0 GiB free in pool-0-1; held by "
        "default/present (High, busy). A higher priority than theirs makes busy models give way, idle.policy: Yield "
        "idle ones",
    )
    assert blocker(found, "small") == (
        Reason.WAITING_FOR_TURN,
        "all 1 runners of pool pool are full: needs 1.0 GiB memory, at most 0 B free in pool-0-1; "
        "pool-0-1 is held for default/big (High)",
    )


# Why an engine waits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "model", "reason", "words"),
    [
        ({"memory": "2Gi"}, {"memory": "2Gi"}, Reason.NEVER_FITS, "pool pool has 1.0 GiB for engines in each runner"),
        ({"gpus": 1}, {}, Reason.NEVER_FITS, "pool pool has GPUs and takes models with GPUs only"),
        ({}, {"gpus": 2}, Reason.NEVER_FITS, "pool pool has 0 nvidia.com/gpu in each runner"),
        (
            {"gpus": 4, "memory": "9Gi"},
            {"gpus": 1, "memory": "4Gi"},
            Reason.NEVER_FITS,
            "pool pool has 2.0 GiB memory beside 1 of the 4 GPUs of each runner",
        ),
        ({"replicas": 0}, {}, Reason.NO_MATCHING_NODE, "pool pool has 0 replicas; raise them"),
        ({}, {"pools": ["other"]}, Reason.POOL_NOT_FOUND, "namespace default has no WarmPool other"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_the_blocker_says_what_to_change(
    pool: dict[str, Any], model: dict[str, Any], reason: Reason, words: str
) -> None:
    found = decide(make.pool(**pool), pooled(**model), make.node("a", gpus=8))
    assert blocker(found, "llama")[0] is reason
    assert words in blocker(found, "llama")[1]


def test_a_runner_takes_no_more_engines_than_it_may() -> None:
    pool = make.pool(maxEngines=1)
    first, second = pooled("first"), pooled("second")
    runner = make.hosting(make.pool_runner(pool, "a"), first)
    assert (
        "pool-0-1 hosts 1 of at most 1 engines"
        in blocker(decide(pool, first, second, runner, make.node("a")), "second")[1]
    )


def test_an_assignment_takes_no_more_engines_than_its_annotation_can_hold() -> None:
    pool = make.pool()
    wordy: dict[str, Any] = {"pools": ["pool"], "engine": {"type": "VLLM", "args": ["x" * 1000] * 55}}
    models = [make_weights.model(name, **wordy) for name in ("first", "second")]
    models = [replace(each, problem=None) for each in models]
    runner = make.hosting(make.pool_runner(pool, "a", sees_weights=True), models[0])
    found = decide(pool, *models, runner, make.node("a"), make_weights.cache("a"))
    assert "no room for so many engine.args" in blocker(found, "second")[1]


def test_an_engine_is_started_only_in_a_runner_that_is_heard_of() -> None:
    pool, model = make.pool(), pooled()
    for runner in (
        make.pool_runner(pool, "a"),
        make.running(make.pool_runner(pool, "a")),
        make.silent(make.up(make.pool_runner(pool, "a"))),
        make.terminating(make.up(make.pool_runner(pool, "a"))),
    ):
        found = decide(pool, model, runner, make.node("a"))
        assert hosted(found) == {}
        assert "has no runner that takes engines yet" in blocker(found, "llama")[1]


# Rollouts, scaling, losses -----------------------------------------------------------------------------------------


def test_a_changed_spec_starts_beside_the_old_one_in_the_pool_where_it_fits() -> None:
    pool, old = make.pool(), pooled()
    new = pooled(engine={"type": "Simulated", "simulated": {"loadMilliseconds": 1}})
    runner = make.hosting(make.pool_runner(pool, "a"), old)
    found = decide(pool, new, runner, make.node("a"))
    assert hosted(found) == {"pool-0-1": ["llama-0-1", "llama-0-2"]}
    assert patches(found)["pool-0-1"].labels == {names.LABEL_PROTECTED: "true"}


def test_a_changed_spec_waits_where_there_is_no_room_beside_the_old_one_that_serves_on() -> None:
    pool, old = make.pool(memory="2Gi"), pooled(memory="1Gi")
    new = pooled(memory="1Gi", engine={"type": "Simulated", "simulated": {"loadMilliseconds": 1}})
    found = decide(pool, new, make.hosting(make.pool_runner(pool, "a"), old), make.node("a"))
    assert hosted(found) == {}
    assert patches(found)["pool-0-1"].labels == {names.LABEL_PROTECTED: "true"}
    (waiting,) = found.waiting.values()
    assert "held by default/llama" in waiting.blocker
    assert "rollout: {maxSurge: 0, maxUnavailable: 1}" in waiting.advice


def test_an_old_one_that_may_go_first_leaves_its_room_to_the_changed_spec() -> None:
    rollout = {"maxSurge": 0, "maxUnavailable": 1}
    it = World()
    it.add(make.node("a"), make.pool(memory="2Gi"), pooled(memory="1Gi"))
    it.settle()
    new = pooled(memory="1Gi", rollout=rollout, engine={"type": "Simulated", "simulated": {"loadMilliseconds": 1}})
    it.add(new)
    it.settle()
    assert [member.hash for member in it.serving("llama")] == [new.hash]


def test_an_engine_is_taken_out_once_clients_have_heard_that_it_serves_no_more() -> None:
    pool, model = make.pool(replicas=2), pooled()
    gone = make.hosting(make.pool_runner(pool, "b", slot=1), (model, "llama-1-1"))
    kept = make.hosting(make.pool_runner(pool, "a"), model)
    nodes = make.node("a"), make.node("b")
    first = decide(pool, model, kept, gone, *nodes)
    assert hosted(first) == {}
    assert patches(first)["pool-1-1"].labels == {names.serve_label("llama"): "Draining"}
    assert first.recheck_seconds == pytest.approx(3.0)
    heard = replace(make.with_labels(gone, {names.serve_label("llama"): "Draining"}), unserved_seconds={"llama": 3.0})
    then = decide(pool, model, kept, heard, *nodes)
    assert hosted(then) == {"pool-1-1": []}
    assert patches(then)["pool-1-1"].labels == {names.serve_label("llama"): None}


def test_the_engines_of_a_lost_runner_start_in_another_at_once() -> None:
    pool, model = make.pool(replicas=2), pooled()
    lost = make.silent(make.hosting(make.pool_runner(pool, "a"), model))
    other = make.up(make.pool_runner(pool, "b", slot=1))
    found = decide(pool, model, lost, other, make.node("a"), make.node("b"), make.node("c"))
    assert hosted(found) == {"pool-1-1": ["llama-0-2"]}
    assert patches(found)["pool-0-1"].labels == {names.serve_label("llama"): names.SERVE_LOST}


def test_engines_of_models_that_are_gone_or_made_anew_are_taken_out() -> None:
    pool, gone, old = make.pool(), pooled("gone"), pooled("anew")
    runner = make.hosting(make.pool_runner(pool, "a"), gone, old)
    anew = pooled("anew", uid="uid-new", replicas=0)
    runner = replace(runner, unserved_seconds={"anew": 3.0})
    runner = make.with_labels(runner, {names.serve_label("anew"): "Draining"})
    found = decide(pool, anew, runner, make.node("a"))
    assert hosted(found) == {"pool-0-1": []}


def test_one_patch_carries_all_changes_of_a_runner() -> None:
    pool, first, second = make.pool(), pooled("first"), pooled("second")
    runner = make.hosting(make.pool_runner(pool, "a"), first)
    runner = make.with_labels(runner, {names.serve_label("first"): "Starting"})
    found = decide(pool, first, second, runner, make.node("a"))
    assert len(found.actions) == 1
    assert patches(found)["pool-0-1"].labels == {
        names.serve_label("first"): "Ready",
        names.serve_label("second"): "Starting",
        names.LABEL_PROTECTED: "true",
    }


def test_a_runner_is_protected_while_it_holds_any_models_last_ready_engine() -> None:
    pool, first, second = make.pool(replicas=2), pooled("first", replicas=2), pooled("second")
    one = make.hosting(make.pool_runner(pool, "a"), first, second)
    two = make.hosting(make.pool_runner(pool, "b", slot=1), (first, "first-1-1"))
    found = decide(pool, first, second, one, two, make.node("a"), make.node("b"))
    assert {name: dict(patch.labels) for name, patch in patches(found).items()} == {
        "pool-0-1": {names.LABEL_PROTECTED: "true"}
    }


# Assignments stay up to date ---------------------------------------------------------------------------------------


def test_what_needs_no_restart_reaches_a_running_engine_by_a_new_revision() -> None:
    pool, model = make.pool(), pooled()
    runner = make.with_labels(make.hosting(make.pool_runner(pool, "a"), model), {names.LABEL_PROTECTED: "true"})
    changed = pooled(priority="High", serving={"queue": {"maxRequests": 7}})
    patch = patches(decide(pool, changed, runner, make.node("a")))["pool-0-1"]
    assert patch.assignment is not None and patch.assignment.revision == 3
    engine = patch.assignment.engines[0]
    assert (engine.id, engine.hash) == ("llama-0-1", model.hash)
    assert (engine.serving.priority, engine.serving.max_requests) == (Priority.HIGH, 7)


def test_prompts_too_long_for_the_assignment_leave_the_former_ones_in_force_and_say_so() -> None:
    pool = make.pool()
    models = [pooled(name, coldStart={"warmup": {"prompts": ["x" * 8000] * 3}}) for name in ("first", "second")]
    runner = make.hosting(make.pool_runner(pool, "a"), *models)
    runner = make.with_labels(runner, {names.LABEL_PROTECTED: "true"})
    wordy = pooled("first", coldStart={"warmup": {"prompts": ["y" * 8000] * 6}})
    found = decide(pool, wordy, models[1], runner, make.node("a"))
    assert found.actions == ()
    assert blocker(found, "first")[0] is Reason.INVALID_ARGS
    assert "no room for the changed warmup.prompts" in blocker(found, "first")[1]


def test_new_keys_of_routers_reach_every_runner() -> None:
    pool, model = make.pool(), make.model()
    own = make.serving(make.runner(model, "a"), protected=True)
    limits = replace(make.LIMITS, trusted_keys=("a-key",))
    found = decide(pool, model, own, make.up(make.pool_runner(pool, "a")), make.node("a"), limits=limits)
    assert {name: patch.assignment and patch.assignment.trusted_keys for name, patch in patches(found).items()} == {
        "llama-0-1": ("a-key",),
        "pool-0-1": ("a-key",),
    }


def test_while_keys_of_routers_are_not_known_runners_keep_theirs() -> None:
    pool, model = make.pool(), make.model()
    own = make.serving(make.runner(model, "a"), protected=True)
    assert own.assignment is not None
    own = replace(own, assignment=msgspec.structs.replace(own.assignment, trusted_keys=("a-key",)))
    assert patches(decide(pool, model, own, make.up(make.pool_runner(pool, "a")), make.node("a"))) == {}


def test_a_damaged_assignment_of_a_pools_runner_is_restored_from_what_it_says() -> None:
    pool, first, second = make.pool(), pooled("first"), pooled("second")
    runner = make.hosting(make.pool_runner(pool, "a"), first, second)
    found = decide(pool, first, second, replace(runner, assignment=None), make.node("a"))
    assert hosted(found) == {"pool-0-1": ["first-0-1", "second-0-1"]}


def test_a_damaged_assignment_of_a_pools_runner_that_says_nothing_is_left_alone() -> None:
    pool, first = make.pool(), pooled("first")
    runner = replace(make.hosting(make.pool_runner(pool, "a"), first), assignment=None, status=None)
    assert patches(decide(pool, runner, make.node("a"))) == {}


# Pools roll, shrink and end ----------------------------------------------------------------------------------------


def test_a_changed_pool_first_gets_one_runner_more() -> None:
    old, new = make.pool(replicas=2), make.pool(replicas=2, cpu="2")
    runners = [make.up(make.pool_runner(old, node, slot=slot)) for slot, node in enumerate("ab")]
    found = decide(new, *runners, make.node("a"), make.node("b"), make.node("c"))
    assert creates(found) == ["pool on c"]
    assert deletes(found) == {}


def test_the_free_runner_of_an_old_spec_goes_first_and_only_one_at_a_time() -> None:
    old, new, model = make.pool(replicas=3), make.pool(replicas=3, cpu="2"), pooled()
    busy = make.with_labels(make.hosting(make.pool_runner(old, "a"), model), {names.LABEL_PROTECTED: "true"})
    free = [make.up(make.pool_runner(old, node, slot=slot)) for slot, node in ((1, "b"), (2, "c"))]
    fresh = make.up(make.pool_runner(new, "d", slot=3))
    nodes = [make.node(name) for name in "abcd"]
    assert deletes(decide(new, model, busy, *free, fresh, *nodes)) == {"pool-2-1": "it is of an old spec"}


def test_a_busy_runner_of_an_old_spec_is_emptied_before_it_goes() -> None:
    old, new, model = make.pool(), make.pool(cpu="2"), pooled()
    busy = make.with_labels(make.hosting(make.pool_runner(old, "a"), model), {names.LABEL_PROTECTED: "true"})
    fresh = make.up(make.pool_runner(new, "b", slot=1))
    found = decide(new, model, busy, fresh, make.node("a"), make.node("b"))
    assert hosted(found) == {"pool-1-1": ["llama-0-2"]}
    assert deletes(found) == {}


def test_a_pool_that_shrinks_lets_go_the_runner_with_the_fewest_engines() -> None:
    pool, model = make.pool(replicas=1), pooled()
    busy = make.with_labels(make.hosting(make.pool_runner(pool, "b", slot=1), model), {names.LABEL_PROTECTED: "true"})
    free = make.up(make.pool_runner(pool, "a"))
    assert deletes(decide(pool, model, busy, free, make.node("a"), make.node("b"))) == {
        "pool-0-1": "1 of 2 runners are wanted"
    }


def test_a_pool_of_0_replicas_lets_all_runners_go() -> None:
    pool, model = make.pool(replicas=0), pooled()
    busy = make.hosting(make.pool_runner(pool, "a"), model)
    assert deletes(decide(pool, model, busy, make.node("a"))) == {"pool-0-1": "replicas is 0"}


def test_runners_of_a_pool_that_is_gone_go_too() -> None:
    assert deletes(decide(make.up(make.pool_runner(make.pool(), "a")), make.node("a"))) == {
        "pool-0-1": "its WarmPool default/pool is gone"
    }


def test_a_pools_runner_has_the_turn_of_the_first_model_that_waits_for_it() -> None:
    node = make.node("a", memory="9Gi")
    high, low = pooled("high", priority="High"), make.model("low", memory="8Gi", priority="Normal")
    assert creates(decide(make.pool(), high, low, node)) == ["pool on a"]
    assert creates(decide(make.pool(), low, node)) == ["low on a"]


# Over many rounds --------------------------------------------------------------------------------------------------


def world(replicas: int = 2, **fields: Any) -> World:
    it = World()
    it.add(make.pool(replicas=replicas, **fields), *(make.node(name) for name in "abc"))
    return it


def test_a_fleet_with_a_pool_converges_and_then_rests() -> None:
    it = world()
    it.add(*(pooled(f"m-{number}", replicas=1 + number % 2) for number in range(4)), make.model("own"))
    it.settle()
    assert {name: len(it.serving(name)) for name in it.models} == {"m-0": 1, "m-1": 2, "m-2": 1, "m-3": 2, "own": 1}
    assert it.round().actions == ()
    assert len(it.runners) == 3


def test_a_pool_rolls_without_a_model_ever_serving_less() -> None:
    it = world()
    it.add(*(pooled(f"m-{number}") for number in range(4)))
    it.settle()
    before = set(it.runners)
    it.add(make.pool(replicas=2, cpu="3"))
    for _ in range(60):
        decisions = it.round()
        assert all(len(it.serving(name)) >= 1 for name in it.models)
        if not decisions.actions and not it.progress():
            break
        it.progress()
    assert not before & set(it.runners)
    assert all(len(it.serving(name)) == 1 for name in it.models)


def test_a_model_moves_from_its_own_runner_to_the_pool_and_back_without_serving_less() -> None:
    it = world(1)
    for model in (make.model(), pooled(), make.model()):
        it.add(model)
        for _ in range(20):
            it.round()
            it.progress()
            assert len(it.serving("llama")) >= (1 if it.created > 2 else 0)
        assert [member.pool for member in it.serving("llama")] == list(model.pools or [""])


def test_an_engine_that_fails_in_a_pool_leaves_the_service_and_stays_where_it_is() -> None:
    pool, model = make.pool(), pooled()
    runner = make.hosting(make.pool_runner(pool, "a"), model, states={"llama-0-1": EngineState.FAILED})
    runner = make.with_labels(runner, {names.serve_label("llama"): "Ready"})
    found = decide(pool, model, runner, make.node("a"))
    assert patches(found)["pool-0-1"].labels == {names.serve_label("llama"): "Failed"}
    assert hosted(found) == {}


def test_an_engine_that_is_only_ending_lends_its_name_to_no_other() -> None:
    pool, model = make.pool(), pooled()
    runner = make.hosting(make.pool_runner(pool, "a"), model)
    assert runner.assignment is not None
    ending = make.assigned_to(runner, msgspec.structs.replace(runner.assignment, engines=(), revision=3))
    ending = make.with_labels(ending, {names.serve_label("llama"): None})
    assert hosted(decide(pool, model, ending, make.node("a"))) == {"pool-0-1": ["llama-0-2"]}
