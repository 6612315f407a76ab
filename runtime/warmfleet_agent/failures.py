"""What went wrong with which entry, and when it is tried again."""

from collections.abc import Mapping

from warmfleet_agent.plan import Problem
from warmfleet_api.vocabulary import Tier, WeightsProblem

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 300.0
"""Also for what only a person can mend: whoever mended it does not wait longer."""
FOR_A_PERSON_SECONDS = 30.0
"""First delay of what only a person can mend: asking again at once changes nothing."""
LONGEST_ASKED_SECONDS = 3600.0
"""A source that wants to be left alone for longer is believed this far."""
_DOUBLINGS = 16


class Failures:
    """The last failure of each entry. Arrival, or another wish of the operator, forgets it."""

    def __init__(self) -> None:
        self._problems: dict[str, Problem] = {}
        self._attempts: dict[str, int] = {}

    @property
    def problems(self) -> Mapping[str, Problem]:
        """The failures by key."""
        return dict(self._problems)

    def add(
        self,
        key: str,
        reason: WeightsProblem,
        message: str,
        *,
        retry_after_seconds: float | None,
        now: float,
        tier: Tier = Tier.REMOTE,
    ) -> Problem:
        """Keep a failure, to be tried again after a delay that doubles with each failure in a row.

        Args:
            key: of the entry.
            reason: one word for machines.
            message: what happened, and the next command to type; without numbers that change from try to try.
            retry_after_seconds: when it may pass by itself; None: only a person can mend it.
            now: unix seconds.
            tier: where it failed.
        """
        attempts = self._attempts.get(key, 0) + 1
        first = FOR_A_PERSON_SECONDS if retry_after_seconds is None else FIRST_SECONDS
        delay = min(first * 2.0 ** min(attempts - 1, _DOUBLINGS), LONGEST_SECONDS)
        delay = max(delay, min(retry_after_seconds or 0.0, LONGEST_ASKED_SECONDS))
        self._attempts[key] = attempts
        self._problems[key] = Problem(reason=reason, message=message, since=now, until=now + delay, tier=tier)
        return self._problems[key]

    def forget(self, key: str) -> None:
        """Drop what is known of an entry: it arrived, or it is wanted otherwise."""
        self._problems.pop(key, None)
        self._attempts.pop(key, None)
