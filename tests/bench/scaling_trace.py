"""The policies of autoscaling on one trace of real requests, in simulated time: who had how many replicas when.

The requests are those of a shipped trace, each ten times, so that they fill more than one replica. A replica runs
sixteen at once and begins with the oldest that waits; one that came is ready twenty seconds later. Between policy and
replicas stands a played HorizontalPodAutoscaler with the default behavior. Nothing is timed, so every run is the same.
"""

import heapq
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from support.autoscaler import Moment, play
from warmfleet_api.autoscaling import Autoscaling
from warmfleet_emulator.traces import Traced, find_trace, read_trace
from warmfleet_operator.decide.scaling import SAMPLE_SECONDS, Sample

TRACE = "azure-code.csv"
TIMES = 10
SPREAD_SECONDS = 10.0
"""Over which time the copies of a request come."""
SLOTS = 16
PROMPT_TOKENS_PER_SECOND, ANSWER_TOKENS_PER_SECOND = 2000.0, 10.0
START_SECONDS = 20.0
FIRST_TOKEN_SECONDS = 0.2
REPLICAS = 5
CASES: dict[str, dict[str, Any]] = {
    "Demand": {"policy": "Demand", "targetRequests": 12},
    "Utilization": {"policy": "Utilization"},
    "Rules": {"policy": "Rules"},
    "always 1": {"policy": "Demand", "maxReplicas": 1},
    "always 5": {"policy": "Demand", "minReplicas": REPLICAS},
}
"""By name of the case: its block. The last two are there to compare with."""


@dataclass(slots=True)
class Plant:
    """Requests and replicas: what waits, what runs, and how long first tokens took lately."""

    coming: deque[tuple[float, float]]
    """When each request comes, and how long an engine works for it."""
    _waiting: deque[tuple[float, float]] = field(default_factory=deque)
    _ends: list[float] = field(default_factory=list)
    _first_tokens: deque[tuple[float, float]] = field(default_factory=deque)
    waited_seconds: list[float] = field(default_factory=list)
    """Of each request, before it ran."""

    def demand(self, at: float, ready: int) -> int:
        """Let time pass until `at` with so many replicas; return the requests that wait or run."""
        now = max(0.0, at - SAMPLE_SECONDS)
        while now < at:
            now = min(at, now + 0.25)
            while self._ends and self._ends[0] <= now:
                heapq.heappop(self._ends)
            while self.coming and self.coming[0][0] <= now:
                self._waiting.append(self.coming.popleft())
            while self._waiting and len(self._ends) < ready * SLOTS:
                came, seconds = self._waiting.popleft()
                heapq.heappush(self._ends, now + seconds)
                waited = max(0.0, now - came)
                self.waited_seconds.append(waited)
                self._first_tokens.append((now, waited + FIRST_TOKEN_SECONDS))
        return len(self._waiting) + len(self._ends)

    def measure(self, time: datetime, replicas: int, ready: int, demand: int) -> Sample:
        """Return what the operator would see."""
        busy = 100 * len(self._ends) // max(1, ready * SLOTS)
        lately = [seconds for _, seconds in self._first_tokens]
        self._first_tokens.clear()
        return Sample(
            time=time,
            replicas=replicas,
            ready=ready,
            demand=demand,
            capacity=SLOTS,
            cpu_percent=busy,
            gpu_percent=busy,
            latency_milliseconds=round(1000 * sum(lately) / len(lately)) if lately else 0,
            queue_requests=len(self._waiting) // max(1, ready),
        )


def arrivals(trace: list[Traced]) -> deque[tuple[float, float]]:
    """Return when requests come and how long they take, each of the trace several times."""
    found = []
    for each in trace:
        seconds = each.prompt_tokens / PROMPT_TOKENS_PER_SECOND + each.answer_tokens / ANSWER_TOKENS_PER_SECOND
        found += [(each.time + number * SPREAD_SECONDS / TIMES, seconds) for number in range(TIMES)]
    return deque(sorted(found))


def measure() -> dict[str, Any]:
    """Play all cases; return their figures, and under `moments` what the picture shows."""
    trace = read_trace(find_trace(TRACE, Path(TRACE)))
    seconds = int(trace[-1].time + 600)
    figures: dict[str, Any] = {"trace": TRACE, "requests": len(trace) * TIMES, "seconds": seconds, "policies": {}}
    for name, block in CASES.items():
        plant = Plant(arrivals(trace))
        scaled = Autoscaling.model_validate(block)
        moments = play(
            scaled,
            plant.demand,
            seconds,
            replicas=scaled.floor,
            start_seconds=START_SECONDS,
            measure=plant.measure,
        )
        figures["policies"][name] = of_a_case(moments, plant)
    return figures


def of_a_case(moments: list[Moment], plant: Plant) -> dict[str, Any]:
    """Return the figures of one case."""
    waited = sorted(plant.waited_seconds)
    overload = sum(each.demand > each.ready * SLOTS for each in moments) * SAMPLE_SECONDS
    scalings = [
        {"seconds": after.seconds, "from": before.replicas, "to": after.replicas, "reason": before.wish.reason}
        for before, after in pairwise(moments)
        if before.replicas != after.replicas
    ]
    return {
        "overload_seconds": overload,
        "replica_seconds": sum(each.replicas for each in moments) * SAMPLE_SECONDS,
        "served_requests": len(waited),
        "wait_seconds_mean": round(sum(waited) / len(waited), 3),
        "wait_seconds_p99": round(waited[int(0.99 * len(waited))], 3),
        "replicas_most": max(each.replicas for each in moments),
        "scalings": scalings,
        "moments": [[each.seconds, each.demand, each.replicas, each.ready] for each in moments],
    }
