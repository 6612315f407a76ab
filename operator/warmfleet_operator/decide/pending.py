"""The start that waits or is under way, as the status tells of it: since when, how, until when, and what it waits for.

What moves all the time is written when it moved enough (`predict_writes.steady`): else each start in a long queue would
write the status of all that wait.
"""

from datetime import datetime, timedelta

from warmfleet_api.status import PendingStart
from warmfleet_api.vocabulary import Stage, StartType
from warmfleet_operator.decide.predict_writes import WRITE_SECONDS, steady
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.situation import Situation, stage_of
from warmfleet_operator.decide.stalled import image_problem
from warmfleet_operator.decide.start_history import start_type, wanted_since
from warmfleet_operator.decide.times import format_time
from warmfleet_operator.decide.weights_status import OnTheWay

_MAX_TEXT = 512


def pending_start(situation: Situation, wait: OnTheWay | None, now: datetime) -> PendingStart | None:
    """Return the start that waits or is under way, None where there is none; `wait` is what its weights wait for."""
    written, new = situation.model.status.pending_start, _as_it_is(situation, wait, now)
    return steady(written, new, situation.told_seconds, now)


def telling_left_seconds(situation: Situation, pending: PendingStart | None) -> float | None:
    """Return when to look again whether something else has to be told of the start; None: when something changes."""
    told = situation.told_seconds
    is_kept = pending is not None and pending is situation.model.status.pending_start
    return WRITE_SECONDS - told if is_kept and told is not None and told < WRITE_SECONDS else None


def _as_it_is(situation: Situation, wait: OnTheWay | None, now: datetime) -> PendingStart | None:
    if situation.wanted == 0 or situation.dormant is not None or situation.model.problem is not None:
        return None
    blocked = situation.blocked
    if blocked is not None:
        waiting = situation.waiting
        position, of = (waiting.position, waiting.of) if waiting is not None else (0, 0)
        place = f"{position}/{of} " if position else ""
        summary = f"{place}{blocked.reason}: {blocked.message}"
        kind = _expected_type(situation)
        return _pending(situation, now, kind, Stage.QUEUED, blocked.message, summary, position=position, of=of)
    starting = situation.starting
    if starting is None:
        return None
    stage = stage_of(starting)
    kind = start_type(starting)
    other = _what_a_start_waits_for(starting)
    if wait is None or other:
        place = f" on {starting.node}" if starting.node else ""
        return _pending(situation, now, kind, stage, other, f"{kind}: {stage}{place}")
    summary = f"{kind}: {stage} on {starting.node}, {wait.message}"
    pending = _pending(situation, now, kind, stage, wait.message, summary)
    expected = format_time(wait.expected) if wait.expected is not None else None
    return pending.model_copy(update={"fetched_bytes": wait.done_bytes, "weights_time": expected})


def _pending(  # noqa: PLR0917 - fields of one object
    situation: Situation,
    now: datetime,
    kind: StartType,
    stage: Stage,
    blocker: str,
    summary: str,
    *,
    position: int = 0,
    of: int = 0,
) -> PendingStart:
    forecast = situation.forecast
    seconds = forecast.ready_seconds if forecast is not None else None
    return PendingStart(
        position=position,
        of=of,
        start_type=kind,
        stage=stage,
        queued_time=format_time(_queued_since(situation, now)),
        ready_time=None if seconds is None else format_time(now + timedelta(seconds=seconds)),
        blocker=blocker[:_MAX_TEXT],
        summary=summary[:_MAX_TEXT],
    )


def _queued_since(situation: Situation, now: datetime) -> datetime:
    """Return since when the start is wanted. That of a model that slept: since it was asked for."""
    if situation.model.status.dormant is not None:
        return now - timedelta(seconds=situation.demand.woken_seconds or 0.0)
    return wanted_since(situation.model) or now


def _expected_type(situation: Situation) -> StartType:
    """Return how a start without a place will start, as the scheduler expects."""
    told = situation.forecast.start_type if situation.forecast is not None else None
    if situation.waiting is not None and situation.waiting.start_type is not None:
        told = situation.waiting.start_type
    if told is not None:
        return told
    return StartType.WARM if situation.model.pools else StartType.COLD


def _what_a_start_waits_for(member: Member) -> str:
    problem = image_problem(member)
    if problem is not None:
        return f"{problem.reason}: {problem.message}"
    error = member.engine.error if member.engine is not None else None
    return f"{error.reason}: {error.message}" if error is not None else ""
