"""What a process says of itself over HTTP: /livez, /readyz, /metrics, and what it has beside them.

/livez asks whether a restart would help: a watch that is blind, a queue that does not move, a lease that is not
renewed, an event loop that stands. /readyz asks whether it can do its work, mirrors filled. The body of each names
every check with its age, so that `curl` says what is wrong.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Never

from aiohttp import web
from prometheus_client import Gauge
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from warmfleet_api import names
from warmfleet_kube.errors import BadSetting

logger = logging.getLogger(__name__)

LAG_INTERVAL_SECONDS = 0.5
LAG_LIMIT_SECONDS = 10.0


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
        detail = self.detail()
        return holds, f"{state} {self.name}: {age:.1f} s (limit {self.limit_seconds:.0f} s) {detail}".rstrip()


class LoopLag:
    """Measures how late the event loop runs what is due."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
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


async def serve(
    port: int,
    live: Sequence[Check],
    ready: Callable[[], tuple[bool, str]],
    metrics: Callable[[], bytes],
    *,
    routes: Sequence[web.RouteDef] = (),
    on_port: Callable[[int], None] = lambda _: None,
) -> Never:
    """Serve until cancelled.

    Args:
        port: 0: any that is free.
        live: what /livez asks.
        ready: what /readyz says.
        metrics: renders them in Prometheus' text format.
        routes: more of them.
        on_port: hears of the port once it is open.

    Raises:
        BadSetting: the port is taken.
    """

    async def livez(_: web.Request) -> web.Response:
        lines = [check.line() for check in live]
        return _answer(all(holds for holds, _ in lines), "\n".join(text for _, text in lines))

    async def readyz(_: web.Request) -> web.Response:
        return _answer(*ready())

    async def render(_: web.Request) -> web.Response:
        return web.Response(body=metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes(
        [
            web.get(names.PATH_LIVE, livez),
            web.get(names.PATH_READY, readyz),
            web.get(names.PATH_METRICS, render),
            *routes,
        ]
    )
    # Who follows a stream and goes ends its handler at once.
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, port=port).start()
        except OSError as error:
            raise BadSetting(f"WARMFLEET_PORT={port}: {error.strerror}; set it to a free port") from error
        logger.info("health and metrics on port %d", runner.addresses[0][1])
        on_port(runner.addresses[0][1])
        await asyncio.Event().wait()
        raise AssertionError("unreachable: waits until cancelled")
    finally:
        await runner.cleanup()


def _answer(good: bool, text: str) -> web.Response:
    return web.Response(text=text + "\n", status=200 if good else 503)
