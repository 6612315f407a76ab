"""What stands between requests and a tier outside of this process: a slow or dead one costs misses, and nothing else.

Reads have a short time and a bounded number at once; three failures in a row shut the tier for a while, then one read
tries it. Writes wait in a bounded line for a task of their own, and what finds the line full is not written.
"""

import asyncio
import logging
import time
from typing import Never, Protocol

from warmfleet_router.cache.metrics import CacheMetrics

READ_SECONDS = 0.1
WRITE_SECONDS = 2.0
SHUT_SECONDS = 5.0
FAILURES = 3
MAX_READS = 16
MAX_WRITES = 256
MAX_WAITING_BYTES = 16 * 1024 * 1024
_log = logging.getLogger(__name__)


class Tier(Protocol):
    """Keeps bytes by key. Any exception means that it failed."""

    name: str

    async def get(self, key: bytes) -> bytes | None:
        """Return what is kept; None: nothing."""

    async def put(self, key: bytes, data: bytes, ttl_seconds: float) -> None:
        """Keep something for a while."""

    async def drop(self, key: bytes) -> None:
        """Keep it no more."""

    async def close(self) -> None:
        """Free what it holds."""


class Guard:
    """One tier, with bounds. Made inside the running loop."""

    def __init__(self, tier: Tier, metrics: CacheMetrics) -> None:
        self._tier = tier
        self._metrics = metrics
        self._reads = 0
        self._failures = 0
        self._shut_until = 0.0
        self._is_trying = False
        self._waiting: asyncio.Queue[tuple[bytes, bytes | None, float]] = asyncio.Queue(MAX_WRITES)
        self._waiting_bytes = 0
        self._writer = asyncio.create_task(self._write(), name=f"cache in {tier.name}")

    @property
    def name(self) -> str:
        """Of the tier."""
        return self._tier.name

    async def get(self, key: bytes) -> bytes | None:
        """Return what the tier keeps, if it says so in time."""
        if self._reads >= MAX_READS or not self._may_try():
            return None
        self._reads += 1
        try:
            async with asyncio.timeout(READ_SECONDS):
                found = await self._tier.get(key)
        except Exception as error:
            self._failed(error)
            return None
        else:
            self._succeeded()
            return found
        finally:
            self._is_trying = False
            self._reads -= 1

    def put(self, key: bytes, data: bytes, ttl_seconds: float) -> None:
        """Let something be kept, soon, if there is room for it in the line."""
        self._line_up(key, data, ttl_seconds)

    def drop(self, key: bytes) -> None:
        """Let it be kept no more."""
        self._line_up(key, None, 0.0)

    async def flushed(self) -> None:
        """Wait until what was lined up is written, or was tried."""
        await self._waiting.join()

    async def close(self) -> None:
        """Write no more."""
        self._writer.cancel()
        await asyncio.gather(self._writer, return_exceptions=True)
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                await self._tier.close()
        except Exception as error:  # it is left as it is
            _log.debug("cache in %s: %r", self.name, error)

    def _line_up(self, key: bytes, data: bytes | None, ttl_seconds: float) -> None:
        size = len(data or b"")
        if self._is_shut or self._waiting.full() or self._waiting_bytes + size > MAX_WAITING_BYTES:
            self._metrics.unwritten.labels(self.name).inc()
            return
        self._waiting_bytes += size
        self._waiting.put_nowait((key, data, ttl_seconds))

    async def _write(self) -> Never:
        while True:
            key, data, ttl_seconds = await self._waiting.get()
            self._waiting_bytes -= len(data or b"")
            try:
                if self._is_shut:
                    self._metrics.unwritten.labels(self.name).inc()
                    continue
                async with asyncio.timeout(WRITE_SECONDS):
                    if data is None:
                        await self._tier.drop(key)
                    else:
                        await self._tier.put(key, data, ttl_seconds)
            except Exception as error:
                self._metrics.unwritten.labels(self.name).inc()
                self._failed(error)
            else:
                self._succeeded()
            finally:
                self._waiting.task_done()

    @property
    def _is_shut(self) -> bool:
        return self._failures >= FAILURES

    def _may_try(self) -> bool:
        """Whether a read may ask the tier: while it is shut, one read after each pause."""
        if not self._is_shut:
            return True
        if self._is_trying or time.monotonic() < self._shut_until:
            return False
        self._is_trying = True
        return True

    def _succeeded(self) -> None:
        if self._is_shut:
            _log.info("the cache in %s answers again", self.name)
        self._failures = 0

    def _failed(self, error: Exception) -> None:
        self._metrics.failures.labels(self.name).inc()
        self._failures += 1
        if self._is_shut:
            self._shut_until = time.monotonic() + SHUT_SECONDS
            if self._failures == FAILURES:
                words = str(error) or type(error).__name__
                _log.warning("the cache in %s failed %d times and is left out: %s", self.name, FAILURES, words)
