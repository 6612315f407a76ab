"""The fleet pass, case by case: turns, holds, rollouts, losses, drains, labels."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from support import make
from support.world import World
from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState, Reason
from warmfleet_operator.decide.actions import CreateRunner, Decisions, DeleteRunner, PatchRunner
from warmfleet_operator.decide.fleet import Problem
from warmfleet_operator.decide.placement import NoPlace, Places
from warmfleet_operator.decide.schedule import MAX_CREATES, schedule

SERVE = names.serve_label("llama")


def creates(decisions: Decisions) -> list[CreateRunner]:
    return [action for action in decisions.actions if isinstance(action, CreateRunner)]


def deletes(decisions: Decisions) -> dict[str, str]:
    return {each.pod.metadata.name: each.reason for each in decisions.actions if isinstance(each, DeleteRunner)}


def labels(decisions: Decisions) -> dict[str, dict[str, str | None]]:
    return {each.pod.metadata.name: dict(each.labels) for each in decisions.actions if isinstance(each, PatchRunner)}


def decide(*parts: object, **more: object) -> Decisions:
    return schedule(make.fleet(*parts, **more), make.NOW)  # type: ignore[arg-type]


def test_a_new_model_gets_as_many_runners_as_replicas_with_slots_in_order() -> None:
    found = creates(decide(make.model(replicas=3), make.node("a"), make.node("b"), make.node("c")))
    assert [(each.slot, each.attempt, each.node) for each in found] == [(0, 1, "a"), (1, 1, "b"), (2, 1, "c")]
    assert found[0].reason == "replica 1 of 3"


def test_the_first_assignment_says_all_that_the_runner_needs() -> None:
    model = make.model(resources={"gpus": 2, "gpuMemory": "40Gi"})
    assignment = creates(decide(model, make.node("a", gpus=8)))[0].assignment
    engine = assignment.engines[0]
    assert (assignment.revision, engine.id, engine.model_uid) == (1, "llama-0", model.metadata.uid)
    assert (engine.gpus, engine.awake_bytes, engine.hash) == ((0, 1), 80 * make.GIB, model.hash)
    assert engine.engine.served_names == ("llama",)


def test_classes_go_strictly_before_who_came_first() -> None:
    low = make.model("low", gpus=1, priority="Low", age_seconds=500)
    late = make.model("late", gpus=1, priority="High", age_seconds=10)
    early = make.model("early", gpus=1, priority="High", age_seconds=20)
    decisions = decide(low, late, early, make.node("a", gpus=2))
    assert [each.owner.key.name for each in creates(decisions)] == ["early", "late"]
    assert [str(key) for key in decisions.waiting] == ["default/low"]


def test_a_start_that_waits_holds_the_node_it_comes_nearest_to_and_no_other() -> None:
    big = make.model("big", gpus=4, priority="High")
    small = [make.model(f"small-{number}", gpus=1, age_seconds=90 - number) for number in range(3)]
    nodes = [make.node("a", gpus=4), make.node("b", gpus=4)]
    taken = [make.stranger("s1", "a", gpus=2), make.stranger("s2", "b", gpus=3)]
    decisions = decide(big, *small, *nodes, *taken)
    # `big` lacks 2 on a and 3 on b: it holds a, so that the two free GPUs there wait for two more.
    assert [(each.owner.key.name, each.node) for each in creates(decisions)] == [("small-0", "b")]
    waits = {key.name: waiting for key, waiting in decisions.waiting.items()}
    assert (waits["big"].position, waits["big"].of, waits["big"].reason) == (1, 3, Reason.NO_FREE_MEMORY)
    assert waits["big"].blocker == "needs 4 nvidia.com/gpu, at most 2 free on a"
    assert waits["small-1"].reason is Reason.WAITING_FOR_TURN
    assert waits["small-1"].blocker == (
        "a is held for default/big (High, waits for 4 nvidia.com/gpu, 1.0 GiB memory, 1 cpu)"
    )


def test_what_a_waiting_start_does_not_need_may_be_taken_on_the_node_it_holds() -> None:
    big = make.model("big", gpus=4, priority="High")
    on_cpu = make.model("on-cpu", priority="Low")
    decisions = decide(big, on_cpu, make.node("a", gpus=4), make.stranger("s", "a", gpus=1))
    assert [each.owner.key.name for each in creates(decisions)] == ["on-cpu"]


def test_a_start_that_never_fits_holds_nothing_and_takes_no_position() -> None:
    huge = make.model("huge", gpus=16, priority="Critical")
    waiting = make.model("waiting", gpus=2, priority="Low")
    decisions = decide(huge, make.model(gpus=1), waiting, make.node("a", gpus=2))
    assert [each.owner.key.name for each in creates(decisions)] == ["llama"]
    places = {key.name: (each.position, each.of, each.reason) for key, each in decisions.waiting.items()}
    assert places == {"huge": (0, 1, Reason.NEVER_FITS), "waiting": (1, 1, Reason.NO_FREE_MEMORY)}


def test_a_model_with_a_problem_gets_no_runner_and_keeps_those_of_its_old_spec() -> None:
    old = make.model()
    broken = replace(make.model(cpu="2"), problem=Problem(Reason.INVALID_ARGS, "no"))
    kept = make.serving(make.runner(old, "a"), protected=True)
    assert decide(broken, kept, make.node("a"), make.node("b")).actions == ()


def test_a_creation_follows_the_highest_attempt_that_was_ever_seen_in_the_slot() -> None:
    model = make.model()
    gone = make.terminating(make.serving(make.runner(model, "a", attempt=7)))
    assert creates(decide(model, gone, make.node("a")))[0].attempt == 8


def test_a_name_that_another_pod_bears_is_not_taken() -> None:
    found = creates(decide(make.model(), make.node("a"), make.stranger("llama-0-1", "a")))
    assert found[0].attempt == 2


def test_many_starts_are_created_in_several_rounds() -> None:
    models = [make.model(f"m-{number}") for number in range(MAX_CREATES + 10)]
    nodes = [make.node(f"n-{number:02}") for number in range(len(models))]
    decisions = decide(*models, *nodes)
    assert len(creates(decisions)) == MAX_CREATES
    assert decisions.waiting == {}
    assert decisions.recheck_seconds == pytest.approx(0.1)


def test_a_round_looks_for_the_best_places_of_those_alone_whom_it_creates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of thousands that are wanted at once each round would measure all nodes for all of them."""
    looked = 0
    find = Places.find

    def counted(places: Places, *arguments: Any) -> str | NoPlace:
        nonlocal looked
        looked += 1
        return find(places, *arguments)

    monkeypatch.setattr(Places, "find", counted)
    models = [make.model(f"m-{number}") for number in range(MAX_CREATES + 10)]
    large = make.model("too-large", gpus=64)
    decisions = decide(*models, large, *(make.node(f"n-{number:02}", gpus=8) for number in range(len(models))))
    assert len(creates(decisions)) == MAX_CREATES
    assert looked == MAX_CREATES + 1
    assert decisions.waiting.keys() == {large.key}


def test_starts_on_one_node_begin_one_after_the_other_as_its_link_carries_them() -> None:
    loads = {"type": "Simulated", "simulated": {"loadMilliseconds": 17_000, "initializeMilliseconds": 13_000}}
    models = [make.model(f"m-{number}", engine=loads) for number in range(3)]
    decisions = decide(*models, make.node("a"))
    assert [each.owner.key.name for each in creates(decisions)] == ["m-0"]
    waits = decisions.waiting[models[1].key]
    assert (waits.reason, waits.blocker, waits.place) == (Reason.WAITING_FOR_TURN, "a loads 1 other engines first", "a")
    assert waits.available_seconds == 0.0
    assert decisions.recheck_seconds == pytest.approx(17 - 0.5)
    assert list(decisions.waiting) == [models[1].key, models[2].key]


def test_replicas_0_deletes_all_runners() -> None:
    model = make.model(replicas=0)
    runners = [make.serving(make.runner(model, "a")), make.runner(model, "a", slot=1)]
    assert set(deletes(decide(model, *runners, make.node("a")))) == {"llama-0-1", "llama-1-1"}


def test_scaling_down_keeps_the_serving_and_then_the_older_runners() -> None:
    model = make.model(replicas=1)
    young = make.serving(make.runner(model, "a", slot=0, age_seconds=5), protected=True)
    old = make.serving(make.runner(model, "b", slot=1, age_seconds=50))
    starting = make.runner(model, "c", slot=2, age_seconds=99)
    found = decide(model, young, old, starting, make.node("a"), make.node("b"), make.node("c"))
    assert deletes(found) == {
        "llama-0-1": "1 of 3 replicas are wanted, it is the youngest",
        "llama-2-1": "1 of 3 replicas are wanted, it does not serve",
    }
    assert labels(found) == {"llama-1-1": {names.LABEL_PROTECTED: "true"}}


def test_runners_of_a_model_that_is_gone_go_too() -> None:
    assert deletes(decide(make.runner(make.model(), "a"), make.node("a"))) == {
        "llama-0-1": "its ModelDeployment default/llama is gone"
    }


def test_pods_that_only_look_like_runners_are_left_alone() -> None:
    stray = make.runner(make.model(), "a")
    assert decide(make.with_labels(stray, {names.LABEL_RUNNER: "Somebody"}), make.node("a")).actions == ()
    assert decide(make.with_labels(stray, {names.LABEL_OWNER: None}), make.node("a")).actions == ()


def test_runners_of_a_model_that_was_made_anew_under_its_name_are_replaced() -> None:
    new = make.model(uid="uid-new")
    found = decide(new, make.serving(make.runner(make.model(), "a")), make.node("a"))
    assert list(deletes(found)) == ["llama-0-1"]
    assert [(each.slot, each.attempt) for each in creates(found)] == [(0, 2)]


def test_runners_of_a_model_that_can_not_be_read_stay_as_they_are() -> None:
    model = make.model()
    fleet = make.fleet(make.silent(make.serving(make.runner(model, "a"))), make.node("a"))
    assert schedule(replace(fleet, unreadable=frozenset({model.key})), make.NOW).actions == ()


def test_a_changed_spec_starts_beside_the_old_runner_and_takes_its_slot() -> None:
    old, new = make.model(), make.model(cpu="2")
    found = decide(new, make.serving(make.runner(old, "a"), protected=True), make.node("a"))
    assert [(each.slot, each.attempt, each.reason) for each in creates(found)] == [(0, 2, "rolls out the changed spec")]
    assert deletes(found) == {}


def test_the_old_runner_goes_when_the_new_one_serves_and_protection_moves_first() -> None:
    old, new = make.model(), make.model(cpu="2")
    before = make.serving(make.runner(old, "a"), protected=True)
    beside = make.serving(make.runner(new, "b", attempt=2))
    found = decide(new, before, beside, make.node("a"), make.node("b"))
    assert [type(action) for action in found.actions] == [PatchRunner, DeleteRunner]
    assert labels(found) == {"llama-0-2": {names.LABEL_PROTECTED: "true"}}
    assert deletes(found) == {"llama-0-1": "enough others serve"}


def test_a_rollout_of_several_replicas_has_one_runner_more_at_most() -> None:
    old, new = make.model(replicas=3), make.model(replicas=3, cpu="2")
    runners = [make.serving(make.runner(old, "a", slot=slot), protected=slot == 0) for slot in range(3)]
    assert len(creates(decide(new, *runners, make.node("a")))) == 1


def test_an_old_runner_that_does_not_serve_goes_at_once() -> None:
    old, new = make.model(gpus=1), make.model(gpus=1, cpu="2")
    found = decide(new, make.says(make.runner(old, "a"), EngineState.FAILED), make.node("a", gpus=1))
    assert list(deletes(found)) == ["llama-0-1"]
    assert [str(key) for key in found.waiting] == ["default/llama"]


def test_an_old_engine_that_is_ready_stays_though_its_pod_is_not_for_a_moment() -> None:
    old, new = make.model(), make.model(cpu="2")
    blinking = make.with_condition(make.serving(make.runner(old, "a"), protected=True), "Ready", "False")
    nodes = [make.node("a"), make.node("b")]
    assert deletes(decide(new, blinking, make.runner(new, "b", attempt=2), *nodes)) == {}
    replacement = make.serving(make.runner(new, "b", attempt=2))
    assert list(deletes(decide(new, blinking, replacement, *nodes))) == ["llama-0-1"]


def test_a_silent_runner_is_replaced_elsewhere_and_leaves_the_service_at_once() -> None:
    model = make.model()
    lost = make.silent(make.serving(make.runner(model, "a"), protected=True))
    found = decide(model, lost, make.node("a"), make.node("b"))
    assert [(each.node, each.attempt) for each in creates(found)] == [("b", 2)]
    assert creates(found)[0].reason == "replaces a lost runner: its status stream is silent"
    assert labels(found) == {"llama-0-1": {SERVE: names.SERVE_LOST, names.LABEL_PROTECTED: None}}
    assert deletes(found) == {}


def test_a_lost_runner_keeps_its_room() -> None:
    model = make.model(gpus=2)
    lost = make.silent(make.serving(make.runner(model, "a")))
    found = decide(model, lost, make.node("a", gpus=2))
    assert creates(found) == []
    assert found.waiting[model.key].blocker == "needs 2 nvidia.com/gpu, at most 0 free on a"


def test_a_lost_runner_goes_when_its_replacement_serves() -> None:
    model = make.model()
    lost = make.with_labels(make.silent(make.serving(make.runner(model, "a"))), {SERVE: names.SERVE_LOST})
    replacement = make.serving(make.runner(model, "b", attempt=2), protected=True)
    found = decide(model, lost, replacement, make.node("a"), make.node("b"))
    assert deletes(found) == {"llama-0-1": "replaced, as its status stream is silent"}


def test_a_runner_that_speaks_again_is_kept_instead_of_a_replacement_that_does_not_serve_yet() -> None:
    model = make.model()
    back = make.with_labels(make.serving(make.runner(model, "a")), {SERVE: names.SERVE_LOST})
    replacement = make.runner(model, "b", attempt=2)
    found = decide(model, back, replacement, make.node("a"), make.node("b"))
    assert list(deletes(found)) == ["llama-0-2"]
    assert labels(found) == {"llama-0-1": {SERVE: "Ready", names.LABEL_PROTECTED: "true"}}


def test_a_runner_that_was_never_heard_is_starting_and_not_lost() -> None:
    model = make.model()
    assert decide(model, make.running(make.runner(model, "a")), make.node("a")).actions == ()


def test_after_a_restart_a_runner_that_was_ready_and_is_not_heard_is_lost() -> None:
    model = make.model()
    unheard = replace(make.serving(make.runner(model, "a")), status=None, silent_seconds=6)
    assert len(creates(decide(model, unheard, make.node("a"), make.node("b")))) == 1


@pytest.mark.parametrize("waited_seconds", [None, 0.1])
def test_a_runner_that_was_ready_gets_time_to_report_to_a_new_operator(waited_seconds: float | None) -> None:
    model = make.model()
    unheard = replace(make.serving(make.runner(model, "a")), status=None, silent_seconds=waited_seconds)
    assert not creates(decide(model, unheard, make.node("a"), make.node("b")))


@pytest.mark.parametrize("node", [make.node("a", ready=False), None], ids=["not Ready", "gone"])
def test_a_runner_is_lost_with_its_node(node: object) -> None:
    model = make.model()
    runner = make.serving(make.runner(model, "a"))
    found = decide(model, runner, make.node("b"), *([node] if node else []))
    assert [each.node for each in creates(found)] == ["b"]


def test_a_flapping_network_can_not_fill_the_fleet() -> None:
    model = make.model(replicas=2)
    lost = [make.silent(make.serving(make.runner(model, "a", slot=0, attempt=each))) for each in range(1, 5)]
    assert len(creates(decide(model, *lost, make.node("a"), make.node("b")))) == 1


def test_a_pod_that_ended_is_deleted_and_replaced_elsewhere() -> None:
    model = make.model()
    found = decide(model, make.ended(make.serving(make.runner(model, "a"))), make.node("a"), make.node("b"))
    assert deletes(found) == {"llama-0-1": "its pod ended: Evicted"}
    assert [(each.node, each.attempt) for each in creates(found)] == [("b", 2)]


def test_a_runner_that_is_not_scheduled_is_planned_anew_elsewhere() -> None:
    model = make.model(gpus=1)
    refused = make.unschedulable(make.runner(model, "a", age_seconds=10), message="0/2 nodes are available")
    found = decide(model, refused, make.node("a", gpus=4), make.node("b", gpus=8))
    assert deletes(found) == {"llama-0-1": "not scheduled on a in 10 s: 0/2 nodes are available"}
    assert [(each.node, each.attempt) for each in creates(found)] == [("b", 2)]


def test_a_runner_that_may_still_be_scheduled_is_looked_at_again_in_time() -> None:
    model = make.model()
    found = decide(model, make.unschedulable(make.runner(model, "a", age_seconds=7)), make.node("a"))
    assert found.actions == ()
    assert found.recheck_seconds == pytest.approx(3.0)


def test_a_cordoned_node_is_left_after_the_engine_is_ready_elsewhere() -> None:
    model = make.model()
    here = make.serving(make.runner(model, "a"), protected=True)
    nodes = [make.node("a", cordoned_seconds=60), make.node("b")]
    first = decide(model, here, *nodes)
    assert [(each.node, each.reason) for each in creates(first)] == [("b", "a is cordoned")]
    assert deletes(first) == {} and labels(first) == {}
    assert first.recheck_seconds == pytest.approx(make.LIMITS.drain_deadline_seconds - 60)
    second = decide(model, here, make.serving(make.runner(model, "b", attempt=2)), *nodes)
    assert labels(second) == {"llama-0-2": {names.LABEL_PROTECTED: "true"}}
    assert list(deletes(second)) == ["llama-0-1"]


def test_protection_ends_with_the_drain_deadline_though_nothing_serves_elsewhere() -> None:
    model = make.model(gpus=1)
    here = make.serving(make.runner(model, "a"), protected=True)
    found = decide(model, here, make.node("a", gpus=1, cordoned_seconds=make.LIMITS.drain_deadline_seconds))
    assert labels(found) == {"llama-0-1": {names.LABEL_PROTECTED: None}}
    assert deletes(found) == {}


def test_one_runner_per_model_is_protected_and_preferably_one_that_stays() -> None:
    model = make.model(replicas=2)
    here = make.serving(make.runner(model, "a", slot=0), protected=True)
    there = make.serving(make.runner(model, "b", slot=1))
    found = decide(model, here, there, make.node("a", cordoned_seconds=1), make.node("b"))
    assert labels(found) == {
        "llama-1-1": {names.LABEL_PROTECTED: "true"},
        "llama-0-1": {names.LABEL_PROTECTED: None},
    }


def test_protection_does_not_wander_between_runners_that_are_alike() -> None:
    model = make.model(replicas=2)
    old = make.serving(make.runner(model, "a", slot=0, age_seconds=99))
    young = make.serving(make.runner(model, "b", slot=1, age_seconds=9), protected=True)
    assert decide(model, old, young, make.node("a"), make.node("b")).actions == ()


def test_an_engine_that_gets_ready_is_served_and_protected_by_one_patch() -> None:
    model = make.model()
    found = decide(model, make.ready(make.runner(model, "a")), make.node("a"))
    assert labels(found) == {"llama-0-1": {SERVE: "Ready", names.LABEL_PROTECTED: "true"}}


def test_a_runner_that_drains_is_neither_served_nor_protected() -> None:
    model = make.model()
    it = make.serving(make.runner(model, "a"), protected=True)
    assert it.status is not None
    draining = replace(it, status=msgspec.structs.replace(it.status, draining=True))
    assert labels(decide(model, draining, make.node("a"))) == {
        "llama-0-1": {SERVE: "Draining", names.LABEL_PROTECTED: None}
    }


def test_an_engine_that_fails_leaves_the_service() -> None:
    model = make.model()
    failed = make.says(make.serving(make.runner(model, "a"), protected=True), EngineState.FAILED)
    found = decide(model, failed, make.node("a"))
    assert labels(found) == {"llama-0-1": {SERVE: "Failed", names.LABEL_PROTECTED: None}}


def test_an_assignment_that_was_damaged_is_written_anew_with_a_higher_revision() -> None:
    model = make.model()
    damaged = replace(make.serving(make.runner(model, "a"), protected=True), assignment=None)
    patch = decide(model, damaged, make.node("a")).actions[0]
    assert isinstance(patch, PatchRunner) and patch.assignment is not None
    assert patch.assignment.revision == 2
    assert patch.labels == {}


def test_a_fleet_converges_and_then_rests() -> None:
    world = World()
    world.add(*(make.node(f"n{number}", gpus=8) for number in range(4)))
    world.add(*(make.model(f"m-{number}", gpus=2, replicas=2) for number in range(8)))
    world.settle()
    assert all(len(world.serving(name)) == 2 for name in world.models)
    assert world.round().actions == ()
