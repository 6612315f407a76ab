"""Writes the NodeCache's status by server-side apply: on transitions, at most once a second.

What was written last is what the mirror shows, so a restarted agent that finds the same writes nothing, and an
object that was deleted and made anew is filled again.
"""

import asyncio
import logging
import time
from typing import Any, Never

from warmfleet_agent.metrics import Metrics
from warmfleet_agent.records import NODE_CACHES, NodeCache, status_of
from warmfleet_agent.status import is_transition, newly_present
from warmfleet_api import names
from warmfleet_api.node_cache import NodeCacheStatus
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import Forbidden, KubeError, NotFound
from warmfleet_kube.mirror import Mirror

logger = logging.getLogger(__name__)

SHORTEST_SECONDS = 1.0
"""Between two writes."""
RETRY_SECONDS = 5.0
"""After a write that failed for good; the client has tried several times by then."""


class StatusWriter:
    """Keeps the object's status what `show` last said."""

    def __init__(self, client: KubeClient, mirror: Mirror[NodeCache], node: str, metrics: Metrics) -> None:
        self._client = client
        self._mirror = mirror
        self._node = node
        self._writes = metrics.status_writes
        self._status: NodeCacheStatus | None = None
        self._changed = asyncio.Event()
        self._written: tuple[str, NodeCacheStatus, NodeCacheStatus] | None = None
        """UID of the object, what was sent, and what the server made of it."""
        self._last = float("-inf")

    def show(self, status: NodeCacheStatus) -> None:
        """Have a status written, unless the object says the same."""
        self._status = status
        self._changed.set()

    def present(self) -> NodeCacheStatus:
        """Return what the object says now; an empty status without one."""
        record = self._mirror.get("", self._node)
        return NodeCacheStatus() if record is None else status_of(record)

    async def run(self) -> Never:
        """Write until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while (status := self._due()) is not None:
                if not newly_present(self.present(), status):
                    await self._breathe(self._last + SHORTEST_SECONDS - time.monotonic())
                    status = self._due()
                if status is not None and not await self._write(status):
                    await self._breathe(RETRY_SECONDS)

    async def _breathe(self, seconds: float) -> None:
        """Wait, but not for what a start waits for."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return
            self._changed.clear()
            if self._status is not None and newly_present(self.present(), self._status):
                return

    def _due(self) -> NodeCacheStatus | None:
        """Return the status to write, if the object says another."""
        record = self._mirror.get("", self._node)
        if record is None or self._status is None:
            return None
        present = status_of(record)
        if not is_transition(present, self._status):
            return None
        if self._written is not None:
            uid, sent, answered = self._written
            # A server with an older CRD drops what it does not know: the same again would be dropped again.
            if uid == record.metadata.uid and not is_transition(sent, self._status) and answered == present:
                return None
        return self._status

    async def _write(self, status: NodeCacheStatus) -> bool:
        """Write once; return whether it went through or can't until the object changes."""
        record = self._mirror.get("", self._node)
        if record is None:
            return True
        body: dict[str, Any] = {
            "apiVersion": names.API_VERSION,
            "kind": names.NODE_CACHE_KIND,
            "metadata": {"name": self._node, "uid": record.metadata.uid},
            "status": status.model_dump(mode="json", by_alias=True, exclude_none=True),
        }
        try:
            answer = await self._client.apply(NODE_CACHES, body, names.MANAGER_AGENT, subresource="status")
        except NotFound:
            logger.info("NodeCache %s is gone; its status is written when it is back", self._node)
            self._writes.labels("Failed").inc()
            return False
        except KubeError as error:
            self._writes.labels("Failed").inc()
            hint = "; apply the agents' rights: kubectl apply -k manifests/base" if isinstance(error, Forbidden) else ""
            logger.warning("status of NodeCache %s: %s%s", self._node, error, hint)
            return False
        self._last = time.monotonic()
        self._writes.labels("Done").inc()
        self._written = (answer.metadata.uid, status, status_of(answer))
        self._mirror.expect(answer)
        return True
