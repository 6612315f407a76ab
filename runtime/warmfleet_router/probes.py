"""Asks runners that took no connection whether they do again, so that no client has to find out."""

import asyncio
import logging
import time

import aiohttp

from warmfleet_router.endpoints import Endpoints, Runner
from warmfleet_router.metrics import Metrics

logger = logging.getLogger(__name__)

SHORTEST_SECONDS = 0.2
LONGEST_SECONDS = 5.0
SHARE = 30
"""Between two probes is one part of so many of the time that a runner has been away."""
PROBE_SECONDS = 1.0
PATH = "/v1/models"
"""Every server of OpenAI's API has it."""


def pause_seconds(away_seconds: float) -> float:
    """Return how long to wait before the next probe of a runner that has been away for so long."""
    return min(max(SHORTEST_SECONDS, away_seconds / SHARE), LONGEST_SECONDS)


class Prober:
    """One task per runner that is lost; it ends when the runner answers, whatever it says, or is gone."""

    def __init__(self, endpoints: Endpoints, metrics: Metrics) -> None:
        self._endpoints = endpoints
        self._metrics = metrics
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def lost(self, runner: Runner, why: str) -> None:
        """A runner took no connection, or broke one before it answered."""
        if self._endpoints.lost(runner):
            logger.warning("runner %s/%s is taken out: %s", runner.namespace, runner.name, why)
            self._metrics.runners_lost.inc()
        if runner.uid not in self._tasks:
            task = self._tasks[runner.uid] = asyncio.create_task(self._until_found(runner), name=f"probe {runner.name}")
            task.add_done_callback(lambda _: self._tasks.pop(runner.uid, None))

    async def close(self) -> None:
        """Ask no more."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_found(self, runner: Runner) -> None:
        began = time.monotonic()
        url = f"http://{_host(runner.address.host)}:{runner.address.port}{PATH}"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_SECONDS)) as session:
            while self._endpoints.is_current(runner):
                await asyncio.sleep(pause_seconds(time.monotonic() - began))
                try:
                    async with session.get(url) as response:
                        await response.read()
                except (aiohttp.ClientError, OSError, TimeoutError):
                    continue
                away = time.monotonic() - began
                logger.info("runner %s/%s answers again after %.1f s", runner.namespace, runner.name, away)
                self._endpoints.found(runner)
                return


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
