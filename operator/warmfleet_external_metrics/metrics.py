"""Prometheus metrics of the server of external metrics, in one registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from warmfleet_kube.metrics import KubeMetrics


class Metrics:
    """All metrics; label values are a bounded set."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.kube = KubeMetrics(registry)
        self.requests = Counter(
            "warmfleet_external_metrics_requests_total",
            "Requests of the API server, by the status of the answer.",
            ("code",),
            registry=registry,
        )
        self.operator_failures = Counter(
            "warmfleet_external_metrics_operator_failures_total",
            "Times the operator did not say what it wants.",
            registry=registry,
        )
        self.registered = Gauge(
            "warmfleet_external_metrics_registered",
            "1 while the API server sends requests for external metrics to this Service.",
            registry=registry,
        )
        self.loop_lag = Gauge("warmfleet_loop_lag_seconds", "How late the event loop last was.", registry=registry)

    def render(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)
