"""The status of a model from its first moment to its end, as people, kstatus and columns read it."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from support import make
from warmfleet_api.status import Condition, ModelDeploymentStatus
from warmfleet_api.vocabulary import EngineState, Reason, Stage
from warmfleet_operator.decide.actions import Waiting
from warmfleet_operator.decide.events import EventReason
from warmfleet_operator.decide.fleet import Model, Problem, Runner
from warmfleet_operator.decide.model import ModelDecision, ModelView, decide_model
from warmfleet_operator.records import Pod

NODES = {name: make.node(name, gpus=8) for name in ("n1", "n2")}


def decide(model: Model, *runners: Runner, later_seconds: float = 0, **view: Any) -> ModelDecision:
    return decide_model(
        ModelView(model=model, runners=runners, nodes=NODES, **view), make.NOW + timedelta(seconds=later_seconds)
    )


def follow(model: Model, decision: ModelDecision) -> Model:
    """The model after its status was written."""
    return replace(model, status=decision.status)


def condition(status: ModelDeploymentStatus, kind: str) -> Condition | None:
    return next((each for each in status.conditions if each.type == kind), None)


def said(status: ModelDeploymentStatus, kind: str) -> tuple[str, str]:
    found = condition(status, kind)
    assert found is not None, f"no condition {kind}"
    return found.status, found.reason


def waiting(model: Model, position: int = 3, of: int = 7, reason: Reason = Reason.NO_FREE_MEMORY) -> Waiting:
    return Waiting(model.key, position, of, reason, "needs 2 nvidia.com/gpu, at most 1 free on n2")


def served(model: Model, **fields: Any) -> Model:
    """The model with the status it has after it first served on n1."""
    return follow(model, decide(model, make.serving(make.runner(model, "n1")), **fields))


def test_a_new_model_is_queued_and_reconciling() -> None:
    status = decide(make.model(generation=4)).status
    assert said(status, "Ready") == ("False", Reason.QUEUED)
    assert said(status, "Reconciling") == ("True", Reason.NEW_SPEC)
    assert said(status, "Scheduled") == ("False", Reason.WAITING_FOR_TURN)
    assert status.observed_generation == 4
    assert {each.observed_generation for each in status.conditions} == {4}
    assert (status.replicas, status.ready_replicas, status.pending_start) == (1, 0, None)
    assert status.selector == "warmfleet.dev/scale-of=uid-default-llama"
    assert status.endpoint == "http://llama.default.svc/v1"


def test_a_start_without_a_place_shows_its_turn_and_what_it_waits_for() -> None:
    model = make.model(gpus=2)
    decision = decide(model, waiting=waiting(model))
    pending = decision.status.pending_start
    assert pending is not None
    assert (pending.position, pending.of, pending.stage) == (3, 7, Stage.QUEUED)
    assert pending.summary == "3/7 NoFreeMemory: needs 2 nvidia.com/gpu, at most 1 free on n2"
    assert said(decision.status, "Ready") == ("False", Reason.QUEUED)
    assert said(decision.status, "Scheduled") == ("False", Reason.NO_FREE_MEMORY)
    assert [(event.type, event.reason) for event in decision.events] == [("Normal", EventReason.START_QUEUED)]


def test_a_queue_that_moves_is_written_exactly_near_its_head_and_roughly_far_from_it() -> None:
    model = make.model()
    for before, now, shown in [(4, 3, 3), (2, 1, 1), (100, 80, 100), (100, 70, 70), (40, 5, 5), (6, 5, 6)]:
        written = follow(model, decide(model, waiting=waiting(model, before, 200)))
        pending = decide(written, waiting=waiting(model, now, 200)).status.pending_start
        assert pending is not None and pending.position == shown


def test_a_new_reason_to_wait_is_written_wherever_in_the_queue() -> None:
    model = make.model()
    written = follow(model, decide(model, waiting=waiting(model, 100, 200)))
    other = decide(written, waiting=waiting(model, 99, 200, Reason.WAITING_FOR_TURN)).status
    assert other.pending_start is not None and other.pending_start.position == 99
    assert said(other, "Scheduled") == ("False", Reason.WAITING_FOR_TURN)


def test_a_start_that_waited_for_a_node_of_the_autoscaler_says_for_how_long() -> None:
    model = make.model()
    claim = make.bound(make.claim(model), "n2", seconds_ago=20)
    bound = make.serving(make.running(claim, seconds_ago=18))
    last = decide(model, bound).status.last_start
    assert last is not None
    # Asked for 60 s ago by a model that was made 100 s ago; a node was there 40 s later.
    times = {stage.name: stage.milliseconds for stage in last.stages}
    assert Stage.RUNNER_SCHEDULED not in times
    assert (times.pop(Stage.QUEUED), times.pop(Stage.NODE_PROVISIONED)) == (40_000, 40_000)
    assert last.duration_milliseconds == sum(times.values()) == 20_000


def test_entering_the_queue_is_told_once() -> None:
    model = make.model()
    queued = follow(model, decide(model, waiting=waiting(model)))
    assert decide(queued, waiting=waiting(model, 2)).events == ()


@pytest.mark.parametrize(
    ("runner", "stage"),
    [
        (make.claim(make.model()), Stage.NODE_PROVISIONED),
        (make.runner(make.model(), "n1"), Stage.RUNNER_SCHEDULED),
        (make.scheduled(make.runner(make.model(), "n1")), Stage.IMAGE_PULLED),
        (make.running(make.runner(make.model(), "n1")), Stage.RUNNER_READY),
        (make.says(make.runner(make.model(), "n1"), EngineState.STARTING), Stage.ENGINE_FORKED),
        (
            make.says(make.runner(make.model(), "n1"), EngineState.STARTING, stage=Stage.WEIGHTS_LOADED),
            Stage.WEIGHTS_LOADED,
        ),
        (make.ready(make.runner(make.model(), "n1")), Stage.ROUTABLE),
    ],
    ids=lambda each: each if isinstance(each, Stage) else "",
)
def test_a_start_under_way_shows_its_stage(runner: Runner, stage: Stage) -> None:
    status = decide(make.model(), runner).status
    assert status.pending_start is not None
    assert (status.pending_start.position, status.pending_start.stage) == (0, stage)
    place = "" if stage is Stage.NODE_PROVISIONED else " on n1"
    assert status.pending_start.summary == f"Cold: {stage}{place}"
    assert said(status, "Ready") == ("False", Reason.STARTING)
    assert said(status, "Scheduled") == ("True", Reason.PLACED)
    assert status.engines[0].state is EngineState.STARTING


def test_a_served_model_is_ready_and_tells_where_the_time_of_its_start_went() -> None:
    model = make.model(gpus=2)
    stages = ((Stage.ENGINE_FORKED, 700), (Stage.WEIGHTS_LOADED, 20_000), (Stage.WARMED_UP, 1_500))
    runner = make.serving(make.runner(model, "n2"), stages=stages, weight_bytes=5 * make.GIB)
    decision = decide(model, runner)
    status, last = decision.status, decision.status.last_start
    assert said(status, "Ready") == said(status, "Serving") == ("True", Reason.SERVING)
    assert said(status, "Reconciling") == ("False", Reason.SERVING)
    assert said(status, "WeightsReady") == ("True", Reason.ON_DISK)
    assert (status.served_hash, status.ready_replicas, status.pending_start) == (model.hash, 1, None)
    assert status.model is not None and status.model.bytes == 5 * make.GIB
    assert last is not None and last.result == "Succeeded"
    # Created 60 s ago by a model that was made 100 s ago; bound after 1 s, running after 4 more, Ready 2 s ago.
    assert {stage.name: stage.milliseconds for stage in last.stages} == {
        Stage.QUEUED: 40_000,
        Stage.RUNNER_SCHEDULED: 1_000,
        Stage.IMAGE_PULLED: 4_000,
        Stage.RUNNER_READY: 30_800,
        Stage.ENGINE_FORKED: 700,
        Stage.WEIGHTS_LOADED: 20_000,
        Stage.WARMED_UP: 1_500,
        Stage.ROUTABLE: 2_000,
    }
    assert last.duration_milliseconds == 60_000
    assert last.summary == "60.0 s Cold on n2"
    assert [event.reason for event in decision.events] == [EventReason.START_SUCCEEDED]
    assert status.engines[0].model_dump(exclude={"memory"}) == {
        "id": "llama-0-1",
        "runner": "llama-0-1",
        "node": "n2",
        "state": "Ready",
        "hash": model.hash,
        "gpus": 2,
    }


def test_a_restart_inside_a_runner_is_a_start_of_the_engine_alone() -> None:
    model = served(make.model())
    crashed = follow(model, decide(model, make.says(make.runner(model, "n1"), EngineState.FAILED)))
    again = make.serving(make.runner(model, "n1"), stages=((Stage.WEIGHTS_LOADED, 3_000),))
    again = replace(again, pod=make.running(again, restarts=1).pod)
    last = decide(crashed, again).status.last_start
    assert last is not None and last.summary == "3.0 s Cold on n1"


def test_the_same_view_gives_the_same_status_at_any_later_time() -> None:
    model = make.model(gpus=2)
    broken = replace(model, problem=Problem(Reason.INVALID_ARGS, "no"))
    starting = make.says(make.runner(model, "n1"), EngineState.STARTING, stage=Stage.WEIGHTS_LOADED)
    failing = make.says(
        make.runner(model, "n1"), EngineState.FAILED, error=(Reason.MODEL_NOT_FOUND, "no config.json"), failed_starts=1
    )
    views: list[tuple[Model, tuple[Runner, ...], dict[str, Any]]] = [
        (model, (), {}),
        (model, (), {"waiting": waiting(model)}),
        (broken, (), {}),
        (model, (starting,), {}),
        (model, (failing,), {}),
        (model, (make.serving(make.runner(model, "n1"), memory_bytes=100),), {}),
        (model, (make.silent(make.serving(make.runner(model, "n1"))),), {}),
        (make.model(replicas=0), (make.serving(make.runner(model, "n1")),), {}),
    ]
    for of, runners, more in views:
        first = decide(of, *runners, **more)
        second = decide(follow(of, first), *runners, later_seconds=600, **more)
        assert second.status == first.status
        assert second.events == ()


def test_memory_that_hardly_moves_writes_nothing() -> None:
    model = make.model()
    runner = make.runner(model, "n1")
    written = follow(model, decide(model, make.serving(runner, memory_bytes=1000)))
    assert decide(written, make.serving(runner, memory_bytes=1099)).status.engines[0].memory == 1000
    assert decide(written, make.serving(runner, memory_bytes=1101)).status.engines[0].memory == 1101


def test_the_time_of_a_transition_stays_while_the_status_stays() -> None:
    model = make.model()
    queued = follow(model, decide(model))
    starting = decide(queued, make.runner(model, "n1"), later_seconds=30).status
    ready = condition(starting, "Ready")
    assert ready is not None
    assert (ready.reason, ready.last_transition_time) == (Reason.STARTING, make.ago(0))
    serving = decide(follow(model, decide(queued)), make.serving(make.runner(model, "n1")), later_seconds=30).status
    moved = condition(serving, "Ready")
    assert moved is not None and moved.last_transition_time == make.ago(-30)


def test_a_stopped_model_says_how_to_start_it() -> None:
    status = decide(make.model(replicas=0)).status
    ready = condition(status, "Ready")
    assert ready is not None and (ready.status, ready.reason) == ("False", Reason.STOPPED)
    assert "kubectl -n default scale mdl/llama --replicas=1" in ready.message
    assert said(status, "Reconciling") == ("False", Reason.STOPPED)
    assert said(status, "Serving") == ("False", Reason.STOPPED)
    assert status.replicas == 0


def test_scaling_from_and_to_nothing_is_no_reconciling() -> None:
    model = served(make.model())
    stopped = follow(
        replace(model, spec=make.model(replicas=0).spec), decide(replace(model, spec=make.model(replicas=0).spec))
    )
    woken = decide(replace(stopped, spec=model.spec), make.runner(model, "n1", attempt=2)).status
    assert said(woken, "Ready") == ("False", Reason.STARTING)
    assert said(woken, "Reconciling") == ("False", Reason.SERVING)


def test_a_changed_spec_rolls_out_while_the_old_one_serves() -> None:
    old = served(make.model())
    new = replace(make.model(cpu="2", generation=2), status=old.status)
    before, beside = make.serving(make.runner(old, "n1")), make.runner(new, "n2", attempt=2)
    rolling = decide(new, before, beside)
    assert said(rolling.status, "Ready") == ("True", Reason.SERVING)
    assert said(rolling.status, "Reconciling") == ("True", Reason.ROLLING_OUT)
    assert rolling.status.ready_replicas == 1
    done = decide(follow(new, rolling), before, make.serving(beside))
    assert said(done.status, "Reconciling") == ("False", Reason.SERVING)
    assert [event.reason for event in done.events] == [EventReason.START_SUCCEEDED, EventReason.ROLLED_OUT]
    assert done.events[1].message == f"{new.hash} serves instead of {old.hash}"


@pytest.mark.parametrize(
    "reason", [Reason.MODEL_NOT_FOUND, Reason.UNSAFE_FORMAT, Reason.ACCESS_DENIED, Reason.INVALID_ARGS]
)
def test_an_error_that_only_a_person_can_mend_stalls_the_model(reason: Reason) -> None:
    model = make.model()
    failed = make.says(make.runner(model, "n1"), EngineState.FAILED, error=(reason, "do this"), failed_starts=1)
    decision = decide(model, failed)
    assert said(decision.status, "Stalled") == ("True", reason)
    assert said(decision.status, "Ready") == ("False", Reason.NO_ENGINE)
    assert said(decision.status, "Reconciling")[0] == "False"
    assert [(event.type, event.reason) for event in decision.events] == [("Warning", EventReason.START_FAILED)]
    last = decision.status.last_start
    assert last is not None and (last.result, last.error) == ("Failed", f"{reason}: do this")


def test_one_crash_is_tried_again_and_the_second_stalls() -> None:
    model = make.model()
    crash = (Reason.ENGINE_CRASHING, "exit code 1")
    once = make.says(make.runner(model, "n1"), EngineState.FAILED, error=crash, failed_starts=1)
    assert condition(decide(model, once).status, "Stalled") is None
    twice = make.says(make.runner(model, "n1"), EngineState.STARTING, error=crash, failed_starts=2)
    assert said(decide(model, twice).status, "Stalled") == ("True", Reason.ENGINE_CRASHING)


def test_with_the_old_spec_serving_a_broken_new_one_is_ready_and_stalled() -> None:
    old = served(make.model())
    new = replace(make.model(cpu="2", generation=2), status=old.status)
    failed = make.says(
        make.runner(new, "n2", attempt=2), EngineState.FAILED, error=(Reason.INVALID_ARGS, "no"), failed_starts=1
    )
    status = decide(new, make.serving(make.runner(old, "n1")), failed).status
    assert said(status, "Ready") == ("True", Reason.SERVING)
    assert said(status, "Stalled") == ("True", Reason.INVALID_ARGS)


def test_a_problem_of_the_spec_stalls_without_any_runner() -> None:
    model = replace(make.model(), problem=Problem(Reason.NAME_TAKEN, "take another"))
    decision = decide(model)
    assert said(decision.status, "Stalled") == ("True", Reason.NAME_TAKEN)
    assert said(decision.status, "Scheduled") == ("False", Reason.NAME_TAKEN)
    assert [event.message for event in decision.events] == ["NameTaken: take another"]
    assert decide(follow(model, decision)).events == ()


def test_what_never_fits_stalls_and_says_what_to_change() -> None:
    model = make.model(gpus=16)
    decision = decide(model, waiting=Waiting(model.key, 0, 0, Reason.NEVER_FITS, "needs 16"))
    status = decision.status
    assert [event.reason for event in decision.events] == [EventReason.START_FAILED]
    assert said(status, "Stalled") == ("True", Reason.NEVER_FITS)
    stalled = condition(status, "Stalled")
    assert stalled is not None and stalled.message == "needs 16; lower spec.resources or add a larger node"
    assert status.pending_start is not None and status.pending_start.summary == "NeverFits: needs 16"


def test_an_image_that_can_not_be_pulled_is_named_and_its_two_reasons_read_the_same() -> None:
    model = make.model()
    runner = make.runner(model, "n1")
    once = decide(model, make.container_waits(runner, "ErrImagePull", "not found"))
    assert said(once.status, "Stalled") == ("True", Reason.IMAGE_PULL_FAILED)
    stalled = condition(once.status, "Stalled")
    assert stalled is not None and make.LIMITS.default_image in stalled.message
    again = decide(follow(model, once), make.container_waits(runner, "ImagePullBackOff", "Back-off"))
    assert again.status == once.status


def test_a_refusal_of_the_api_server_is_shown_as_what_the_start_waits_for() -> None:
    refusal = Problem(Reason.QUOTA_EXCEEDED, "exceeded quota: pods=10")
    status = decide(make.model(), refusal=refusal).status
    assert said(status, "Scheduled") == ("False", Reason.QUOTA_EXCEEDED)
    assert status.pending_start is not None
    assert status.pending_start.summary == "QuotaExceeded: exceeded quota: pods=10"


def test_the_progress_deadline_counts_from_the_runner_and_stands_still_in_the_queue() -> None:
    model = make.model(rollout={"progressDeadlineSeconds": 90})
    starting = make.says(make.runner(model, "n1", age_seconds=60), EngineState.STARTING)
    assert decide(model, starting).recheck_seconds == pytest.approx(30)
    late = decide(model, starting, later_seconds=30)
    assert said(late.status, "Stalled") == ("True", Reason.PROGRESS_DEADLINE_EXCEEDED)
    queued = decide(model, waiting=waiting(model), later_seconds=9000)
    assert condition(queued.status, "Stalled") is None
    assert queued.recheck_seconds is None


def test_a_model_that_lost_its_only_engine_is_not_ready_and_its_engine_is_no_longer_listed_as_such() -> None:
    model = served(make.model())
    status = decide(model, make.silent(make.serving(make.runner(model, "n1")))).status
    assert said(status, "Ready") == ("False", Reason.QUEUED)
    assert said(status, "Reconciling") == ("False", Reason.SERVING)
    assert status.engines[0].state is EngineState.DRAINING


def test_a_runner_that_speaks_again_did_not_start_again() -> None:
    runner = make.serving(make.runner(make.model(), "n1"))
    model = served(make.model())
    lost = follow(model, decide(model, make.silent(runner)))
    assert decide(lost, runner).events == ()


def test_missing_replicas_are_degraded_and_full_ones_are_not() -> None:
    model = make.model(replicas=2)
    one = make.serving(make.runner(model, "n1"))
    status = decide(model, one, make.runner(model, "n2", slot=1)).status
    assert said(status, "Degraded") == ("True", Reason.REPLICAS_MISSING)
    assert said(status, "Ready") == ("True", Reason.SERVING)
    full = decide(model, one, make.serving(make.runner(model, "n2", slot=1))).status
    assert condition(full, "Degraded") is None


def test_without_its_service_a_ready_engine_is_not_ready_for_clients() -> None:
    model = make.model()
    status = decide(model, make.serving(make.runner(model, "n1")), endpoint_ready=False).status
    assert said(status, "Ready") == ("False", Reason.STARTING)


def test_a_large_model_lists_its_first_sixteen_engines() -> None:
    model = make.model(replicas=20)
    runners = [make.serving(make.runner(model, "n1", slot=slot)) for slot in range(20)]
    status = decide(model, *runners).status
    assert [engine.runner for engine in status.engines] == [f"llama-{slot}-1" for slot in range(16)]
    assert status.ready_replicas == 20


def ended(runner: Runner, **terminated: Any) -> Runner:
    body = msgspec.to_builtins(runner.pod)
    body["status"]["containerStatuses"][0]["lastState"] = {"terminated": terminated}
    return replace(runner, pod=msgspec.convert(body, Pod))


def test_a_runner_whose_container_keeps_ending_stalls_with_the_command_that_shows_why() -> None:
    model = make.model()
    runner = make.running(make.runner(model, "n1"), restarts=2)
    assert condition(decide(model, runner).status, "Stalled") is None
    status = decide(model, ended(runner, exitCode=127, startedAt=make.ago(70), finishedAt=make.ago(60))).status
    stalled = condition(status, "Stalled")
    assert stalled is not None and stalled.reason == Reason.ENGINE_CRASHING
    assert "exit code 127" in stalled.message
    assert "kubectl -n default logs llama-0-1 --previous" in stalled.message


@pytest.mark.parametrize(
    "last_run",
    [
        {"exitCode": 255, "reason": "Unknown", "startedAt": make.ago(70), "finishedAt": make.ago(60)},
        {"exitCode": 137, "reason": "OOMKilled", "startedAt": make.ago(86_400), "finishedAt": make.ago(60)},
    ],
)
def test_a_runner_that_was_lost_with_its_node_or_ran_for_long_is_only_starting_again(last_run: dict[str, Any]) -> None:
    model = make.model()
    runner = ended(make.running(make.runner(model, "n1"), restarts=2), **last_run)
    assert condition(decide(model, runner).status, "Stalled") is None


def test_runners_of_a_stopped_model_drain() -> None:
    status = decide(make.model(replicas=0), make.terminating(make.serving(make.runner(make.model(), "n1")))).status
    assert said(status, "Serving") == ("False", Reason.DRAINING)
    assert said(status, "Ready") == ("False", Reason.STOPPED)
    assert status.engines[0].state is EngineState.DRAINING
