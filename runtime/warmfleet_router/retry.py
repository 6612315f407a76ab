"""Second tries: how many are allowed together, and how long each waits.

A try that never reached an endpoint cost nobody anything and is always made again; one that did may have made an
engine work, so that at most a fifth of the requests of the last seconds are sent again: a fleet that fails is not
buried under tries.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

SHARE = 0.2
WINDOW_SECONDS = 10.0
ALWAYS = 10
"""Second tries that are allowed in any window, however few requests came."""
FIRST_DELAY_SECONDS = 0.025
LONGEST_DELAY_SECONDS = 1.0


@dataclass(slots=True)
class RetryBudget:
    """Counts requests and second tries of the last `WINDOW_SECONDS`."""

    _slots: deque[list[float]] = field(default_factory=deque)
    """Begin of a second, requests, tries."""

    def asked(self, now: float) -> None:
        """A request came."""
        self._slot(now)[1] += 1

    def spend(self, now: float) -> bool:
        """Take one second try; return False if there is none left."""
        slot = self._slot(now)
        requests = sum(each[1] for each in self._slots)
        tries = sum(each[2] for each in self._slots)
        if tries >= max(ALWAYS, SHARE * requests):
            return False
        slot[2] += 1
        return True

    def _slot(self, now: float) -> list[float]:
        slots = self._slots
        if not slots or now - slots[-1][0] >= 1.0:
            slots.append([now, 0.0, 0.0])
        while now - slots[0][0] >= WINDOW_SECONDS:
            slots.popleft()
        return slots[-1]


def delay_seconds(attempt: int, chance: Callable[[], float]) -> float:
    """Return how long the next try waits after `attempt` tries; `chance` gives a number from 0 to 1."""
    longest = min(FIRST_DELAY_SECONDS * 2.0 ** min(attempt - 1, 10), LONGEST_DELAY_SECONDS)
    return longest * (0.5 + chance())
