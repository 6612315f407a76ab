"""Metrics of what others count: engines and zygote as the status tells them, starts as PID 1 records them, queues."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter
from prometheus_client import Histogram as PrometheusHistogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from warmfleet_api.runner_status import EngineStatus, RunnerStatus, StartRecord
from warmfleet_api.vocabulary import EngineState, Priority, ZygoteState
from warmfleet_runtime.admission import Histogram, Statistics
from warmfleet_runtime.front.admission import Admission
from warmfleet_runtime.front.board import Board

START_BUCKETS = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 90, 120, 180, 300, 600, 1200, 3600)
STAGE_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800)
SUCCEEDED = "Succeeded"
"""The `result` of a start that did; else the reason it did not."""


class EngineCollector(Collector):
    """The runner's engines and its zygote, as the status tells them."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterable[Metric]:
        """Return what is true now."""
        status = self._board.status()
        yield from _engines(status.engines)
        yield from _zygote(status)


def _engines(engines: Sequence[EngineStatus]) -> Iterable[Metric]:
    def gauge(name: str, text: str, *more: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(name, text, labels=["model", "engine", *more])

    state = gauge("warmfleet_engine_state", "1 for the state the engine is in.", "state")
    stage = gauge(
        "warmfleet_last_start_stage_seconds", "Stages of the engine's last start, or of its present one.", "stage"
    )
    starts = gauge("warmfleet_engine_starts", "Starts begun since the runner started.")
    memory = gauge("warmfleet_engine_memory_bytes", "Memory of the engine's processes now.")
    awake = gauge("warmfleet_engine_awake_memory_bytes", "Memory measured when the engine was last Ready.")
    asleep = gauge("warmfleet_engine_asleep_memory_bytes", "Memory measured when the engine was last Asleep.")
    first = gauge("warmfleet_engine_first_request_seconds", "Time to first token right before the engine was Ready.")
    for engine in engines:
        key = [engine.model, engine.id]
        for each in EngineState:
            state.add_metric([*key, each], float(engine.state is each))
        for finished in engine.stages:
            stage.add_metric([*key, finished.name], finished.milliseconds / 1000)
        starts.add_metric(key, engine.starts)
        memory.add_metric(key, engine.memory_bytes)
        if engine.awake_memory_bytes:
            awake.add_metric(key, engine.awake_memory_bytes)
        if engine.asleep_memory_bytes:
            asleep.add_metric(key, engine.asleep_memory_bytes)
        if engine.first_request_milliseconds is not None:
            first.add_metric(key, engine.first_request_milliseconds / 1000)
    return state, stage, starts, memory, awake, asleep, first


def _zygote(status: RunnerStatus) -> Iterable[Metric]:
    state = GaugeMetricFamily(
        "warmfleet_zygote_state",
        "1 for the state the zygote is in; Unavailable: engines are executed.",
        labels=["state"],
    )
    seconds = GaugeMetricFamily("warmfleet_zygote_import_seconds", "How long the zygote's imports took.", labels=[])
    if status.zygote:
        for each in ZygoteState:
            state.add_metric([each], float(status.zygote.state is each))
        if status.zygote.import_milliseconds is not None:
            seconds.add_metric([], status.zygote.import_milliseconds / 1000)
    return state, seconds


class StartMetrics:
    """Counts each recorded start once, whichever front saw it.

    PID 1 tells of the last starts with every table, to a restarted front those too that its predecessor has counted.
    So a front counts what ended since it runs; that a start which failed in between is missing is the lesser evil.
    """

    def __init__(self, registry: CollectorRegistry, since: datetime) -> None:
        self._since = since
        self._counted = 0
        self._starts = Counter(
            "warmfleet_starts",
            "Starts that ended, wakes included: how they were launched (empty: a wake), and what became of them.",
            ["model", "type", "launch", "result"],
            registry=registry,
        )
        self._duration = PrometheusHistogram(
            "warmfleet_start_seconds",
            "From the decision to Ready, of starts that succeeded.",
            ["model", "type", "launch"],
            buckets=START_BUCKETS,
            registry=registry,
        )
        self._stages = PrometheusHistogram(
            "warmfleet_start_stage_seconds",
            "Stages of starts that succeeded.",
            ["model", "type", "stage"],
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self._reused = Counter(
            "warmfleet_starts_with_compile_cache",
            "Starts that succeeded and began with a compile cache from the weight store.",
            ["model"],
            registry=registry,
        )
        self._models: set[str] = set()

    def follow(self, starts: Sequence[StartRecord], models: set[str]) -> None:
        """Count what is new, and end the series of models that are assigned no more."""
        for start in starts:
            if start.sequence > self._counted:
                self._counted = start.sequence
                if datetime.fromisoformat(start.ended_time) >= self._since and start.model in models:
                    self._count(start)
        for gone in self._models - models:
            for family in (self._starts, self._duration, self._stages, self._reused):
                family.remove_by_labels({"model": gone})
        self._models &= models

    def _count(self, start: StartRecord) -> None:
        self._models.add(start.model)
        launch = start.launch or ""
        result = start.error.reason if start.error else SUCCEEDED
        self._starts.labels(start.model, start.start_type, launch, result).inc()
        if start.error:
            return
        self._duration.labels(start.model, start.start_type, launch).observe(start.milliseconds / 1000)
        if start.compile_cache_files:
            self._reused.labels(start.model).inc()
        for stage in start.stages:
            self._stages.labels(start.model, start.start_type, stage.name).observe(stage.milliseconds / 1000)


class QueueCollector(Collector):
    """The admission queues' own statistics, those of one model's engines together."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    def collect(self) -> Iterable[Metric]:
        """Return what the queues have counted."""
        by_model: dict[str, list[Statistics]] = defaultdict(list)
        for queue in self._admission.queues.values():
            by_model[queue.model].append(queue.queue.statistics())
        yield from _classes(by_model)
        yield from _queues(by_model)


def _classes(by_model: dict[str, list[Statistics]]) -> Iterable[Metric]:
    labels = ["model", "class"]
    waiting = GaugeMetricFamily("warmfleet_queue_waiting", "Generations that wait for their turn.", labels=labels)
    running = GaugeMetricFamily("warmfleet_queue_running_sequences", "Sequences at the engine.", labels=labels)
    wait = HistogramMetricFamily(
        "warmfleet_queue_wait_seconds", "How long generations waited that were sent to the engine.", labels=labels
    )
    counts = {
        name: CounterMetricFamily(f"warmfleet_queue_{name}", text, labels=labels)
        for name, text in (
            ("accepted", "Requests taken into the queue."),
            ("merged", "Requests that got the answer of an identical one."),
            ("dispatched", "Generations sent to the engine."),
            ("finished", "Generations the engine is done with."),
            ("cancelled", "Generations whose clients all left."),
        )
    }
    refused = CounterMetricFamily(
        "warmfleet_queue_refused", "Requests the queue refused, at once or later.", labels=[*labels, "code"]
    )
    for model, queues in by_model.items():
        for priority in Priority:
            classes = [each.classes[priority] for each in queues]
            key = [model, priority]
            waiting.add_metric(key, sum(each.waiting for each in classes))
            running.add_metric(key, sum(each.running for each in classes))
            _add_histogram(wait, key, [each.wait_seconds for each in classes])
            for name, family in counts.items():
                family.add_metric(key, sum(getattr(each, name) for each in classes))
            for code in sorted({code for each in classes for code in each.refused}):
                refused.add_metric([*key, code], sum(each.refused[code] for each in classes))
    return waiting, running, wait, *counts.values(), refused


def _queues(by_model: dict[str, list[Statistics]]) -> Iterable[Metric]:
    sizes = HistogramMetricFamily(
        "warmfleet_queue_batch_requests", "Generations sent to the engine at the same moment.", labels=["model"]
    )
    window = GaugeMetricFamily(
        "warmfleet_queue_window_sequences",
        "Sequences that may be at the engine without touching what is reserved for higher classes.",
        labels=["model"],
    )
    for model, queues in by_model.items():
        _add_histogram(sizes, [model], [each.batch_sizes for each in queues])
        window.add_metric([model], sum(each.window for each in queues))
    return sizes, window


def _add_histogram(family: HistogramMetricFamily, labels: list[str], parts: list[Histogram]) -> None:
    """Add histograms of the same bounds together as one."""
    total = 0
    buckets: list[tuple[str, float]] = []
    for index, bound in enumerate((*parts[0].bounds, float("inf"))):
        total += sum(part.counts[index] for part in parts)
        buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
    family.add_metric(labels, buckets, sum(part.sum for part in parts))
