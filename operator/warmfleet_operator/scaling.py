"""Measures models with `autoscaling` every few seconds, and keeps what their policies wish and autoscalers are shown.

In memory: what a new operator needs to go on is in spec and status, and a window that is not full yet lets nobody go.
The decisions are in `decide/scaling.py`; the HorizontalPodAutoscalers belong to the model's pass.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Never

from warmfleet_api.autoscaling import Autoscaling, ScalingWindows
from warmfleet_api.operator_api import ModelScaling, ScalingAnswer
from warmfleet_kube.mirror import Mirror
from warmfleet_operator.decide.fleet import Model, ModelKey
from warmfleet_operator.decide.scaling import (
    MARKS_SECONDS,
    SAMPLE_SECONDS,
    History,
    Sample,
    ScalingView,
    Wish,
    desired,
    exported,
)
from warmfleet_operator.decide.scaling_sample import sample_of
from warmfleet_operator.decide.scaling_schedule import timetable
from warmfleet_operator.decide.situation import Situation
from warmfleet_operator.decide.times import format_time, parse_time
from warmfleet_operator.demand import Demands
from warmfleet_operator.records import HorizontalPodAutoscaler
from warmfleet_operator.scaling_metrics import ScalingMetrics

SETTLE_SECONDS = 30.0
"""So long after it began to lead an operator does not tell that a wish is unknown: it will soon be known."""
AWAKE_SECONDS = 3 * SAMPLE_SECONDS
"""For how long each look at a schedule keeps a model awake."""
MODELS_AT_ONCE = 10
"""So many are measured before others have their turn."""


_NO_WISH = Wish(None, ())


@dataclass(slots=True)
class _Scaled:
    """What is kept of one model."""

    samples: deque[Sample] = field(default_factory=deque)
    wish: Wish = _NO_WISH
    value: int | None = None
    replicas_by_schedule: int = 0


class Scalings:
    """The wishes of all models. `changed` hears of each model whose pass is to look at it again."""

    def __init__(
        self,
        *,
        situation: Callable[[ModelKey], Situation | None],
        models: Callable[[], list[ModelKey]],
        demands: Demands,
        autoscalers: Mirror[HorizontalPodAutoscaler],
        explain: Callable[[], str],
        metrics: ScalingMetrics,
        changed: Callable[[ModelKey], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`models` names those with the block, `situation` is None for one that is gone or can't be read, and
        `explain` says who serves external metrics."""
        self._situation = situation
        self._models = models
        self._demands = demands
        self._autoscalers = autoscalers
        self._explain = explain
        self._metrics = metrics
        self._changed = changed
        self._now = now
        self._scaled: dict[ModelKey, _Scaled] = {}
        self._began: float | None = None

    async def run(self) -> Never:
        """Measure until cancelled."""
        self._began = time.monotonic()
        while True:
            await self.measure()
            await asyncio.sleep(SAMPLE_SECONDS)

    async def measure(self) -> None:
        """Measure all models once."""
        keys = self._models()
        for gone in self._scaled.keys() - set(keys):
            del self._scaled[gone]
            self._metrics.forget(gone)
        for number, key in enumerate(keys):
            if number % MODELS_AT_ONCE == 0:
                await asyncio.sleep(0)
            situation = self._situation(key)
            if situation is not None and situation.model.spec.autoscaling is not None:
                self._measure(situation, situation.model.spec.autoscaling)

    def view(self, model: Model) -> ScalingView | None:
        """Return what a model's status is to tell of; None: it is not scaled."""
        block = model.spec.autoscaling
        if block is None:
            return None
        scaled = self._scaled.get(model.key)
        is_settled = self._began is not None and time.monotonic() - self._began >= SETTLE_SECONDS
        wish = scaled.wish if scaled is not None and (scaled.wish.replicas is not None or is_settled) else None
        own = self._autoscalers.get(model.key.namespace, model.key.name)
        active = own.condition("ScalingActive") if own is not None and not is_foreign(own, model) else None
        # One that rests because replicas is 0 is not blind.
        is_blind = active is not None and active.status == "False" and active.reason != "ScalingDisabled"
        return ScalingView(
            wish=wish,
            timetable=timetable(block.schedule, self._now()),
            foreign=self.foreign(model),
            blind_since=active.last_transition_time if is_blind and active is not None else None,
            trouble=f"{active.message}; {self._explain()}" if is_blind and active is not None else "",
        )

    def foreign(self, model: Model) -> str:
        """Return the name of an autoscaler that stands in the way of the model's own; empty: none does."""
        of_it = self._autoscalers.indexed(model.key)
        of_its_name = self._autoscalers.get(model.key.namespace, model.key.name)
        others = [*of_it, *((of_its_name,) if of_its_name is not None else ())]
        return min((each.metadata.name for each in others if is_foreign(each, model)), default="")

    def answer(self) -> ScalingAnswer:
        """Return what all autoscalers are to see."""
        models = tuple(
            ModelScaling(namespace=key.namespace, model=key.name, value=each.value)
            for key, each in self._scaled.items()
        )
        return ScalingAnswer(time=format_time(self._now()), models=models)

    def _measure(self, situation: Situation, block: Autoscaling) -> None:
        key, now = situation.model.key, self._now()
        scaled = self._scaled.setdefault(key, _Scaled())
        planned = timetable(block.schedule, now)
        is_news = planned.replicas != scaled.replicas_by_schedule
        if planned.replicas and situation.wanted:
            is_news |= self._demands.keep_awake(key, AWAKE_SECONDS)
        scaled.samples.append(sample_of(situation, self._demands.unheard(key), now))
        oldest = now - timedelta(seconds=_kept_seconds(block))
        while scaled.samples[0].time < oldest:
            scaled.samples.popleft()
        steps = situation.model.status.scaling.steps if situation.model.status.scaling is not None else []
        history = History(
            spec=block,
            samples=tuple(scaled.samples),
            scaled_time=parse_time(steps[-1].time) if steps else None,
            has_gpus=situation.model.spec.gpus > 0,
            timetable=planned,
        )
        wish = desired(history, now)
        is_news |= wish.replicas != scaled.wish.replicas
        scaled.wish, scaled.replicas_by_schedule = wish, planned.replicas
        scaled.value = exported(history, wish, now)
        self._metrics.told(key, scaled.samples[-1], wish, scaled.value)
        if is_news:
            self._changed(key)


def is_foreign(autoscaler: HorizontalPodAutoscaler, model: Model) -> bool:
    """Whether an autoscaler is not the model's own."""
    return autoscaler.metadata.controller_uid != model.metadata.uid


def _kept_seconds(block: Autoscaling) -> float:
    windows = block.windows or ScalingWindows()
    return max(windows.down_seconds, MARKS_SECONDS) + 2 * SAMPLE_SECONDS
