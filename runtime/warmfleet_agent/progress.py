"""How far transfers are and how fast: counted where bytes pass, in any thread, and read by streams and status."""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from warmfleet_api.agent_status import Transfer
from warmfleet_api.vocabulary import EntryState, Tier

WINDOW_SECONDS = 5.0
"""Over how long the speed is taken: long enough to be steady, short enough to show a stall."""
_SAMPLE_SECONDS = 0.1


class Meter:
    """Bytes so far, and their speed over the last seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.started = clock()
        self._clock = clock
        self._lock = threading.Lock()
        self._total = 0
        self._resumed = 0
        self._samples: deque[tuple[float, int]] = deque([(self.started, 0)])

    @property
    def total_bytes(self) -> int:
        """Bytes so far, those of an earlier try included."""
        return self._total

    @property
    def brought_bytes(self) -> int:
        """Bytes that came by this transfer."""
        return max(0, self._total - self._resumed)

    def resume(self, size_bytes: int) -> None:
        """Count what was there already; it has no speed."""
        with self._lock:
            self._total += size_bytes
            self._resumed += size_bytes
            self._samples = deque((time, total + size_bytes) for time, total in self._samples)

    def add(self, size_bytes: int) -> None:
        """Count bytes that have just passed; a negative size takes back what turned out to be damaged."""
        with self._lock:
            self._total = max(0, self._total + size_bytes)
            now = self._clock()
            if now - self._samples[-1][0] >= _SAMPLE_SECONDS:
                self._samples.append((now, self._total))
            self._trim(now)

    def bytes_per_second(self) -> int:
        """Return the speed over the last `WINDOW_SECONDS`; 0 before anything can be said."""
        with self._lock:
            now = self._clock()
            self._trim(now)
            since, before = self._samples[0]
            return max(0, int((self._total - before) / (now - since))) if now - since >= _SAMPLE_SECONDS else 0

    def _trim(self, now: float) -> None:
        while len(self._samples) > 1 and self._samples[1][0] <= now - WINDOW_SECONDS:
            self._samples.popleft()


@dataclass(slots=True)
class Progress:
    """An entry on its way from one tier to the next."""

    key: str
    source: Tier
    target: Tier
    state: EntryState
    meter: Meter
    total_bytes: int = 0
    """0: not known yet."""

    def transfer(self) -> Transfer:
        """Return it as a line of the stream shows it."""
        done, speed = self.meter.total_bytes, self.meter.bytes_per_second()
        left = max(0, self.total_bytes - done)
        return Transfer(
            key=self.key,
            source=self.source,
            target=self.target,
            state=self.state,
            bytes=self.total_bytes,
            done_bytes=min(done, self.total_bytes) if self.total_bytes else done,
            bytes_per_second=speed,
            seconds_left=-(-left // speed) if speed and self.total_bytes else None,
        )
