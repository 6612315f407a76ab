"""What the agent says of itself over HTTP: /livez, /readyz, /metrics, and /v1/status once or as a stream."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Never

from aiohttp import web

from warmfleet_agent.metrics import CONTENT_TYPE, Metrics
from warmfleet_api import agent_status, names
from warmfleet_api.agent_status import HEARTBEAT_SECONDS, PROGRESS_SECONDS, AgentStatus
from warmfleet_kube.errors import BadSetting

logger = logging.getLogger(__name__)

LAG_INTERVAL_SECONDS = 0.5
LAG_LIMIT_SECONDS = 10.0
MAX_STREAMS = 32
"""A node has one reader, the leading operator, and people now and then."""
SLOW_SECONDS = 5.0
"""A reader that takes nothing for this long is dropped."""
NDJSON = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must not be older than its limit."""

    name: str
    age_seconds: Callable[[], float]
    limit_seconds: float
    detail: Callable[[], str] = lambda: ""
    """The last error in words, if any."""

    def line(self) -> tuple[bool, str]:
        """Return whether it holds, and a line that says so."""
        age = self.age_seconds()
        holds = age <= self.limit_seconds
        state = "ok" if holds else "FAILED"
        return holds, f"{state} {self.name}: {age:.1f} s (limit {self.limit_seconds:.0f} s) {self.detail()}".rstrip()


class LoopLag:
    """Measures how late the event loop runs what is due."""

    def __init__(self, metrics: Metrics) -> None:
        self._gauge = metrics.loop_lag
        self._due = time.monotonic() + LAG_INTERVAL_SECONDS

    def age_seconds(self) -> float:
        """Return how late the loop is now."""
        return max(0.0, time.monotonic() - self._due)

    async def run(self) -> Never:
        """Measure until cancelled."""
        while True:
            self._due = time.monotonic() + LAG_INTERVAL_SECONDS
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            self._gauge.set(self.age_seconds())


class Feed:
    """The status as streams show it. `touch` tells of a change; the line is made only where somebody reads."""

    def __init__(self, current: Callable[[], AgentStatus], in_motion: Callable[[], bool], metrics: Metrics) -> None:
        self.port = 0
        """Where it is served; 0 before it is."""
        self._current = current
        self._in_motion = in_motion
        self._gauge = metrics.streams
        self._changed = asyncio.Event()
        self._streams = 0

    def touch(self) -> None:
        """Tell all readers that something changed."""
        self._changed.set()
        self._changed = asyncio.Event()

    def line(self) -> bytes:
        """Return the status as one line, with its newline."""
        return agent_status.encode(self._current()) + b"\n"

    async def follow(self, response: web.StreamResponse) -> None:
        """Write lines until the reader is gone, or too slow."""
        while True:
            changed = self._changed
            try:
                async with asyncio.timeout(SLOW_SECONDS):
                    await response.write(self.line())
            except TimeoutError:
                logger.warning("a reader of the status stream took nothing for %.0f s and is dropped", SLOW_SECONDS)
                return
            except ConnectionError:
                return
            await asyncio.sleep(PROGRESS_SECONDS)
            if not self._in_motion():
                await _within(HEARTBEAT_SECONDS - 2 * PROGRESS_SECONDS, changed)

    @asynccontextmanager
    async def admitted(self) -> AsyncIterator[None]:
        """Count a reader.

        Raises:
            web.HTTPServiceUnavailable: there are too many.
        """
        if self._streams >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_STREAMS} readers follow already; end one of them\n")
        self._streams += 1
        self._gauge.set(self._streams)
        try:
            yield
        finally:
            self._streams -= 1
            self._gauge.set(self._streams)


async def serve(
    port: int, live: tuple[Check, ...], ready: Callable[[], tuple[bool, str]], feed: Feed, metrics: Metrics
) -> Never:
    """Serve until cancelled.

    Raises:
        BadSetting: the port is taken.
    """

    async def livez(_: web.Request) -> web.Response:
        lines = [check.line() for check in live]
        return _answer(all(holds for holds, _ in lines), "\n".join(text for _, text in lines))

    async def readyz(_: web.Request) -> web.Response:
        return _answer(*ready())

    async def render(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def status(request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") not in {"1", "true"}:
            return web.Response(body=feed.line(), content_type="application/json")
        async with feed.admitted():
            response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
            await response.prepare(request)
            await feed.follow(response)
        return response

    application = web.Application()
    application.add_routes(
        [
            web.get(names.PATH_LIVE, livez),
            web.get(names.PATH_READY, readyz),
            web.get(names.PATH_METRICS, render),
            web.get(names.PATH_STATUS, status),
        ]
    )
    # A reader that goes ends its handler at once.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, port=port).start()
        except OSError as error:
            raise BadSetting(f"WARMFLEET_PORT={port}: {error.strerror}; set it to a free port") from error
        feed.port = runner.addresses[0][1]
        logger.info("health, metrics and status on port %d", feed.port)
        await asyncio.Event().wait()
        raise AssertionError("unreachable: waits until cancelled")
    finally:
        await runner.cleanup()


async def _within(bound_seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, but not for long."""
    try:
        async with asyncio.timeout(bound_seconds):
            await event.wait()
    except TimeoutError:
        return


def _answer(good: bool, text: str) -> web.Response:
    return web.Response(text=text + "\n", status=200 if good else 503)
