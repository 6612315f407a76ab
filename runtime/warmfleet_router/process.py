"""The router's tasks: mirrors of pods and models, the API, the link to the operator, probes, health.

Whatever task ends unexpectedly ends them all, and with them the process. What may go away without that are the API
server and the operator: what the mirrors had last stays, and requests for models that sleep are held meanwhile.
"""

import asyncio
import logging
import socket
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
from warmfleet_router.key_file import KeyFile
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
from warmfleet_router.remembered import Remembered
from warmfleet_router.settings import MEBIBYTE, Settings
from warmfleet_router.switches import start_tracing, tiers_of
from warmfleet_router.tokens import Tokens, load_key
from warmfleet_router.wiring import KeptBounds, Outside, Parts

logger = logging.getLogger(__name__)

RESTORE_SECONDS = 1.0
"""When the API server has not answered for so long at the start, what the process before this one knew has to do."""
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
        self._key_file = KeyFile(settings.key_file, tokens)
        bounds = Bounds(settings.hold_mebibytes_per_model * MEBIBYTE, settings.hold_mebibytes * MEBIBYTE)
        self._peers = Peers(settings.peers)
        replicas = partial(getattr, self._peers, "count")
        kept = KeptBounds(settings.cache_mebibytes * MEBIBYTE, settings.cache_answer_mebibytes * MEBIBYTE)
        self._tracing = start_tracing()
        outside = Outside(
            *(self._operator.want, tokens, metrics, bounds, self._log, replicas),
            kept=kept,
            tiers=partial(tiers_of, settings),
            tracing=self._tracing,
        )
        self._parts = Parts(outside)
        self._lag = LoopLag(metrics.loop_lag)
        self._pods: Mirror[Pod] = Mirror(trim=trim_pod)
        self._models: Mirror[ModelDeployment] = Mirror()
        self._tenants: Mirror[Tenant] = Mirror()
        self._keeper = Keeper(client, self._tenants, self._parts.tenants, self._parts.quotas)
        self._remembered = Remembered(settings.table_file, self._pods, self._models, self._tenants, self._parts.tenants)
        self._listed = asyncio.Event()
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
            logger.warning("no private key yet: until it comes, runners take all requests for those of class Low")

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
            self._parts.handler,
            shutdown_seconds=self._settings.stop_seconds,
            limits=Limits(body_bytes=self._settings.body_mebibytes * MEBIBYTE),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                own = [
                    tasks.create_task(self._serve_health(), name="health"),
                    tasks.create_task(self._lag.run(), name="loop lag"),
                    tasks.create_task(self._keep_tenants(), name="tenants"),
                    tasks.create_task(self._key_file.run(), name="key file"),
                    tasks.create_task(self._remembered.run(self._listed), name="table file"),
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
            if self._tracing is not None:
                await self._tracing.close()

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
            await serve_until(self._stopping, api, listening)
        finally:
            for task in own:
                task.cancel()
            await asyncio.gather(*own, return_exceptions=True)

    async def _synced(self) -> None:
        """Return when this router knows what there is to serve, from the API server or from before its restart."""
        listing = asyncio.create_task(self._lists(), name="lists")
        try:
            await asyncio.wait({listing}, timeout=RESTORE_SECONDS)
            if not listing.done() and self._remembered.restore():
                logger.warning("the API server does not answer: serving what was known before this router's restart")
            else:
                await listing
        finally:
            listing.cancel()

    async def _lists(self) -> None:
        for each in self._reflectors:
            await each.synced.wait()
        await self._keeper.read.wait()

    async def _keep_tenants(self) -> Never:
        for each in self._reflectors:
            await each.synced.wait()
        self._listed.set()
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


async def serve_until(
    stopping: asyncio.Event, api: Server, listening: socket.socket, leave_seconds: float = LEAVE_SECONDS
) -> None:
    """Serve until the event is set, take requests for `leave_seconds` more, and end when all are answered."""
    stop = asyncio.create_task(_set(stopping), name="stop")
    serving = asyncio.create_task(api.serve([listening]), name="api")
    try:
        await asyncio.wait({stop, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            logger.info("a signal: requests are taken for %.0f s more, then those under way end", leave_seconds)
            api.leave()
            await asyncio.wait({serving}, timeout=leave_seconds)
            api.should_exit = True
        await serving
    finally:
        for task in (stop, serving):
            task.cancel()
        await asyncio.gather(stop, serving, return_exceptions=True)


async def _set(event: asyncio.Event) -> None:
    await event.wait()
