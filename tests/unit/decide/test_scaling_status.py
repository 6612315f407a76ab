"""What a model tells of autoscaling, when it may sleep, and what counts as its demand."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from support import make
from warmfleet_api.status import ScalingStatus
from warmfleet_operator.build.autoscaler import autoscaler, target_of
from warmfleet_operator.decide.events import EventReason
from warmfleet_operator.decide.fleet import Demand, Model, ModelKey, Runner
from warmfleet_operator.decide.model import ModelDecision, ModelView, decide_model
from warmfleet_operator.decide.scaling import Sample, ScalingView, Timetable, Wish
from warmfleet_operator.decide.scaling_sample import sample_of
from warmfleet_operator.decide.scaling_status import GRACE_SECONDS
from warmfleet_operator.decide.situation import situation_of
from warmfleet_operator.records import HorizontalPodAutoscaler

NODES = {"n1": make.node("n1", gpus=8), "n2": make.node("n2")}
WISH = ScalingView(Wish(3, ("57.0 requests on average of 30 s, 20 for each replica",)))


def decide(model: Model, *runners: Runner, later_seconds: float = 0, **view: Any) -> ModelDecision:
    now = make.NOW + timedelta(seconds=later_seconds)
    return decide_model(ModelView(model=model, runners=runners, nodes=NODES, **view), now)


def scaled(replicas: int = 1, served: bool = True, **block: Any) -> Model:
    """A model with the block; the status says that it served and is at rest."""
    model = make.model(replicas=replicas, autoscaling=block)
    status = model.status.model_copy(update={"served_hash": model.hash if served else ""})
    return replace(model, status=status)


def follow(model: Model, decision: ModelDecision, replicas: int) -> Model:
    """The model after its status was written, with other replicas."""
    return replace(model, status=decision.status, spec=model.spec.model_copy(update={"replicas": replicas}))


def at(it: Runner, **told: Any) -> Runner:
    """The runner telling something else of its engine."""
    assert it.status is not None
    engine = msgspec.structs.replace(it.status.engines[0], **told)
    return replace(it, status=msgspec.structs.replace(it.status, engines=(engine,)))


def idle(it: Runner, seconds: float) -> Runner:
    assert it.status is not None
    return replace(it, idle_seconds={it.status.engines[0].id: seconds})


def scaling(decision: ModelDecision) -> ScalingStatus:
    assert decision.status.scaling is not None
    return decision.status.scaling


def degraded(decision: ModelDecision) -> tuple[str, str] | None:
    return next(((each.reason, each.message) for each in decision.status.conditions if each.type == "Degraded"), None)


def test_without_the_block_nothing_is_told() -> None:
    assert decide(make.model()).status.scaling is None


def test_the_wish_is_told_with_its_reason_and_written_anew_only_when_it_changes() -> None:
    model = scaled()
    first = decide(model, scaling=WISH)
    assert (scaling(first).wish, scaling(first).reason) == (3, WISH.wish.reason if WISH.wish else "")
    same = ScalingView(Wish(3, ("58.1 requests on average of 30 s, 20 for each replica",)))
    assert scaling(decide(follow(model, first, 1), scaling=same)) == scaling(first)
    unknown = decide(follow(model, first, 1), scaling=ScalingView(Wish(None, ("nothing is heard of llama-0-1",))))
    assert (scaling(unknown).wish, scaling(unknown).reason) == (None, "nothing is heard of llama-0-1")


def test_a_new_operator_keeps_the_wish_until_it_knows_better() -> None:
    model = scaled()
    first = decide(model, scaling=WISH)
    assert scaling(decide(follow(model, first, 1), scaling=ScalingView())) == scaling(first)


def test_a_change_of_replicas_is_told_with_the_policys_reason() -> None:
    model = scaled()
    first = decide(model, scaling=WISH)
    grown = decide(follow(model, first, 3), later_seconds=15, scaling=WISH)
    (step,) = scaling(grown).steps
    assert (step.from_replicas, step.to_replicas, step.reason) == (1, 3, scaling(first).reason)
    assert [each.message for each in grown.events if each.reason is EventReason.SCALED] == [
        f"from 1 to 3 replicas: {step.reason}"
    ]


def test_a_change_against_the_policys_wish_is_somebody_elses() -> None:
    model = scaled(replicas=2)
    first = decide(model, scaling=WISH)
    less = decide(follow(model, first, 1), scaling=WISH)
    assert scaling(less).steps[-1].reason.startswith("spec.replicas was written by somebody else")
    assert scaling(decide(follow(model, first, 0), scaling=WISH)).steps[-1].reason == "replicas was set to 0"


def test_only_the_last_ten_changes_are_kept() -> None:
    model = scaled()
    decision = decide(model, scaling=WISH)
    for number in range(12):
        model = follow(model, decision, 1 + (number + 1) % 2)
        decision = decide(model, later_seconds=number, scaling=WISH)
    assert [each.to_replicas for each in scaling(decision).steps] == [2, 1] * 5


def test_with_at_least_none_the_model_sleeps_after_five_minutes_and_both_changes_are_told() -> None:
    model = scaled(minReplicas=0)
    runner = make.serving(make.runner(model, "n1"))
    awake = decide(model, idle(runner, 299))
    assert (awake.status.dormant, awake.recheck_seconds) == (None, 1)
    model = follow(model, awake, 1)
    asleep = decide(model, idle(runner, 301), later_seconds=2)
    (step,) = scaling(asleep).steps
    assert (step.from_replicas, step.to_replicas, step.reason) == (1, 0, "no request for 300 s")
    woken = decide(follow(model, asleep, 1), idle(runner, 0), later_seconds=9, demand=Demand(held=4))
    assert woken.status.dormant is None
    assert scaling(woken).steps[-1].reason == "4 requests are held for it"


def test_with_at_least_one_the_model_never_sleeps_by_time() -> None:
    model = scaled()
    assert decide(model, idle(make.serving(make.runner(model, "n1")), 9999)).status.dormant is None


def test_a_schedule_says_why_the_model_woke() -> None:
    model = scaled(minReplicas=0)
    asleep = decide(model, idle(make.serving(make.runner(model, "n1")), 301))
    planned = ScalingView(timetable=Timetable(1, "schedule 45 7 * * 1-5 in Etc/UTC, until 2026-01-31T13:00:00Z"))
    woken = decide(follow(model, asleep, 1), demand=Demand(woken_seconds=0.1), scaling=planned)
    assert scaling(woken).steps[-1].reason == planned.timetable.reason


def test_a_metric_that_cant_be_had_is_told_after_a_while_with_who_should_serve_it() -> None:
    model = scaled()
    runner = make.serving(make.runner(model, "n1"))
    blind = replace(WISH, blind_since=make.ago(0), trouble="no metrics returned; nobody serves external metrics")
    early = decide(model, runner, scaling=blind)
    assert degraded(early) is None
    assert early.recheck_seconds == GRACE_SECONDS
    late = degraded(decide(model, runner, scaling=blind, later_seconds=GRACE_SECONDS))
    assert late == (
        "MetricsUnavailable",
        "replicas stay 1: the autoscaler gets no metric; no metrics returned; nobody serves external metrics",
    )
    unknown = replace(blind, wish=Wish(None, ("nothing is heard of llama-0-1",)))
    late = degraded(decide(model, runner, scaling=unknown, later_seconds=GRACE_SECONDS))
    assert late is not None
    assert late[1] == "replicas stay 1: the autoscaler gets no metric; nothing is heard of llama-0-1"


def test_another_autoscaler_of_the_same_model_is_named_unless_one_is_expected() -> None:
    seen = ScalingView(foreign="keda-hpa-llama")
    told = degraded(decide(scaled(), make.serving(make.runner(scaled(), "n1")), scaling=seen))
    assert told is not None
    assert told[0] == "ForeignScaler"
    assert "kubectl -n default delete hpa keda-hpa-llama" in told[1]
    external = scaled(policy="External")
    assert degraded(decide(external, make.serving(make.runner(external, "n1")), scaling=seen)) is None


def test_a_schedule_that_cant_be_read_is_told() -> None:
    model = scaled()
    view = ScalingView(timetable=Timetable(problem='schedule "61 * * * *": bad minute'))
    told = degraded(decide(model, make.serving(make.runner(model, "n1")), scaling=view))
    assert told == ("InvalidSchedule", 'autoscaling.schedule "61 * * * *": bad minute')


def sample(model: Model, *runners: Runner, held: int = 0, unheard: str = "") -> Sample:
    view = ModelView(model, runners, NODES, demand=Demand(held=held, queued=100))
    return sample_of(situation_of(view), unheard, make.NOW)


def test_demand_is_what_engines_have_and_routers_hold_and_nothing_counts_twice() -> None:
    model = scaled(replicas=2)
    one = at(make.serving(make.runner(model, "n1")), running=5, waiting=2, window=8, cpu_millicores=1500)
    other = at(
        make.serving(make.runner(model, "n2", slot=1)),
        running=3,
        window=10,
        cpu_millicores=500,
        first_token_milliseconds=300,
    )
    seen = sample(model, one, other, held=4)
    assert (seen.replicas, seen.ready, seen.demand, seen.missing) == (2, 2, 14, "")
    assert (seen.capacity, seen.cpu_percent, seen.latency_milliseconds, seen.queue_requests) == (9, 100, 150, 3)
    assert seen.gpu_percent is None


@pytest.mark.parametrize("how", ["silent", "mute"])
def test_an_engine_that_serves_and_tells_nothing_makes_demand_unknown(how: str) -> None:
    model = scaled()
    runner = at(make.serving(make.runner(model, "n1")), running=5)
    lost = make.silent(runner) if how == "silent" else replace(runner, status=None)
    assert sample(model, lost).missing.startswith("nothing is heard of llama-0-1")
    assert sample(model, runner).missing == ""
    assert sample(model, runner, unheard="not all routers").missing == "not all routers"


def test_a_runner_that_starts_has_no_requests_and_hides_none() -> None:
    model = scaled()
    seen = sample(model, make.runner(model, "n1"), held=7)
    assert (seen.ready, seen.demand, seen.missing) == (0, 7, "")


def test_the_autoscaler_writes_the_scale_of_the_model_and_has_the_behavior_asked_for() -> None:
    made = autoscaler(scaled(minReplicas=0, maxReplicas=9, targetRequests=8))
    assert made is not None
    spec = made["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (1, 9)
    assert spec["scaleTargetRef"] == {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "name": "llama",
    }
    (metric,) = spec["metrics"]
    assert metric["external"]["metric"] == {"name": "warmfleet_demand", "selector": {"matchLabels": {"model": "llama"}}}
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "8"}
    assert spec["behavior"]["scaleUp"] == {
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [{"type": "Pods", "value": 2, "periodSeconds": 10}],
    }
    assert (made["metadata"]["ownerReferences"][0]["uid"], made["metadata"]["name"]) == ("uid-default-llama", "llama")


def test_behavior_is_overridden_field_by_field() -> None:
    made = autoscaler(scaled(behavior={"scaleDown": {"stabilizationWindowSeconds": 60}}))
    assert made is not None
    assert made["spec"]["behavior"]["scaleDown"] == {
        "stabilizationWindowSeconds": 60,
        "selectPolicy": "Max",
        "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
    }


def test_no_autoscaler_is_made_without_the_block_or_where_somebody_else_scales() -> None:
    assert autoscaler(make.model()) is None
    assert autoscaler(scaled(policy="External")) is None


def test_the_target_of_an_autoscaler_is_a_model_or_nothing_of_ours() -> None:
    made = autoscaler(scaled())
    assert made is not None

    def of(**reference: str) -> ModelKey | None:
        spec = {"scaleTargetRef": made["spec"]["scaleTargetRef"] | reference}
        return target_of(
            msgspec.convert({"metadata": {"name": "x", "namespace": "n"}, "spec": spec}, HorizontalPodAutoscaler)
        )

    assert of() == ModelKey("n", "llama")
    assert of(apiVersion="warmfleet.dev/v2") == ModelKey("n", "llama")
    assert of(kind="Deployment") is None
    assert of(apiVersion="apps/v1") is None
