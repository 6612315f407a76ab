"""Metrics of the use of the Kubernetes API, for the registry of the process."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

QUICK_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class KubeMetrics:
    """Requests, and what mirrors hold and hear; label values are a bounded set."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Histogram(
            "warmfleet_api_request_seconds",
            "Time of a request to the Kubernetes API (watches left out).",
            ("verb", "resource", "code"),
            buckets=QUICK_SECONDS,
            registry=registry,
        )
        self.lists = Counter(
            "warmfleet_reflector_lists_total", "Lists a mirror was filled from.", ("resource",), registry=registry
        )
        self.watch_events = Counter(
            "warmfleet_reflector_events_total", "Watch events received.", ("resource",), registry=registry
        )
        self.mirror_objects = Gauge(
            "warmfleet_mirror_objects", "Objects in a mirror.", ("resource",), registry=registry
        )
