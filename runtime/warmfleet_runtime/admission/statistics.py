"""Statistics of a queue by class: counts since it began, and histograms. Bounded: classes and codes are fixed."""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from warmfleet_api.vocabulary import Priority

WAIT_BOUNDS_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SIZE_BOUNDS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Histogram:
    """Counts of values up to each bound, the last for all above."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(slots=True)
class ClassStatistics:
    """What became of the requests of one class."""

    waiting: int = 0
    """Generations that wait now."""
    running: int = 0
    """Sequences in the engine now."""
    accepted: int = 0
    merged: int = 0
    dispatched: int = 0
    finished: int = 0
    cancelled: int = 0
    """Generations whose senders all left."""
    refused: Counter[str] = field(default_factory=Counter)
    """By code; `shed` and `deadline_passed` were accepted before."""
    wait_seconds: Histogram = field(default_factory=lambda: Histogram(WAIT_BOUNDS_SECONDS))
    """Of those sent to the engine."""


@dataclass(slots=True)
class Statistics:
    """What became of all requests of a queue."""

    classes: dict[Priority, ClassStatistics] = field(
        default_factory=lambda: {priority: ClassStatistics() for priority in Priority}
    )
    batch_sizes: Histogram = field(default_factory=lambda: Histogram(SIZE_BOUNDS))
    """Requests sent to the engine at once."""
    merged: int = 0
    """Requests that hear another's generation now."""
    window: int = 0
    """Sequences that may run at once without touching what is reserved."""
    work_per_second: float | None = None
    """What the engine does under load, in `fairness.cost` units."""
