"""What the operator learns of starts, and how well it foretold them: the only place where estimates are kept.

The decisions are pure (`decide/predict*.py`); here is what they can't have: memory between rounds. After a restart it
begins with the last starts in the statuses, and with forecasts of the starts that it sees from then on.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import Histogram

from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.status import LastStart
from warmfleet_api.vocabulary import EngineState, Stage, StartType
from warmfleet_operator.decide.actions import Forecast
from warmfleet_operator.decide.estimates import Estimates
from warmfleet_operator.decide.fleet import Model, ModelKey, OwnerKey
from warmfleet_operator.decide.predict_learn import observe, rebuilt
from warmfleet_operator.decide.predict_stages import node_type
from warmfleet_operator.records import Node

FORGET_SECONDS = 60.0
"""A forecast of a start that was given up counts no more when the model starts again later."""
_GRAIN_SECONDS = 0.5
"""Added before a ratio is taken: a start of milliseconds is not foretold badly by being as quick."""


@dataclass(slots=True)
class _Told:
    """What was foretold of one start at one moment."""

    at: float
    ready_seconds: float
    start_type: StartType


@dataclass(slots=True)
class _Start:
    """A start that waits or is under way."""

    seen: float
    told: dict[str, _Told] = field(default_factory=dict)
    """When it was queued, and when it was placed."""


@dataclass(slots=True)
class _Stage:
    """The stage under way of one engine."""

    attempt: int
    stage: Stage | None
    since: float


class Predictions:
    """Estimates of the running operator. Not for several threads."""

    def __init__(self, ratio: Histogram, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin without knowledge.

        Args:
            ratio: Of what a start took to what was foretold, by `start_type` and `told`.
            clock: Seconds that only grow.
        """
        self._ratio = ratio
        self._clock = clock
        self._estimates: Estimates | None = None
        self._starts: dict[ModelKey, _Start] = {}
        self._stages: dict[str, dict[str, _Stage]] = {}

    def estimates(self, models: Iterable[Model], nodes: Mapping[str, Node]) -> Estimates:
        """Return what is known; the first time, what the last starts of all models teach."""
        if self._estimates is None:
            self._estimates = rebuilt(models, nodes)
        return self._estimates

    # What is foretold and what happens ------------------------------------------------------------------------------

    def foretold(self, forecasts: Mapping[ModelKey, Forecast], waiting: Iterable[OwnerKey]) -> None:
        """Take a round's forecasts: the first of each start when it is queued, and when it has its place, count."""
        now, queued = self._clock(), set(waiting)
        for key, forecast in forecasts.items():
            start = self._starts.setdefault(key, _Start(now))
            start.seen = now
            when = "Queued" if key in queued else "Placed"
            if forecast.ready_seconds is not None and when not in start.told:
                start.told[when] = _Told(now, forecast.ready_seconds, forecast.start_type)
        for key in [key for key, start in self._starts.items() if now - start.seen > FORGET_SECONDS]:
            del self._starts[key]

    def ended(self, model: Model, start: LastStart, nodes: Mapping[str, Node]) -> None:
        """Learn from a start that ended just now, and count how far off its forecasts were."""
        foretold = self._starts.pop(model.key, None)
        if start.result != "Succeeded":
            return
        if self._estimates is not None:
            self._estimates = observe(self._estimates, model, node_type(nodes.get(start.node)), start)
        now = self._clock()
        for when, told in foretold.told.items() if foretold is not None else ():
            ratio = (now - told.at + _GRAIN_SECONDS) / (told.ready_seconds + _GRAIN_SECONDS)
            self._ratio.labels(told.start_type, when).observe(ratio)

    # How long stages last -------------------------------------------------------------------------------------------

    def heard(self, status: RunnerStatus) -> None:
        """Take a runner's status line: note when stages begin."""
        now, before = self._clock(), self._stages.get(status.pod_uid, {})
        after: dict[str, _Stage] = {}
        for engine in status.engines:
            if engine.state is not EngineState.STARTING:
                continue
            known = before.get(engine.id)
            is_same = known is not None and (known.attempt, known.stage) == (engine.starts, engine.stage)
            after[engine.id] = known if known is not None and is_same else _Stage(engine.starts, engine.stage, now)
        self._stages[status.pod_uid] = after

    def stage_seconds(self, uid: str) -> Mapping[str, float]:
        """Return for how long the stage under way of each engine of a runner has been seen."""
        now = self._clock()
        return {key: now - each.since for key, each in self._stages.get(uid, {}).items()}

    def forget(self, uid: str) -> None:
        """Drop what was seen of a pod that is gone."""
        self._stages.pop(uid, None)
