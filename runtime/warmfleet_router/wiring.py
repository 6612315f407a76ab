"""The parts of a router that answer requests, wired: everything but the tasks that fill them.

What comes from the cluster comes in by `pod_changed` and `model_changed`, what requests meet by the parts themselves.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from warmfleet_api import names
from warmfleet_http.pool import Pool
from warmfleet_http.protocol import Handler
from warmfleet_router import catalog
from warmfleet_router.access_log import AccessLog
from warmfleet_router.cache.answers import Answers
from warmfleet_router.cache.guard import Tier
from warmfleet_router.cache.kept import Kept
from warmfleet_router.catalog import Catalog, ModelKey
from warmfleet_router.dispatch import Bounds, Dispatcher
from warmfleet_router.endpoints import Endpoints
from warmfleet_router.forward import Forward
from warmfleet_router.metrics import Metrics
from warmfleet_router.probes import Prober
from warmfleet_router.quotas import Quotas
from warmfleet_router.records import ModelDeployment, Pod
from warmfleet_router.serve import Router
from warmfleet_router.tenants import Tenants
from warmfleet_router.tokens import Tokens

if TYPE_CHECKING:
    from warmfleet_router.tracing import Tracing

logger = logging.getLogger(__name__)

IDLE_SECONDS = 60.0
"""Connections to runners are kept for so long: less than runners keep theirs."""


@dataclass(frozen=True, slots=True)
class KeptBounds:
    """How much is kept of answers, for models that keep any."""

    bytes_in_memory: int = 64 * 1024 * 1024
    bytes_of_one: int = 1024 * 1024


@dataclass(slots=True)
class Outside:
    """What the parts need from outside of them."""

    wanted: Callable[[ModelKey], None]
    """Asks for a model to be woken."""
    tokens: Tokens
    metrics: Metrics
    bounds: Bounds
    log: AccessLog | None
    replicas: Callable[[], int] = lambda: 1
    """How many routers share the limits of Tenants."""
    runner_port: int = names.API_PORT
    """Port of the API of runners."""
    kept: KeptBounds = KeptBounds()
    """Of answers that are given again."""
    tiers: Callable[[], list[Tier]] = list
    """Makes the places outside of this process where answers are kept."""
    tracing: "Tracing | None" = None


class Parts:
    """Catalogue, endpoints, dispatcher and what serves requests from them. Made inside the running loop."""

    def __init__(self, outside: Outside) -> None:
        self._metrics = outside.metrics
        self._tokens = tokens = outside.tokens
        self.catalog = Catalog()
        self.endpoints = Endpoints(self._endpoints_changed, outside.runner_port)
        tracing = outside.tracing
        self.dispatcher = (tracing.dispatcher if tracing else Dispatcher)(
            self.endpoints, outside.bounds, outside.wanted
        )
        self._prober = Prober(self.endpoints, outside.metrics)
        self._pool = Pool(idle_seconds=IDLE_SECONDS)
        forward = (tracing.forward if tracing else Forward)(
            self._pool,
            self.dispatcher,
            self._prober.lost,
            lambda uid: tokens.for_pod(uid, time.time()),
            outside.metrics,
        )
        kept = outside.kept
        self._answers = Answers(
            Kept(kept.bytes_in_memory, kept.bytes_of_one, outside.tiers(), outside.metrics.cache),
            self.endpoints,
            outside.metrics.cache,
        )
        self.tenants = Tenants()
        self.quotas = Quotas(outside.replicas)
        self.router = Router(
            catalog=self.catalog,
            tenants=self.tenants,
            quotas=self.quotas,
            dispatcher=self.dispatcher,
            forward=forward,
            metrics=outside.metrics,
            log=outside.log,
            answers=self._answers,
        )
        self.handler: Handler = tracing.handler(self.router) if tracing else self.router
        """Of the API port."""
        outside.metrics.held.set_function(self.dispatcher.all_held)

    async def close(self) -> None:
        """End what runs by itself, and close connections to runners."""
        self.dispatcher.close()
        await self._answers.close()
        await self._prober.close()
        self._pool.close()

    def pod_changed(self, former: Pod | None, new: Pod | None) -> None:
        """Listener of the mirror."""
        if former is not None and (new is None or new.metadata.uid != former.metadata.uid):
            for runner in self.endpoints.runners():
                if runner.uid == former.metadata.uid:
                    self._pool.drop(runner.origin)
            self._tokens.forget(former.metadata.uid)
            self.endpoints.forget(former)
        if new is not None:
            self.endpoints.follow(new)

    def model_changed(self, former: ModelDeployment | None, new: ModelDeployment | None) -> None:
        """Listener of the mirror."""
        if new is None:
            if former is not None:
                key = ModelKey(former.metadata.namespace, former.metadata.name)
                self._answers.forget(former.metadata.uid)
                self.catalog.drop(key)
                self.dispatcher.model_gone(key)
                self._metrics.forget(key)
            return
        try:
            model = catalog.parse(new)
        except ValueError as error:
            # Of a later version: what was known of it before stays.
            logger.warning("%s", error)
            return
        self.catalog.put(model)
        self.dispatcher.model_changed(model)

    def _endpoints_changed(self, key: ModelKey) -> None:
        self.dispatcher.has_news(key)
