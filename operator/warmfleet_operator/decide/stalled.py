"""When a person has to act: what stands against a model, and what to do about it."""

from datetime import datetime

from warmfleet_api.vocabulary import ConditionType, Reason
from warmfleet_operator.decide.fleet import Problem
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.situation import Situation, container_of, stage_of
from warmfleet_operator.decide.times import parse_time, seconds_since
from warmfleet_operator.decide.weights_status import FOR_A_PERSON, OnTheWay
from warmfleet_operator.records import Terminated

_IMAGE_REASONS = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
_CRASHES_UNTIL_STALLED = 2
"""A single crash may be bad luck; the runner tries again by itself."""
GRACE_SECONDS = 60.0
_FORGIVEN = {Reason.POOL_NOT_FOUND, Reason.SECRET_MISSING, Reason.NO_WEIGHT_CACHE}
_SOON_SECONDS = 300
"""A runner that ran for longer had started well."""
_LOST_WITH_ITS_NODE = "Unknown"
"""What the container runtime says of a container that it finds ended when it starts itself."""


def stalled_by(  # noqa: PLR0911 - one per kind of problem
    situation: Situation, wait: OnTheWay | None, now: datetime
) -> Problem | None:
    """Return what keeps the present spec from serving until a person acts; None while waiting may be enough."""
    model, waiting = situation.model, situation.waiting
    if model.problem is not None:
        return model.problem
    if situation.wanted == 0 or situation.dormant is not None:
        return None
    if waiting is not None and waiting.reason is Reason.NEVER_FITS:
        larger = "take a pool with larger runners" if model.pools else "add a larger node"
        advice = waiting.advice or f"lower spec.resources or {larger}"
        return Problem(Reason.NEVER_FITS, f"{waiting.blocker}; {advice}")
    forgiven = (grace_seconds(situation, wait, now) or 0.0) > 0
    if waiting is not None and waiting.reason in FOR_A_PERSON | {Reason.POOL_NOT_FOUND} and not forgiven:
        return Problem(waiting.reason, waiting.blocker)
    if situation.serves_current:
        return None
    if wait is not None and wait.is_for_a_person and not forgiven:
        return Problem(wait.reason, wait.message)
    for member in situation.newest:
        problem = image_problem(member) or _engine_problem(member) or _container_problem(member)
        if problem is not None:
            return problem
    return _deadline_exceeded(situation, wait, now)


def grace_seconds(situation: Situation, wait: OnTheWay | None, now: datetime) -> float | None:
    """Return the seconds until a missing pool, Secret or WeightCache counts as a mistake; None where none is missing.

    GitOps applies in any order: it may be on its way.
    """
    if situation.waiting is not None and situation.waiting.reason in _FORGIVEN:
        missing_since = _since(situation, ConditionType.SCHEDULED, "False")
    elif wait is not None and wait.reason in _FORGIVEN:
        missing_since = _since(situation, ConditionType.WEIGHTS_READY, "False")
    else:
        return None
    return max(0.0, GRACE_SECONDS - (seconds_since(missing_since, now) or 0.0))


def deadline_seconds(situation: Situation, wait: OnTheWay | None, now: datetime) -> float | None:
    """Return the seconds until the progress deadline passes; None where it stands still.

    It runs while a runner of a spec that never served exists and has its weights near: it stands still while the start
    is queued, and while the weights are on their way.
    """
    if wait is not None:
        return None
    model = situation.model
    if model.status.served_hash == model.hash or situation.serves_current or situation.wanted == 0:
        return None
    ages = [seconds_since(_begun(situation, member), now) or 0.0 for member in situation.newest]
    return model.spec.rollout.progress_deadline_seconds - max(ages) if ages else None


def _begun(situation: Situation, member: Member) -> str | None:
    """Return when a start began: with its runner, and when its weights were near.

    In a pool's runner it began when the spec was there and a place was found for it.
    """
    near = _since(situation, ConditionType.WEIGHTS_READY, "True") if situation.model.weights else None
    if not member.pool:
        return max(filter(None, (member.pod.metadata.creation_timestamp, near)), default=None)
    times = (
        near,
        _since(situation, ConditionType.RECONCILING, "True"),
        _since(situation, ConditionType.SCHEDULED, "True"),
    )
    return max((each for each in times if each is not None), default=None)


def _since(situation: Situation, kind: ConditionType, status: str) -> str | None:
    """Return since when a condition has had a status, as it was written last."""
    conditions = situation.model.status.conditions
    return next((each.last_transition_time for each in conditions if (each.type, each.status) == (kind, status)), None)


def image_problem(member: Member) -> Problem | None:
    """Return why the runner's image can't be pulled, if that is what it waits for."""
    container = container_of(member.pod)
    waiting = container.state.waiting if container is not None else None
    if waiting is None or waiting.reason not in _IMAGE_REASONS:
        return None
    image = next(iter(member.pod.spec.containers)).image
    return Problem(
        Reason.IMAGE_PULL_FAILED,
        f"image {image} can't be pulled on {member.node}; check podTemplate.image and podTemplate.imagePullSecrets: "
        f"kubectl -n {member.pod.metadata.namespace} describe pod {member.name}",
    )


def _engine_problem(member: Member) -> Problem | None:
    engine = member.engine
    if engine is None or engine.error is None:
        return None
    crashed = engine.error.reason is Reason.ENGINE_CRASHING
    if crashed and engine.failed_starts < _CRASHES_UNTIL_STALLED:
        return None
    return Problem(engine.error.reason, f"{engine.error.message} (runner {member.name} on {member.node})")


def _container_problem(member: Member) -> Problem | None:
    container = container_of(member.pod)
    ended = container.last_state.terminated if container is not None else None
    if member.pool or container is None or ended is None or container.restart_count < _CRASHES_UNTIL_STALLED:
        return None  # whose fault the end of a pool's runner was, nobody knows
    if not _crashed(ended):
        return None
    return Problem(
        Reason.ENGINE_CRASHING,
        f"the runner ended soon after its start with exit code {ended.exit_code} and was restarted; read why: "
        f"kubectl -n {member.pod.metadata.namespace} logs {member.name} --previous",
    )


def _crashed(ended: Terminated) -> bool:
    """Whether a container's run ended by itself and soon; that its node was rebooted is not its fault."""
    started, finished = parse_time(ended.started_at), parse_time(ended.finished_at)
    ran_long = started is not None and finished is not None and (finished - started).total_seconds() >= _SOON_SECONDS
    return ended.reason != _LOST_WITH_ITS_NODE and not ran_long


def _deadline_exceeded(situation: Situation, wait: OnTheWay | None, now: datetime) -> Problem | None:
    left = deadline_seconds(situation, wait, now)
    if left is None or left > 0:
        return None
    member = situation.newest[0]
    return Problem(
        Reason.PROGRESS_DEADLINE_EXCEEDED,
        f"not serving {situation.model.spec.rollout.progress_deadline_seconds} s after its start began, at "
        f"{stage_of(member)} on {member.node}; raise rollout.progressDeadlineSeconds or read why: "
        f"kubectl -n {member.pod.metadata.namespace} logs {member.name}",
    )
