"""When what a status says of a waiting start is written anew: forecasts move all the time, objects should not. Pure.

Written at once: that a start waits, that it does no more, that it goes on to another stage. Written at most every
`WRITE_SECONDS`: another blocker, a place in the queue that moved by a quarter, an ETA that moved enough. Exact numbers
come from the operator's API.
"""

import re
from datetime import datetime
from typing import Final

from warmfleet_api.status import PendingStart
from warmfleet_operator.decide.times import parse_time

WRITE_SECONDS: Final = 10.0
"""How long what was written stays, unless the start leaves its stage."""
MOVED_SECONDS: Final = 5.0
MOVED_SHARE: Final = 0.25
_ALWAYS_EXACT: Final = 4
"""Up to this place in the queue it is told exactly."""
_NUMBERS = re.compile(r"\d+(\.\d+)?")


def moved_enough(written: datetime | None, new: datetime | None, now: datetime) -> bool:
    """Whether an ETA is worth a write: it moved by more than 5 s and by more than a quarter of what is left."""
    if written is None or new is None:
        return written is not new
    left_seconds = max(0.0, (new - now).total_seconds())
    return abs((new - written).total_seconds()) > max(MOVED_SECONDS, MOVED_SHARE * left_seconds)


def steady(
    written: PendingStart | None, new: PendingStart | None, age_seconds: float | None, now: datetime
) -> PendingStart | None:
    """Return which of the two the status should carry.

    Args:
        written: What it carries.
        new: What is so now.
        age_seconds: For how long it carries that; None: nobody knows, so it is taken for long enough.
        now: The time of the decision.
    """
    if written is None or new is None or new.stage is not written.stage:
        return new
    if age_seconds is not None and age_seconds < WRITE_SECONDS:
        return written
    return new if _is_news(written, new, now) else written


def _is_news(written: PendingStart, new: PendingStart, now: datetime) -> bool:
    position_moved = 4 * abs(new.position - written.position) > written.position
    is_near = min(written.position, new.position) <= _ALWAYS_EXACT and written.position != new.position
    return (
        position_moved
        or is_near
        or new.start_type is not written.start_type
        or _NUMBERS.sub("", new.summary) != _NUMBERS.sub("", written.summary)  # reason and blocker
        or new.fetched_bytes != written.fetched_bytes  # which is counted in large steps
        or moved_enough(parse_time(written.weights_time), parse_time(new.weights_time), now)
        or moved_enough(parse_time(written.ready_time), parse_time(new.ready_time), now)
    )
