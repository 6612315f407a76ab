"""Which actions take room from an engine for others, as thrash is counted by them."""

from dataclasses import replace

import msgspec

from support import make
from warmfleet_api.assignment import Assignment
from warmfleet_api.status import Dormancy
from warmfleet_api.vocabulary import DesiredState, WakePolicy
from warmfleet_operator.decide.actions import Decisions, DeleteRunner, PatchRunner, Preemption
from warmfleet_operator.decide.fleet import Fleet, Model, Runner
from warmfleet_operator.decide.switches import switched

POOL = make.pool()


def hosting(*models: Model) -> tuple[Fleet, Runner]:
    runner = make.hosting(make.up(make.pool_runner(POOL, "n1")), *models)
    return make.fleet(make.node("n1"), POOL, *models, runner), runner


def patched(runner: Runner, *, drop: bool = False, **fields: object) -> PatchRunner:
    """The action that changes, or takes out, the runner's engine."""
    assert runner.assignment is not None
    engine = msgspec.structs.replace(runner.assignment.engines[0], **fields)
    assignment = Assignment(version=1, revision=2, engines=() if drop else (engine,))
    return PatchRunner(runner.pod, assignment, {}, "for a test")


def dormant(model: Model) -> Model:
    sleep = Dormancy(time=make.ago(5), reason="for a test")
    return replace(model, status=model.status.model_copy(update={"dormant": sleep}))


def test_awake_memory_that_is_given_away_is_a_switch_and_idle_sleep_is_none() -> None:
    fleet, runner = hosting(make.model())
    given = patched(runner, state=DesiredState.ASLEEP, wake=WakePolicy.ON_ASSIGNMENT)
    assert switched(fleet, Decisions(actions=(given,))) == [runner.pod.metadata.name]
    kept = patched(runner, state=DesiredState.ASLEEP, wake=WakePolicy.ON_REQUEST)
    assert switched(fleet, Decisions(actions=(kept,))) == []


def test_an_engine_that_is_taken_out_is_one_only_if_its_model_sleeps_or_was_preempted() -> None:
    model = make.model()
    fleet, runner = hosting(model)
    gone = patched(runner, drop=True)
    assert switched(fleet, Decisions(actions=(gone,))) == []
    loss = Preemption(model.key, make.model("winner").key, runner.pod.metadata.name, "")
    assert switched(fleet, Decisions(actions=(gone,), preemptions=(loss,))) == [runner.pod.metadata.name]
    sleeping, runner = hosting(dormant(model))
    assert switched(sleeping, Decisions(actions=(patched(runner, drop=True),))) == [runner.pod.metadata.name]


def test_a_change_counts_once_though_the_sleeper_is_taken_out_later() -> None:
    fleet, runner = hosting(dormant(make.model()))
    ordered = patched(runner, state=DesiredState.ASLEEP, wake=WakePolicy.ON_ASSIGNMENT).assignment
    assert ordered is not None
    asleep = make.assigned_to(runner, ordered)
    later = replace(fleet, runners=(asleep,))
    assert switched(later, Decisions(actions=(patched(asleep, drop=True),))) == []


def test_an_own_runner_that_is_deleted_for_a_winner_is_one() -> None:
    model = make.model()
    runner = make.serving(make.runner(model, "n1"))
    fleet = make.fleet(make.node("n1"), model, runner)
    deleted = Decisions(actions=(DeleteRunner(runner.pod, "for a test"),))
    assert switched(fleet, deleted) == []
    loss = Preemption(model.key, make.model("winner").key, runner.pod.metadata.name, "")
    assert switched(fleet, replace(deleted, preemptions=(loss,))) == [runner.pod.metadata.name]
