"""What a pool says of itself, and what models that live in pools say of their starts."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from support import make
from warmfleet_api.runner_status import StageTime, ZygoteStatus
from warmfleet_api.status import ModelDeploymentStatus
from warmfleet_api.vocabulary import EngineState, Launch, Reason, Stage, StartType, ZygoteState
from warmfleet_api.warm_pool import WarmPoolStatus
from warmfleet_operator.decide.actions import Waiting
from warmfleet_operator.decide.events import EventReason
from warmfleet_operator.decide.fleet import Model, Pool, Problem, Runner, StartTimes
from warmfleet_operator.decide.model import ModelDecision, decide_model
from warmfleet_operator.decide.pool_status import PoolView, pool_status
from warmfleet_operator.decide.pools import pool_runner_of
from warmfleet_operator.decide.situation import ModelView

NODES = {name: make.node(name) for name in ("a", "b")}


def say(pool: Pool, *runners: Runner, **view: Any) -> WarmPoolStatus:
    seen = tuple(pool_runner_of(runner, pool, NODES) for runner in runners)
    return pool_status(PoolView(pool, seen, **view), make.NOW)


def conditions(status: WarmPoolStatus) -> dict[str, tuple[str, str]]:
    return {each.type: (each.status, each.reason) for each in status.conditions}


# The pool ----------------------------------------------------------------------------------------------------------


def test_a_pool_counts_free_and_busy_runners_and_models() -> None:
    pool = make.pool(replicas=2)
    busy = make.hosting(make.pool_runner(pool, "a"), make.model("red"), make.model("blue"))
    status = say(pool, busy, make.up(make.pool_runner(pool, "b", slot=1)))
    assert (status.replicas, status.ready_replicas, status.free, status.busy, status.models) == (2, 2, 1, 1, 2)
    assert conditions(status) == {"Ready": ("True", "RunnersReady"), "Reconciling": ("False", "RunnersReady")}


def test_a_new_pool_reconciles_until_its_runners_take_engines() -> None:
    pool = make.pool(replicas=2)
    status = say(pool, make.up(make.pool_runner(pool, "a")), make.pool_runner(pool, "b", slot=1))
    assert conditions(status) == {"Ready": ("False", "RunnersMissing"), "Reconciling": ("True", "NewSpec")}
    later = make.pool(replicas=2, status=status.model_dump(mode="json", by_alias=True))
    assert say(later, make.up(make.pool_runner(pool, "a")), make.pool_runner(pool, "b", slot=1)) == status


def test_a_lost_runner_is_missing_but_nothing_reconciles() -> None:
    pool = make.pool()
    status = say(pool, make.up(make.pool_runner(pool, "a")))
    later = make.pool(status=status.model_dump(mode="json", by_alias=True))
    assert conditions(say(later)) == {"Ready": ("False", "RunnersMissing"), "Reconciling": ("False", "RunnersReady")}


def test_runners_of_a_former_spec_are_rolled_out() -> None:
    old, new = make.pool(), make.pool(cpu="2")
    assert conditions(say(new, make.up(make.pool_runner(old, "a")))) == {
        "Ready": ("True", "RunnersReady"),
        "Reconciling": ("True", "RollingOut"),
    }


def test_a_pool_of_no_runners_is_stopped() -> None:
    assert conditions(say(make.pool(replicas=0)))["Ready"] == ("False", "Stopped")


@pytest.mark.parametrize(
    ("view", "reason", "words"),
    [
        ({"refusal": Problem(Reason.QUOTA_EXCEEDED, "exceeded quota: small")}, "QuotaExceeded", "exceeded quota"),
        ({"refusal": Problem(Reason.ACCESS_DENIED, "violates PodSecurity")}, "AccessDenied", "PodSecurity"),
        (
            {"waiting": Waiting(make.pool().key, 0, 0, Reason.NEVER_FITS, "needs 9 cpu, no node has more than 4")},
            "NeverFits",
            "lower gpus, cpu or memory",
        ),
    ],
)
def test_a_pool_that_needs_a_person_is_stalled(view: dict[str, Any], reason: str, words: str) -> None:
    status = say(make.pool(), **view)
    assert conditions(status)["Stalled"] == ("True", reason)
    assert words in next(each.message for each in status.conditions if each.type == "Stalled")
    assert status.blocker.startswith(reason)


def test_an_image_that_cant_be_pulled_is_named() -> None:
    pool = make.pool(image="registry.example/missing:1")
    waits = make.container_waits(make.pool_runner(pool, "a"), "ImagePullBackOff")
    status = say(pool, waits)
    assert conditions(status)["Stalled"] == ("True", "ImagePullFailed")
    assert "registry.example/missing:1" in status.blocker


def test_a_runner_that_waits_for_a_place_says_for_what() -> None:
    pool = make.pool()
    waiting = Waiting(pool.key, 0, 0, Reason.NO_FREE_MEMORY, "needs 8.0 GiB memory, at most 1.0 GiB free on a")
    status = say(pool, waiting=waiting)
    assert status.blocker == "NoFreeMemory: needs 8.0 GiB memory, at most 1.0 GiB free on a"
    assert status.conditions[0].message == f"0 of 1 runners take engines; {status.blocker}"


# Models in it ------------------------------------------------------------------------------------------------------


def decide(model: Model, *runners: Runner, waiting: Waiting | None = None, seconds_later: float = 0) -> ModelDecision:
    return decide_model(ModelView(model, runners, NODES, waiting), make.NOW + timedelta(seconds=seconds_later))


def hosted(model: Model, state: EngineState = EngineState.READY, **told: Any) -> Runner:
    """A pool's runner that hosts the model, started two seconds ago and Ready since half a second."""
    runner = make.hosting(make.pool_runner(make.pool(), "a"), model, states={"llama-0-1": state})
    assert runner.status is not None
    stages = tuple(
        StageTime(name=name, milliseconds=milliseconds)
        for name, milliseconds in ((Stage.ENGINE_FORKED, 400), (Stage.WEIGHTS_LOADED, 300), (Stage.WARMED_UP, 200))
    )
    engine = msgspec.structs.replace(runner.status.engines[0], stages=stages, launch=Launch.FORK, **told)
    times = StartTimes(make.NOW - timedelta(seconds=2), make.NOW - timedelta(seconds=0.5))
    status = msgspec.structs.replace(runner.status, engines=(engine,))
    return replace(runner, status=status, start_times={"llama-0-1": times})


def pooled(status: ModelDeploymentStatus | None = None, **fields: Any) -> Model:
    written = status.model_dump(mode="json", by_alias=True, exclude_none=True) if status is not None else None
    return make.model(pools=["pool"], status=written, **fields)


def test_a_warm_start_tells_where_its_time_went() -> None:
    model = pooled(age_seconds=5)
    decision = decide(model, hosted(model))
    last = decision.status.last_start
    assert last is not None
    assert (last.start_type, last.summary) == (StartType.WARM, "2.0 s Warm on a")
    assert {stage.name: stage.milliseconds for stage in last.stages} == {
        Stage.QUEUED: 3_000,
        Stage.RUNNER_READY: 600,
        Stage.ENGINE_FORKED: 400,
        Stage.WEIGHTS_LOADED: 300,
        Stage.WARMED_UP: 200,
        Stage.ROUTABLE: 500,
    }
    assert decision.starts == (last,)
    assert [engine.model_dump(include={"id", "runner"}) for engine in decision.status.engines] == [
        {"id": "llama-0-1", "runner": "pool-0-1"}
    ]


def test_of_a_start_that_another_leader_decided_the_engines_own_stages_are_known() -> None:
    model = pooled()
    last = decide(model, replace(hosted(model), start_times={})).status.last_start
    assert last is not None
    assert [stage.name for stage in last.stages] == [Stage.ENGINE_FORKED, Stage.WEIGHTS_LOADED, Stage.WARMED_UP]
    assert last.summary == "0.9 s Warm on a"


def test_a_start_that_could_not_be_forked_says_so() -> None:
    model = pooled()
    runner = hosted(model)
    assert runner.status is not None
    engine = msgspec.structs.replace(runner.status.engines[0], launch=Launch.EXEC)
    zygote = ZygoteStatus(state=ZygoteState.UNAVAILABLE, message="vLLM 0.99 has other names than the adapter knows")
    status = msgspec.structs.replace(runner.status, engines=(engine,), zygote=zygote)
    decision = decide(model, replace(runner, status=status))
    assert decision.status.last_start is not None
    assert decision.status.last_start.summary == "2.0 s Warm by exec on a"
    event = next(event for event in decision.events if event.reason is EventReason.STARTED_BY_EXEC)
    assert "vLLM 0.99 has other names" in event.message
    assert "kubectl -n default logs pool-0-1" in event.message
    assert decision.executed == 1


def test_a_start_under_way_in_a_pool_names_its_stage() -> None:
    model = pooled()
    runner = hosted(model, EngineState.STARTING, stage=Stage.WEIGHTS_LOADED)
    pending = decide(model, runner).status.pending_start
    assert pending is not None
    assert (pending.start_type, pending.summary) == (StartType.WARM, "Warm: WeightsLoaded on a")


def test_a_missing_pool_counts_as_a_mistake_after_a_minute() -> None:
    model = pooled(age_seconds=0)
    waiting = Waiting(model.key, 0, 0, Reason.POOL_NOT_FOUND, "namespace default has no WarmPool pool")
    first = decide(model, waiting=waiting)
    kinds = {each.type: each.reason for each in first.status.conditions}
    assert kinds["Scheduled"] == "PoolNotFound"
    assert "Stalled" not in kinds
    assert first.recheck_seconds == pytest.approx(60)
    then = decide(pooled(first.status, age_seconds=0), waiting=waiting, seconds_later=61)
    assert {each.type: each.reason for each in then.status.conditions}["Stalled"] == "PoolNotFound"


def test_the_progress_deadline_of_a_warm_start_runs_from_its_place_not_from_its_runners_age() -> None:
    model = pooled(age_seconds=0)
    runner = hosted(model, EngineState.STARTING)
    first = decide(model, runner)
    assert first.recheck_seconds is None or first.recheck_seconds > 800
    later = decide(pooled(first.status, age_seconds=0), runner, seconds_later=901)
    assert {each.type: each.reason for each in later.status.conditions}["Stalled"] == "ProgressDeadlineExceeded"
