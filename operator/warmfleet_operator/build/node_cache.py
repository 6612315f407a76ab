"""The NodeCache of a node: what its agent is told, owned by the Node."""

from collections.abc import Mapping
from typing import Any

from warmfleet_api import names
from warmfleet_api.node_cache import NodeCacheSpec
from warmfleet_operator.records import Node, NodeCache


def node_cache(node: Node, spec: NodeCacheSpec) -> dict[str, Any]:
    """Return the NodeCache to create."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.NODE_CACHE_KIND,
        "metadata": {
            "name": node.metadata.name,
            "labels": _labels(spec),
            "ownerReferences": [_owner(node)],
        },
        "spec": node_cache_spec(spec),
    }


def node_cache_spec(spec: NodeCacheSpec) -> dict[str, Any]:
    """Return the spec as the API server takes it."""
    return spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def node_cache_patch(record: NodeCache, node: Node, spec: NodeCacheSpec) -> list[Mapping[str, Any]]:
    """Return the JSON patch that brings a NodeCache to what is wanted, whatever else somebody wrote into its spec.

    It tests what it was decided on: the object, and the generation of its spec. The agent's status does not matter.
    """
    metadata = record.metadata
    return [
        {"op": "test", "path": "/metadata/uid", "value": metadata.uid},
        {"op": "test", "path": "/metadata/generation", "value": metadata.generation},
        {"op": "add", "path": "/metadata/labels", "value": {**metadata.labels, **_labels(spec)}},
        {"op": "add", "path": "/metadata/ownerReferences", "value": [_owner(node)]},
        {"op": "add", "path": "/spec", "value": node_cache_spec(spec)},
    ]


def is_labelled(record: NodeCache, node: Node, spec: NodeCacheSpec) -> bool:
    """Whether labels and owner are as they should be."""
    labels = record.metadata.labels
    owners = [(owner.kind, owner.uid) for owner in record.metadata.owner_references]
    return labels.items() >= _labels(spec).items() and owners == [("Node", node.metadata.uid)]


def _labels(spec: NodeCacheSpec) -> dict[str, str]:
    return {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_CACHE: spec.cache}


def _owner(node: Node) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Node", "name": node.metadata.name, "uid": node.metadata.uid}
