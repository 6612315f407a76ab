"""Which keys a change of the weight stores wakes, and which changes wake the pass over them."""

from typing import Any

from warmfleet_operator import keys
from warmfleet_operator.cluster import FLEET_DELAY_SECONDS, Cluster
from warmfleet_operator.decide.fleet import ModelKey
from warmfleet_operator.records import ModelDeployment, Node, NodeCache, WeightCache
from warmfleet_operator.workqueue import WorkQueue

CACHES_DELAY_SECONDS = FLEET_DELAY_SECONDS
"""Changes come in bursts; one pass sees them all."""
AGENT_DELAY_SECONDS = 0.5
"""Agents come and go by dozens when a DaemonSet is made."""


def wake_caches_on_change(cluster: Cluster, queue: WorkQueue[keys.Key]) -> None:
    """Add the keys that a change concerns to the queue, from now on."""

    def wake(*_: Any) -> None:
        queue.add(keys.CACHES, CACHES_DELAY_SECONDS)

    def wake_later(*_: Any) -> None:
        queue.add(keys.CACHES, AGENT_DELAY_SECONDS)

    def node(former: Node | None, new: Node | None) -> None:
        if former is None or new is None or _matters(former) != _matters(new):
            wake()

    def node_cache(former: NodeCache | None, new: NodeCache | None) -> None:
        wake()
        queue.add(keys.FLEET, FLEET_DELAY_SECONDS)
        if former is None or new is None:
            # Where models may be kept at all has changed.
            for record in cluster.models.values():
                _wake_model(record, queue)
        else:
            for uri in _changed_uris(former, new):
                for record in cluster.models.indexed(uri):
                    _wake_model(record, queue)

    def weight_cache(former: WeightCache | None, new: WeightCache | None) -> None:
        if former is None or new is None or former.spec != new.spec:
            queue.add(keys.FLEET, FLEET_DELAY_SECONDS)
        wake()

    cluster.weight_caches.subscribe(weight_cache)
    cluster.node_caches.subscribe(node_cache)
    cluster.agents.subscribe(wake_later)
    cluster.agent_sets.subscribe(wake_later)
    cluster.nodes.subscribe(node)
    cluster.models.subscribe(wake)
    cluster.runners.subscribe(wake)
    cluster.pools.subscribe(wake)


def _wake_model(record: ModelDeployment, queue: WorkQueue[keys.Key]) -> None:
    queue.add(keys.model(ModelKey(record.metadata.namespace, record.metadata.name)))


def _matters(node: Node) -> object:
    """Return what of a node the plan depends on."""
    return node.metadata.labels, node.spec, node.status.allocatable, node.is_ready


def _changed_uris(former: NodeCache, new: NodeCache) -> set[str]:
    """Return the uris of entries that came, went or changed on a node."""
    if former.status.get("conditions") != new.status.get("conditions"):
        return {str(entry.get("uri")) for entry in new.spec.get("entries", ())}
    before, after = _by_key(former.status), _by_key(new.status)
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    specs = (*former.spec.get("entries", ()), *new.spec.get("entries", ()))
    return {str(entry.get("uri")) for entry in specs if entry.get("key") in changed}


def _by_key(status: Any) -> dict[str, Any]:
    return {str(entry.get("key")): entry for entry in status.get("entries", ())}
