"""The last round of the fleet pass, for those who tell of it: the models' passes, the API and the metrics."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from warmfleet_operator.decide.actions import Decisions, Preemption, Promotion
from warmfleet_operator.decide.fleet import ModelKey, OwnerKey
from warmfleet_operator.decide.predict_writes import moved_enough


@dataclass(slots=True)
class Rounds:
    """What was decided last. One per process."""

    decisions: Decisions = field(default_factory=Decisions)
    _at: float | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event)
    _preempted: dict[ModelKey, Preemption] = field(default_factory=dict)
    """The victims whose status does not tell of it yet."""
    _promoted: dict[ModelKey, Promotion] = field(default_factory=dict)
    """Those whose standby took over, if no event tells of it yet."""
    _told: dict[ModelKey, float] = field(default_factory=dict)
    """When a model's status last told anew of its start."""
    _foretold: dict[ModelKey, datetime | None] = field(default_factory=dict)
    """When each start was to be done, as its model's pass last heard."""

    @property
    def age_seconds(self) -> float | None:
        """Seconds since the last round; None before the first."""
        return None if self._at is None else time.monotonic() - self._at

    def ended(self, decisions: Decisions, now: datetime) -> set[OwnerKey]:
        """Take a round's decisions; return those whose status may have to tell of something else now."""
        former, self.decisions, self._at = self.decisions, decisions, time.monotonic()
        waits = former.waiting.keys() | decisions.waiting.keys()
        changed: set[OwnerKey] = {key for key in waits if former.waiting.get(key) != decisions.waiting.get(key)}
        changed |= decisions.yields.keys()
        for preemption in decisions.preemptions:
            self._preempted[preemption.victim] = preemption
            changed.add(preemption.victim)
        for promotion in decisions.promotions:
            self._promoted[promotion.model] = promotion
            changed.add(promotion.model)
        standbys = former.standbys.keys() | decisions.standbys.keys()
        changed.update(key for key in standbys if former.standbys.get(key) != decisions.standbys.get(key))
        changed.update(self._differently_foretold(decisions, now))
        ended, self._ended = self._ended, asyncio.Event()
        ended.set()
        return changed

    async def next(self, seconds: float) -> None:
        """Wait for the end of a round, at most for so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    def preemption_of(self, key: ModelKey) -> Preemption | None:
        """Return who took an engine of the model, until its status has told."""
        return self._preempted.get(key)

    def promotion_of(self, key: ModelKey) -> Promotion | None:
        """Return the promotion of the model's standby, until an event has told of it."""
        return self._promoted.get(key)

    def told_seconds(self, key: ModelKey) -> float | None:
        """Return how long ago the model's status told anew of its start; None: it did not lately."""
        told = self._told.get(key)
        return None if told is None else time.monotonic() - told

    def wrote(
        self, key: ModelKey, preemption: Preemption | None, promotion: Promotion | None = None, *, told_anew: bool
    ) -> None:
        """Note that a model's status and events tell of these, and whether of its start anew.

        A round may have ended since the status was decided: what it took is still to be told.
        """
        if preemption is not None and self._preempted.get(key) is preemption:
            del self._preempted[key]
        if promotion is not None and self._promoted.get(key) is promotion:
            del self._promoted[key]
        if told_anew:
            self._told[key] = time.monotonic()

    def forget(self, key: ModelKey) -> None:
        """Drop what is known of a model that is gone."""
        self._preempted.pop(key, None)
        self._promoted.pop(key, None)
        self._told.pop(key, None)

    def _differently_foretold(self, decisions: Decisions, now: datetime) -> Iterable[ModelKey]:
        for key in [key for key in self._foretold if key not in decisions.forecasts]:
            del self._foretold[key]
        for key, forecast in decisions.forecasts.items():
            seconds = forecast.ready_seconds
            ready = None if seconds is None else now + timedelta(seconds=seconds)
            if key not in self._foretold or moved_enough(self._foretold[key], ready, now):
                self._foretold[key] = ready
                yield key
