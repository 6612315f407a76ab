"""What the router counts. Labels are models there are, and fixed words, so their number is bounded."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from warmfleet_kube.metrics import KubeMetrics
from warmfleet_router.catalog import ModelKey

LATENCY_BUCKETS = (
    *(0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75),
    *(1, 1.5, 2.5, 5, 7.5, 10, 15, 30, 60, 120, 300, 600),
)
HOLD_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600)
_MODEL = ("namespace", "model")
_OWN_CODES = frozenset({"200", "400", "404", "413", "429", "500", "502", "503", "504", "cancelled", "broken"})


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """The series of one model, bound once."""

    ended: dict[str, Counter]
    first_byte: Histogram
    hold: Histogram
    key: ModelKey
    _requests: Counter

    def request(self, code: str) -> None:
        """Count the end of a request: its status, `cancelled` (the client left) or `broken` (no end came)."""
        bound = self.ended.get(code)
        if bound is None:
            shown = code if code in _OWN_CODES else f"{code[:1]}xx"
            bound = self.ended[code] = self._requests.labels(*self.key, shown)
        bound.inc()


class Metrics:
    """All metrics of the router, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.kube = KubeMetrics(self.registry)
        self.loop_lag = Gauge("warmfleet_loop_lag_seconds", "How late the event loop runs.", registry=self.registry)
        self._requests = Counter(
            "warmfleet_router_requests",
            "Requests that ended: status of the answer, `cancelled` (the client left) or `broken` (no end came).",
            (*_MODEL, "code"),
            registry=self.registry,
        )
        self._first_byte = Histogram(
            "warmfleet_router_first_byte_seconds",
            "From the request's last byte to the first of its answer's body, time held included.",
            _MODEL,
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self._hold = Histogram(
            "warmfleet_router_hold_seconds",
            "How long requests were held that had to be.",
            _MODEL,
            buckets=HOLD_BUCKETS,
            registry=self.registry,
        )
        self.held = Gauge("warmfleet_router_held_requests", "Requests that are held now.", registry=self.registry)
        self.in_flight = Gauge(
            "warmfleet_router_requests_in_flight", "Requests that were not answered yet.", registry=self.registry
        )
        self.refused = Counter(
            "warmfleet_router_refused_requests",
            "Requests this router refused by itself, by what was wrong.",
            ("code",),
            registry=self.registry,
        )
        self.wakes = Counter(
            "warmfleet_router_wakes",
            "Wakes the operator was asked for: sent, or failed (the next report of demand asks again).",
            ("result",),
            registry=self.registry,
        )
        self.operator_failures = Counter(
            "warmfleet_router_operator_failures", "Requests to the operator that failed.", registry=self.registry
        )
        self.tokens = Counter(
            "warmfleet_router_tokens",
            "Tokens of prompts and answers of each Tenant: the engine's count, else estimated.",
            ("tenant",),
            registry=self.registry,
        )
        self.retries = Counter(
            "warmfleet_router_retries",
            "Tries after the first: unreachable, broken (no byte came), full, refused (its engine is in another state)"
            " or failed (5xx).",
            ("reason",),
            registry=self.registry,
        )
        self.retries_spent = Counter(
            "warmfleet_router_retries_spent",
            "Tries that were not made because a fifth of the requests had one already.",
            registry=self.registry,
        )
        self.breakers_opened = Counter(
            "warmfleet_router_breakers_opened", "Endpoints taken out for failing in a row.", registry=self.registry
        )
        self.runners_lost = Counter(
            "warmfleet_router_runners_lost",
            "Runners taken out because they took no connection.",
            registry=self.registry,
        )
        self._models: dict[ModelKey, ModelMetrics] = {}

    def of(self, key: ModelKey) -> ModelMetrics:
        """Return the series of a model."""
        known = self._models.get(key)
        if known is None:
            known = self._models[key] = ModelMetrics(
                {}, self._first_byte.labels(*key), self._hold.labels(*key), key, self._requests
            )
        return known

    def of_name(self, namespace: str, model: str) -> ModelMetrics:
        """Return the series of a model."""
        return self.of(ModelKey(namespace, model))

    def forget(self, key: ModelKey) -> None:
        """A model is gone, and its series with it."""
        known = self._models.pop(key, None)
        if known is None:
            return
        for family in (self._first_byte, self._hold):
            family.remove(*key)
        shown = {code if code in _OWN_CODES else f"{code[:1]}xx" for code in known.ended}
        for code in shown:
            self._requests.remove(*key, code)

    def render(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self.registry)
