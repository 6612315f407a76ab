"""What went wrong with which entry, and when it is tried again."""

from collections.abc import Mapping
from dataclasses import dataclass

from warmfleet_api.vocabulary import WeightsProblem

FIRST_SECONDS = 2.0
LONGEST_SECONDS = 300.0
"""Also for what only a person can mend: whoever mended it does not wait longer."""
FOR_A_PERSON_SECONDS = 30.0
"""First delay of what only a person can mend: asking again at once changes nothing."""
_STEPS = 16


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure of an entry."""

    reason: WeightsProblem
    message: str
    attempts: int
    """How often in a row."""
    retry_at: float
    """Monotonic seconds."""


class Failures:
    """The failures by key. Success, or another wish of the operator, forgets."""

    def __init__(self) -> None:
        self._known: dict[str, Failure] = {}

    @property
    def by_key(self) -> Mapping[str, Failure]:
        """All of them."""
        return dict(self._known)

    def add(
        self, key: str, reason: WeightsProblem, message: str, retry_after_seconds: float | None, now: float
    ) -> Failure:
        """Keep a failure; `retry_after_seconds` None: only a person can mend it."""
        before = self._known.get(key)
        attempts = before.attempts + 1 if before is not None else 1
        first = FOR_A_PERSON_SECONDS if retry_after_seconds is None else max(FIRST_SECONDS, retry_after_seconds)
        delay = min(first * 2.0 ** min(attempts - 1, _STEPS), LONGEST_SECONDS)
        # A source that names a longer time is believed, within an hour.
        delay = max(delay, min(retry_after_seconds or 0.0, 3600.0))
        self._known[key] = Failure(reason, message, attempts, now + delay)
        return self._known[key]

    def forget(self, key: str) -> None:
        """Drop what is known of an entry: it worked, or it is wanted otherwise."""
        self._known.pop(key, None)

    def keep(self, keys: frozenset[str]) -> None:
        """Drop what is known of entries that nobody wants any more."""
        self._known = {key: failure for key, failure in self._known.items() if key in keys}
