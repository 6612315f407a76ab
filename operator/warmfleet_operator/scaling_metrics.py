"""Series of models with `autoscaling`. What is not known is absent, so that nobody takes it for zero."""

from prometheus_client import CollectorRegistry, Gauge

from warmfleet_api import names
from warmfleet_operator.decide.fleet import ModelKey
from warmfleet_operator.decide.scaling import Sample, Wish

_LABELS = (names.METRIC_LABEL_NAMESPACE, names.METRIC_LABEL_MODEL)


class ScalingMetrics:
    """All of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shown: set[tuple[Gauge, tuple[str, ...]]] = set()
        self.value = Gauge(
            names.METRIC_DEMAND,
            "Requests that a model's autoscaler is to bring replicas for: what its policy wishes, times the target.",
            _LABELS,
            registry=registry,
        )
        self.requests = Gauge(
            "warmfleet_model_requests",
            "Requests of a model that are queued, run, or are held at routers.",
            _LABELS,
            registry=registry,
        )
        self.wish = Gauge(
            "warmfleet_wished_replicas", "Replicas that a model's policy wishes.", _LABELS, registry=registry
        )
        self.replicas = Gauge(
            "warmfleet_model_replicas",
            "Replicas of a model: wanted, as spec.replicas says, and ready.",
            (*_LABELS, "state"),
            registry=registry,
        )

    def told(self, key: ModelKey, sample: Sample, wish: Wish, value: int | None) -> None:
        """Show what was measured and decided."""
        labels = key.namespace, key.name
        self._show(self.value, labels, value)
        self._show(self.requests, labels, None if sample.missing else sample.demand)
        self._show(self.wish, labels, wish.replicas)
        self._show(self.replicas, (*labels, "wanted"), sample.replicas)
        self._show(self.replicas, (*labels, "ready"), sample.ready)

    def forget(self, key: ModelKey) -> None:
        """End the series of a model."""
        labels = key.namespace, key.name
        for gauge in (self.value, self.requests, self.wish):
            self._show(gauge, labels, None)
        for state in ("wanted", "ready"):
            self._show(self.replicas, (*labels, state), None)

    def _show(self, gauge: Gauge, labels: tuple[str, ...], value: int | None) -> None:
        if value is not None:
            gauge.labels(*labels).set(value)
            self._shown.add((gauge, labels))
        elif (gauge, labels) in self._shown:
            gauge.remove(*labels)
            self._shown.remove((gauge, labels))
