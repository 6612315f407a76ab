"""Prometheus metrics of the operator, in one registry of its own."""

import itertools
import time
from collections import Counter as Tally

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from warmfleet_api.status import LastStart, ModelDeploymentStatus
from warmfleet_api.vocabulary import WAITS, Priority
from warmfleet_kube.metrics import QUICK_SECONDS, KubeMetrics
from warmfleet_operator.decide.actions import Decisions
from warmfleet_operator.decide.fleet import Fleet, ModelKey
from warmfleet_operator.decide.ledger_use import GPUS, KINDS, STATES, engine_bytes, ledger_use
from warmfleet_operator.decide.requests import MEMORY
from warmfleet_operator.scaling_metrics import ScalingMetrics

CONTENT_TYPE = CONTENT_TYPE_LATEST
LEDGER_SECONDS = 10.0
"""How often what is taken of the fleet is summed up, at most."""
_STARTS = (0.25, 0.5, 1, 1.5, 2, 3, 5, 10, 20, 40, 60, 120, 300, 600)
_RATIOS = (0.1, 0.25, 0.5, 0.67, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 4, 10)


class Metrics:
    """All metrics; label values are a bounded set."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.kube = KubeMetrics(registry)
        self.reconciles = Histogram(
            "warmfleet_reconcile_seconds",
            "Time to reconcile one key.",
            ("kind", "result"),
            buckets=QUICK_SECONDS,
            registry=registry,
        )
        self.queue_wait = Histogram(
            "warmfleet_queue_wait_seconds",
            "Time a key that was due waited for a worker.",
            buckets=QUICK_SECONDS,
            registry=registry,
        )
        self.queue_depth = Gauge("warmfleet_queue_depth", "Keys that are due or delayed.", registry=registry)
        self.actions = Counter(
            "warmfleet_runner_actions_total",
            "Changes of runners that were tried, by outcome.",
            ("action", "result"),
            registry=registry,
        )
        self.starts = Counter(
            "warmfleet_starts_total",
            "Starts of engines that ended, by how they started and how they ended.",
            ("start_type", "result"),
            registry=registry,
        )
        self.start_seconds = Histogram(
            "warmfleet_start_seconds",
            "Time of a start that succeeded, from the decision to the first engine that can be reached.",
            ("start_type",),
            buckets=_STARTS,
            registry=registry,
        )
        self.prediction_ratio = Histogram(
            "warmfleet_prediction_ratio",
            "Time until a start was done to what was foretold, from when it was queued and from when it got its place.",
            ("start_type", "told"),
            buckets=_RATIOS,
            registry=registry,
        )
        self.start_stage_seconds = Histogram(
            "warmfleet_start_stage_seconds",
            "Time of each stage of starts that succeeded.",
            ("start_type", "stage"),
            buckets=_STARTS,
            registry=registry,
        )
        self.start_wait_seconds = Histogram(
            "warmfleet_start_wait_seconds",
            "Time a start that succeeded waited for its place, by the model's class.",
            ("priority",),
            buckets=_STARTS,
            registry=registry,
        )
        self.waiting_starts = Gauge(
            "warmfleet_waiting_starts", "Starts in the queue, by the model's class.", ("priority",), registry=registry
        )
        self.preemptions = Counter(
            "warmfleet_preemptions_total",
            "Engines that had to give way though they were not idle, by their model's class.",
            ("priority",),
            registry=registry,
        )
        self.sleeps = Counter(
            "warmfleet_sleeps_total", "Models that were put to sleep, idle for long or for others.", registry=registry
        )
        self.wakes = Counter("warmfleet_wakes_total", "Models that slept and were wanted again.", registry=registry)
        self.fragmentation = Gauge(
            "warmfleet_fragmentation_ratio",
            "Share of the free GPUs, or of the free memory in runners without GPUs if that is worse, that starts of "
            "waiting or usual sizes can't use.",
            registry=registry,
        )
        self.ledger = Gauge(
            "warmfleet_ledger",
            "GPUs (a number) and memory (bytes) of all nodes, as capacity and as what pods of anybody take.",
            ("resource", "kind"),
            registry=registry,
        )
        self.engine_bytes = Gauge(
            "warmfleet_engine_reserved_bytes",
            "Memory that is reserved for engines, of those awake and of those asleep.",
            ("state",),
            registry=registry,
        )
        self._ledger_at = 0.0
        self.starts_by_exec = Counter(
            "warmfleet_starts_by_exec_total",
            "Starts whose engine was executed because its runner could not fork it.",
            registry=registry,
        )
        self.streams = Gauge("warmfleet_streams_connected", "Status streams that deliver.", registry=registry)
        self.status_lines = Counter("warmfleet_streams_lines_total", "Status lines received.", registry=registry)
        self.agent_streams = Gauge(
            "warmfleet_agent_streams_connected", "Status streams of node agents that deliver.", registry=registry
        )
        self.agent_lines = Counter(
            "warmfleet_agent_streams_lines_total", "Status lines received from node agents.", registry=registry
        )
        self.cache_nodes = Gauge(
            "warmfleet_weight_cache_nodes",
            "Nodes of a WeightCache, all and those whose agent works.",
            ("cache", "state"),
            registry=registry,
        )
        self.cache_bytes = Gauge(
            "warmfleet_weight_cache_bytes",
            "Bytes of a WeightCache's nodes together: capacity and used, by tier.",
            ("cache", "tier", "kind"),
            registry=registry,
        )
        self.cache_writes = Counter(
            "warmfleet_weight_cache_writes_total",
            "Changes of DaemonSets, NodeCaches and agents that were tried, by outcome.",
            ("action", "result"),
            registry=registry,
        )
        self.scaling = ScalingMetrics(registry)
        self.events_dropped = Counter(
            "warmfleet_events_dropped_total", "Events for people that were given up.", registry=registry
        )
        self.leader = Gauge("warmfleet_leader", "1 while this process leads.", registry=registry)
        self.loop_lag = Gauge("warmfleet_loop_lag_seconds", "How late the event loop last was.", registry=registry)

    def started(self, start: LastStart, priority: Priority) -> None:
        """Count a start that ended."""
        self.starts.labels(start.start_type, start.result).inc()
        if start.result == "Succeeded":
            self.start_seconds.labels(start.start_type).observe(start.duration_milliseconds / 1000)
            for stage in start.stages:
                self.start_stage_seconds.labels(start.start_type, stage.name).observe(stage.milliseconds / 1000)
            waited = [stage.milliseconds for stage in start.stages if stage.name in WAITS]
            if waited:
                self.start_wait_seconds.labels(priority).observe(sum(waited) / 1000)

    def round_ended(self, fleet: Fleet, decisions: Decisions) -> None:
        """Count what a round of the fleet pass decided."""
        waiting = Tally(
            fleet.models[key].spec.priority
            for key, wait in decisions.waiting.items()
            if isinstance(key, ModelKey) and key in fleet.models and wait.position
        )
        for priority in Priority:
            self.waiting_starts.labels(priority).set(waiting[priority])
        for preemption in decisions.preemptions:
            victim = fleet.models.get(preemption.victim)
            self.preemptions.labels(victim.spec.priority if victim is not None else Priority.LOW).inc()
        self.fragmentation.set(decisions.fragmentation)
        if time.monotonic() - self._ledger_at >= LEDGER_SECONDS:
            self._ledger_at = time.monotonic()
            use, reserved = ledger_use(fleet), engine_bytes(fleet)
            for resource, kind in itertools.product((GPUS, MEMORY), KINDS):
                self.ledger.labels(resource, kind).set(use.get((resource, kind), 0))
            for state in STATES:
                self.engine_bytes.labels(state).set(reserved.get(state, 0))

    def status_written(self, former: ModelDeploymentStatus, new: ModelDeploymentStatus) -> None:
        """Count a model that was put to sleep, or woken."""
        if former.dormant is None and new.dormant is not None:
            self.sleeps.inc()
        elif former.dormant is not None and new.dormant is None:
            self.wakes.inc()

    def render(self) -> bytes:
        """Return all metrics in the text format."""
        return generate_latest(self.registry)
