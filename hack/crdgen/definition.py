"""The CustomResourceDefinitions: schema, columns and subresources of each kind."""

from typing import Any, Literal

from crdgen.structural import Schema, structural
from warmfleet_api import names
from warmfleet_api.model_deployment import ModelDeployment
from warmfleet_api.node_cache import NodeCache
from warmfleet_api.rules import Block
from warmfleet_api.tenant import Tenant
from warmfleet_api.vocabulary import CacheConditionType, ConditionType
from warmfleet_api.warm_pool import WarmPool
from warmfleet_api.weight_cache import WeightCache

_STANDARD_PROPERTIES: dict[str, Schema] = {
    # The API server describes them itself; the name stands here for the rule that speaks of it.
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
}
Column = dict[str, Any]


def definitions() -> list[dict[str, Any]]:
    """Return the CustomResourceDefinitions of all kinds."""
    return [model_deployment_crd(), warm_pool_crd(), weight_cache_crd(), node_cache_crd(), tenant_crd()]


def model_deployment_crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of ModelDeployment."""
    return _definition(
        ModelDeployment,
        kind=names.MODEL_DEPLOYMENT_KIND,
        plural=names.MODEL_DEPLOYMENT_PLURAL,
        short_name=names.MODEL_DEPLOYMENT_SHORT_NAME,
        selectable_fields=[".spec.priority"],
        columns=_model_deployment_columns(),
    )


def warm_pool_crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of WarmPool."""
    return _definition(
        WarmPool,
        kind=names.WARM_POOL_KIND,
        plural=names.WARM_POOL_PLURAL,
        short_name=names.WARM_POOL_SHORT_NAME,
        selectable_fields=[],
        columns=_warm_pool_columns(),
    )


def weight_cache_crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of WeightCache."""
    return _definition(
        WeightCache,
        kind=names.WEIGHT_CACHE_KIND,
        plural=names.WEIGHT_CACHE_PLURAL,
        short_name=names.WEIGHT_CACHE_SHORT_NAME,
        selectable_fields=[],
        columns=_weight_cache_columns(),
        scope="Cluster",
        has_scale=False,
    )


def node_cache_crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of NodeCache."""
    return _definition(
        NodeCache,
        kind=names.NODE_CACHE_KIND,
        plural=names.NODE_CACHE_PLURAL,
        short_name=names.NODE_CACHE_SHORT_NAME,
        selectable_fields=[],
        columns=_node_cache_columns(),
        scope="Cluster",
        has_scale=False,
    )


def tenant_crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of Tenant."""
    ready = f'.status.conditions[?(@.type=="{ConditionType.READY}")]'
    return _definition(
        Tenant,
        kind=names.TENANT_KIND,
        plural=names.TENANT_PLURAL,
        short_name=names.TENANT_SHORT_NAME,
        selectable_fields=[],
        columns=[
            _column("Ready", f"{ready}.status", "Whether routers have its keys."),
            _column("Status", f"{ready}.reason", "Why."),
            _column("Class", ".spec.priority", "Class of its requests; empty: that of the model asked for."),
            _column("Keys", ".status.keys", "API keys that are accepted.", kind="integer"),
            _column("Age", ".metadata.creationTimestamp", "Since when the object exists.", kind="date"),
            _column("Message", f"{ready}.message", "What to do.", wide=True),
        ],
        has_scale=False,
    )


def _definition(
    root: type[Block],
    *,
    kind: str,
    plural: str,
    short_name: str,
    selectable_fields: list[str],
    columns: list[Column],
    scope: Literal["Namespaced", "Cluster"] = "Namespaced",
    has_scale: bool = True,
) -> dict[str, Any]:
    version: dict[str, Any] = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
    }
    if has_scale:
        version["subresources"]["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        }
    if selectable_fields:
        version["selectableFields"] = [{"jsonPath": path} for path in selectable_fields]
    version["additionalPrinterColumns"] = columns
    schema = structural(root, given=_STANDARD_PROPERTIES) | {"required": ["spec"]}
    version["schema"] = {"openAPIV3Schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short_name],
                "categories": [names.CATEGORY],
            },
            "versions": [version],
        },
    }


def _model_deployment_columns() -> list[Column]:
    ready = f'.status.conditions[?(@.type=="{ConditionType.READY}")]'
    return [
        _column("Ready", f"{ready}.status", "Whether requests are answered."),
        _column("Status", f"{ready}.reason", "Why."),
        _column("Desired", ".spec.replicas", "Engines wanted.", kind="integer"),
        _column("Serving", ".status.readyReplicas", "Engines that serve.", kind="integer"),
        _column("Priority", ".spec.priority", "Class of the model."),
        _column("Pending", ".status.pendingStart.summary", "The start that waits or is under way."),
        _column("Last-Start", ".status.lastStart.summary", "The last start that ended."),
        _column("Age", ".metadata.creationTimestamp", "Since when the object exists.", kind="date"),
        _column("Model", ".spec.model.uri", "Where the weights are.", wide=True),
        _column(
            "Canary",
            ".status.rollout.canaryWeight",
            "Percent of the requests that a canary gets.",
            kind="integer",
            wide=True,
        ),
        _column("GPUs", ".spec.resources.gpus", "GPUs of one replica.", kind="integer", wide=True),
        _column("Node", ".status.engines[0].node", "Node of the first engine.", wide=True),
        _column("Ready-At", ".status.pendingStart.readyTime", "When the start is expected to be done.", wide=True),
        _column("Blocker", ".status.pendingStart.blocker", "What the start waits for.", wide=True),
        _column("Endpoint", ".status.endpoint", "Base URL of the API inside the cluster.", wide=True),
    ]


def _warm_pool_columns() -> list[Column]:
    ready = f'.status.conditions[?(@.type=="{ConditionType.READY}")]'
    return [
        _column("Runners", ".spec.replicas", "Runners wanted.", kind="integer"),
        _column("Free", ".status.free", "Runners that take engines and host none.", kind="integer"),
        _column("Busy", ".status.busy", "Runners that host engines.", kind="integer"),
        _column("Models", ".status.models", "Models that have engines in the pool.", kind="integer"),
        _column("Age", ".metadata.creationTimestamp", "Since when the object exists.", kind="date"),
        _column("Ready", f"{ready}.status", "Whether all runners take engines.", wide=True),
        _column("Status", f"{ready}.reason", "Why.", wide=True),
        _column("Blocker", ".status.blocker", "What a missing runner waits for.", wide=True),
    ]


def _weight_cache_columns() -> list[Column]:
    ready = f'.status.conditions[?(@.type=="{CacheConditionType.READY}")]'
    fits = f'.status.conditions[?(@.type=="{CacheConditionType.FITS}")]'
    return [
        _column("Ready", f"{ready}.status", "Whether all agents keep what they should."),
        _column("Fits", f"{fits}.status", "Whether the preloaded models fit together into memory."),
        _column("Memory", ".spec.memory.size", "Memory of each node."),
        _column("Disk", ".spec.disk.size", "Disk of each node."),
        _column("Nodes", ".status.nodes", "Nodes of the group.", kind="integer"),
        _column("Working", ".status.readyNodes", "Nodes whose agent works.", kind="integer"),
        _column("Age", ".metadata.creationTimestamp", "Since when the object exists.", kind="date"),
        _column("Summary", ".status.summary", "What is where.", wide=True),
    ]


def _node_cache_columns() -> list[Column]:
    ready = f'.status.conditions[?(@.type=="{ConditionType.READY}")]'
    return [
        _column("Ready", f"{ready}.status", "Whether the agent works."),
        _column("Models", ".status.inMemory", "Entries in memory, of those wanted there."),
        _column("Memory", ".status.memoryUse", "Bytes in memory, of those there are."),
        _column("Disk", ".status.diskUse", "Bytes on disk, of those there are."),
        _column("Activity", ".status.activity", "What is being fetched, and how fast."),
        _column("Age", ".metadata.creationTimestamp", "Since when the object exists.", kind="date"),
        _column("Cache", ".spec.cache", "Name of the WeightCache.", wide=True),
        _column("Keys", ".status.entries[*].key", "Entries of the node.", wide=True),
    ]


def _column(name: str, json_path: str, description: str, *, kind: str = "string", wide: bool = False) -> Column:
    column: Column = {"name": name, "type": kind, "jsonPath": json_path, "description": description}
    return column | ({"priority": 1} if wide else {})
