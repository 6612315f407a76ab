"""What the place of an entry is worth: (probability of use x weight of its class x seconds saved) / bytes.

The form is that of GreedyDual-Size-Frequency (Cherkasova, "Improving WWW Proxies Performance with
Greedy-Dual-Size-Frequency Caching Policy", HPL-98-69R1, 1998), frequency x cost / size. Its ageing, a clock that rises
with each eviction, is replaced by LRFU's (Lee et al., "LRFU: A Spectrum of Policies that Subsumes the Least Recently
Used and Least Frequently Used Policies", IEEE Transactions on Computers 50(12), 2001): each use counts half after a
half-life. So the value is a function of the state alone: the same after a restart, and it ages without evictions too.
"""

import math

from warmfleet_agent.plan.state import NodeState, Use
from warmfleet_api.vocabulary import Priority, Tier

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
COPY_BELOW = 0.25
"""Share of its worth that a place on disk has while the entry is in memory too: it is needed only after that goes."""


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


class Values:
    """What entries are worth in one state at one time."""

    def __init__(self, state: NodeState, now: float) -> None:
        self._state = state
        self._now = now
        self._remote = state.remote_bytes_per_second or REMOTE_BYTES_PER_SECOND
        self._disk = state.disk_bytes_per_second or DISK_BYTES_PER_SECOND
        self.seen = frozenset(key for keys in state.views.values() for key in keys)
        """What runners are to see."""

    def fetch_seconds(self, size_bytes: int) -> float:
        """Return how long the entry takes from afar."""
        return FETCH_SECONDS + size_bytes / self._remote

    def without_seconds(self, key: str, size_bytes: int) -> float:
        """Return what a start takes longer if the node does not have the entry: to fetch it, or what its wish says.

        No start waits for a compile cache: without it the engine compiles, which takes longer than any fetch of it.
        """
        wanted = self._state.wanted.get(key)
        return (wanted.saves_seconds if wanted is not None else 0.0) or self.fetch_seconds(size_bytes)

    def promote_seconds(self, size_bytes: int) -> float:
        """Return how long the entry takes from disk."""
        return PROMOTE_SECONDS + size_bytes / self._disk

    def per_day(self, key: str) -> float:
        """Return how often it is used."""
        wanted = self._state.wanted.get(key)
        return uses_per_day(wanted.uses_per_day if wanted else 0.0, self._state.uses.get(key), self._now)

    def priority(self, key: str) -> Priority:
        """Return its class; of what nobody names, the lowest."""
        wanted = self._state.wanted.get(key)
        return wanted.priority if wanted is not None else Priority.LOW

    def least_tier(self, key: str) -> Tier:
        """Return where it should be at least; Remote: nowhere."""
        if key in self.seen:
            return Tier.MEMORY
        wanted = self._state.wanted.get(key)
        return wanted.tier if wanted is not None else Tier.REMOTE

    def merit(self, key: str, size_bytes: int) -> float:
        """Return its value per byte against having it nowhere: by it wanted entries push each other out.

        It does not depend on where the entry is: if it did, each eviction could turn the next comparison around.
        """
        return self._weighted(key) * self.without_seconds(key, size_bytes) / max(1, size_bytes)

    def back_seconds(self, key: str, size_bytes: int, tier: Tier) -> float:
        """Return how much longer a start would take if the entry left the tier."""
        if tier is Tier.DISK:
            return max(0.0, self.without_seconds(key, size_bytes) - self.promote_seconds(size_bytes))
        disk = self._state.disk
        if disk is not None and key in disk.held:
            return self.promote_seconds(size_bytes)
        return self.without_seconds(key, size_bytes)

    def value(self, key: str, size_bytes: int, tier: Tier) -> float:
        """Return what a byte of its place in a tier is worth: the lowest goes first."""
        worth = self._weighted(key) * self.back_seconds(key, size_bytes, tier) / max(1, size_bytes)
        return worth * COPY_BELOW if tier is Tier.DISK and key in self._state.memory.held else worth

    def _weighted(self, key: str) -> float:
        probability = 1.0 if key in self.seen else use_probability(self.per_day(key))
        return probability * WEIGHTS[self.priority(key)]
