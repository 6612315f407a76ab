"""Carries out the plan of the weight stores: NodeCaches, DaemonSets, agents of a former spec.

Nothing is written that is as it should be. The spec of a NodeCache is changed by one JSON patch that tests which spec
it was decided on, so a stale leader loses, and what a person wrote into it goes. DaemonSets are applied by field.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from functools import partial
from typing import Any

from warmfleet_api import names
from warmfleet_api.node_cache import NodeCacheSpec
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import AlreadyExists, Conflict, Invalid, KubeError, NotFound
from warmfleet_operator.build.agent import agent_daemon_set, image_daemon_set
from warmfleet_operator.build.node_cache import is_labelled, node_cache, node_cache_patch
from warmfleet_operator.caches_snapshot import StoresObserver
from warmfleet_operator.children import covers, remove
from warmfleet_operator.cluster import Cluster
from warmfleet_operator.decide.caches import CachesPlan, CachesView
from warmfleet_operator.decide.caches_agents import Replacements
from warmfleet_operator.decide.fleet import Limits
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import Node, NodeCache, Pod
from warmfleet_operator.resources import DAEMON_SETS, NODE_CACHES, PODS

logger = logging.getLogger(__name__)

CONCURRENCY = 16
Write = tuple[str, str, Callable[[], Coroutine[Any, Any, None]]]
"""Kind of change, what is changed and why in words, and how."""


class CachesWriter:
    """Writes what belongs to the weight stores.

    Args:
        confirmed: waits until this process may write; another leader ends it.
    """

    def __init__(
        self,
        *,
        client: KubeClient,
        cluster: Cluster,
        observer: StoresObserver,
        limits: Limits,
        metrics: Metrics,
        confirmed: Callable[[], Awaitable[None]],
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._observer = observer
        self._limits = limits
        self._metrics = metrics
        self._confirmed = confirmed
        self._slots = asyncio.Semaphore(CONCURRENCY)

    async def carry_out(self, view: CachesView, plan: CachesPlan, replacements: Replacements) -> list[KubeError]:
        """Write what differs.

        Returns:
            What failed. The rest is in the mirrors.
        """
        writes = [*self._agent_sets(plan), *self._node_caches(view, plan), *self._agents(replacements)]
        outcomes = await asyncio.gather(*(self._one(*write) for write in writes))
        return [error for error in outcomes if error is not None]

    async def _one(self, action: str, what: str, write: Callable[[], Coroutine[Any, Any, None]]) -> KubeError | None:
        async with self._slots:
            await self._confirmed()
            logger.info("%s: %s", action, what)
            try:
                await write()
            except KubeError as error:
                self._metrics.cache_writes.labels(action, "failed").inc()
                logger.log(logging.INFO if isinstance(error, Conflict) else logging.WARNING, "%s: %s", what, error)
                return error
        self._metrics.cache_writes.labels(action, "done").inc()
        return None

    def _agent_sets(self, plan: CachesPlan) -> Iterator[Write]:
        mirror = self._cluster.agent_sets
        for group in plan.agents:
            for body in (agent_daemon_set(group, self._limits), image_daemon_set(group, self._limits)):
                name = body["metadata"]["name"]
                known = mirror.get(names.AGENT_NAMESPACE, name)
                if known is None or not covers(known, body):
                    yield "ApplyDaemonSet", name, partial(self._apply, body)
        caches = {record.metadata.name for record in self._cluster.weight_caches.values()}
        for each in mirror.values():
            cache = each.metadata.labels.get(names.LABEL_CACHE, "")
            is_ours = each.metadata.labels.get(names.LABEL_MANAGED_BY) == names.MANAGED_BY
            if is_ours and cache not in caches and each.metadata.deletion_timestamp is None:
                what = f"{each.metadata.name}: there is no WeightCache {cache}"
                yield "DeleteDaemonSet", what, partial(remove, self._client, DAEMON_SETS, mirror, each)

    def _node_caches(self, view: CachesView, plan: CachesPlan) -> Iterator[Write]:
        for name, spec in plan.specs.items():
            record, node = view.records.get(name), view.fleet.nodes[name]
            if record is None:
                yield "CreateNodeCache", name, partial(self._create, node, spec)
            elif record.metadata.deletion_timestamp is None and (
                self._observer.spec(record) != spec or not is_labelled(record, node, spec)
            ):
                yield "ChangeNodeCache", name, partial(self._change, record, node, spec)
        for record, reason in plan.removals:
            what = f"{record.metadata.name}: {reason}"
            yield "DeleteNodeCache", what, partial(remove, self._client, NODE_CACHES, self._cluster.node_caches, record)

    def _agents(self, replacements: Replacements) -> Iterator[Write]:
        for pod, reason in replacements.pods:
            yield "DeleteAgent", f"{pod.metadata.name}: {reason}", partial(self._delete_agent, pod)

    async def _apply(self, body: Mapping[str, Any]) -> None:
        self._cluster.agent_sets.expect(await self._client.apply(DAEMON_SETS, body, names.MANAGER_CACHES))

    async def _create(self, node: Node, spec: NodeCacheSpec) -> None:
        try:
            created = await self._client.create(NODE_CACHES, node_cache(node, spec), names.MANAGER_CACHES)
        except AlreadyExists:
            await self._read_again(node.metadata.name, None)
            raise
        self._cluster.node_caches.expect(created)

    async def _change(self, record: NodeCache, node: Node, spec: NodeCacheSpec) -> None:
        name, operations = record.metadata.name, node_cache_patch(record, node, spec)
        try:
            changed = await self._client.patch(NODE_CACHES, "", name, operations, names.MANAGER_CACHES)
        except (Invalid, Conflict, NotFound):
            await self._read_again(name, record)
            raise
        self._cluster.node_caches.expect(changed)

    async def _read_again(self, name: str, known: NodeCache | None) -> None:
        """Bring the mirror to what the server has."""
        try:
            self._cluster.node_caches.expect(await self._client.get(NODE_CACHES, "", name))
        except NotFound:
            if known is not None:
                self._cluster.node_caches.forget(known)

    async def _delete_agent(self, pod: Pod) -> None:
        metadata = pod.metadata
        try:
            left = await self._client.delete(
                PODS, metadata.namespace, metadata.name, uid=metadata.uid, resource_version=metadata.resource_version
            )
        except NotFound:
            left = None
        if left is None:
            self._cluster.agents.forget(pod)
        else:
            self._cluster.agents.expect(left)
