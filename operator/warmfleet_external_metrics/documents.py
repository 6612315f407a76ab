"""What is answered, in the API's own shapes: discovery, lists of values, errors. Pure.

Shapes: https://github.com/kubernetes/metrics/blob/master/pkg/apis/external_metrics/v1beta1/types.go
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from warmfleet_api import names
from warmfleet_api.operator_api import ModelScaling, ScalingAnswer
from warmfleet_external_metrics.selectors import LabelSelector

GROUP_VERSION: Final = f"{names.EXTERNAL_METRICS_GROUP}/{names.EXTERNAL_METRICS_VERSION}"
PATH_GROUP: Final = f"/apis/{names.EXTERNAL_METRICS_GROUP}"
PATH_VERSION: Final = f"/apis/{GROUP_VERSION}"
METRICS: Final = (names.METRIC_DEMAND,)
_VERSION: Final = {"groupVersion": GROUP_VERSION, "version": names.EXTERNAL_METRICS_VERSION}
_GROUP: Final = {"name": names.EXTERNAL_METRICS_GROUP, "versions": [_VERSION], "preferredVersion": _VERSION}
GROUPS: Final = {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_GROUP]}
GROUP: Final = {"kind": "APIGroup", "apiVersion": "v1", **_GROUP}
RESOURCES: Final = {
    "kind": "APIResourceList",
    "apiVersion": "v1",
    "groupVersion": GROUP_VERSION,
    "resources": [
        {
            "name": metric,
            "singularName": "",
            "namespaced": True,
            "kind": "ExternalMetricValueList",
            "verbs": ["get"],
        }
        for metric in METRICS
    ],
}
_REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


def values(answer: ScalingAnswer, namespace: str, metric: str, selector: LabelSelector) -> dict[str, Any]:
    """Return the list of values that a selector names. Of what is not known there is no item: never a zero."""
    return {
        "kind": "ExternalMetricValueList",
        "apiVersion": GROUP_VERSION,
        "metadata": {},
        "items": [
            {
                "metricName": metric,
                "metricLabels": labels,
                "timestamp": answer.time,
                "value": quantity(each.value),
            }
            for each, labels in _labelled(answer.models, namespace)
            if each.value is not None and selector.holds(labels)
        ],
    }


def status(code: int, message: str, retry_seconds: int = 0) -> dict[str, Any]:
    """Return an error as Kubernetes writes it; `retry_seconds`: when to come again, 0: that is not said."""
    details = {"retryAfterSeconds": retry_seconds} if retry_seconds else {}
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": _REASONS.get(code, ""),
        "details": details,
        "code": code,
    }


def quantity(value: float) -> str:
    """Return a number as Kubernetes writes quantities: whole, or in thousandths, rounded up."""
    return str(int(value)) if value == int(value) else f"{math.ceil(value * 1000)}m"


def _labelled(models: Iterable[ModelScaling], namespace: str) -> list[tuple[ModelScaling, Mapping[str, str]]]:
    return [
        (each, {names.METRIC_LABEL_NAMESPACE: each.namespace, names.METRIC_LABEL_MODEL: each.model})
        for each in models
        if each.namespace == namespace
    ]
