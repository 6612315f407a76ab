"""Circuit breaker of one endpoint: takes it out of the choice while its answers fail, and tries it again later.

Only answers count: whether an endpoint can be reached at all is a matter of probes. That the last endpoint of a model
is never taken out is for the choice to see to: a breaker does not know the others.
"""

from dataclasses import dataclass

FAILURES = 5
"""In a row."""
OPEN_SECONDS = 60.0


@dataclass(slots=True)
class Breaker:
    """Closed → open after `FAILURES` → half-open after `OPEN_SECONDS`: one request tries → closed, or open again."""

    failures: int = 0
    opened_at: float | None = None
    _trying: bool = False

    def allows(self, now: float) -> bool:
        """Whether a request may go through."""
        if self.opened_at is None:
            return True
        return now - self.opened_at >= OPEN_SECONDS and not self._trying

    @property
    def is_open(self) -> bool:
        """Whether it takes its endpoint out, the half-open time included."""
        return self.opened_at is not None

    def begin(self) -> None:
        """A request goes through; half-open, it is the one that tries."""
        self._trying = self.opened_at is not None

    def succeeded(self) -> None:
        """A request was answered."""
        self.failures, self.opened_at, self._trying = 0, None, False

    def failed(self, now: float) -> bool:
        """A request failed; return whether that opened the breaker."""
        was_closed = self.opened_at is None
        self.failures += 1
        self._trying = False
        if self.failures >= FAILURES:
            self.opened_at = now
        return was_closed and self.is_open

    def abandoned(self) -> None:
        """A request ended without telling anything, e.g. because its client left: another one may try."""
        self._trying = False
