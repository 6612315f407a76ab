"""The pass over all weight stores: observe, decide, write statuses, then what nodes are told.

In this order, because an answer of a source counts once it stands in a status: only then is the question withdrawn.
"""

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime

from pydantic import ValidationError

from warmfleet_api.node_cache import NodeCacheSpec, NodeCacheStatus, SeenEntry, WantedEntry
from warmfleet_api.weight_cache import WeightCacheStatus
from warmfleet_operator.caches_apply import CachesWriter
from warmfleet_operator.caches_snapshot import StoresObserver
from warmfleet_operator.cluster import Cluster
from warmfleet_operator.decide.caches import CachesPlan, CachesView, decide_caches
from warmfleet_operator.decide.caches_agents import replaceable
from warmfleet_operator.decide.caches_events import EntryEvent, entry_events
from warmfleet_operator.decide.caches_groups import Group
from warmfleet_operator.decide.caches_status import cache_status
from warmfleet_operator.decide.events import EventReason
from warmfleet_operator.decide.fleet import Fleet
from warmfleet_operator.errors import Incomplete
from warmfleet_operator.events import Recorder, regarding_cache, regarding_model
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import NodeCache, WeightCache
from warmfleet_operator.unreadable import unreadable_cache_status

WriteStatus = Callable[[WeightCache, WeightCacheStatus], Awaitable[None]]


class CachesPass:
    """Brings WeightCaches and NodeCaches in order."""

    def __init__(
        self, cluster: Cluster, observer: StoresObserver, writer: CachesWriter, recorder: Recorder, metrics: Metrics
    ) -> None:
        self._cluster = cluster
        self._observer = observer
        self._writer = writer
        self._recorder = recorder
        self._metrics = metrics

    async def reconcile(self, fleet: Callable[[], Fleet], write_status: WriteStatus) -> float | None:
        """Bring everything in order; return in how many seconds time alone may ask for something else.

        Args:
            fleet: observes it, which takes a while; where no weight store is, and none was, it is not asked for.

        Raises:
            KubeError, Incomplete: it is to be tried again.
        """
        if self._observer.is_empty():
            self._count_nothing()
            return None
        now = datetime.now(UTC)
        # 1. Observe.
        view = self._observer.view(fleet())
        # 2. Decide.
        plan = decide_caches(view, now)
        replacements = replaceable(view, plan)
        # 3. Write statuses.
        for group in view.groups:
            record = self._cluster.weight_caches.get("", group.name)
            if record is not None:
                short = replacements.short.get(group.name, {})
                await write_status(record, cache_status(view, plan, group, now, short))
        for name in view.unreadable:
            record = self._cluster.weight_caches.get("", name)
            why = self._observer.group(record) if record is not None else ""
            if record is not None and isinstance(why, str):
                await write_status(record, unreadable_cache_status(record, why, now))
        # 4. Tell the nodes.
        failures = await self._writer.carry_out(view, plan, replacements)
        self._count(view, plan)
        if failures:
            raise Incomplete(f"{len(failures)} changes of weight stores failed: {failures[0]}")
        return plan.recheck_seconds

    def node_cache_changed(self, former: NodeCache | None, new: NodeCache | None) -> None:
        """Listener of the NodeCaches' mirror: tell of fetches that ended, on the objects they are for."""
        if former is None or new is None or former.status == new.status:
            return
        try:
            wanted = {entry.key: entry for entry in NodeCacheSpec.model_validate(new.spec).entries}
            before, after = _seen(former), _seen(new)
        except ValidationError:
            return
        for event in entry_events(new.metadata.name, wanted, before, after):
            self._tell(event, wanted[event.key])

    def _tell(self, event: EntryEvent, wanted: WantedEntry) -> None:
        # A model tells of its failed fetches itself, once for all nodes.
        is_failure = event.reason is EventReason.FETCH_FAILED
        for record in self._cluster.models.indexed(event.uri) if not is_failure else ():
            scope = wanted.secret_ref.namespace if wanted.secret_ref is not None else record.metadata.namespace
            if scope == record.metadata.namespace and record.metadata.deletion_timestamp is None:
                self._recorder.emit(regarding_model(record.metadata, event.type, event.reason, event.message))
        for group in self._groups():
            if any(model.uri == event.uri and model.preload for model in group.spec.models):
                self._recorder.emit(regarding_cache(group.metadata, event.type, event.reason, event.message))

    def _groups(self) -> Iterator[Group]:
        for record in self._cluster.weight_caches.values():
            group = self._observer.group(record)
            if isinstance(group, Group) and record.metadata.deletion_timestamp is None:
                yield group

    def _count(self, view: CachesView, plan: CachesPlan) -> None:
        """Set the gauges; those of WeightCaches that are gone go."""
        self._count_nothing()
        for group in view.groups:
            nodes = plan.membership.nodes_of(group)
            caches = [cache for node in nodes if (cache := view.fleet.caches.get(node)) is not None]
            self._metrics.cache_nodes.labels(group.name, "all").set(len(nodes))
            self._metrics.cache_nodes.labels(group.name, "working").set(sum(not cache.trouble for cache in caches))
            for name in ("memory", "disk"):
                tiers = [tier for cache in caches if (tier := getattr(cache.status, name)) is not None]
                self._metrics.cache_bytes.labels(group.name, name, "capacity").set(sum(t.capacity_bytes for t in tiers))
                self._metrics.cache_bytes.labels(group.name, name, "used").set(sum(t.used_bytes for t in tiers))

    def _count_nothing(self) -> None:
        self._metrics.cache_nodes.clear()
        self._metrics.cache_bytes.clear()


def _seen(record: NodeCache) -> dict[str, SeenEntry]:
    return {entry.key: entry for entry in NodeCacheStatus.model_validate(record.status).entries}
