"""Whose turn it is: the order in which starts are given their places.

1. Class strictly. A start that has waited for longer than its `coldStart.maxWaitSeconds` takes its turn among those of
   the next higher class, after twice as long among those of the one above that, and so on. It gains its turn by
   that and nothing else: it makes nobody give way who would not for its own class.
2. Inside a class the earlier deadline: `coldStart.deadlineSeconds` after the start was first wanted, or what held
   requests say if that is sooner. One that has climbed counts from the moment it did, which is before the deadline of
   any start that came later.
3. Then the highest weight per second of load: of two equal starts the shorter one, as the mean wait is shorter so.
4. Then who waits longer: since it was queued, then by creation and uid.

The bound on any wait: after `rank x maxWaitSeconds` (Low has rank 3) a start stands in the highest class with a
deadline in the past, so only starts that were due before that moment are before it, and no later one ever comes
between. It gets the first room it fits into that these leave, and holds it until all of it is free.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from warmfleet_api.vocabulary import Priority, StartType
from warmfleet_operator.decide.estimates import Estimates
from warmfleet_operator.decide.fleet import Fleet, Model, ModelKey
from warmfleet_operator.decide.predict_stages import start_seconds
from warmfleet_operator.decide.remembered import MOST, until_forgotten
from warmfleet_operator.decide.times import parse_time

WEIGHTS: Mapping[Priority, int] = {Priority.CRITICAL: 8, Priority.HIGH: 4, Priority.NORMAL: 2, Priority.LOW: 1}
_NEVER = float("inf")


class Turn(NamedTuple):
    """Sorts starts by their turn."""

    rank: int
    """Of the class among which it has its turn."""
    deadline: float
    """Unix time in seconds."""
    seconds_of_weight: float
    """Load per weight of the class: fewer come first."""
    queued: str
    created: str
    uid: str


LAST = Turn(99, _NEVER, _NEVER, "", "", "")
"""After all models."""


Order = tuple[Turn, bool, str]
"""Sorts all that have a turn: of equal turns the pool's first, as what waits for its runner is not placed before it
anyway; then by key."""


class KnownTurn(NamedTuple):
    """A turn, and for what and how long it is good."""

    turn: Turn
    parts: tuple[Model, Estimates] | None
    start_type: StartType
    asked: datetime | None
    climbed: datetime
    """Since when it is good."""
    climbs: datetime
    """Until when."""


def turn_of(model: Model, fleet: Fleet, now: datetime, start_type: StartType) -> Turn:
    """Return a model's turn; `start_type` is how it will probably start."""
    return known_turn_of(model, fleet, now, start_type).turn


def known_turn_of(model: Model, fleet: Fleet, now: datetime, start_type: StartType) -> KnownTurn:
    """Return a model's turn with how long it is good."""
    demand = fleet.demand.get(model.key) if fleet.demand else None
    asked = demand.deadline if demand is not None else None
    # A turn is the same from one climb to the next, and thousands wait through many rounds.
    known = _turns.get(model.key)
    if (
        known is not None
        and known.parts is not None
        and known.parts[0] is model
        and known.parts[1] is fleet.estimates
        and known.start_type is start_type
        and known.asked == asked
        and known.climbed <= now < known.climbs
    ):
        return known
    return _turn_of(model, fleet, now, start_type, asked)


def _turn_of(model: Model, fleet: Fleet, now: datetime, start_type: StartType, asked: datetime | None) -> KnownTurn:
    priority = model.spec.priority
    pending = model.status.pending_start
    queued = (pending.queued_time if pending is not None else None) or ""
    rank, deadline = priority.rank, _NEVER
    cold_start = model.spec.cold_start
    step = timedelta(seconds=cold_start.max_wait_seconds)
    since, climbed = _time(queued, now), 0
    if cold_start.deadline_seconds is not None or queued:
        waited = (now - since).total_seconds()
        if cold_start.deadline_seconds is not None:
            deadline = since.timestamp() + cold_start.deadline_seconds
        climbed = min(rank, int(waited // cold_start.max_wait_seconds)) if waited > 0 else 0
        if climbed:
            rank -= climbed
            deadline = min(deadline, (since + climbed * step).timestamp())
    if asked is not None:
        # What held requests ask for can't bring them before who waited when they came.
        deadline = min(deadline, max(asked, since).timestamp())
    seconds = start_seconds(fleet.estimates, model, start_type, None, fleet.caches)
    turn = Turn(
        rank,
        deadline,
        seconds / WEIGHTS[priority],
        queued or _LATEST,
        model.metadata.creation_timestamp,
        model.metadata.uid,
    )
    if since is now:
        return KnownTurn(turn, None, start_type, asked, now, now)
    if len(_turns) >= MOST:
        _turns.clear()
    climbs = since + (climbed + 1) * step if rank else _END_OF_TIME
    known = _turns[model.key] = KnownTurn(
        turn, (model, fleet.estimates), start_type, asked, since + climbed * step, climbs
    )
    return known


_turns: dict[ModelKey, KnownTurn] = until_forgotten({})
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
NO_TURN = KnownTurn(LAST, None, StartType.COLD, None, _END_OF_TIME, _END_OF_TIME)
"""Of what nobody asked about yet: it is good at no time."""
_LATEST = "~"
"""Sorts after every time: who was not queued yet waits for the shortest."""


def _time(text: str, now: datetime) -> datetime:
    """Return a time of a status; one that can't be read counts as now."""
    try:
        moment = parse_time(text)
    except ValueError:
        return now
    return now if moment is None or moment.tzinfo is None else moment
