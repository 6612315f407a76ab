"""What a model's status tells of autoscaling: the wish, the last changes, and why it stands still. Pure."""

from collections.abc import Iterator
from datetime import datetime

from warmfleet_api.status import MAX_SCALING_STEPS, ModelDeploymentStatus, ScalingStatus, ScalingStep
from warmfleet_api.vocabulary import ConditionType, Reason, ScalingPolicy
from warmfleet_operator.decide.events import EventReason, ModelEvent
from warmfleet_operator.decide.situation import Situation
from warmfleet_operator.decide.times import format_time, seconds_since

GRACE_SECONDS = 45.0
"""How long an autoscaler may be without its metric before that is said: three of its rounds, or a new leader."""
_MAX_REASON = 512


def scaling_of(situation: Situation, now: datetime) -> ScalingStatus | None:
    """Return what the status tells; None: the model is not scaled."""
    model, view = situation.model, situation.scaling
    if model.spec.autoscaling is None:
        return None
    old = model.status.scaling
    awake = 0 if situation.dormant is not None else situation.wanted
    known = old or ScalingStatus(replicas=awake)
    wish, reason = known.wish, known.reason
    if view is not None and view.wish is not None and (old is None or view.wish.replicas != wish or wish is None):
        wish, reason = view.wish.replicas, view.wish.reason[:_MAX_REASON]
    steps = known.steps
    if awake != known.replicas:
        why = _why(situation, known, awake, wish, reason)
        step = ScalingStep(
            time=format_time(now), from_replicas=known.replicas, to_replicas=awake, reason=why[:_MAX_REASON]
        )
        steps = [*steps, step][-MAX_SCALING_STEPS:]
    return ScalingStatus(wish=wish, reason=reason, replicas=awake, steps=steps)


def scaling_trouble(situation: Situation, now: datetime) -> tuple[ConditionType, bool, Reason, str] | None:
    """Return why autoscaling does not do what its block says, for the condition Degraded; None: it does."""
    block, view = situation.model.spec.autoscaling, situation.scaling
    if block is None or view is None:
        return None
    kind = ConditionType.DEGRADED
    if view.timetable.problem:
        return kind, True, Reason.INVALID_SCHEDULE, f"autoscaling.{view.timetable.problem}"
    if block.policy is ScalingPolicy.EXTERNAL:
        return None
    if view.foreign:
        namespace = situation.model.key.namespace
        message = (
            f"HorizontalPodAutoscaler {view.foreign} has this model as its target too, so there is none of the model's "
            f"own; delete it: kubectl -n {namespace} delete hpa {view.foreign}, or write autoscaling.policy: External"
        )
        return kind, True, Reason.FOREIGN_SCALER, message
    if _blind_left_seconds(situation, now) == 0 and situation.wanted:
        wish = view.wish
        unknown = wish.reason if wish is not None and wish.replicas is None else ""
        message = f"replicas stay {situation.wanted}: the autoscaler gets no metric; {unknown or view.trouble}"
        return kind, True, Reason.METRICS_UNAVAILABLE, message
    return None


def scaling_left_seconds(situation: Situation, now: datetime) -> float | None:
    """Return in how many seconds an autoscaler without its metric is to be told of; None: never, or it is."""
    return _blind_left_seconds(situation, now) or None


def scaling_events(old: ModelDeploymentStatus, new: ModelDeploymentStatus) -> Iterator[ModelEvent]:
    """Tell of a change of replicas; sleep and wake have events of their own."""
    before, after = old.scaling, new.scaling
    if before is None or after is None or not after.steps or after.steps == before.steps:
        return
    step = after.steps[-1]
    if step.from_replicas and step.to_replicas:
        text = f"from {step.from_replicas} to {step.to_replicas} replicas: {step.reason}"
        yield ModelEvent("Normal", EventReason.SCALED, text)


def _blind_left_seconds(situation: Situation, now: datetime) -> float | None:
    view = situation.scaling
    since = seconds_since(view.blind_since, now) if view is not None and view.blind_since else None
    return None if since is None else max(0.0, GRACE_SECONDS - since)


def _why(situation: Situation, known: ScalingStatus, awake: int, wish: int | None, reason: str) -> str:
    """Say why there are to be `awake` replicas."""
    view, dormant = situation.scaling, situation.dormant
    if dormant is not None:
        return dormant.reason
    if awake == 0:
        return "replicas was set to 0"
    if view is not None and view.timetable.replicas >= awake > known.replicas:
        return view.timetable.reason
    if known.replicas == 0 and situation.model.status.dormant is not None:
        held = situation.demand.held
        return f"{held} requests are held for it" if held else "somebody asked for it"
    is_wish = wish is not None and (known.replicas < awake <= wish or wish <= awake < known.replicas)
    return reason if is_wish else "spec.replicas was written by somebody else than the autoscaler, or to its bounds"
