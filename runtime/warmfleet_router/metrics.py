"""What the router counts. Labels are models there are, and fixed words, so their number is bounded."""

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from warmfleet_kube.metrics import KubeMetrics
from warmfleet_router.cache.metrics import CacheMetrics
from warmfleet_router.catalog import ModelKey
from warmfleet_router.tallies import Tallies, Tally


class Metrics:
    """All metrics of the router, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.kube = KubeMetrics(self.registry)
        self.loop_lag = Gauge("warmfleet_loop_lag_seconds", "How late the event loop runs.", registry=self.registry)
        self._models: dict[ModelKey, Tally] = {}
        self.registry.register(Tallies(self._models))
        self.held = Gauge("warmfleet_router_held_requests", "Requests that are held now.", registry=self.registry)
        self.in_flight = 0
        Gauge(
            "warmfleet_router_requests_in_flight", "Requests that were not answered yet.", registry=self.registry
        ).set_function(lambda: self.in_flight)
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
        self.broken_streams = Counter(
            "warmfleet_router_broken_streams",
            "Streams that broke off and could be completed: completed, replaced (by the complete answer) or given_up.",
            ("result",),
            registry=self.registry,
        )
        self.cache = CacheMetrics(self.registry)

    def of(self, key: ModelKey | tuple[str, str]) -> Tally:
        """Return what is counted of a model."""
        known = self._models.get(key)  # type: ignore[arg-type] # a key is a pair
        if known is None:
            known = self._models[ModelKey(*key)] = Tally()
        return known

    def forget(self, key: ModelKey) -> None:
        """A model is gone, and its series with it."""
        self.cache.forget(key)
        self._models.pop(key, None)

    def render(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self.registry)
