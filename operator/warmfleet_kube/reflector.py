"""Reflector: fills a mirror from a list, keeps it current by a watch, and knows how long it has been blind.

kopf's own watching is not used: a watch of it that ends can leave a zombie, and it tells nobody of objects
that went away while no watch was open. Here every watch has an end (the server is asked for it, and silence beyond
it cuts the connection), a version that is too old leads to a new list, and what that list lacks is told as deleted.
"""

import asyncio
import logging
import random
import time
from typing import Generic, Never

from warmfleet_kube.client import EVERYTHING, KubeClient, Selector
from warmfleet_kube.errors import Gone, KubeError, StaleList
from warmfleet_kube.metrics import KubeMetrics
from warmfleet_kube.mirror import Mirror
from warmfleet_kube.objects import R, Resource

logger = logging.getLogger(__name__)

FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 10.0
SHORTEST_WATCH_SECONDS = 1.0
"""A watch that ended sooner is waited after like a failure, so that a server that ends each at once is not flooded."""


class Reflector(Generic[R]):
    """Follows the objects of one kind that a selector names.

    Args:
        name: of the mirror, for logs, metrics and health.
        watch_seconds: after this long the server is asked to end each watch.
    """

    def __init__(
        self,
        name: str,
        client: KubeClient,
        resource: Resource[R],
        mirror: Mirror[R],
        metrics: KubeMetrics,
        *,
        watch_seconds: float,
        selector: Selector = EVERYTHING,
    ) -> None:
        self.name = name
        self.mirror = mirror
        self.synced = asyncio.Event()
        """Set once the mirror is filled."""
        self._client = client
        self._resource = resource
        self._selector = selector
        self._watch_seconds = watch_seconds
        self._contact = time.monotonic()
        self._trouble = ""
        self._lists = metrics.lists.labels(name)
        self._events = metrics.watch_events.labels(name)
        metrics.mirror_objects.labels(name).set_function(lambda: len(mirror))

    def age_seconds(self) -> float:
        """Return how long ago the server last told anything, bookmarks included."""
        return time.monotonic() - self._contact

    def trouble(self) -> str:
        """Return why the last try failed; empty while it works."""
        return self._trouble

    async def run(self) -> Never:
        """Follow until cancelled."""
        listed = False
        failures = 0
        while True:
            started = time.monotonic()
            try:
                if not listed:
                    await self._list()
                    listed = True
                await self._watch()
                failures = 0 if time.monotonic() - started >= SHORTEST_WATCH_SECONDS else failures + 1
            except Gone:
                logger.info("%s: the watch's version is too old; listing again", self.name)
                listed = False
                failures += 1
            except KubeError as error:
                self._trouble = str(error)
                failures += 1
                logger.warning("%s: %s (try %d)", self.name, error, failures)
            if failures:
                await asyncio.sleep(_delay(failures))

    async def _list(self) -> None:
        listing = await self._client.list(self._resource, self._selector)
        if listing.resource_version < self.mirror.position:
            raise StaleList(
                f"list of {self._resource.plural} at version {listing.resource_version}, "
                f"but {self.mirror.position} was already seen"
            )
        self.mirror.replace(listing.items, listing.resource_version)
        self._lists.inc()
        self._heard()
        self.synced.set()

    async def _watch(self) -> None:
        # Shortened by up to a fifth so that the watches of all kinds do not end in the same second.
        watch_seconds = self._watch_seconds * random.uniform(0.8, 1.0)
        events = self._client.watch(self._resource, self.mirror.position, watch_seconds, self._selector)
        async for event in events:
            self._heard()
            if event.item is None:
                self.mirror.saw_bookmark(event.resource_version)
                continue
            self._events.inc()
            if event.deleted:
                self.mirror.saw_deletion(event.item)
            else:
                self.mirror.saw(event.item)
        self._heard()

    def _heard(self) -> None:
        self._contact = time.monotonic()
        self._trouble = ""


def _delay(failures: int) -> float:
    longest = min(FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 10), LONGEST_DELAY_SECONDS)
    return longest * random.uniform(0.5, 1.0)
