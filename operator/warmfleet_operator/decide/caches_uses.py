"""How often a model starts: what it is worth to keep its weights near, once nobody demands it."""

from datetime import datetime

from warmfleet_api.status import MAX_RECENT_STARTS
from warmfleet_operator.decide.fleet import Model
from warmfleet_operator.decide.times import seconds_since

DAY_SECONDS = 86_400
_SHORTEST_SPAN_SECONDS = 3600.0
RECHECK_SECONDS = 3600.0
"""Starts age slowly; what they are worth is looked at this often if nothing else happens."""


def uses_per_day(model: Model, now: datetime) -> int:
    """Return the expected starts of a day, as a power of two (or 0), so that it changes seldom.

    They are the starts of the last day. Where the list of recent ones is full and all are younger, the rate of the
    listed ones counts.
    """
    ages = [age for text in model.status.recent_starts if (age := seconds_since(text, now)) is not None]
    recent = [age for age in ages if age < DAY_SECONDS]
    if not recent:
        return 0
    rate: float = len(recent)
    if len(recent) >= MAX_RECENT_STARTS:
        rate = max(rate, len(recent) * DAY_SECONDS / max(_SHORTEST_SPAN_SECONDS, *recent))
    return 1 << (int(rate).bit_length() - 1)
