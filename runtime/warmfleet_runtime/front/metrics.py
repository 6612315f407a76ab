"""Prometheus metrics: of requests (counted here), of engines (from the status), and the engines' own, relabelled."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import aiohttp
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from warmfleet_api.vocabulary import EngineState
from warmfleet_runtime.front.board import Board
from warmfleet_runtime.front.upstream import Upstream

_ENGINE_PREFIX = "vllm:"
_SCRAPE_SECONDS = 2.0
_LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(slots=True)
class MeasuredRequest:
    """What is counted of one request when it ends."""

    code: str = "error"
    """HTTP status, or `cancelled`: the client left."""
    first_token_seconds: float = 0.0
    """Until the first bytes of the answer's body."""


class RequestMetrics:
    """Counts requests by model; models are those assigned, so their number is bounded."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "warmfleet_requests", "Requests that ended, by HTTP status.", ["model", "code"], registry=registry
        )
        self._in_flight = Gauge(
            "warmfleet_requests_in_flight", "Requests at the engine now.", ["model"], registry=registry
        )
        self._first_token = Histogram(
            "warmfleet_time_to_first_token_seconds",
            "From the request's body to the first bytes of the answer's.",
            ["model"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self._duration = Histogram(
            "warmfleet_request_seconds",
            "From the request's body to the end of the answer.",
            ["model"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )

    @contextmanager
    def request(self, model: str) -> Iterator[MeasuredRequest]:
        """Measure one request."""
        measured = MeasuredRequest()
        started = time.monotonic()
        in_flight = self._in_flight.labels(model)
        in_flight.inc()
        try:
            yield measured
        finally:
            in_flight.dec()
            self._requests.labels(model, measured.code).inc()
            self._duration.labels(model).observe(time.monotonic() - started)
            if measured.first_token_seconds:
                self._first_token.labels(model).observe(measured.first_token_seconds)


class EngineCollector(Collector):
    """The engines as the status tells them."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterable[Metric]:
        """Return the present state, stages and memory of each engine."""
        state = GaugeMetricFamily(
            "warmfleet_engine_state", "1 for the state the engine is in.", labels=["model", "engine", "state"]
        )
        stage = GaugeMetricFamily(
            "warmfleet_start_stage_seconds", "Stages of the last start.", labels=["model", "engine", "stage"]
        )
        starts = GaugeMetricFamily(
            "warmfleet_engine_starts", "Starts begun since the runner started.", labels=["model", "engine"]
        )
        memory = GaugeMetricFamily(
            "warmfleet_engine_memory_bytes", "Memory of the engine's processes.", labels=["model", "engine"]
        )
        for engine in self._board.table.status.engines:
            for each in EngineState:
                state.add_metric([engine.model, engine.id, each], float(engine.state is each))
            for finished in engine.stages:
                stage.add_metric([engine.model, engine.id, finished.name], finished.milliseconds / 1000)
            starts.add_metric([engine.model, engine.id], engine.starts)
            memory.add_metric([engine.model, engine.id], engine.memory_bytes)
        return state, stage, starts, memory


class _Passed(Collector):
    """Metrics of the engines, merged by family."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def exposition(registry: CollectorRegistry, board: Board, upstream: Upstream) -> bytes:
    """Return our metrics and those of each Ready engine, theirs with a `model` label added."""
    ready = [route for route in board.table.routes.values() if route.accepts]
    texts = await asyncio.gather(*(_scrape(upstream.session(route.socket, route.attempt)) for route in ready))
    families: dict[str, Metric] = {}
    for route, text in zip(ready, texts, strict=True):
        for family in text_string_to_metric_families(text):
            if family.name.startswith(_ENGINE_PREFIX):
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                merged.samples += [_relabelled(sample, route.engine.model) for sample in family.samples]
    passed = CollectorRegistry()
    passed.register(_Passed(families.values()))
    return generate_latest(registry) + generate_latest(passed)


def _relabelled(sample: Sample, model: str) -> Sample:
    return sample._replace(labels={**sample.labels, "model": model})


async def _scrape(session: aiohttp.ClientSession) -> str:
    """Return the engine's metrics; an engine that can't tell them in time has none this time."""
    try:
        async with session.get("/metrics", timeout=aiohttp.ClientTimeout(total=_SCRAPE_SECONDS)) as response:
            return await response.text() if response.status == 200 else ""
    except (aiohttp.ClientError, TimeoutError, OSError):
        return ""
