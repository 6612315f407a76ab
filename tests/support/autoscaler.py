"""A HorizontalPodAutoscaler played on a clock of its own, and a model in its hands: for properties and pictures.

The arithmetic is that of Kubernetes' `horizontal.go` for one External metric with AverageValue: a tenth of tolerance,
recommendations held back by their windows, and steps limited by policies. The real one is asked in the cluster tier.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from warmfleet_api.autoscaling import Autoscaling
from warmfleet_operator.build.autoscaler import behavior_of
from warmfleet_operator.decide.scaling import SAMPLE_SECONDS, History, Sample, Wish, desired, exported

BORN = datetime(2026, 1, 31, 8, 0, 0, tzinfo=UTC)
SYNC_SECONDS = 15
TOLERANCE = 0.1
_KEPT_SECONDS = 3600
_STEPS: dict[str, Callable[[int, int], int]] = {
    "Pods": lambda replicas, value: value,
    "Percent": lambda replicas, value: math.ceil(replicas * value / 100),
}


@dataclass(slots=True)
class Autoscaler:
    """What the controller keeps of one object."""

    block: Autoscaling
    _wishes: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def sync(self, now: float, replicas: int, value: int | None) -> int:
        """Return the replicas it writes at a time in seconds; None: the metric can't be had."""
        block = self.block
        if replicas > block.max_replicas:
            return self._written(now, replicas, block.max_replicas)
        if replicas < block.floor:
            return self._written(now, replicas, block.floor)
        if value is None:
            return replicas
        is_near = abs(1 - value / (block.target * replicas)) <= TOLERANCE
        wish = replicas if is_near else math.ceil(value / block.target)
        behavior = behavior_of(block)
        self._wishes = [each for each in self._wishes if now - each[0] <= _KEPT_SECONDS] + [(now, wish)]
        least = min(each for at, each in self._wishes if now - at <= _window(behavior["scaleUp"]))
        most = max(each for at, each in self._wishes if now - at <= _window(behavior["scaleDown"]))
        held = min(max(replicas, least), most) if least <= most else replicas
        if held > replicas:
            held = min(held, replicas + self._room(now, replicas, behavior["scaleUp"], 1))
        elif held < replicas:
            held = max(held, replicas - self._room(now, replicas, behavior["scaleDown"], -1))
        return self._written(now, replicas, min(max(held, block.floor), block.max_replicas))

    def _room(self, now: float, replicas: int, direction: dict[str, Any], sign: int) -> int:
        """Return how many replicas it may add or take now."""
        if direction["selectPolicy"] == "Disabled":
            return 0
        rooms = []
        for policy in direction["policies"]:
            done = sum(change * sign for at, change in self._changes if now - at < policy["periodSeconds"])
            done = max(0, done)
            rooms.append(max(0, _STEPS[policy["type"]](replicas - sign * done, policy["value"]) - done))
        return (min if direction["selectPolicy"] == "Min" else max)(rooms)

    def _written(self, now: float, before: int, after: int) -> int:
        if before != after:
            self._changes.append((now, after - before))
        return after


def _window(direction: dict[str, Any]) -> int:
    seconds: int = direction["stabilizationWindowSeconds"]
    return seconds


@dataclass(frozen=True, slots=True)
class Moment:
    """How a played model was at one moment."""

    seconds: float
    demand: int
    replicas: int
    ready: int
    wish: Wish
    value: int | None


Load = Callable[[float, int], int]
"""Requests at a time in seconds, with so many replicas that serve."""
Measure = Callable[[datetime, int, int, int], Sample]
"""What is seen at a time, with replicas, those that are ready, and requests."""


def as_measured(time: datetime, replicas: int, ready: int, demand: int) -> Sample:
    """Return a sample whose marks are those of engines that run eight requests at once in their four CPUs."""
    each = demand / max(1, ready)
    busy = min(100, round(100 * each / 8))
    return Sample(
        time=time,
        replicas=replicas,
        ready=ready,
        demand=demand,
        capacity=8,
        cpu_percent=busy,
        gpu_percent=busy,
        latency_milliseconds=round(200 * max(1.0, each / 8)),
        queue_requests=max(0, int(each) - 8),
    )


def play(
    block: Autoscaling,
    load: Load,
    seconds: int,
    *,
    replicas: int = 1,
    start_seconds: float = 20,
    measure: Measure = as_measured,
) -> list[Moment]:
    """Let a model live under a load: one moment for each measurement. A replica is ready some time after it came."""
    autoscaler, samples = Autoscaler(block), deque[Sample](maxlen=64)
    scaled: datetime | None = None
    came = [-start_seconds] * replicas
    moments = []
    next_sync = 0.0
    for step in range(int(seconds / SAMPLE_SECONDS)):
        at = step * SAMPLE_SECONDS
        now = BORN + timedelta(seconds=at)
        ready = sum(at - each >= start_seconds for each in came)
        demand = load(at, ready)
        samples.append(measure(now, replicas, ready, demand))
        history = History(block, tuple(samples), scaled, has_gpus=True)
        wish = desired(history, now)
        value = exported(history, wish, now)
        moments.append(Moment(at, demand, replicas, ready, wish, value))
        if at >= next_sync:
            next_sync = at + SYNC_SECONDS
            written = autoscaler.sync(at, replicas, value)
            if written != replicas:
                scaled = now
                came = [*came[:written], *([at] * max(0, written - replicas))]
                replicas = written
    return moments
