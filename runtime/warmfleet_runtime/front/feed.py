"""A status that many may watch: the last line counts, whoever is slow skips what lies between."""

import asyncio
from collections.abc import AsyncIterator


class Feed:
    """The last line of a runner's status."""

    def __init__(self) -> None:
        self.line = b""
        """Empty before the first."""
        self.is_closed = False
        self._version = 0
        self._changed = asyncio.Event()

    def publish(self, line: bytes) -> None:
        """Replace the line and wake all watchers; the same line again is a heartbeat."""
        self.line = line
        self._version += 1
        self._wake()

    def close(self) -> None:
        """End all streams."""
        self.is_closed = True
        self._wake()

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the line, and again whenever it is published; ends when the feed is closed."""
        seen = 0
        while not self.is_closed:
            if self._version == seen:
                await self._changed.wait()
                continue
            seen = self._version
            yield self.line

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
