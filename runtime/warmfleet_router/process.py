"""The router's tasks: mirrors of pods and models, the API, the link to the operator, probes, health.

Whatever task ends unexpectedly ends them all, and with them the process. What may go away without that are the API
server and the operator: what the mirrors had last stays, and requests for models that sleep are held meanwhile.
"""

import asyncio
import logging
from functools import partial
from typing import Never

from warmfleet_http.messages import Limits
from warmfleet_http.server import Server, bind, server
from warmfleet_kube.client import KubeClient, Selector
from warmfleet_kube.errors import BadSetting
from warmfleet_kube.health import LAG_LIMIT_SECONDS, Check, LoopLag
from warmfleet_kube.health import serve as serve_health
from warmfleet_kube.mirror import Mirror
from warmfleet_kube.reflector import Reflector
from warmfleet_router.access_log import AccessLog
from warmfleet_router.dispatch import Bounds
from warmfleet_router.keeper import Keeper, Peers
from warmfleet_router.metrics import Metrics
from warmfleet_router.operator_link import OperatorLink
from warmfleet_router.records import (
    MODEL_DEPLOYMENTS,
    PODS,
    RUNNERS,
    TENANTS,
    ModelDeployment,
    Pod,
    Tenant,
    trim_pod,
)
from warmfleet_router.settings import MEBIBYTE, Settings
from warmfleet_router.tokens import Tokens, load_key
from warmfleet_router.wiring import Outside, Parts

logger = logging.getLogger(__name__)

LEAVE_SECONDS = 5.0
"""After a signal requests are taken for so long: whoever sends them here has to hear first that this router goes."""


class RouterProcess:
    """All parts of one router, wired. Made inside the running loop."""

    def __init__(self, client: KubeClient, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._operator = OperatorLink(settings.operator_url, settings.operator_token_file, settings.name, metrics)
        self._log = AccessLog() if settings.access_log == "On" else None
        tokens = Tokens(load_key(settings.key_file))
        bounds = Bounds(settings.hold_mebibytes_per_model * MEBIBYTE, settings.hold_mebibytes * MEBIBYTE)
        self._peers = Peers(settings.peers)
        replicas = partial(getattr, self._peers, "count")
        self._parts = Parts(Outside(self._operator.want, tokens, metrics, bounds, self._log, replicas))
        self._lag = LoopLag(metrics.loop_lag)
        self._pods: Mirror[Pod] = Mirror(trim=trim_pod)
        self._models: Mirror[ModelDeployment] = Mirror()
        self._tenants: Mirror[Tenant] = Mirror()
        self._keeper = Keeper(client, self._tenants, self._parts.tenants, self._parts.quotas)
        self._reflectors = (
            Reflector(
                "pod",
                client,
                PODS,
                self._pods,
                metrics.kube,
                watch_seconds=settings.watch_seconds,
                selector=Selector(labels=RUNNERS, namespace=settings.only_namespace),
            ),
            Reflector(
                "modeldeployment",
                client,
                MODEL_DEPLOYMENTS,
                self._models,
                metrics.kube,
                watch_seconds=settings.watch_seconds,
                selector=Selector(namespace=settings.only_namespace),
            ),
            Reflector(
                "tenant",
                client,
                TENANTS,
                self._tenants,
                metrics.kube,
                watch_seconds=settings.watch_seconds,
                selector=Selector(namespace=settings.only_namespace),
            ),
        )
        self._stopping = asyncio.Event()
        self._started = asyncio.Event()
        self._pods.subscribe(self._parts.pod_changed)
        self._models.subscribe(self._parts.model_changed)
        self._tenants.subscribe(self._keeper.changed)
        if tokens.key is None:
            logger.warning("no private key: runners take all requests for those of class Low, see docs/guide/router.md")

    def stop(self) -> None:
        """Take requests for a moment more, then end when all are answered."""
        self._stopping.set()

    async def run(self) -> None:
        """Run until `stop`, and then until requests have ended.

        Raises:
            ExceptionGroup: what ended a task.
            BadSetting: a port is taken.
        """
        api = server(
            self._parts.router,
            shutdown_seconds=self._settings.stop_seconds,
            limits=Limits(body_bytes=self._settings.body_mebibytes * MEBIBYTE),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                own = [
                    tasks.create_task(self._serve_health(), name="health"),
                    tasks.create_task(self._lag.run(), name="loop lag"),
                    tasks.create_task(self._keep_tenants(), name="tenants"),
                    tasks.create_task(self._peers.run(), name="peers"),
                    tasks.create_task(self._operator.run(self._parts.dispatcher), name="operator"),
                    *(tasks.create_task(each.run(), name=f"watch of {each.name}") for each in self._reflectors),
                ]
                if self._log is not None:
                    own.append(tasks.create_task(self._log.run(), name="access log"))
                try:
                    await self._serve(api)
                finally:
                    for task in own:
                        task.cancel()
        finally:
            await self._parts.close()

    async def _serve(self, api: Server) -> None:
        """Serve the API from when the mirrors are filled until all requests have ended after `stop`."""
        stopping = asyncio.create_task(_set(self._stopping), name="stop")
        synced = asyncio.create_task(self._synced(), name="lists")
        own = [stopping, synced]
        try:
            await asyncio.wait(own, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                return
            try:
                listening = bind(self._settings.host, self._settings.port)
            except OSError as error:
                message = f"WARMFLEET_PORT={self._settings.port}: {error.strerror}; set it to a free port"
                raise BadSetting(message) from error
            logger.info("the API is on port %d", listening.getsockname()[1])
            self._started.set()
            serving = asyncio.create_task(api.serve([listening]), name="api")
            own.append(serving)
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if not serving.done():
                logger.info("a signal: requests are taken for %.0f s more, then those under way end", LEAVE_SECONDS)
                await asyncio.wait({serving}, timeout=LEAVE_SECONDS)
                api.should_exit = True
            await serving
        finally:
            for task in own:
                task.cancel()
            await asyncio.gather(*own, return_exceptions=True)

    async def _synced(self) -> None:
        for each in self._reflectors:
            await each.synced.wait()
        await self._keeper.read.wait()

    async def _keep_tenants(self) -> Never:
        for each in self._reflectors:
            await each.synced.wait()
        await self._keeper.run()

    async def _serve_health(self) -> Never:
        await serve_health(
            self._settings.status_port,
            (Check("event loop", self._lag.age_seconds, LAG_LIMIT_SECONDS),),
            self._ready,
            self._metrics.render,
        )

    def _ready(self) -> tuple[bool, str]:
        """Say whether requests should come here. That the API server is away is no reason to send them elsewhere."""
        if self._stopping.is_set():
            return False, "stopping"
        if not self._started.is_set():
            waits = ", ".join(each.name for each in self._reflectors if not each.synced.is_set())
            trouble = "; ".join(each.trouble() for each in self._reflectors if each.trouble())
            return False, f"waits for lists of: {waits} {trouble}".rstrip()
        operator = self._operator.trouble
        return True, f"ready; the operator: {operator or 'answers'}"


async def _set(event: asyncio.Event) -> None:
    await event.wait()
