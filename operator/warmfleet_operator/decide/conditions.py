"""The conditions of a ModelDeployment, as kstatus, `kubectl wait` and people read them."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from warmfleet_api import quantity
from warmfleet_api.status import Condition, PendingStart
from warmfleet_api.vocabulary import ConditionType, Reason, Stage
from warmfleet_operator.build.service import endpoint_of
from warmfleet_operator.decide.actions import Preemption
from warmfleet_operator.decide.fleet import Model, Problem
from warmfleet_operator.decide.scaling_status import scaling_trouble
from warmfleet_operator.decide.situation import Situation
from warmfleet_operator.decide.times import format_time, parse_time
from warmfleet_operator.decide.weights import size_bytes
from warmfleet_operator.decide.weights_places import why_unknown
from warmfleet_operator.decide.weights_status import FOR_A_PERSON, OnTheWay, where

_MAX_MESSAGE = 4096
_MAX_LISTED = 8
_NOT_SEEN_YET = "the scheduler has not looked at it yet"

Finding = tuple[ConditionType, bool | None, Reason, str]
"""Type, status (None: unknown), reason, message."""


def conditions_of(
    situation: Situation,
    stalled: Problem | None,
    pending: PendingStart | None,
    wait: OnTheWay | None,
    now: datetime,
) -> list[Condition]:
    """Return all conditions; one whose status is unchanged keeps the time of its last transition."""
    ready = _ready(situation, stalled, pending)
    degraded = _degraded(situation, pending, now) or scaling_trouble(situation, now)
    findings = [
        ready,
        _reconciling(situation, stalled),
        *_stalled(stalled),
        _scheduled(situation, pending),
        _weights_ready(situation, stalled, wait),
        _serving(situation, ready, degraded),
        *((degraded,) if degraded is not None else ()),
    ]
    return _with_times(situation, findings, now)


def deadline_left_seconds(situation: Situation, pending: PendingStart | None, now: datetime) -> float | None:
    """Return how long the start that waits or is under way has until its deadline; None: it has none."""
    wanted = situation.model.spec.cold_start.deadline_seconds
    queued = parse_time(pending.queued_time) if pending is not None else None
    return None if wanted is None or queued is None else wanted - (now - queued).total_seconds()


def _with_times(situation: Situation, findings: Iterable[Finding], now: datetime) -> list[Condition]:
    model = situation.model
    before = {condition.type: condition for condition in model.status.conditions}
    conditions = []
    for kind, holds, reason, message in findings:
        status = _status(holds)
        old = before.get(kind)
        unchanged = old is not None and old.status == status
        conditions.append(
            Condition(
                type=kind,
                status=status,
                observed_generation=model.metadata.generation,
                last_transition_time=old.last_transition_time if old is not None and unchanged else format_time(now),
                reason=reason,
                message=message[:_MAX_MESSAGE],
            )
        )
    return conditions


def _ready(  # noqa: PLR0911 - one per reason
    situation: Situation, stalled: Problem | None, pending: PendingStart | None
) -> Finding:
    key, wanted, serving = situation.model.key, situation.wanted, len(situation.serving)
    if wanted == 0:
        message = f"replicas is 0; to start it: kubectl -n {key.namespace} scale mdl/{key.name} --replicas=1"
        return ConditionType.READY, False, Reason.STOPPED, message
    if situation.dormant is not None:
        message = f"asleep since {situation.dormant.time}: {situation.dormant.reason}; a request wakes it"
        return ConditionType.READY, True, Reason.ASLEEP, message
    if serving and situation.endpoint_ready:
        message = f"{min(len(situation.standing), wanted)} of {wanted} replicas serve at {endpoint_of(key)}"
        if serving > len(situation.standing):
            message += f", and {serving - len(situation.standing)} of the canary {situation.model.hash}"
        return ConditionType.READY, True, Reason.SERVING, message
    if serving:
        return ConditionType.READY, False, Reason.STARTING, "the engine is Ready, its Service is not there yet"
    if stalled is not None:
        return ConditionType.READY, False, Reason.NO_ENGINE, f"{stalled.reason}: {stalled.message}"
    if _wakes(situation):
        return ConditionType.READY, True, Reason.WAKING, pending.summary if pending is not None else _NOT_SEEN_YET
    if pending is None or not situation.has_begun:
        return ConditionType.READY, False, Reason.QUEUED, pending.summary if pending is not None else _NOT_SEEN_YET
    fetches = pending.stage is Stage.WEIGHTS_IN_MEMORY
    return ConditionType.READY, False, Reason.FETCHING_WEIGHTS if fetches else Reason.STARTING, pending.summary


def _wakes(situation: Situation) -> bool:
    """Whether a model that slept is on its way back, and nothing went wrong with that.

    To whoever watches `Ready` it never left: requests are held meanwhile, and answered.
    """
    before = _before(situation, ConditionType.READY)
    slept = before is not None and before.status == "True" and before.reason in {Reason.ASLEEP, Reason.WAKING}
    has_failed = any(each.engine is not None and each.engine.error is not None for each in situation.current)
    current = situation.model.status.served_hash == situation.model.hash
    return slept and current and not has_failed and situation.preemption is None


def _before(situation: Situation, kind: ConditionType) -> Condition | None:
    return next((each for each in situation.model.status.conditions if each.type == kind), None)


def _reconciling(situation: Situation, stalled: Problem | None) -> Finding:
    """Tell whether this spec is still on its way: only until it first served, so that scaling does not count."""
    status, model = situation.model.status, situation.model
    if stalled is not None:
        return ConditionType.RECONCILING, False, stalled.reason, "see Stalled"
    if situation.wanted == 0:
        return ConditionType.RECONCILING, False, Reason.STOPPED, "replicas is 0"
    served = situation.serves_current or status.served_hash == model.hash
    if model.stable is not None:
        return _trying(model, model.stable, served=served)
    if served:
        return ConditionType.RECONCILING, False, Reason.SERVING, f"this spec ({model.hash}) has served"
    if status.served_hash:
        message = f"{status.served_hash} gives way to {model.hash} as soon as that is Ready"
        return ConditionType.RECONCILING, True, Reason.ROLLING_OUT, message
    return ConditionType.RECONCILING, True, Reason.NEW_SPEC, f"this spec ({model.hash}) has not served yet"


def _trying(model: Model, stable: Model, *, served: bool) -> Finding:
    """Tell of a canary: once it serves nothing is on its way any more, and a person decides what comes next."""
    weight = model.spec.rollout.canary_weight
    if not served:
        message = f"{model.hash} gets {weight} % of the requests of {stable.hash} as soon as it is Ready"
        return ConditionType.RECONCILING, True, Reason.ROLLING_OUT, message
    message = (
        f"{model.hash} is tried beside {stable.hash} with {weight} % of the requests; remove rollout.canaryWeight to "
        "go on with it, apply the former object to take it back"
    )
    return ConditionType.RECONCILING, False, Reason.CANARY, message


def _stalled(stalled: Problem | None) -> Iterator[Finding]:
    if stalled is not None:
        yield ConditionType.STALLED, True, stalled.reason, stalled.message


def _scheduled(situation: Situation, pending: PendingStart | None) -> Finding:
    kind = ConditionType.SCHEDULED
    if situation.wanted == 0:
        return kind, True, Reason.PLACED, "no place is wanted"
    if situation.model.problem is not None:
        return kind, False, situation.model.problem.reason, "no runner is created, see Stalled"
    if situation.dormant is not None:
        return kind, True, Reason.PLACED, "no place is wanted while it sleeps"
    if situation.blocked is not None and pending is not None:
        return _blocked(situation, situation.blocked, pending)
    places = sorted({member.node for member in situation.current})
    if not places:
        return kind, False, Reason.WAITING_FOR_TURN, _NOT_SEEN_YET
    return kind, True, Reason.PLACED, f"on {_listed(places)}"


def _blocked(situation: Situation, blocked: Problem, pending: PendingStart) -> Finding:
    kind = ConditionType.SCHEDULED
    before, is_kept = _before(situation, kind), pending == situation.model.status.pending_start
    if is_kept and before is not None and before.status == "False" and before.reason in tuple(Reason):
        # What the start waits for is not written anew yet, so neither is its reason.
        return kind, False, Reason(before.reason), before.message
    place = f"; {pending.position} of {pending.of} in the queue" if pending.position else ""
    advice = situation.waiting.advice if situation.waiting is not None and situation.refusal is None else ""
    return kind, False, blocked.reason, pending.blocker + (f"; {advice}" if advice else "") + place


def _weights_ready(situation: Situation, stalled: Problem | None, wait: OnTheWay | None) -> Finding:
    """Tell whether the weights are where a start needs them: on its node, or on any while it has none."""
    kind, model = ConditionType.WEIGHTS_READY, situation.model
    against = _against_weights(situation, stalled, wait)
    if against is not None:
        reason, message = against
        return kind, None if reason is Reason.WEIGHTS_UNKNOWN else False, reason, message
    if not model.weights:
        return kind, True, Reason.ON_DISK, "a Simulated engine loads no weights"
    size = quantity.format_bytes(size_bytes(model.weights))
    memory, disk = where(model, situation.caches)
    if memory:
        return kind, True, Reason.IN_MEMORY, f"{size} in memory of {_listed(memory)}"
    if disk:
        return kind, True, Reason.ON_DISK, f"{size} on disk of {_listed(disk)}"
    return kind, False, Reason.QUEUED, f"{size} at {model.spec.model.uri}, fetched when it has a place"


def _against_weights(situation: Situation, stalled: Problem | None, wait: OnTheWay | None) -> tuple[Reason, str] | None:
    """Return what keeps the weights away: what a person has to mend first, then what passes by itself."""
    model, waiting = situation.model, situation.waiting
    if stalled is not None and stalled.reason in FOR_A_PERSON - {Reason.NEVER_FITS}:
        return stalled.reason, stalled.message  # the engine itself may have found it out
    if waiting is not None and waiting.is_of_weights:
        return waiting.reason, waiting.blocker
    unknown = next((entry for entry in model.weights if not entry.is_known), None)
    if unknown is not None:
        return why_unknown(unknown, situation.caches)
    return (wait.reason, wait.message) if wait is not None else None


def _listed(nodes: Sequence[str]) -> str:
    return ", ".join(nodes[:_MAX_LISTED]) + (", …" if len(nodes) > _MAX_LISTED else "")


def _serving(situation: Situation, ready: Finding, degraded: Finding | None) -> Finding:
    kind, (_, holds, reason, message) = ConditionType.SERVING, ready
    if situation.wanted == 0 and situation.members:
        return kind, False, Reason.DRAINING, f"{len(situation.members)} runners end"
    if reason in {Reason.ASLEEP, Reason.WAKING}:
        return kind, False, reason, message
    if not holds and degraded is not None and degraded[2] is Reason.PREEMPTED:
        return kind, False, Reason.PREEMPTED, degraded[3]
    return kind, holds, reason, message


def _degraded(  # noqa: PLR0911 - one per reason
    situation: Situation, pending: PendingStart | None, now: datetime
) -> Finding | None:
    """Return what it lacks, the worst first; None: nothing, or nothing is to serve."""
    kind, serving, wanted = ConditionType.DEGRADED, len(situation.standing), situation.wanted
    if situation.dormant is not None:
        return None
    if situation.preemption is not None:
        return kind, True, Reason.PREEMPTED, preempted_by(situation.preemption)
    before = _before(situation, kind)
    # It serves until its engine has heard that it is to go.
    lacks = serving < wanted or situation.gives_way
    if lacks and before is not None and before.reason == Reason.PREEMPTED:
        return kind, True, Reason.PREEMPTED, before.message
    if serving >= wanted:
        return _without_standby(situation)
    left = deadline_left_seconds(situation, pending, now)
    ready = parse_time(pending.ready_time) if pending is not None else None
    if left is not None and (left <= 0 or (ready is not None and (ready - now).total_seconds() > left)):
        seconds = situation.model.spec.cold_start.deadline_seconds
        expected = f"is expected at {format_time(ready)}" if ready is not None else "has no expected time"
        message = f"wanted within {seconds} s, and {expected}; raise its priority or coldStart.deadlineSeconds"
        return kind, True, Reason.DEADLINE_MISSED, message
    if serving:
        return kind, True, Reason.REPLICAS_MISSING, f"{serving} of {wanted} replicas serve"
    return None


def _without_standby(situation: Situation) -> Finding | None:
    standby = situation.standby
    if standby is None or not standby.missing or situation.wanted == 0:
        return None
    wanted = situation.model.spec.standby.replicas if situation.model.spec.standby is not None else 0
    message = f"{standby.ready} of {wanted} standbys could take over: {standby.missing}"
    return ConditionType.DEGRADED, True, Reason.STANDBY_MISSING, message


def preempted_by(preemption: Preemption) -> str:
    """Say who took a model's place, and why."""
    return f"gave its place in {preemption.runner} to {preemption.winner}: {preemption.reason}"


def _status(holds: bool | None) -> str:
    return "Unknown" if holds is None else "True" if holds else "False"
