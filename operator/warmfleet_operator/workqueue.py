"""The keyed work queue: which keys to reconcile, and when.

A key stands in it once however often it is added; it is never with two workers; added while a worker has
it, it comes again after that. Adding with a delay keeps the earlier of two times. A key that fails
comes back after 1, 2, 4, … 60 s, each key for itself. Of keys that are due the one that waited longest is next, but
urgent ones come before all others: each is never far behind what it is to act on.

`add`, `take` and `done` are plain and synchronous; `get` only waits. So the order is testable without time.
"""

import asyncio
import contextlib
import heapq
import itertools
import time
from collections.abc import Callable, Collection, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_RETRY_SECONDS = 1.0
LONGEST_RETRY_SECONDS = 60.0


class WorkQueue(Generic[K]):
    """Keys that wait for a worker, each with the time from which it is due.

    Args:
        clock: seconds that only grow.
        urgent: keys that go before all others that are due.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, urgent: Collection[K] = ()) -> None:
        self._clock = clock
        self._urgent = urgent
        self._due: dict[K, float] = {}
        """When each waiting key is due. The truth; the heap may hold outdated entries beside it."""
        self._heap: list[tuple[float, int, K]] = []
        self._sequence = itertools.count()
        self._active: dict[K, float] = {}
        """Keys that a worker has, and since when."""
        self._again: dict[K, float] = {}
        """Keys that were added while a worker had them."""
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """Return how many keys wait, due or not."""
        return len(self._due) + len(self._again)

    def add(self, key: K, after_seconds: float = 0.0) -> None:
        """Ask for `key` to be worked on, at the earliest in `after_seconds`."""
        due = self._clock() + after_seconds
        if key in self._active:
            self._again[key] = min(due, self._again.get(key, due))
        elif due < self._due.get(key, float("inf")):
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._sequence), key))
            self._changed.set()

    def retry(self, key: K) -> float:
        """Ask for `key` again after its back-off, and return that in seconds."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 10), LONGEST_RETRY_SECONDS)
        self.add(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """Start the back-off of `key` anew: it succeeded, or is gone."""
        self._failures.pop(key, None)

    def take(self) -> tuple[K, float] | None:
        """Give out an urgent key or else the one that is due for longest, and for how many seconds it was.

        None if none is due.
        """
        now = self._clock()
        for key in self._urgent:
            if (due := self._due.get(key)) is not None and due <= now:
                return self._give(key, due, now)
        while self._heap and self._heap[0][0] <= now:
            due, _, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:
                return self._give(key, due, now)
        return None

    def _give(self, key: K, due: float, now: float) -> tuple[K, float]:
        del self._due[key]
        self._active[key] = now
        return key, now - due

    def done(self, key: K) -> None:
        """Give `key` back; it must have been taken."""
        del self._active[key]
        due = self._again.pop(key, None)
        if due is not None:
            self.add(key, due - self._clock())

    async def get(self) -> tuple[K, float]:
        """Wait for a key that is due; the caller calls `done` with it."""
        while (taken := self.take()) is None:
            self._changed.clear()
            timeout = self._heap[0][0] - self._clock() if self._heap else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait()
        if self._heap:
            # Several workers may wait on the one event: the next looks whether there is more.
            self._changed.set()
        return taken

    def longest_wait_seconds(self) -> float:
        """Return for how long the key that is due for longest waits or, if longer, is being worked on."""
        oldest = min((*self._due.values(), *self._active.values()), default=float("inf"))
        return max(0.0, self._clock() - oldest)
