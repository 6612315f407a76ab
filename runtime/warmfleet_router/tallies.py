"""What every request counts: plain numbers, which become series when somebody asks for them.

A counter of prometheus_client costs a lock and four calls each time, which is much for what happens to every request.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from warmfleet_router.catalog import ModelKey

LATENCY_BUCKETS = (
    *(0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75),
    *(1.0, 1.5, 2.5, 5.0, 7.5, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
HOLD_BUCKETS = (
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 45.0, 60.0, 90.0),
    *(120.0, 180.0, 300.0, 600.0, 1200.0, 3600.0),
)
_MODEL = ("namespace", "model")
_OWN_CODES = frozenset({"200", "400", "404", "413", "429", "500", "502", "503", "504", "cancelled", "broken"})


class Spread:
    """Durations by how long they were."""

    __slots__ = ("_bounds", "_counts", "_seconds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._seconds += seconds

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add it as a series."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._seconds)


class Tally:
    """The numbers of one model."""

    __slots__ = ("ended", "first_byte", "hold")

    def __init__(self) -> None:
        self.ended: dict[str | int, int] = {}
        self.first_byte = Spread(LATENCY_BUCKETS)
        self.hold = Spread(HOLD_BUCKETS)

    def request(self, code: str | int) -> None:
        """Count the end of a request: its status, `cancelled` (the client left) or `broken` (no end came)."""
        self.ended[code] = self.ended.get(code, 0) + 1


class Tallies(Collector):
    """The numbers of all models, as series."""

    def __init__(self, of: Mapping[ModelKey, Tally]) -> None:
        self._of = of

    def collect(self) -> Iterable[CounterMetricFamily | HistogramMetricFamily]:
        """Make series of what was counted."""
        requests = CounterMetricFamily(
            "warmfleet_router_requests",
            "Requests that ended: status of the answer, `cancelled` (the client left early) or `broken` (no end came).",
            labels=(*_MODEL, "code"),
        )
        first_byte = HistogramMetricFamily(
            "warmfleet_router_first_byte_seconds",
            "From the request's last byte to the first of its answer's body, time held included.",
            labels=_MODEL,
        )
        hold = HistogramMetricFamily(
            "warmfleet_router_hold_seconds", "How long requests were held that had to be.", labels=_MODEL
        )
        for key, tally in self._of.items():
            for code, count in _shown(tally.ended):
                requests.add_metric((*key, code), count)
            tally.first_byte.add_to(first_byte, key)
            tally.hold.add_to(hold, key)
        return requests, first_byte, hold


def _shown(ended: Mapping[str | int, int]) -> Iterator[tuple[str, int]]:
    """Yield the codes that are shown, and how many ended so: rare ones by their hundred."""
    counts: dict[str, int] = {}
    for code, count in ended.items():
        text = str(code)
        shown = text if text in _OWN_CODES else f"{text[:1]}xx"
        counts[shown] = counts.get(shown, 0) + count
    return iter(counts.items())
