"""Prometheus metrics of the agent, in one registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from warmfleet_kube.metrics import KubeMetrics

CONTENT_TYPE = CONTENT_TYPE_LATEST
_TRANSFER_SECONDS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """All metrics; label values are a bounded set."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.kube = KubeMetrics(registry)
        self.step_bytes = Counter(
            "warmfleet_weights_bytes_total",
            "Bytes of entries that steps brought or freed: Fetch, Promote, Demote, Evict.",
            ("step",),
            registry=registry,
        )
        self.step_seconds = Histogram(
            "warmfleet_weights_step_seconds",
            "Time of a step, by how it ended: Done, Failed or Cancelled.",
            ("step", "result"),
            buckets=_TRANSFER_SECONDS,
            registry=registry,
        )
        self.failures = Counter(
            "warmfleet_weights_failures_total", "Failed steps by reason.", ("step", "reason"), registry=registry
        )
        self.capacity = Gauge("warmfleet_weights_capacity_bytes", "What a tier may hold.", ("tier",), registry=registry)
        self.used = Gauge(
            "warmfleet_weights_used_bytes", "Entries, and what is being written.", ("tier",), registry=registry
        )
        self.unlinked = Gauge(
            "warmfleet_weights_unlinked_bytes", "Evicted, but still mapped by a runner.", ("tier",), registry=registry
        )
        self.entries = Gauge("warmfleet_weights_entries", "Whole entries in a tier.", ("tier",), registry=registry)
        self.views = Counter(
            "warmfleet_weights_view_entries_total",
            "Entries that runners were to see, by where they were when first asked for: Memory is a hit.",
            ("tier",),
            registry=registry,
        )
        self.status_writes = Counter(
            "warmfleet_weights_status_writes_total", "Writes of the NodeCache's status.", ("result",), registry=registry
        )
        self.served_bytes = Counter(
            "warmfleet_weights_served_bytes_total",
            "Bytes of compile caches given to agents of other nodes.",
            registry=registry,
        )
        self.streams = Gauge("warmfleet_weights_streams", "Readers of the status stream.", registry=registry)
        self.loop_lag = Gauge("warmfleet_loop_lag_seconds", "How late the event loop last was.", registry=registry)

    def render(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)
