"""The agent's status over HTTP: /v1/status, once or as a stream."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from warmfleet_agent.metrics import Metrics
from warmfleet_api import agent_status, names
from warmfleet_api.agent_status import HEARTBEAT_SECONDS, PROGRESS_SECONDS, AgentStatus

logger = logging.getLogger(__name__)

MAX_STREAMS = 32
"""A node has one reader, the leading operator, and people now and then."""
SLOW_SECONDS = 5.0
"""A reader that takes nothing for this long is dropped."""
NDJSON = "application/x-ndjson"


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

    def opened(self, port: int) -> None:
        """Hear of the port."""
        self.port = port

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


def status_route(feed: Feed) -> web.RouteDef:
    """Return the route of the status: once, or with `?watch=1` as a stream."""

    async def status(request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") not in {"1", "true"}:
            return web.Response(body=feed.line(), content_type="application/json")
        async with feed.admitted():
            response = web.StreamResponse(headers={"Content-Type": NDJSON, "Cache-Control": "no-store"})
            await response.prepare(request)
            await feed.follow(response)
        return response

    return web.get(names.PATH_STATUS, status)


async def _within(bound_seconds: float, event: asyncio.Event) -> None:
    """Wait for an event, but not for long."""
    try:
        async with asyncio.timeout(bound_seconds):
            await event.wait()
    except TimeoutError:
        return
