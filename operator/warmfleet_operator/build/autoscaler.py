"""The HorizontalPodAutoscaler of a model: brings spec.replicas to what the policy wants, and only limits how fast."""

from typing import Any

from warmfleet_api import names
from warmfleet_api.autoscaling import Autoscaling, ScalingBehavior, ScalingDirection
from warmfleet_api.vocabulary import ScalingPolicy
from warmfleet_operator.build.pod import owner_reference
from warmfleet_operator.decide.fleet import Model, ModelKey
from warmfleet_operator.records import HorizontalPodAutoscaler

_UP = {
    "stabilizationWindowSeconds": 0,
    "selectPolicy": "Max",
    "policies": [{"type": "Pods", "value": 2, "periodSeconds": 10}],
}
_DOWN = {
    "stabilizationWindowSeconds": 300,
    "selectPolicy": "Max",
    "policies": [{"type": "Pods", "value": 1, "periodSeconds": 60}],
}


def autoscaler(model: Model) -> dict[str, Any] | None:
    """Return the HorizontalPodAutoscaler to apply; None where none is wanted."""
    block = model.spec.autoscaling
    if block is None or block.policy is ScalingPolicy.EXTERNAL:
        return None
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {
            "name": model.key.name,
            "namespace": model.key.namespace,
            "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_MODEL: model.key.name},
            "ownerReferences": [owner_reference(model)],
        },
        "spec": {
            "scaleTargetRef": {
                "apiVersion": names.API_VERSION,
                "kind": names.MODEL_DEPLOYMENT_KIND,
                "name": model.key.name,
            },
            # Below 1 is the operator's matter: it lets the model sleep, and spec.replicas stays what it is.
            "minReplicas": block.floor,
            "maxReplicas": block.max_replicas,
            "metrics": [_metric(model.key, block)],
            "behavior": behavior_of(block),
        },
    }


def target_of(record: HorizontalPodAutoscaler) -> ModelKey | None:
    """Return the model whose replicas an autoscaler writes; None: those of something else."""
    reference = record.spec.get("scaleTargetRef", {})
    group = str(reference.get("apiVersion", "")).rpartition("/")[0]
    if group != names.GROUP or reference.get("kind") != names.MODEL_DEPLOYMENT_KIND:
        return None
    return ModelKey(record.metadata.namespace, str(reference.get("name", "")))


def behavior_of(block: Autoscaling) -> dict[str, Any]:
    """Return how fast replicas come and go, what is left out filled in."""
    behavior = block.behavior or ScalingBehavior()
    return {"scaleUp": _direction(behavior.scale_up, _UP), "scaleDown": _direction(behavior.scale_down, _DOWN)}


def _direction(given: ScalingDirection, default: dict[str, Any]) -> dict[str, Any]:
    return default | given.model_dump(mode="json", by_alias=True, exclude_none=True)


def _metric(key: ModelKey, block: Autoscaling) -> dict[str, Any]:
    return {
        "type": "External",
        "external": {
            "metric": {
                "name": names.METRIC_DEMAND,
                "selector": {"matchLabels": {names.METRIC_LABEL_MODEL: key.name}},
            },
            "target": {"type": "AverageValue", "averageValue": str(block.target)},
        },
    }
