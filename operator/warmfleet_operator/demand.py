"""What clients want, as routers and callers of the wake endpoint told lately. In memory: it is told again every second.

Routers report levels, so a report that is lost, doubled or late does no harm, and a router that is gone is forgotten by
itself. A wake lasts until the model serves, and a little longer so that whoever asked can come.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from warmfleet_api.operator_api import DEMAND_SECONDS, DemandReport
from warmfleet_operator.decide.fleet import Demand, ModelKey

WAKE_SECONDS = 60.0
"""How long a wake counts that nobody repeats."""
ARRIVAL_SECONDS = 10.0
"""Once it serves: how long whoever asked for it has until its first request."""
LAPSED_SECONDS = 60.0
"""How long a router that fell silent while it held requests may hold them still, as far as anybody knows."""
MAX_ROUTERS = 256


@dataclass(slots=True)
class _Wake:
    asked: float
    until: float
    served: bool = False


@dataclass(slots=True)
class Demands:
    """Reports by router, and wakes by model."""

    clock: Callable[[], float] = time.monotonic
    """Seconds that only grow."""
    _reports: dict[str, tuple[float, Mapping[ModelKey, Demand]]] = field(default_factory=dict)
    """By router: until when it counts, and what it says."""
    _lapsed: dict[str, tuple[float, set[ModelKey]]] = field(default_factory=dict)
    """By router that fell silent: since when, and for which models it held requests."""
    _leads_since: float = float("-inf")
    _wakes: dict[ModelKey, _Wake] = field(default_factory=dict)

    def report(self, report: DemandReport) -> set[ModelKey]:
        """Take a router's report; return the models that are wanted by it and were not wanted before.

        Raises:
            OverflowError: too many routers report.
        """
        now, moment = self.clock(), datetime.now(UTC)
        self._expire(now)
        if report.router not in self._reports and len(self._reports) >= MAX_ROUTERS:
            raise OverflowError(f"{MAX_ROUTERS} routers report already")
        levels: dict[ModelKey, Demand] = {}
        for each in report.models:
            seconds = each.deadline_seconds
            deadline = None if seconds is None else moment + timedelta(seconds=seconds)
            levels[ModelKey(each.namespace, each.model)] = Demand(held=each.held, queued=each.queued, deadline=deadline)
        wanted = {key for key, level in levels.items() if level.is_wanted}
        news = wanted - {key for key in wanted if self.of(key).is_wanted}
        self._lapsed.pop(report.router, None)
        self._reports[report.router] = (now + DEMAND_SECONDS, levels)
        return news

    def wake(self, key: ModelKey) -> None:
        """Let a model be wanted, for `WAKE_SECONDS` from now."""
        now = self.clock()
        self._wakes[key] = _Wake(now, now + WAKE_SECONDS)

    def keep_awake(self, key: ModelKey, seconds: float) -> bool:
        """Let a model be wanted for so long from now, whether or not it serves; return whether it was not wanted."""
        now = self.clock()
        wake = self._wakes.get(key)
        if wake is None or now >= wake.until:
            self._wakes[key] = _Wake(now, now + seconds, served=True)
            return True
        wake.until = max(wake.until, now + seconds)
        return False

    def leads(self) -> None:
        """Begin anew to wait for every router's report: until then some may hold requests that nobody told us of."""
        self._leads_since = self.clock()

    def unheard(self, key: ModelKey) -> str:
        """Say why more requests may be held for a model than is known; empty: they are all known."""
        now = self.clock()
        if now - self._leads_since < DEMAND_SECONDS:
            return "not all routers have told yet what they hold"
        self._expire(now)
        for router, (since, levels) in self._lapsed.items():
            if key in levels:
                return f"router {router} held requests for it and has not been heard for {now - since:.0f} s"
        return ""

    def served(self, key: ModelKey) -> None:
        """Let the wake of a model that serves end soon."""
        wake = self._wakes.get(key)
        if wake is not None and not wake.served:
            wake.served, wake.until = True, min(wake.until, self.clock() + ARRIVAL_SECONDS)

    def forget(self, key: ModelKey) -> None:
        """Drop the wake of a model that is gone."""
        self._wakes.pop(key, None)

    def of(self, key: ModelKey) -> Demand:
        """Return what is wanted of one model now."""
        now = self.clock()
        wake = self._wakes.get(key)
        told = (levels.get(key) for until, levels in self._reports.values() if now < until)
        return _sum([each for each in told if each is not None], wake if wake and now < wake.until else None, now)

    def all(self) -> Mapping[ModelKey, Demand]:
        """Return what is wanted now, of all models of which anything is."""
        now = self.clock()
        self._expire(now)
        told: defaultdict[ModelKey, list[Demand]] = defaultdict(list)
        for _, levels in self._reports.values():
            for key, level in levels.items():
                told[key].append(level)
        return {key: _sum(told.get(key, []), self._wakes.get(key), now) for key in told.keys() | self._wakes.keys()}

    def _expire(self, now: float) -> None:
        for router in [each for each, (until, _) in self._reports.items() if now >= until]:
            until, levels = self._reports.pop(router)
            held = {key for key, level in levels.items() if level.held}
            if held:
                self._lapsed[router] = until - DEMAND_SECONDS, held
        for router in [each for each, (since, _) in self._lapsed.items() if now - since >= LAPSED_SECONDS]:
            del self._lapsed[router]
        for key in [each for each, wake in self._wakes.items() if now >= wake.until]:
            del self._wakes[key]


def _sum(levels: list[Demand], wake: _Wake | None, now: float) -> Demand:
    return Demand(
        held=sum(each.held for each in levels),
        queued=sum(each.queued for each in levels),
        woken_seconds=None if wake is None else now - wake.asked,
        deadline=min((each.deadline for each in levels if each.deadline is not None), default=None),
    )
