"""The cluster as the operator mirrors it: which kinds, which part of each, and which keys a change wakes.

Own runners are kept in full. Of all other pods that are bound to a node only what they take there is kept:
a ledger that is blind to strangers would pin runners to places that are taken.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

import msgspec

from warmfleet_api import names
from warmfleet_kube.client import EVERYTHING, KubeClient, Selector
from warmfleet_kube.mirror import Mirror
from warmfleet_kube.objects import Metadata, Object, R, Resource
from warmfleet_kube.reflector import Reflector
from warmfleet_operator import keys
from warmfleet_operator.build.autoscaler import target_of
from warmfleet_operator.decide.fleet import ModelKey, PoolKey
from warmfleet_operator.decide.runners import models_of, node_of, owner_of
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import (
    DaemonSet,
    HorizontalPodAutoscaler,
    ModelDeployment,
    Node,
    NodeCache,
    Pod,
    PodDisruptionBudget,
    PodStatus,
    Service,
    WarmPool,
    WeightCache,
)
from warmfleet_operator.resources import (
    AUTOSCALERS,
    BUDGETS,
    DAEMON_SETS,
    MODEL_DEPLOYMENTS,
    NODE_CACHES,
    NODES,
    PODS,
    SERVICES,
    WARM_POOLS,
    WEIGHT_CACHES,
)
from warmfleet_operator.workqueue import WorkQueue

FLEET_DELAY_SECONDS = 0.05
"""Changes come in bursts; one round sees them all."""
POOL_DELAY_SECONDS = 0.2
"""A pool's status counts all its runners: where many change, it is told of them together."""
STRANGER_DELAY_SECONDS = 1.0
"""Other people's pods come and go all the time, and a start that fails over one is planned anew."""

_KINDS = ",".join(names.RUNNER_KINDS)
_RUNNERS = Selector(labels=f"{names.LABEL_RUNNER} in ({_KINDS})")
_STRANGERS = Selector(
    labels=f"{names.LABEL_RUNNER} notin ({_KINDS})",
    fields="spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed",
)
_OWN = Selector(labels=f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}")
_AGENTS = Selector(
    labels=f"{names.LABEL_CACHE},{names.LABEL_COMPONENT}={names.COMPONENT_AGENT}", namespace=names.AGENT_NAMESPACE
)
_AGENT_SETS = Selector(labels=names.LABEL_CACHE, namespace=names.AGENT_NAMESPACE)


@dataclass(frozen=True, slots=True)
class Cluster:
    """All mirrors and the reflectors that fill them."""

    models: Mirror[ModelDeployment]
    """Indexed by the uris of what they read."""
    pools: Mirror[WarmPool]
    nodes: Mirror[Node]
    runners: Mirror[Pod]
    """Indexed by the keys of their owner and of the models they have to do with."""
    strangers: Mirror[Pod]
    services: Mirror[Service]
    budgets: Mirror[PodDisruptionBudget]
    autoscalers: Mirror[HorizontalPodAutoscaler]
    """All of them, indexed by the model whose replicas they write: others' may stand in the way of ours."""
    weight_caches: Mirror[WeightCache]
    node_caches: Mirror[NodeCache]
    agent_sets: Mirror[DaemonSet]
    """The DaemonSets of the agents, and those that pull the runners' image ahead."""
    agents: Mirror[Pod]
    """The node agents, indexed by node. They are among the strangers too: they take room."""
    reflectors: tuple[Reflector[Any], ...]

    async def synced(self) -> None:
        """Wait until every mirror is filled."""
        await asyncio.gather(*(reflector.synced.wait() for reflector in self.reflectors))

    def namespaces(self) -> set[str]:
        """Return the namespaces that have anything of Warmfleet."""
        objects = (*self.models.values(), *self.pools.values(), *self.runners.values(), *self.budgets.values())
        return {each.metadata.namespace for each in objects}


def mirrored(client: KubeClient, metrics: Metrics, watch_seconds: float) -> Cluster:
    """Return empty mirrors with reflectors that are yet to run."""

    def follow(name: str, resource: Resource[R], mirror: Mirror[R], selector: Selector = EVERYTHING) -> Reflector[R]:
        return Reflector(name, client, resource, mirror, metrics.kube, watch_seconds=watch_seconds, selector=selector)

    models: Mirror[ModelDeployment] = Mirror(index=uris_in, trim=without_annotations)
    nodes: Mirror[Node] = Mirror(trim=without_annotations)
    pools: Mirror[WarmPool] = Mirror(trim=without_annotations)
    runners: Mirror[Pod] = Mirror(index=lambda pod: {owner_of(pod), *models_of(pod)})
    strangers: Mirror[Pod] = Mirror(trim=as_stranger)
    services: Mirror[Service] = Mirror(trim=without_annotations)
    budgets: Mirror[PodDisruptionBudget] = Mirror(trim=without_annotations)
    autoscalers: Mirror[HorizontalPodAutoscaler] = Mirror(
        index=lambda each: {target_of(each)}, trim=without_annotations
    )
    weight_caches: Mirror[WeightCache] = Mirror(trim=without_annotations)
    node_caches: Mirror[NodeCache] = Mirror(trim=without_annotations)
    agent_sets: Mirror[DaemonSet] = Mirror(trim=without_annotations)
    agents: Mirror[Pod] = Mirror(index=lambda pod: (node_of(pod),), trim=without_annotations)
    return Cluster(
        models=models,
        pools=pools,
        nodes=nodes,
        runners=runners,
        strangers=strangers,
        services=services,
        budgets=budgets,
        autoscalers=autoscalers,
        weight_caches=weight_caches,
        node_caches=node_caches,
        agent_sets=agent_sets,
        agents=agents,
        reflectors=(
            follow("modeldeployments", MODEL_DEPLOYMENTS, models),
            follow("warmpools", WARM_POOLS, pools),
            follow("nodes", NODES, nodes),
            follow("runners", PODS, runners, _RUNNERS),
            follow("strangers", PODS, strangers, _STRANGERS),
            follow("services", SERVICES, services, _OWN),
            follow("poddisruptionbudgets", BUDGETS, budgets, _OWN),
            follow("horizontalpodautoscalers", AUTOSCALERS, autoscalers),
            follow("weightcaches", WEIGHT_CACHES, weight_caches),
            follow("nodecaches", NODE_CACHES, node_caches),
            follow("daemonsets", DAEMON_SETS, agent_sets, _AGENT_SETS),
            follow("agents", PODS, agents, _AGENTS),
        ),
    )


def wake_on_change(cluster: Cluster, queue: WorkQueue[keys.Key]) -> None:
    """Add the keys that a change concerns to the queue, from now on."""

    def node(former: Node | None, new: Node | None) -> None:
        queue.add(keys.FLEET, FLEET_DELAY_SECONDS)
        name = _either(former, new).name
        for pod in cluster.runners.values():
            if pod.spec.node_name == name:
                wake_runner(pod, queue)

    def stranger(_: object, __: object) -> None:
        queue.add(keys.FLEET, STRANGER_DELAY_SECONDS)

    def model(former: ModelDeployment | None, new: ModelDeployment | None) -> None:
        changed = _either(former, new)
        queue.add(keys.model(ModelKey(changed.namespace, changed.name)))
        queue.add(keys.FLEET, FLEET_DELAY_SECONDS)
        if former is None or new is None:
            queue.add(keys.namespace(changed.namespace))

    def pool(former: WarmPool | None, new: WarmPool | None) -> None:
        changed = _either(former, new)
        queue.add(keys.pool(PoolKey(changed.namespace, changed.name)))
        queue.add(keys.FLEET, FLEET_DELAY_SECONDS)
        if former is None or new is None:
            queue.add(keys.namespace(changed.namespace))
            # Where the models of the namespace belong may depend on whether the pool is there.
            for record in cluster.models.values():
                if record.metadata.namespace == changed.namespace:
                    queue.add(keys.model(ModelKey(changed.namespace, record.metadata.name)))

    def runner(former: Pod | None, new: Pod | None) -> None:
        for pod in (former, new):
            if pod is not None:
                wake_runner(pod, queue)
        queue.add(keys.FLEET, FLEET_DELAY_SECONDS)
        if former is None or new is None:
            queue.add(keys.namespace(_either(former, new).namespace))

    def service(former: Service | None, new: Service | None) -> None:
        changed = _either(former, new)
        queue.add(keys.model(ModelKey(changed.namespace, changed.labels.get(names.LABEL_MODEL, changed.name))))

    def budget(former: PodDisruptionBudget | None, new: PodDisruptionBudget | None) -> None:
        queue.add(keys.namespace(_either(former, new).namespace))

    def autoscaler(former: HorizontalPodAutoscaler | None, new: HorizontalPodAutoscaler | None) -> None:
        for target in {target_of(each) for each in (former, new) if each is not None}:
            if target is not None:
                queue.add(keys.model(target))

    cluster.models.subscribe(model)
    cluster.pools.subscribe(pool)
    cluster.nodes.subscribe(node)
    cluster.runners.subscribe(runner)
    cluster.strangers.subscribe(stranger)
    cluster.services.subscribe(service)
    cluster.budgets.subscribe(budget)
    cluster.autoscalers.subscribe(autoscaler)


def wake_all(cluster: Cluster, queue: WorkQueue[keys.Key]) -> None:
    """Add every key there is: a new leader looks at everything once."""
    queue.add(keys.FLEET)
    queue.add(keys.CACHES)
    for record in cluster.models.values():
        queue.add(keys.model(ModelKey(record.metadata.namespace, record.metadata.name)))
    for pool in cluster.pools.values():
        queue.add(keys.pool(PoolKey(pool.metadata.namespace, pool.metadata.name)))
    for name in cluster.namespaces():
        queue.add(keys.namespace(name))


def wake_runner(pod: Pod, queue: WorkQueue[keys.Key]) -> None:
    """Add the keys of all whose status depends on a runner."""
    owner = owner_of(pod)
    if isinstance(owner, PoolKey):
        queue.add(keys.pool(owner), POOL_DELAY_SECONDS)
    for key in models_of(pod):
        queue.add(keys.model(key))


def as_stranger(pod: Pod) -> Pod:
    """Keep of a pod what it takes on its node."""
    metadata = pod.metadata
    return Pod(
        metadata=Metadata(
            name=metadata.name,
            namespace=metadata.namespace,
            uid=metadata.uid,
            resource_version=metadata.resource_version,
            deletion_timestamp=metadata.deletion_timestamp,
        ),
        spec=msgspec.structs.replace(pod.spec, affinity=None, volumes=()),
        status=PodStatus(phase=pod.status.phase),
    )


def without_annotations(item: R) -> R:
    """Drop annotations: nobody reads them, and kubectl keeps a whole object in one."""
    return msgspec.structs.replace(item, metadata=msgspec.structs.replace(item.metadata, annotations={}))


def uris_in(record: ModelDeployment) -> set[str]:
    """Return every uri of a model's spec, as far as it can be read."""
    model, engine = record.spec.get("model") or {}, record.spec.get("engine") or {}
    blocks = [model, engine.get("speculative") or {}, *(model.get("adapters") or ())]
    return {block["uri"] for block in blocks if isinstance(block.get("uri"), str)}


def _either(former: Object | None, new: Object | None) -> Metadata:
    changed = new if new is not None else former
    assert changed is not None
    return changed.metadata
