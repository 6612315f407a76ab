"""The tasks of the server of external metrics: health, the API, and the look at who serves them."""

import asyncio
import logging
from typing import Never

from warmfleet_api import names
from warmfleet_external_metrics.levels import Levels
from warmfleet_external_metrics.metrics import Metrics
from warmfleet_external_metrics.registration import Registration
from warmfleet_external_metrics.rights import Rights
from warmfleet_external_metrics.server import Server
from warmfleet_external_metrics.settings import Settings
from warmfleet_kube.client import KubeClient
from warmfleet_kube.health import LAG_LIMIT_SECONDS, Check, LoopLag, serve

logger = logging.getLogger(__name__)

LOOK_LIMIT_SECONDS = 120.0
"""A look has time limits of its own; one that takes longer hangs."""


class ExternalMetrics:
    """All parts of one process, wired."""

    def __init__(self, client: KubeClient, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._lag = LoopLag(metrics.loop_lag)
        self._levels = Levels(settings.operator_url, settings.operator_token_file, metrics.operator_failures)
        access = client.as_role("access", request_seconds=settings.request_seconds)
        self._server = Server(settings.api_port, Rights(access), self._levels, metrics.requests)
        self._registration = Registration(
            client,
            namespace=settings.namespace,
            process=settings.name,
            registered=metrics.registered,
            present=self._server.present,
        )

    async def run(self) -> Never:
        """Run until cancelled.

        Raises:
            ExceptionGroup: what ended a task.
        """
        live = (
            Check("look at the API server", self._registration.age_seconds, LOOK_LIMIT_SECONDS),
            Check("event loop", self._lag.age_seconds, LAG_LIMIT_SECONDS),
        )
        async with self._server, asyncio.TaskGroup() as tasks:
            tasks.create_task(serve(self._settings.port, live, self._ready, self._metrics.render), name="health")
            tasks.create_task(self._lag.run(), name="loop lag")
            tasks.create_task(self._registration.run(), name="registration")
        raise AssertionError("unreachable: no task ends by itself")

    def _ready(self) -> tuple[bool, str]:
        """Whether requests come here and can be answered. An operator that is away is not this process's failure."""
        trouble, silent = self._registration.trouble, self._levels.trouble
        lines = [
            f"FAILED {names.EXTERNAL_METRICS_API}: {trouble}" if trouble else f"ok {names.EXTERNAL_METRICS_API}",
            f"-- operator: {silent}" if silent else "ok operator",
        ]
        return not trouble, "\n".join(lines)
