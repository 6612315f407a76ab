"""The second tier: Redis, which all routers share."""

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from warmfleet_router.cache.guard import MAX_READS, WRITE_SECONDS

PREFIX = b"warmfleet:answer:"


class RedisTier:
    """Keeps answers in Redis, each under a key that says its tenant and model only as a hash."""

    name = "redis"

    def __init__(self, url: str) -> None:
        """Connect when first asked; the guard has less patience than what is given here.

        Raises:
            ValueError: it is no URL of a Redis.
        """
        self._redis = Redis.from_url(
            url,
            max_connections=MAX_READS + 2,
            socket_connect_timeout=WRITE_SECONDS,
            socket_timeout=WRITE_SECONDS,
            retry=Retry(NoBackoff(), 0),  # the guard's breaker does better
        )

    async def get(self, key: bytes) -> bytes | None:
        """Return what is kept; None: nothing."""
        found = await self._redis.get(PREFIX + key.hex().encode())
        return found if isinstance(found, bytes) else None

    async def put(self, key: bytes, data: bytes, ttl_seconds: float) -> None:
        """Keep something for a while."""
        await self._redis.set(PREFIX + key.hex().encode(), data, px=max(1, round(ttl_seconds * 1000)))

    async def drop(self, key: bytes) -> None:
        """Keep it no more."""
        await self._redis.delete(PREFIX + key.hex().encode())

    async def close(self) -> None:
        """Close all connections."""
        await self._redis.aclose()
