"""The status of one WarmPool. Pure, over one view; the same view at a later time gives an equal status."""

from dataclasses import dataclass
from datetime import datetime

from warmfleet_api import names
from warmfleet_api.status import Condition
from warmfleet_api.vocabulary import ConditionType, PoolReason, Reason
from warmfleet_api.warm_pool import WarmPoolStatus
from warmfleet_operator.decide.actions import Waiting
from warmfleet_operator.decide.fleet import Pool, Problem
from warmfleet_operator.decide.pools import PoolRunner
from warmfleet_operator.decide.situation import container_of
from warmfleet_operator.decide.times import format_time

_MAX_BLOCKER = 512
_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}

Finding = tuple[ConditionType, bool, PoolReason, str]


@dataclass(frozen=True, slots=True)
class PoolView:
    """All that the status of one pool depends on, apart from the time."""

    pool: Pool
    runners: tuple[PoolRunner, ...]
    """All that are its own, terminating ones included."""
    waiting: Waiting | None = None
    """From the last round of `schedule()`: a runner that has no place."""
    refusal: Problem | None = None
    """Why the API server refused its last runner, e.g. a quota."""


def pool_status(view: PoolView, now: datetime) -> WarmPoolStatus:
    """Return the status a pool should have now."""
    pool = view.pool
    alive = [runner for runner in view.runners if runner.is_alive]
    ready = [runner for runner in alive if runner.is_ready]
    models = {
        (engine.model, engine.model_uid)
        for runner in alive
        if runner.runner.assignment is not None
        for engine in runner.runner.assignment.engines
    }
    return WarmPoolStatus(
        observed_generation=pool.metadata.generation,
        conditions=_with_times(pool, list(_findings(view, alive, ready)), now),
        replicas=len(alive),
        ready_replicas=len(ready),
        selector=f"{names.LABEL_SCALE_OF}={pool.metadata.uid}",
        free=sum(runner.engines == 0 for runner in ready),
        busy=sum(runner.engines > 0 for runner in alive),
        models=len(models),
        blocker=_blocker(view, alive)[:_MAX_BLOCKER],
    )


def _findings(view: PoolView, alive: list[PoolRunner], ready: list[PoolRunner]) -> list[Finding]:
    wanted = view.pool.spec.replicas
    current = [runner for runner in ready if runner.is_current]
    blocker, stalled = _blocker(view, alive), _stalled(view, alive)
    findings: list[Finding] = []
    if wanted == 0:
        findings.append((ConditionType.READY, False, PoolReason.STOPPED, "replicas is 0"))
    elif len(ready) >= wanted:
        findings.append(
            (ConditionType.READY, True, PoolReason.RUNNERS_READY, f"{len(ready)} of {wanted} runners take engines")
        )
    else:
        message = f"{len(ready)} of {wanted} runners take engines" + (f"; {blocker}" if blocker else "")
        findings.append((ConditionType.READY, False, PoolReason.RUNNERS_MISSING, message))
    old = len(alive) - sum(runner.is_current for runner in alive)
    if stalled is not None:
        findings.append((ConditionType.RECONCILING, False, stalled[0], "see Stalled"))
        findings.append((ConditionType.STALLED, True, *stalled))
    elif old:
        message = f"{old} runners of a former spec give way one after the other"
        findings.append((ConditionType.RECONCILING, True, PoolReason.ROLLING_OUT, message))
    elif len(current) < wanted and view.pool.status.observed_generation != view.pool.metadata.generation:
        findings.append((ConditionType.RECONCILING, True, PoolReason.NEW_SPEC, "runners of this spec start"))
    else:
        reconciling = len(current) < wanted and _was_reconciling(view.pool)
        reason = PoolReason.NEW_SPEC if reconciling else PoolReason.RUNNERS_READY
        message = "runners of this spec start" if reconciling else "this spec has been in force"
        findings.append((ConditionType.RECONCILING, reconciling, reason, message))
    return findings


def _was_reconciling(pool: Pool) -> bool:
    return any(each.type == ConditionType.RECONCILING and each.status == "True" for each in pool.status.conditions)


def _stalled(view: PoolView, alive: list[PoolRunner]) -> tuple[PoolReason, str] | None:
    """Return what keeps a runner missing until a person acts."""
    if view.refusal is not None:
        quota = view.refusal.reason is Reason.QUOTA_EXCEEDED
        return PoolReason.QUOTA_EXCEEDED if quota else PoolReason.ACCESS_DENIED, view.refusal.message
    if view.waiting is not None and view.waiting.reason is Reason.NEVER_FITS:
        return PoolReason.NEVER_FITS, f"{view.waiting.blocker}; lower gpus, cpu or memory, or add a larger node"
    for runner in alive:
        container = container_of(runner.pod)
        if container is not None and container.state.waiting and container.state.waiting.reason in _IMAGE_REASONS:
            image = next(iter(runner.pod.spec.containers)).image
            return PoolReason.IMAGE_PULL_FAILED, (
                f"image {image} can't be pulled on {runner.node}; check image and imagePullSecrets: "
                f"kubectl -n {runner.pod.metadata.namespace} describe pod {runner.name}"
            )
    return None


def _blocker(view: PoolView, alive: list[PoolRunner]) -> str:
    """Return what a missing runner waits for."""
    stalled = _stalled(view, alive)
    if stalled is not None:
        return f"{stalled[0]}: {stalled[1]}"
    return f"{view.waiting.reason}: {view.waiting.blocker}" if view.waiting is not None else ""


def _with_times(pool: Pool, findings: list[Finding], now: datetime) -> list[Condition]:
    """Return the conditions; one whose status is unchanged keeps the time of its last transition."""
    before = {condition.type: condition for condition in pool.status.conditions}
    conditions = []
    for kind, holds, reason, message in findings:
        status = "True" if holds else "False"
        old = before.get(kind)
        unchanged = old is not None and old.status == status
        conditions.append(
            Condition(
                type=kind,
                status=status,
                observed_generation=pool.metadata.generation,
                last_transition_time=old.last_transition_time if old is not None and unchanged else format_time(now),
                reason=reason,
                message=message,
            )
        )
    return conditions
