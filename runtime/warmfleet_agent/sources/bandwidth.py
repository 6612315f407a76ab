"""How fast one node fetches: a token bucket that all its downloads share."""

import asyncio
import threading
import time
from collections.abc import Callable

_BURST_SECONDS = 0.25
"""What may come at once after a pause."""


class Bandwidth:
    """A limit in bytes per second; those who wait get their turn in order."""

    def __init__(self, bytes_per_second: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """0: no limit."""
        self.bytes_per_second = bytes_per_second
        """May be changed at any time; holds from the next `take` on."""
        self._clock = clock
        self._paid_until = 0.0
        self._lock = threading.Lock()

    async def take(self, size_bytes: int) -> None:
        """Return once so many bytes may have come."""
        if (delay_seconds := self.book(size_bytes)) > 0:
            await asyncio.sleep(delay_seconds)

    def book(self, size_bytes: int) -> float:
        """Book the bytes and return for how many seconds to wait; for threads, which wait by themselves."""
        if not self.bytes_per_second:
            return 0.0
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - _BURST_SECONDS) + size_bytes / self.bytes_per_second
            return max(0.0, self._paid_until - now)
