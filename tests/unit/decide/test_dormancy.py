"""A model that nobody asks for sleeps, is woken by whoever does, and its status tells of both. The spec has no part."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from support import make
from warmfleet_api.operator_api import DEMAND_SECONDS
from warmfleet_api.vocabulary import DesiredState, EngineState, Reason, Stage, StartType
from warmfleet_operator.decide.actions import Forecast, Preemption, Waiting
from warmfleet_operator.decide.events import EventReason
from warmfleet_operator.decide.fleet import Demand, Model, Runner
from warmfleet_operator.decide.model import ModelDecision, ModelView, decide_model

NODES = {"n1": make.node("n1", gpus=8)}
WANTED = Demand(woken_seconds=2.0)
YIELDS = "for default/other: it waits for the room"


def decide(model: Model, *runners: Runner, later_seconds: float = 0, **view: Any) -> ModelDecision:
    now = make.NOW + timedelta(seconds=later_seconds)
    return decide_model(ModelView(model=model, runners=runners, nodes=NODES, **view), now)


def follow(model: Model, decision: ModelDecision) -> Model:
    return replace(model, status=decision.status)


def said(decision: ModelDecision, kind: str) -> tuple[str, str] | None:
    return next(((each.status, each.reason) for each in decision.status.conditions if each.type == kind), None)


def events(decision: ModelDecision) -> list[EventReason]:
    return [each.reason for each in decision.events]


def idle(it: Runner, seconds: float | None) -> Runner:
    """The runner with its engine idle for so long; None: it is busy."""
    assert it.status is not None
    key = it.status.engines[0].id
    return replace(it, idle_seconds={} if seconds is None else {key: seconds}, awake_seconds={key: 1000.0})


def told(it: Runner, **fields: Any) -> Runner:
    """The runner telling something else of its engine."""
    assert it.status is not None
    engine = msgspec.structs.replace(it.status.engines[0], **fields)
    return replace(it, status=msgspec.structs.replace(it.status, engines=(engine,)))


def awake(**fields: Any) -> tuple[Model, Runner]:
    """A model that serves, and its runner."""
    fields = {"idle": {"afterSeconds": 60}} | fields
    model = make.model(**fields)
    runner = make.serving(make.runner(model, "n1"))
    return follow(model, decide(model, runner)), runner


def asleep(**fields: Any) -> tuple[Model, Runner]:
    """A model that sleeps, its engine asleep too."""
    model, runner = awake(**fields)
    sleeping = told(runner, state=EngineState.ASLEEP)
    model = follow(model, decide(model, idle(runner, 60)))
    return follow(model, decide(model, sleeping)), sleeping


def test_a_model_sleeps_once_all_its_engines_were_idle_for_long_enough() -> None:
    model, runner = awake()
    early = decide(model, idle(runner, 59))
    assert early.status.dormant is None and early.recheck_seconds == pytest.approx(1)
    late = decide(model, idle(runner, 60))
    assert late.status.dormant is not None and late.status.dormant.reason == "no request for 60 s"
    assert (said(late, "Ready"), said(late, "Serving")) == (("True", "Asleep"), ("False", "Asleep"))
    assert said(late, "Reconciling") == ("False", "Serving")
    assert events(late) == [EventReason.SLEPT]
    assert late.status.replicas == 1


def test_a_busy_engine_is_not_put_to_sleep_and_is_looked_at_again() -> None:
    model, runner = awake()
    busy = decide(model, idle(runner, None))
    assert busy.status.dormant is None and busy.recheck_seconds == 60
    # The control: that it was busy is all that kept it awake.
    assert decide(model, idle(runner, 60)).status.dormant is not None


@pytest.mark.parametrize(
    "wanted",
    [Demand(held=1), WANTED, Demand(queued=1)],
    ids=["a router holds a request", "somebody woke it", "a router has a request at a runner"],
)
def test_what_somebody_wants_does_not_sleep(wanted: Demand) -> None:
    model, runner = awake()
    kept = decide(model, idle(runner, 600), demand=wanted, yields=YIELDS)
    assert kept.status.dormant is None and kept.recheck_seconds == DEMAND_SECONDS


def test_without_after_seconds_it_sleeps_only_for_others() -> None:
    model, runner = awake(idle={})
    assert decide(model, idle(runner, 9000)).status.dormant is None
    made = decide(model, idle(runner, 20), yields=YIELDS)
    assert made.status.dormant is not None and made.status.dormant.reason == YIELDS


def test_what_is_kept_sleeps_for_nobody() -> None:
    model, runner = awake(idle={"policy": "Keep"})
    assert decide(model, idle(runner, 9000), yields=YIELDS).status.dormant is None


def test_a_spec_that_never_served_does_not_sleep() -> None:
    model, runner = awake()
    fresh = replace(model, status=model.status.model_copy(update={"served_hash": "another"}))
    assert decide(fresh, idle(runner, 600)).status.dormant is None


def test_it_sleeps_on_at_rest_and_nothing_is_written() -> None:
    model, runner = asleep()
    again = decide(model, runner, later_seconds=3600)
    assert again.status == model.status
    assert again.events == () and again.recheck_seconds is None


def test_a_new_operator_that_counts_anew_lets_it_sleep_on() -> None:
    model, runner = awake()
    slept = follow(model, decide(model, idle(runner, 60)))
    # Not asleep yet, and idle for no time as far as the new one knows.
    assert decide(slept, idle(runner, 0)).status == slept.status


@pytest.mark.parametrize(
    ("fields", "view"),
    [
        ({}, {"demand": WANTED}),
        ({}, {"demand": Demand(held=3)}),
        ({"state": EngineState.STARTING, "start_type": StartType.HOT}, {}),
        ({"state": EngineState.READY, "start_type": StartType.HOT}, {}),
        ({"waiting": 1}, {}),
        ({"state": EngineState.READY, "running": 1}, {}),
    ],
    ids=["woken", "held", "its runner wakes it", "its runner woke it", "a request waits", "a request runs"],
)
def test_it_is_awake_again_for_whoever_asks(fields: dict[str, Any], view: dict[str, Any]) -> None:
    model, runner = asleep()
    woken = decide(model, told(runner, **fields) if fields else runner, **view)
    assert woken.status.dormant is None
    if fields.get("state") is EngineState.READY:
        assert said(woken, "Ready") == ("True", "Serving")
    else:
        assert said(woken, "Ready") == ("True", "Waking")
        assert said(woken, "Serving") == ("False", "Waking")
        assert woken.status.pending_start is not None


def test_an_engine_that_is_started_anew_only_to_sleep_wakes_nobody() -> None:
    model, runner = asleep()
    restarted = told(runner, state=EngineState.STARTING, start_type=StartType.WARM)
    assert decide(model, restarted).status.dormant is not None


def test_a_changed_spec_and_a_stop_end_its_sleep() -> None:
    model, runner = asleep()
    changed = make.model(idle={"afterSeconds": 60}, engine={"type": "Simulated", "simulated": {"memory": "2Gi"}})
    assert decide(replace(changed, status=model.status), runner).status.dormant is None
    stopped = make.model(idle={"afterSeconds": 60}, replicas=0)
    ended = decide(replace(stopped, status=model.status), runner)
    assert ended.status.dormant is None and said(ended, "Ready") == ("False", "Stopped")


def test_a_wake_is_a_hot_start_with_its_stages_and_the_time_since_it_was_asked_for() -> None:
    model, runner = asleep()
    model = follow(model, decide(model, runner, demand=WANTED))
    pending = model.status.pending_start
    assert pending is not None and pending.queued_time == make.ago(2)
    assert pending.summary.startswith("Hot: Queued on n1")
    waking = told(runner, state=EngineState.STARTING, start_type=StartType.HOT, stage=Stage.WEIGHTS_LOADED, starts=2)
    model = follow(model, decide(model, waking))
    pending = model.status.pending_start
    assert pending is not None
    assert (pending.start_type, pending.stage, pending.queued_time) == ("Hot", "WeightsLoaded", make.ago(2))
    done = decide(model, told(waking, state=EngineState.READY, stage=None))
    assert done.status.last_start is not None and done.status.last_start.start_type is StartType.HOT
    assert said(done, "Ready") == ("True", "Serving") and done.status.pending_start is None
    assert events(done) == [EventReason.START_SUCCEEDED]


def test_a_wake_that_waits_for_room_says_for_what_and_until_when() -> None:
    model, runner = asleep()
    wait = Waiting(model.key, 1, 2, Reason.NO_FREE_MEMORY, "no room on n1", start_type=StartType.HOT)
    forecast = Forecast(30.0, StartType.HOT, "room in 29 s")
    waits = decide(model, runner, demand=WANTED, waiting=wait, forecast=forecast)
    pending = waits.status.pending_start
    assert pending is not None
    assert (pending.position, pending.start_type, pending.ready_time) == (1, "Hot", make.ago(-30))
    assert said(waits, "Ready") == ("True", "Waking")
    assert said(waits, "Scheduled") == ("False", "NoFreeMemory")


def test_a_wake_that_fails_is_not_called_ready() -> None:
    model, runner = asleep()
    model = follow(model, decide(model, runner, demand=WANTED))
    failed = make.says(runner, EngineState.STARTING, error=(Reason.ENGINE_CRASHING, "it ended"), failed_starts=1)
    assert said(decide(model, failed), "Ready") == ("False", "Starting")


def test_who_was_preempted_says_by_whom_until_it_serves_again() -> None:
    model, runner = awake()
    loss = Preemption(model.key, make.model("winner").key, "r-0-1", "class High comes before Normal")
    taken = decide(model, preemption=loss)
    assert said(taken, "Degraded") == ("True", "Preempted")
    assert said(taken, "Serving") == ("False", "Preempted")
    assert said(taken, "Ready") == ("False", "Queued")
    assert taken.status.dormant is None
    (event,) = (each for each in taken.events if each.reason is EventReason.PREEMPTED)
    assert "default/winner" in event.message and "class High" in event.message
    later = decide(follow(model, taken), later_seconds=5)
    assert said(later, "Degraded") == ("True", "Preempted") and EventReason.PREEMPTED not in events(later)
    back = decide(follow(model, later), runner)
    assert said(back, "Degraded") is None and said(back, "Serving") == ("True", "Serving")


def test_a_preempted_engine_that_still_drains_or_sleeps_by_order_is_said_to_have_given_way() -> None:
    model, runner = awake()
    loss = Preemption(model.key, make.model("winner").key, "r-0-1", "class High comes before Normal")
    model = follow(model, decide(model, runner, preemption=loss))
    assert runner.assignment is not None
    engine = msgspec.structs.replace(runner.assignment.engines[0], state=DesiredState.ASLEEP)
    ordered = replace(runner, assignment=msgspec.structs.replace(runner.assignment, engines=(engine,)))
    for state in (EngineState.READY, EngineState.DRAINING, EngineState.ASLEEP):
        decision = decide(model, told(ordered, state=state))
        assert said(decision, "Degraded") == ("True", "Preempted"), state
        model = follow(model, decision)
    assert said(decision, "Ready") == ("False", "Queued")
    assert said(decide(model, runner), "Degraded") is None


def test_a_deadline_that_can_not_be_met_is_told_once_and_gone_when_it_can() -> None:
    model = make.model(coldStart={"deadlineSeconds": 30}, age_seconds=0)
    wait = Waiting(model.key, 1, 1, Reason.NO_FREE_MEMORY, "no room on n1")
    late = decide(model, waiting=wait, forecast=Forecast(90.0, StartType.COLD, ""))
    assert said(late, "Degraded") == ("True", "DeadlineMissed")
    assert EventReason.DEADLINE_MISSED in events(late)
    again = decide(follow(model, late), waiting=wait, forecast=Forecast(80.0, StartType.COLD, ""), later_seconds=10)
    assert EventReason.DEADLINE_MISSED not in events(again)
    soon = decide(follow(model, again), waiting=wait, forecast=Forecast(5.0, StartType.COLD, ""), later_seconds=20)
    assert said(soon, "Degraded") is None


def test_without_a_forecast_a_deadline_is_missed_when_it_has_passed() -> None:
    model = make.model(coldStart={"deadlineSeconds": 30}, age_seconds=0)
    wait = Waiting(model.key, 1, 1, Reason.FLOORS_HELD, "a and b hold n1")
    early = decide(model, waiting=wait)
    assert said(early, "Degraded") is None and early.recheck_seconds == 30
    assert said(early, "Scheduled") == ("False", "FloorsHeld")
    assert said(decide(follow(model, early), waiting=wait, later_seconds=31), "Degraded") == ("True", "DeadlineMissed")
