"""What is counted of requests while they pass. `collectors` shows what others count, `exposition` the engines' own.

Labels are models that are assigned, classes and fixed codes, so their number is bounded. A model's series end with its
assignment.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

LATENCY_BUCKETS = (
    *(0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75),
    *(1, 1.5, 2.5, 5, 7.5, 10, 15, 30, 60, 120, 300, 600),
)
"""Seconds. Steps of about a half, so that quantiles between them are good to a quarter."""
PER_TOKEN_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
SEQUENCE_BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512, 1024)


@dataclass(slots=True)
class MeasuredRequest:
    """What is counted of one request when it ends."""

    code: str = "error"
    """HTTP status, `cancelled`: the client left, or `broken`: the engine ended before its answer did."""
    first_token_seconds: float = 0.0
    """Until the first bytes of the answer's body."""


class Generating(Protocol):
    """A request's place at the engine, as far as it is measured."""

    tokens: int
    first_token_at: float | None


class RequestMetrics:
    """Counts requests and their generations by model."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refused = Counter(
            "warmfleet_refused_requests",
            "Requests refused before an engine was chosen: what was wrong with them.",
            ["code"],
            registry=registry,
        )
        self._families = _Families(registry)
        self._models: dict[str, _OfModel] = {}

    def refused(self, code: str) -> None:
        """Count a request that was refused for what it is."""
        self._refused.labels(code).inc()

    @contextmanager
    def request(self, model: str) -> Iterator[MeasuredRequest]:
        """Measure one request, from its body to the end of its answer."""
        of_model = self._of(model)
        measured = MeasuredRequest()
        started = time.monotonic()
        of_model.in_flight.inc()
        try:
            yield measured
        finally:
            of_model.in_flight.dec()
            of_model.ended(measured.code).inc()
            of_model.duration.observe(time.monotonic() - started)
            if measured.first_token_seconds:
                of_model.first_token.observe(measured.first_token_seconds)

    @contextmanager
    def generation(self, model: str, place: Generating, *, prompt_tokens: int, running: int) -> Iterator[None]:
        """Measure one generation while it is at the engine, where `running` sequences are with it."""
        of_model = self._of(model)
        of_model.sequences.observe(running)
        try:
            yield
        finally:
            if place.first_token_at is not None:
                of_model.prompt_tokens.inc(prompt_tokens)
                of_model.generated_tokens.inc(place.tokens)
                if place.tokens > 1:
                    since_first = time.monotonic() - place.first_token_at
                    of_model.per_token.observe(since_first / (place.tokens - 1))

    def keep_only(self, models: set[str]) -> None:
        """End the series of models that are assigned no more."""
        for gone in self._models.keys() - models:
            del self._models[gone]
            self._families.remove(gone)

    def _of(self, model: str) -> "_OfModel":
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = _OfModel(model, self._families)
        return found


class _Families:
    """The metric families that have a model as their first label."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, text, ["model"], buckets=buckets, registry=registry)

        self.requests = Counter(
            "warmfleet_requests",
            "Requests that ended, by HTTP status; cancelled: the client left early; broken: the engine ended first.",
            ["model", "code"],
            registry=registry,
        )
        self.in_flight = Gauge(
            "warmfleet_requests_in_flight", "Requests in the queue or at the engine now.", ["model"], registry=registry
        )
        self.first_token = histogram(
            "warmfleet_time_to_first_token_seconds",
            "From the request's body to the first bytes of the answer's, the wait in the queue included.",
            LATENCY_BUCKETS,
        )
        self.per_token = histogram(
            "warmfleet_time_per_token_seconds", "Between the tokens of an answer, after the first.", PER_TOKEN_BUCKETS
        )
        self.duration = histogram(
            "warmfleet_request_seconds", "From the request's body to the end of the answer.", LATENCY_BUCKETS
        )
        self.sequences = histogram(
            "warmfleet_batch_sequences",
            "Sequences at the engine when a generation begins, its own included.",
            SEQUENCE_BUCKETS,
        )
        self.prompt_tokens = Counter(
            "warmfleet_prompt_tokens",
            "Prompt tokens of requests that were answered, estimated from their bytes.",
            ["model"],
            registry=registry,
        )
        self.generated_tokens = Counter(
            "warmfleet_generated_tokens", "Tokens engines generated for requests.", ["model"], registry=registry
        )

    def remove(self, model: str) -> None:
        """Remove a model's series from all of them."""
        for family in vars(self).values():
            family.remove_by_labels({"model": model})


class _OfModel:
    """A model's series, each looked up once."""

    def __init__(self, model: str, families: _Families) -> None:
        self._model = model
        self._requests = families.requests
        self._by_code: dict[str, Counter] = {}
        self.in_flight = families.in_flight.labels(model)
        self.first_token = families.first_token.labels(model)
        self.per_token = families.per_token.labels(model)
        self.duration = families.duration.labels(model)
        self.sequences = families.sequences.labels(model)
        self.prompt_tokens = families.prompt_tokens.labels(model)
        self.generated_tokens = families.generated_tokens.labels(model)

    def ended(self, code: str) -> Counter:
        """Return the counter of requests that ended with a code."""
        found = self._by_code.get(code)
        if found is None:
            found = self._by_code[code] = self._requests.labels(self._model, code)
        return found
