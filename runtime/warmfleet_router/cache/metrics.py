"""What the response cache counts."""

from collections.abc import Callable
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from warmfleet_router.catalog import ModelKey

Level = Callable[[], int]
TIERS = ("memory", "redis", "disk")
RESULTS = (*TIERS, "shared", "miss", "bypass")


class CacheMetrics(Collector):
    """Series of the cache, in the router's registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.asked = Counter(
            "warmfleet_router_cache_requests",
            "Requests for models with a response cache: the tier that had the answer, shared (with an identical request"
            " that was under way), miss or bypass.",
            ("namespace", "model", "result"),
            registry=registry,
        )
        self.merged = Counter(
            "warmfleet_router_merged_requests",
            "Requests that got the answer of an identical one that was under way, at their runner or in this router.",
            ("namespace", "model"),
            registry=registry,
        )
        self.failures = Counter(
            "warmfleet_router_cache_failures",
            "Reads and writes of a tier that failed, or took too long.",
            ("tier",),
            registry=registry,
        )
        self.unwritten = Counter(
            "warmfleet_router_cache_unwritten",
            "Answers that a tier does not keep because it was left out, was behind or failed.",
            ("tier",),
            registry=registry,
        )
        self.levels: dict[str, tuple[Level, Level]] = {}
        """By tier: bytes that it holds, and entries that gave way to others so far."""
        registry.register(self)

    def collect(self) -> list[CounterMetricFamily | GaugeMetricFamily]:
        """Read the levels."""
        size = GaugeMetricFamily("warmfleet_router_cache_bytes", "Bytes of kept answers.", labels=("tier",))
        evicted = CounterMetricFamily(
            "warmfleet_router_cache_evictions", "Answers that gave way to others.", labels=("tier",)
        )
        for tier, (size_bytes, evictions) in self.levels.items():
            size.add_metric((tier,), size_bytes())
            evicted.add_metric((tier,), evictions())
        return [size, evicted]

    def forget(self, key: ModelKey) -> None:
        """A model is gone, and its series with it."""
        series = [(self.merged, tuple(key)), *((self.asked, (*key, result)) for result in RESULTS)]
        for family, labels in series:
            with suppress(KeyError):
                family.remove(*labels)
