"""What the front knows: the supervisor's last table, and the requests in flight."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from warmfleet_api import runner_status
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState
from warmfleet_runtime.front.feed import Feed
from warmfleet_runtime.link import EngineReport, Report, Route, Table

STALE_SECONDS = 10.0
"""Older news of the supervisor than this: it hangs."""


@dataclass(slots=True)
class WarmUp:
    """How far one attempt's warm-up is."""

    attempt: int
    first_request_milliseconds: int | None = None
    error: str = ""


@dataclass(slots=True)
class Board:
    """Routes by engine and by served name, requests in flight, and the status stream."""

    table: Table = field(default_factory=lambda: Table(status=RunnerStatus(pod_uid="")))
    heard_at: float = field(default_factory=time.monotonic)
    feed: Feed = field(default_factory=Feed)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the supervisor has to hear something."""
    warm_ups: dict[str, WarmUp] = field(default_factory=dict)
    _running: Counter[tuple[str, int]] = field(default_factory=Counter)
    _by_name: dict[str, str] = field(default_factory=dict)

    def update(self, table: Table) -> None:
        """Take the supervisor's table; every one is also a heartbeat of the status stream."""
        self.table = table
        self.heard_at = time.monotonic()
        # Of two engines with one name the Ready one answers; among equals the first by order.
        ranked = sorted(table.routes.items(), key=lambda item: (not item[1].accepts, item[1].engine.order, item[0]))
        self._by_name = {name: key for key, route in reversed(ranked) for name in route.engine.engine.served_names}
        alive = {(key, route.attempt) for key, route in table.routes.items()}
        self.warm_ups = {key: each for key, each in self.warm_ups.items() if (key, each.attempt) in alive}
        self.changed.set()
        self.feed.publish(runner_status.encode(self.status()) + b"\n")

    def find(self, model: str) -> tuple[str, Route] | None:
        """Return the engine that serves a name."""
        key = self._by_name.get(model)
        return None if key is None else (key, self.table.routes[key])

    @property
    def served_names(self) -> list[str]:
        """All names of all engines, whatever their state."""
        return list(self._by_name)

    def engine_status(self, key: str) -> EngineStatus:
        """Return the status of an engine that has a route."""
        return next(engine for engine in self.table.status.engines if engine.id == key)

    @contextmanager
    def request(self, key: str, attempt: int) -> Iterator[None]:
        """Count a request to one process of an engine as in flight."""
        self._running[key, attempt] += 1
        try:
            yield
        finally:
            self._running[key, attempt] -= 1
            if not self._running[key, attempt]:
                del self._running[key, attempt]
                if (route := self.table.routes.get(key)) and route.drains:
                    self.changed.set()

    def running(self, key: str) -> int:
        """Requests in flight to an engine's present process."""
        route = self.table.routes.get(key)
        return self._running[key, route.attempt] if route else 0

    def status(self) -> RunnerStatus:
        """Return the status with what only the front counts."""
        engines = tuple(
            msgspec.structs.replace(engine, running=self.running(engine.id)) for engine in self.table.status.engines
        )
        return msgspec.structs.replace(self.table.status, engines=engines)

    def report(self) -> Report:
        """Return what the supervisor has to know."""
        return Report(engines={key: self._engine_report(key, route) for key, route in self.table.routes.items()})

    def _engine_report(self, key: str, route: Route) -> EngineReport:
        warm_up = self.warm_ups.get(key) or WarmUp(route.attempt)
        return EngineReport(
            attempt=route.attempt,
            first_request_milliseconds=warm_up.first_request_milliseconds,
            warm_up_error=warm_up.error,
            drained=route.drains and not self.running(key),
        )

    @property
    def is_live(self) -> bool:
        """Whether the supervisor was heard lately."""
        return time.monotonic() - self.heard_at < STALE_SECONDS

    @property
    def is_ready(self) -> bool:
        """Whether every assigned engine is Ready."""
        status = self.table.status
        is_all_ready = all(engine.state is EngineState.READY for engine in status.engines)
        return self.is_live and status.revision > 0 and not status.draining and is_all_ready
