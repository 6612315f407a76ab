"""What a tenant has left of its limits: pure, `now` in monotonic seconds.

Requests and tokens are buckets that fill steadily and hold a minute's worth. Requests are taken when they come; tokens
are charged when an answer has ended, so a bucket of tokens may go below zero and then has to fill up first. Each
replica of the router lets through its share, as one Service spreads connections evenly over them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from warmfleet_api.tenant import TenantLimits
from warmfleet_router.refusals import RefusedError
from warmfleet_router.tenants import TenantKey

_MINUTE_SECONDS = 60.0
_A_WHOLE = 1.0 - 1e-6
"""Level that is enough for a request: sums of seconds come out a rounding below the whole one they should give."""


@dataclass(slots=True)
class Bucket:
    """An allowance of so much a minute."""

    per_minute: float
    level: float
    filled_at: float

    def refill(self, now: float) -> float:
        """Return what is left now. A clock that went back fills nothing, and takes nothing away."""
        elapsed = max(0.0, now - self.filled_at)
        self.level = min(self.per_minute, self.level + elapsed * self.per_minute / _MINUTE_SECONDS)
        self.filled_at = max(self.filled_at, now)
        return self.level

    def seconds_until(self, level: float, now: float) -> float:
        """Return in how many seconds so much is there, if nobody takes anything."""
        missing = level - self.refill(now)
        return max(0.0, missing / self.per_minute * _MINUTE_SECONDS)

    def resize(self, per_minute: float, now: float) -> None:
        """Take over another allowance; what was used stays used."""
        used = self.per_minute - self.refill(now)
        self.per_minute = per_minute
        self.level = min(per_minute, per_minute - used)


@dataclass(slots=True)
class Quota:
    """What one tenant has left here."""

    limits: TenantLimits
    requests: Bucket | None
    tokens: Bucket | None
    running: int = 0


@dataclass(slots=True)
class Quotas:
    """What all tenants have left. `replicas` tells how many routers share the limits."""

    replicas: Callable[[], int] = lambda: 1
    _quotas: dict[TenantKey, Quota] = field(default_factory=dict)
    _shares: dict[TenantKey, int] = field(default_factory=dict)

    def put(self, key: TenantKey, limits: TenantLimits, now: float) -> None:
        """Take over the limits of a tenant."""
        quota = self._quotas.get(key)
        if quota is None:
            self._quotas[key] = Quota(
                limits, _bucket(limits.requests_per_minute, now), _bucket(limits.tokens_per_minute, now)
            )
        else:
            quota.limits = limits
            quota.requests = _changed(quota.requests, limits.requests_per_minute, now)
            quota.tokens = _changed(quota.tokens, limits.tokens_per_minute, now)
        self._shares.pop(key, None)

    def drop(self, key: TenantKey) -> None:
        """A tenant is gone."""
        self._quotas.pop(key, None)
        self._shares.pop(key, None)

    def enter(self, key: TenantKey, now: float) -> None:
        """Take a request into account; the caller ends it by `leave`.

        Raises:
            RefusedError: 429 with the seconds after which it would not be refused for the same reason.
        """
        quota = self._shared(key, now)
        if quota is None:
            return
        limit = quota.limits.concurrency
        if limit is not None and quota.running >= max(1, limit // max(1, self.replicas())):
            raise _refused(key, "concurrency", f"{limit} requests at once", 1.0)
        if quota.tokens is not None and quota.tokens.refill(now) <= 0:
            # Just above zero is enough: what a request will cost nobody knows before.
            seconds = quota.tokens.seconds_until(min(1.0, quota.tokens.per_minute), now)
            raise _refused(key, "tokens", f"{quota.limits.tokens_per_minute} tokens per minute", seconds)
        if quota.requests is not None:
            if quota.requests.refill(now) < _A_WHOLE:
                seconds = quota.requests.seconds_until(1.0, now)
                raise _refused(key, "requests", f"{quota.limits.requests_per_minute} requests per minute", seconds)
            quota.requests.level -= 1
        quota.running += 1

    def leave(self, key: TenantKey, tokens: int, now: float) -> None:
        """A request has ended, and has cost so many tokens."""
        quota = self._quotas.get(key)
        if quota is None:
            return
        quota.running = max(0, quota.running - 1)
        if quota.tokens is not None:
            quota.tokens.refill(now)
            quota.tokens.level -= tokens

    def _shared(self, key: TenantKey, now: float) -> Quota | None:
        """Return a tenant's quota, its buckets as large as this replica's share."""
        quota = self._quotas.get(key)
        replicas = max(1, self.replicas())
        if quota is not None and self._shares.get(key, 1) != replicas:
            for bucket, limit in (
                (quota.requests, quota.limits.requests_per_minute),
                (quota.tokens, quota.limits.tokens_per_minute),
            ):
                if bucket is not None and limit is not None:
                    # A share below one request would never hold a whole one.
                    bucket.resize(max(1.0, limit / replicas), now)
            self._shares[key] = replicas
        return quota


def _bucket(per_minute: int | None, now: float) -> Bucket | None:
    return None if per_minute is None else Bucket(float(per_minute), float(per_minute), now)


def _changed(bucket: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    if bucket is None or per_minute is None:
        return _bucket(per_minute, now)
    bucket.resize(float(per_minute), now)
    return bucket


def _refused(key: TenantKey, what: str, limit: str, seconds: float) -> RefusedError:
    after = max(1, math.ceil(seconds))
    return RefusedError(
        429,
        f"{what}_limit",
        f"tenant {key} may use {limit}; come back in {after} s, or have spec.limits of its Tenant raised",
        retry_after_seconds=after,
    )
