"""What the place of an entry is worth: (probability of use x weight of its class x seconds saved) / bytes.

The form is that of GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy", HPL-98-69R1, 1998), frequency x cost / size. Its ageing, a clock that rises
with each eviction, is replaced by LRFU's (Lee et al., "LRFU: A Spectrum of Policies that Subsumes the Least Recently
Used and Least Frequently Used Policies", IEEE Transactions on Computers 50(12), 2001): each use counts half after a
half-life. So the value is a function of the state alone: the same after a restart, and without evictions it still ages.
"""

import math

from warmfleet_agent.plan.state import Held, Use
from warmfleet_api.vocabulary import Priority

DAY_SECONDS = 86400.0
HALF_LIFE_SECONDS = 6 * 3600.0
"""After this time without another use, a use counts half."""
HORIZON_SECONDS = 3600.0
"""The probability is that of a use within this time."""
WEIGHTS = {Priority.CRITICAL: 8.0, Priority.HIGH: 4.0, Priority.NORMAL: 2.0, Priority.LOW: 1.0}
REMOTE_BYTES_PER_SECOND = 200e6
"""Until it is measured."""
DISK_BYTES_PER_SECOND = 1.5e9
"""Until it is measured."""
FETCH_SECONDS = 1.0
"""What a fetch takes beside its bytes: asking, connecting, checking."""
PROMOTE_SECONDS = 0.05
"""What a copy from disk takes beside its bytes."""


def used(before: Use | None, now: float) -> Use:
    """Count one more use: a runner began to see the entry."""
    return Use(count=1.0 + (count_at(before, now) if before is not None else 0.0), last=now)


def count_at(use: Use, now: float) -> float:
    """Return what the uses still count: half after each half-life."""
    return float(use.count * 2.0 ** (-max(0.0, now - use.last) / HALF_LIFE_SECONDS))


def uses_per_day(expected_per_day: float, use: Use | None, now: float) -> float:
    """Return how often an entry is used: what the operator expects of it, and what was seen here.

    A steady rate r gives a decayed count of r x half-life / ln 2.
    """
    seen = count_at(use, now) if use is not None else 0.0
    return expected_per_day + seen * math.log(2.0) * DAY_SECONDS / HALF_LIFE_SECONDS


def use_probability(per_day: float) -> float:
    """Return how probable at least one use within the horizon is, uses being independent (Poisson)."""
    return -math.expm1(-per_day * HORIZON_SECONDS / DAY_SECONDS)


def value_per_byte(probability: float, priority: Priority, seconds_saved: float, held: Held) -> float:
    """Return what a byte of an entry's place is worth, in weighted seconds."""
    return probability * WEIGHTS[priority] * seconds_saved / max(1, held.bytes)
