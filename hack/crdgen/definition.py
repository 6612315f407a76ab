"""The CustomResourceDefinition of ModelDeployment: its schema, columns and subresources."""

from typing import Any

from crdgen.structural import Schema, structural
from warmfleet_api import names
from warmfleet_api.model_deployment import ModelDeployment
from warmfleet_api.vocabulary import ConditionType

NAME = f"{names.MODEL_DEPLOYMENT_PLURAL}.{names.GROUP}"
_STANDARD_PROPERTIES: dict[str, Schema] = {
    # The API server describes them itself; the name stands here for the rule that speaks of it.
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
}


def model_deployment_crd() -> dict[str, Any]:
    """Return the whole CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.MODEL_DEPLOYMENT_KIND,
                "listKind": f"{names.MODEL_DEPLOYMENT_KIND}List",
                "plural": names.MODEL_DEPLOYMENT_PLURAL,
                "singular": names.MODEL_DEPLOYMENT_KIND.lower(),
                "shortNames": [names.MODEL_DEPLOYMENT_SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "selectableFields": [{"jsonPath": ".spec.priority"}],
                    "additionalPrinterColumns": _columns(),
                    "schema": {"openAPIV3Schema": _root_schema()},
                }
            ],
        },
    }


def _root_schema() -> Schema:
    return structural(ModelDeployment, given=_STANDARD_PROPERTIES) | {"required": ["spec"]}


def _columns() -> list[dict[str, Any]]:
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
        _column("GPUs", ".spec.resources.gpus", "GPUs of one replica.", kind="integer", wide=True),
        _column("Node", ".status.engines[0].node", "Node of the first engine.", wide=True),
        _column("Ready-At", ".status.lastStart.time", "When the last start ended.", wide=True),
        _column("Blocker", ".status.pendingStart.blocker", "What the start waits for.", wide=True),
        _column("Endpoint", ".status.endpoint", "Base URL of the API inside the cluster.", wide=True),
    ]


def _column(name: str, json_path: str, description: str, *, kind: str = "string", wide: bool = False) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": json_path, "description": description}
    return column | ({"priority": 1} if wide else {})
