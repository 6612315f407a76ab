"""Rollouts by their bounds, and canaries from the first request to promotion or rollback: rules, status, any number of
rounds."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support import make
from support.world import World
from warmfleet_api.vocabulary import EngineState, Reason
from warmfleet_operator.decide.canary import canary_replicas, surge, unavailable
from warmfleet_operator.decide.events import EventReason
from warmfleet_operator.decide.fleet import Model, Runner
from warmfleet_operator.decide.model import ModelDecision, ModelView, decide_model
from warmfleet_operator.decide.replicas import ModelPlan, plan_model
from warmfleet_operator.decide.runners import member_of

NODES = {name: make.node(name, gpus=8) for name in ("n1", "n2")}


def decide(model: Model, *runners: Runner) -> ModelDecision:
    return decide_model(ModelView(model=model, runners=runners, nodes=NODES), make.NOW)


def plan(model: Model, *runners: Runner) -> ModelPlan:
    return plan_model(model, [member_of(each, NODES) for each in runners], make.LIMITS, make.NOW)


def went(found: ModelPlan) -> list[str]:
    return [member.name for member, _ in found.deletes]


def status_of(decision: ModelDecision) -> dict[str, Any]:
    return decision.status.model_dump(mode="json", by_alias=True, exclude_none=True)


def serving(of: Model, count: int, *, first: int = 0) -> list[Runner]:
    return [make.serving(make.runner(of, "n1", slot=first + slot)) for slot in range(count)]


def stable(replicas: int = 1, **fields: Any) -> tuple[Model, list[Runner], dict[str, Any]]:
    """A model that serves, its runners, and the status it has then."""
    model = make.model(replicas=replicas, **fields)
    runners = serving(model, replicas)
    return model, runners, status_of(decide(model, *runners))


def trying(status: dict[str, Any], weight: int = 10, *, replicas: int = 1, **fields: Any) -> Model:
    """The model after a changed spec was applied as a canary."""
    rollout = {"canaryWeight": weight, **fields.pop("rollout", {})}
    return make.model(status=status, replicas=replicas, cpu=fields.pop("cpu", "2"), rollout=rollout, **fields)


def said(decision: ModelDecision, kind: str) -> tuple[str, str] | None:
    found = next((each for each in decision.status.conditions if each.type == kind), None)
    return (found.status, found.reason) if found is not None else None


# Bounds of a rollout ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rollout", "replicas", "most_more", "most_fewer"),
    [
        ({}, 4, 1, 0),
        ({"maxSurge": 3}, 4, 3, 0),
        ({"maxSurge": "25%", "maxUnavailable": "25%"}, 5, 2, 1),
        ({"maxSurge": "1%"}, 1, 1, 0),
        ({"maxSurge": 0, "maxUnavailable": 2}, 1, 0, 1),
        ({"maxSurge": 0, "maxUnavailable": "25%"}, 1, 0, 1),
    ],
    ids=["defaults", "a number", "shares", "rounded up", "no more than there are", "never nothing at all"],
)
def test_bounds_are_read_as_deployments_read_them(
    rollout: dict[str, Any], replicas: int, most_more: int, most_fewer: int
) -> None:
    model = make.model(replicas=replicas, rollout=rollout)
    assert (surge(model), unavailable(model)) == (most_more, most_fewer)


def test_a_rollout_starts_as_many_beside_the_old_as_its_surge_says() -> None:
    old = make.model(replicas=4)
    new = make.model(replicas=4, cpu="2", rollout={"maxSurge": 2})
    found = plan(new, *serving(old, 4))
    assert (len(found.starts), went(found)) == (2, [])


def test_without_surge_an_old_one_goes_before_the_new_one_starts() -> None:
    old = make.model(replicas=2)
    new = make.model(replicas=2, cpu="2", rollout={"maxSurge": 0, "maxUnavailable": 1})
    found = plan(new, *serving(old, 2))
    assert (len(found.starts), len(went(found))) == (1, 1)


def test_a_replica_on_a_cordoned_node_moves_first_and_goes_later_whatever_the_rollout_says() -> None:
    model = make.model(rollout={"maxSurge": 0, "maxUnavailable": 1})
    nodes = {"n1": make.node("n1", cordoned_seconds=5)}
    member = member_of(make.serving(make.runner(model, "n1")), nodes)
    found = plan_model(model, [member], make.LIMITS, make.NOW)
    assert (len(found.starts), went(found)) == (1, [])


@settings(max_examples=30, deadline=None)
@given(
    replicas=st.integers(1, 4),
    more=st.sampled_from([0, 1, 2, "50%"]),
    fewer=st.sampled_from([1, 2, "50%", 0]),
    weight=st.sampled_from([None, 1, 30, 99]),
    order=st.lists(st.sampled_from(["ready", "reap", "promote", "back", "another"]), max_size=14),
)
@example(replicas=3, more=1, fewer=1, weight=1, order=["another", "ready", "promote", "ready", "another"])
def test_never_fewer_serve_than_promised_and_never_more_exist_than_allowed(
    replicas: int, more: int | str, fewer: int | str, weight: int | None, order: list[str]
) -> None:
    if more == 0:
        weight, fewer = None, fewer or 1
    rollout: dict[str, Any] = {"maxSurge": more, "maxUnavailable": fewer}
    world = World(limits=replace(make.LIMITS, unscheduled_seconds=0))
    world.add(make.node("n1", cpu="1000", memory="9999Gi", pods=1000))

    def apply(version: int, share: int | None = None) -> None:
        status = status_of(written(world)) if "llama" in world.models else None
        canary = {"canaryWeight": share} if share else {}
        world.add(make.model(replicas=replicas, cpu=str(version), rollout=rollout | canary, status=status))

    def check() -> None:
        model = world.models["llama"]
        alive = [each for each in world.members("llama") if each.is_alive]
        assert len(alive) <= replicas + surge(model)
        assert len(world.serving("llama")) >= replicas - unavailable(model)

    apply(1)
    world.settle()
    apply(1)
    apply(2, weight)
    for step in order:
        if step == "ready":
            starting = [each.name for each in world.members("llama") if each.is_alive and not each.is_ready]
            for name in starting[:1]:
                world.change(name, make.ready)
        elif step == "reap":
            for name in [name for name, each in world.runners.items() if each.pod.metadata.deletion_timestamp]:
                world.reap(name)
        else:
            apply({"promote": 2, "back": 1, "another": 3}[step], weight if step == "another" else None)
        world.round()
        check()
    apply(2)
    for _ in range(60):
        acted, moved = world.round().actions, world.progress()
        check()
        if not acted and not moved:
            break
    assert {each.hash for each in world.serving("llama")} == {world.models["llama"].hash}
    assert len(world.serving("llama")) == replicas


def written(world: World) -> ModelDecision:
    """What the status of the only model says now."""
    runners = tuple(world.runners.values())
    return decide_model(ModelView(model=world.models["llama"], runners=runners, nodes=world.nodes), make.NOW)


# Canaries -----------------------------------------------------------------------------------------------------------


def test_a_canary_starts_beside_what_serves_and_nothing_goes() -> None:
    old, runners, status = stable()
    found = plan(trying(status), *runners)
    assert [(each.model.hash != old.hash, each.slot, each.reason) for each in found.starts] == [
        (True, 1, "tries the changed spec with 10 % of the requests")
    ]
    assert went(found) == []


def test_nothing_goes_when_the_canary_serves() -> None:
    _, runners, status = stable()
    new = trying(status)
    found = plan(new, *runners, *serving(new, 1, first=1))
    assert (found.starts, went(found)) == ([], [])


@pytest.mark.parametrize(
    ("replicas", "weight", "more", "expected"),
    [(1, 10, 1, 1), (10, 30, 1, 1), (10, 30, 5, 3), (10, 31, "50%", 4), (2, 99, 10, 2)],
    ids=["at least one", "at most the surge", "its share", "rounded up", "at most as many"],
)
def test_a_canary_has_its_share_of_the_replicas_within_the_surge(
    replicas: int, weight: int, more: int | str, expected: int
) -> None:
    _, _, status = stable(replicas)
    model = trying(status, weight, replicas=replicas, rollout={"maxSurge": more})
    assert canary_replicas(model) == expected


def test_the_first_spec_of_all_is_no_canary() -> None:
    model = make.model(rollout={"canaryWeight": 10})
    assert model.stable is None
    assert [each.reason for each in plan(model).starts] == ["replica 1 of 1"]


def test_a_weight_without_a_changed_spec_changes_nothing() -> None:
    _, runners, status = stable()
    model = trying(status, cpu="1")
    found = plan(model, *runners)
    assert (model.stable, found.starts, went(found)) == (None, [], [])


def test_a_lost_replica_comes_back_with_the_stable_spec_while_a_canary_is_on() -> None:
    old, runners, status = stable(memory="3Gi")
    new = trying(status, memory="4Gi")
    found = plan(new, make.silent(runners[0]), *serving(new, 1, first=1))
    (start,) = found.starts
    assert (start.model.hash, start.model.spec.resources.memory) == (old.hash, "3Gi")


def test_the_stable_spec_is_known_without_any_runner_of_it() -> None:
    old, _, status = stable(2)
    found = plan(trying(status, replicas=2))
    assert [each.model.hash == old.hash for each in found.starts] == [True, True, False]


def test_scaling_while_a_canary_is_on_adds_stable_replicas() -> None:
    old, runners, status = stable()
    new = trying(status, replicas=3)
    found = plan(new, *runners, *serving(new, 1, first=1))
    assert [each.model.hash for each in found.starts] == [old.hash, old.hash]


def test_what_changes_no_engine_holds_for_both() -> None:
    _, _, status = stable()
    model = trying(status, priority="High", serving={"queue": {"maxRequests": 7}})
    assert model.stable is not None
    assert (model.stable.spec.priority, model.stable.spec.serving.queue.max_requests) == ("High", 7)


def test_a_stable_spec_keeps_its_image_when_the_default_changes() -> None:
    _, _, status = stable()
    model = trying(status)
    assert model.stable is not None
    assert model.stable.spec.pod_template.image == make.LIMITS.default_image


def test_a_dormant_model_keeps_its_canary_asleep_beside_the_others() -> None:
    _, runners, status = stable()
    new = trying(status | {"dormant": {"time": make.ago(5), "reason": "no request for 300 s"}})
    found = plan(new, *runners, *serving(new, 1, first=1))
    assert (len(found.sleepers), found.starts, went(found)) == (2, [], [])


def test_another_change_replaces_the_canary_and_not_the_stable_spec() -> None:
    _, runners, status = stable()
    former = trying(status)
    newest = trying(status, cpu="3")
    found = plan(newest, *runners, *serving(former, 1, first=1))
    assert went(found) == ["llama-1-1"]


def test_engines_of_both_never_share_a_runner_of_a_pool() -> None:
    pool = make.pool("pool", replicas=1, gpus=4, maxEngines=4)
    old = make.model(gpus=1, pools=["pool"])
    hosting = make.hosting(make.up(make.pool_runner(pool, "n1")), old)
    view = ModelView(model=old, runners=(hosting,), nodes=NODES)
    new = trying(status_of(decide_model(view, make.NOW)), gpus=1, pools=["pool"])
    world = World(limits=make.LIMITS)
    world.add(make.node("n1", gpus=8), make.node("n2", gpus=8), pool, new)
    world.runners[hosting.pod.metadata.name] = hosting
    found = world.round()
    assert found.waiting[new.key].reason in {Reason.NO_FREE_MEMORY, Reason.WAITING_FOR_TURN}
    assert {each.hash for each in world.serving("llama")} == {old.hash}
    world.add(make.pool("pool", replicas=2, gpus=4, maxEngines=4))
    world.settle()
    assert {each.hash for each in world.serving("llama")} == {old.hash, new.hash}
    assert len({each.pod.metadata.name for each in world.serving("llama")}) == 2


# What the status says -----------------------------------------------------------------------------------------------


def test_the_status_says_which_spec_is_stable_as_soon_as_it_serves() -> None:
    model, runners, _ = stable()
    assert decide(model).status.rollout is None
    rollout = decide(model, *runners).status.rollout
    assert rollout is not None and (rollout.stable_hash, rollout.canary_hash) == (model.hash, "")


def test_a_canary_is_told_from_its_application_to_its_service() -> None:
    old, runners, status = stable()
    new = trying(status)
    begun = decide(new, *runners)
    assert begun.status.rollout is not None and begun.status.rollout.canary_weight == 10
    assert said(begun, "Reconciling") == ("True", Reason.ROLLING_OUT)
    tried = decide(replace(new, status=begun.status), *runners, *serving(new, 1, first=1))
    assert tried.status.rollout is not None
    assert (tried.status.rollout.stable_hash, tried.status.rollout.canary_replicas) == (old.hash, 1)
    assert said(tried, "Reconciling") == ("False", Reason.CANARY)
    assert (tried.status.replicas, tried.status.ready_replicas) == (1, 1)
    assert EventReason.CANARY_SERVES in [each.reason for each in tried.events]
    assert EventReason.ROLLED_OUT not in [each.reason for each in tried.events]


def test_a_restarted_operator_decides_the_same_from_the_status_alone() -> None:
    old, runners, status = stable()
    new = trying(status)
    tried = decide(new, *runners, *serving(new, 1, first=1))
    again = trying(status_of(tried))
    assert again.stable is not None and again.stable.hash == old.hash
    both = [*runners, *serving(again, 1, first=1)]
    assert (plan(again, *both).starts, went(plan(again, *both))) == ([], [])
    assert decide(again, *both).status == tried.status


def test_deleting_the_weight_promotes() -> None:
    old, runners, status = stable()
    new = trying(status)
    canary = serving(new, 1, first=1)
    tried = status_of(decide(new, *runners, *canary))
    promoted = make.model(cpu="2", status=tried)
    assert went(plan(promoted, *runners, *canary)) == ["llama-0-1"]
    done = decide(promoted, *runners, *canary)
    assert done.status.rollout is not None
    assert (done.status.rollout.stable_hash, done.status.rollout.canary_weight) == (promoted.hash, None)
    assert [each.message for each in done.events if each.reason is EventReason.ROLLED_OUT] == [
        f"{new.hash} serves instead of {old.hash}"
    ]


@pytest.mark.parametrize("weight", [None, 10], ids=["without the weight", "with it"])
def test_applying_the_former_object_takes_the_canary_back_and_touches_nothing_else(weight: int | None) -> None:
    old, runners, status = stable()
    new = trying(status)
    canary = serving(new, 1, first=1)
    tried = status_of(decide(new, *runners, *canary))
    back = make.model(status=tried, rollout={"canaryWeight": weight} if weight else {})
    found = plan(back, *runners, *canary)
    assert (went(found), found.starts) == (["llama-1-1"], [])
    leaving = decide(back, *runners, *canary)
    assert leaving.status.rollout is not None
    assert leaving.status.rollout.canary_weight == 10, "routers keep the split until its last engine is gone"
    done = decide(replace(back, status=leaving.status), *runners)
    assert done.status.rollout is not None
    assert (done.status.rollout.stable_hash, done.status.rollout.canary_hash) == (old.hash, "")
    assert EventReason.ROLLED_BACK in [each.reason for each in done.events]
    assert EventReason.ROLLED_OUT not in [each.reason for each in (*leaving.events, *done.events)]


def test_a_canary_that_never_gets_ready_is_stalled_and_the_old_one_serves_on() -> None:
    _, runners, status = stable()
    new = trying(status, rollout={"progressDeadlineSeconds": 30})
    hanging = make.says(make.runner(new, "n2", slot=1, age_seconds=60), EngineState.STARTING)
    found = decide(new, *runners, hanging)
    assert said(found, "Stalled") == ("True", Reason.PROGRESS_DEADLINE_EXCEEDED)
    assert said(found, "Ready") == ("True", Reason.SERVING)
    assert said(found, "Degraded") is None
    assert went(plan(new, *runners, hanging)) == []


def test_a_missing_stable_replica_is_missed_though_a_canary_serves() -> None:
    _, runners, status = stable(2)
    new = trying(status, replicas=2)
    found = decide(new, runners[0], *serving(new, 1, first=2))
    assert said(found, "Degraded") == ("True", Reason.REPLICAS_MISSING)
    assert found.status.ready_replicas == 1
