"""The status of one ModelDeployment, and the events that tell how it came to it. Pure, over one view.

The same view at a later time gives an equal status (but for deadlines that passed), so that rest means no writes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from warmfleet_api import names
from warmfleet_api.status import MAX_RECENT_STARTS, LastStart, ModelDeploymentStatus, PendingStart
from warmfleet_api.vocabulary import ConditionType, Reason, Stage
from warmfleet_operator.build.service import endpoint_of
from warmfleet_operator.decide.conditions import conditions_of, deadline_left_seconds, preempted_by
from warmfleet_operator.decide.dormancy import dormancy_of, idle_left_seconds
from warmfleet_operator.decide.events import EventReason, ModelEvent
from warmfleet_operator.decide.fleet import Problem
from warmfleet_operator.decide.pending import pending_start, telling_left_seconds
from warmfleet_operator.decide.rollout import rollout_events, rollout_of
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.scaling_status import scaling_events, scaling_left_seconds, scaling_of
from warmfleet_operator.decide.situation import ModelView, Situation, situation_of
from warmfleet_operator.decide.stalled import deadline_seconds, grace_seconds, stalled_by
from warmfleet_operator.decide.standby_status import standby_of
from warmfleet_operator.decide.start_history import (
    engines_of,
    failed,
    just_started,
    succeeded,
    why_executed,
)
from warmfleet_operator.decide.weights_status import OnTheWay, model_of, wait_of, weights_of

FETCH_RECHECK_SECONDS = 10.0
"""How often the progress of a fetch is looked at; it is written when it moved enough."""
_FETCH_FAILURES = {Reason.CACHE_FULL, Reason.SOURCE_UNREACHABLE, Reason.DAMAGED, Reason.DISK_ERROR}

__all__ = ["ModelDecision", "ModelView", "decide_model"]


@dataclass(frozen=True, slots=True)
class ModelDecision:
    """What shall be written about one model."""

    status: ModelDeploymentStatus
    events: tuple[ModelEvent, ...] = ()
    starts: tuple[LastStart, ...] = ()
    """Starts that ended since the status was written."""
    executed: int = 0
    """How many of their engines were executed because they could not be forked."""
    recheck_seconds: float | None = None
    """When time alone may change the status: decide again after this many seconds."""


def decide_model(view: ModelView, now: datetime) -> ModelDecision:
    """Return the status a model should have now, and what happened since the one it has."""
    # 1. The facts, and whether a person has to act.
    situation = situation_of(view)
    situation = replace(situation, dormant=dormancy_of(situation, now))
    old = view.model.status
    wait = wait_of(situation, now)
    stalled = stalled_by(situation, wait, now)
    # 2. Starts: what waits or is under way, what ended.
    pending = pending_start(situation, wait, now)
    comers = just_started(situation)
    started = [succeeded(situation, member, now) for member in comers]
    failure = failed(situation, now)
    starts = (*started, failure) if failure is not None else tuple(started)
    # 3. The status as a whole.
    weights = weights_of(situation)
    serves = situation.serves_current
    status = ModelDeploymentStatus(
        observed_generation=view.model.metadata.generation,
        conditions=conditions_of(situation, stalled, pending, wait, now),
        replicas=situation.wanted if view.model.problem is None else min(situation.wanted, len(situation.alive)),
        ready_replicas=min(situation.wanted, len(situation.standing)),
        selector=f"{names.LABEL_SCALE_OF}={view.model.metadata.uid}",
        endpoint=endpoint_of(view.model.key),
        model=model_of(situation, weights),
        weights=weights,
        served_hash=view.model.hash if serves else old.served_hash,
        rollout=rollout_of(situation),
        standby=standby_of(situation),
        pending_start=pending,
        scaling=scaling_of(situation, now),
        dormant=situation.dormant,
        last_start=failure or (started[0] if started else old.last_start),
        recent_starts=[*old.recent_starts, *(start.time for start in started)][-MAX_RECENT_STARTS:],
        engines=engines_of(situation),
    )
    # 4. What changed, as events.
    executed = tuple(_executed(comers))
    events = (
        *_events(old, status, started, failure, stalled),
        *rollout_events(old, status),
        *_sleep_events(situation, old, status),
        *scaling_events(old, status),
        *_fetch_events(old, wait),
        *_promotion_events(situation),
        *executed,
    )
    ends = (
        deadline_seconds(situation, wait, now),
        grace_seconds(situation, wait, now),
        FETCH_RECHECK_SECONDS if wait is not None and wait.ends_by_itself else None,
        idle_left_seconds(situation),
        deadline_left_seconds(situation, pending, now),
        telling_left_seconds(situation, pending),
        scaling_left_seconds(situation, now),
    )
    recheck_seconds = min((left for left in ends if left is not None and left > 0), default=None)
    return ModelDecision(status, events, starts, len(executed), recheck_seconds)


def _events(
    old: ModelDeploymentStatus,
    new: ModelDeploymentStatus,
    started: list[LastStart],
    failure: LastStart | None,
    stalled: Problem | None,
) -> Iterator[ModelEvent]:
    pending = new.pending_start
    if pending is not None and stalled is None and _is_queued(pending) and not _is_queued(old.pending_start):
        yield ModelEvent("Normal", EventReason.START_QUEUED, pending.summary)
    for start in started:
        yield ModelEvent("Normal", EventReason.START_SUCCEEDED, start.summary)
    if failure is not None:
        yield ModelEvent("Warning", EventReason.START_FAILED, f"on {failure.node}: {failure.error}")
    elif stalled is not None and stalled.reason != _reason(old, ConditionType.STALLED):
        yield ModelEvent("Warning", EventReason.START_FAILED, f"{stalled.reason}: {stalled.message}")


def _sleep_events(situation: Situation, old: ModelDeploymentStatus, new: ModelDeploymentStatus) -> Iterator[ModelEvent]:
    """Tell of sleep, of who took its place, and of a deadline that can't be met."""
    if new.dormant is not None and old.dormant is None:
        yield ModelEvent("Normal", EventReason.SLEPT, f"{new.dormant.reason}; a request wakes it")
    if situation.preemption is not None:
        yield ModelEvent("Warning", EventReason.PREEMPTED, preempted_by(situation.preemption))
    late = next((each for each in new.conditions if each.reason == Reason.DEADLINE_MISSED), None)
    if late is not None and _reason(old, ConditionType.DEGRADED) != late.reason:
        yield ModelEvent("Warning", EventReason.DEADLINE_MISSED, late.message)


def _promotion_events(situation: Situation) -> Iterator[ModelEvent]:
    if situation.promotion is not None:
        yield ModelEvent("Warning", EventReason.STANDBY_PROMOTED, situation.promotion.reason)


def _reason(status: ModelDeploymentStatus, kind: ConditionType) -> str | None:
    return next((each.reason for each in status.conditions if each.type == kind), None)


def _fetch_events(old: ModelDeploymentStatus, wait: OnTheWay | None) -> Iterator[ModelEvent]:
    is_failure = wait is not None and wait.reason in _FETCH_FAILURES
    if wait is not None and is_failure and _reason(old, ConditionType.WEIGHTS_READY) != wait.reason:
        yield ModelEvent("Warning", EventReason.FETCH_FAILED, f"{wait.reason}: {wait.message}")


def _executed(comers: Sequence[Member]) -> Iterator[ModelEvent]:
    """Tell of starts that took as long as ordinary ones, because their runner could not fork them."""
    for member in comers:
        why = why_executed(member)
        if why is not None:
            runner, namespace = member.pod.metadata.name, member.pod.metadata.namespace
            text = (
                f"the engine in {runner} on {member.node} was executed and not forked, so its start took the time of "
                f"all imports: {why}; read the runner's log: kubectl -n {namespace} logs {runner}"
            )
            yield ModelEvent("Warning", EventReason.STARTED_BY_EXEC, text)


def _is_queued(pending: PendingStart | None) -> bool:
    return pending is not None and pending.stage is Stage.QUEUED
