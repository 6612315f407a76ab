"""What the front knows: the supervisor's last table, and what its requests do to each engine."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from warmfleet_api import names, runner_status
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState, StartType
from warmfleet_runtime.front.feed import Feed
from warmfleet_runtime.front.request import BYTES_PER_TOKEN
from warmfleet_runtime.link import EngineReport, Report, Route, Table

LATELY_SECONDS = 30.0
"""Over which time first tokens are averaged."""
STALE_SECONDS = 10.0
"""Older news of the supervisor than this: it hangs."""


@dataclass(slots=True)
class WarmUp:
    """How far one attempt's warm-up is."""

    attempt: int
    first_request_milliseconds: int | None = None
    error: str = ""
    warm_tokens: int | None = None
    """Prompts up to this length go to the engine; None: all do."""
    context_tokens: int | None = None
    """What the engine says its model takes, prompt and answer together; None: not known."""
    missing_paths: frozenset[str] = frozenset()
    """What the engine does not serve, because its model can't."""
    bytes_per_token: float = BYTES_PER_TOKEN
    """Of ordinary text, with the model's own tokenizer."""


@dataclass(slots=True)
class Nap:
    """How far one attempt's falling asleep, or waking, is."""

    attempt: int
    asleep: bool
    error: str = ""


@dataclass(slots=True)
class Activity:
    """What requests do to one engine, whichever process of it."""

    waiting: int = 0
    """In its queue."""
    running: Counter[int] = field(default_factory=Counter)
    """At the engine, by attempt."""
    last_at: float = field(default_factory=time.monotonic)
    """When a request last came or ended."""
    requests: int = 0
    """How many came to the engine so far."""
    window: int = 0
    """How many requests the engine takes at once, as the queue sees it now."""
    _first_tokens: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=256))

    def began(self, now: float, seconds: float) -> None:
        """Note that a request's first token came after so long."""
        self._first_tokens.append((now, seconds))

    def first_token_milliseconds(self, now: float) -> int | None:
        """Return how long first tokens took lately, on average; None: there was none."""
        while self._first_tokens and now - self._first_tokens[0][0] > LATELY_SECONDS:
            self._first_tokens.popleft()
        if not self._first_tokens:
            return None
        return round(1000 * sum(seconds for _, seconds in self._first_tokens) / len(self._first_tokens))


class ServedName(NamedTuple):
    """One name requests may ask for."""

    name: str
    parent: str | None
    """Of a LoRA adapter: a name of the model it adapts."""


@dataclass(slots=True)
class Board:
    """Routes by engine and by served name, requests by engine, and the status stream."""

    table: Table = field(default_factory=lambda: Table(status=RunnerStatus(pod_uid="")))
    heard_at: float = field(default_factory=time.monotonic)
    feed: Feed = field(default_factory=Feed)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the supervisor has to hear something."""
    warm_ups: dict[str, WarmUp] = field(default_factory=dict)
    naps: dict[str, Nap] = field(default_factory=dict)
    runner_of: str = ""
    """Kind of the runner's owner."""
    _activities: dict[str, Activity] = field(default_factory=dict)
    _by_name: dict[str, str] = field(default_factory=dict)
    _served: tuple[ServedName, ...] = ()

    def update(self, table: Table) -> None:
        """Take the supervisor's table; every one is also a heartbeat of the status stream."""
        self.table = table
        self.heard_at = time.monotonic()
        by_name: dict[str, tuple[str, ServedName]] = {}
        for key, route in sorted(table.routes.items(), key=_by_willingness):
            for served in _served_names(route):
                by_name.setdefault(served.name, (key, served))
        self._by_name = {name: key for name, (key, _) in by_name.items()}
        self._served = tuple(served for _, served in by_name.values())
        self._activities = {key: self.activity(key) for key in table.routes}
        alive = {(key, route.attempt) for key, route in table.routes.items()}
        self.warm_ups = {key: each for key, each in self.warm_ups.items() if (key, each.attempt) in alive}
        self.naps = {key: each for key, each in self.naps.items() if (key, each.attempt) in alive}
        self.changed.set()
        self.feed.publish(runner_status.encode(self.status()) + b"\n")

    def find(self, model: str) -> tuple[str, Route] | None:
        """Return the engine that serves a name."""
        key = self._by_name.get(model)
        return None if key is None else (key, self.table.routes[key])

    @property
    def served(self) -> tuple[ServedName, ...]:
        """All names of all engines, whatever their state."""
        return self._served

    def engine_status(self, key: str) -> EngineStatus | None:
        """Return the status of an engine; None: it is gone."""
        return next((engine for engine in self.table.status.engines if engine.id == key), None)

    def activity(self, key: str) -> Activity:
        """Return what requests do to an engine."""
        return self._activities.get(key) or Activity()

    @contextmanager
    def request(self, key: str, attempt: int) -> Iterator[None]:
        """Count a request as being at one process of an engine."""
        activity = self._activities.setdefault(key, Activity())
        activity.running[attempt] += 1
        activity.requests += 1
        try:
            yield
        finally:
            activity.last_at = time.monotonic()
            activity.running[attempt] -= 1
            if not activity.running[attempt]:
                del activity.running[attempt]
                if (route := self.table.routes.get(key)) and (route.drains or route.sleeps):
                    self.changed.set()

    def running(self, key: str) -> int:
        """Requests at an engine's present process."""
        route = self.table.routes.get(key)
        return self.activity(key).running[route.attempt] if route else 0

    def status(self) -> RunnerStatus:
        """Return the status with what only the front counts."""
        now = time.monotonic()
        engines = tuple(
            msgspec.structs.replace(
                engine,
                running=running,
                waiting=waiting,
                requests=requests,
                window=self.activity(engine.id).window,
                first_token_milliseconds=self.activity(engine.id).first_token_milliseconds(now),
            )
            for engine, (running, waiting, requests) in zip(self.table.status.engines, self.load(), strict=True)
        )
        return msgspec.structs.replace(self.table.status, engines=engines)

    def load(self) -> tuple[tuple[int, int, int], ...]:
        """Return how many requests run, wait, and came so far, of each engine in the order of the status."""
        engines = [(engine.id, self.activity(engine.id)) for engine in self.table.status.engines]
        return tuple((self.running(key), activity.waiting, activity.requests) for key, activity in engines)

    def report(self) -> Report:
        """Return what the supervisor has to know."""
        return Report(engines={key: self._engine_report(key, route) for key, route in self.table.routes.items()})

    def _engine_report(self, key: str, route: Route) -> EngineReport:
        warm_up = self.warm_ups.get(key) or WarmUp(route.attempt)
        nap = self.naps.get(key) or Nap(route.attempt, asleep=False)
        activity = self.activity(key)
        has_requests = self.running(key) > 0 or activity.waiting > 0
        # What was sent while the engine fell asleep may have come too late, and waits in it: nobody else would wake it.
        waits = activity.waiting > 0 or (nap.asleep and self.running(key) > 0)
        is_recent = time.monotonic() - activity.last_at < route.engine.idle_seconds
        return EngineReport(
            attempt=route.attempt,
            first_request_milliseconds=warm_up.first_request_milliseconds,
            warm_up_error=warm_up.error,
            drained=route.drains and not has_requests,
            busy=has_requests or is_recent,
            asleep=nap.asleep,
            sleep_error=nap.error,
            wake_requested=route.wakes_on_request and waits,
        )

    @property
    def is_live(self) -> bool:
        """Whether the supervisor was heard lately."""
        return time.monotonic() - self.heard_at < STALE_SECONDS

    @property
    def is_ready(self) -> bool:
        """Whether the runner does what it is for: a WarmPool's takes engines, an own one answers requests."""
        status = self.table.status
        if not self.is_live or status.draining:
            return False
        if self.runner_of == names.WARM_POOL_KIND:
            # While a lost zygote is replaced no engine can be taken, yet those that are there must not leave service.
            return self.table.can_take_engines or any(map(self._answers, status.engines))
        return status.revision > 0 and all(map(self._answers, status.engines))

    def _answers(self, engine: EngineStatus) -> bool:
        """Whether a request would be answered; one that wakes on request is woken by it."""
        if engine.state is EngineState.READY:
            return True
        route = self.table.routes.get(engine.id)
        if route is None or not route.wakes_on_request:
            return False
        # It holds requests on the way to sleep and back as well. In a start of another type it does not answer soon.
        is_waking = engine.state is EngineState.STARTING and engine.start_type is StartType.HOT
        return is_waking or engine.state in {EngineState.ASLEEP, EngineState.DRAINING}


def _by_willingness(item: tuple[str, Route]) -> tuple[bool, bool, int, str]:
    """Of two engines with one name the Ready one answers, then the one that wakes; among equals the first by order."""
    key, route = item
    return not route.accepts, not route.wakes_on_request, route.engine.order, key


def _served_names(route: Route) -> Iterator[ServedName]:
    spec = route.engine.engine
    for name in spec.served_names:
        yield ServedName(name, None)
    for adapter in spec.adapters:
        yield ServedName(adapter.name, spec.served_names[0])
