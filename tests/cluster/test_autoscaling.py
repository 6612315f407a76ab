"""The HorizontalPodAutoscaler of a model on a real API server, and Kubernetes' own controller that reads it."""

import json
from typing import Any

import pytest

from support.cluster import Cluster
from support.models import simulated
from support.namespace import Namespace
from support.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

SYNC_SECONDS = 40
"""The controller looks every 15 s."""


def autoscaler(namespace: Namespace, name: str) -> dict[str, Any] | None:
    return namespace.api.get(f"apis/autoscaling/v2/namespaces/{namespace.name}/horizontalpodautoscalers/{name}")


def spec(namespace: Namespace, name: str) -> dict[str, Any]:
    found = autoscaler(namespace, name)
    return {} if found is None else found["spec"]


def without_replicas(name: str, **block: Any) -> dict[str, Any]:
    made = simulated(name, autoscaling=block)
    del made["spec"]["replicas"]
    return made


def test_a_model_has_its_autoscaler_as_long_as_the_block_is_there_and_as_it_says(namespace: Namespace) -> None:
    namespace.apply(without_replicas("scaled", maxReplicas=3))
    made = namespace.wait("its autoscaler", lambda: autoscaler(namespace, "scaled"))
    assert made["metadata"]["ownerReferences"][0]["uid"] == namespace.model("scaled")["metadata"]["uid"]
    assert (made["spec"]["minReplicas"], made["spec"]["maxReplicas"]) == (1, 3)
    namespace.change("scaled", autoscaling={"maxReplicas": 4, "targetRequests": 7})
    namespace.wait("the change", lambda: spec(namespace, "scaled")["maxReplicas"] == 4)
    target = spec(namespace, "scaled")["metrics"][0]["external"]["target"]
    assert target == {"type": "AverageValue", "averageValue": "7"}
    namespace.kubectl("patch", "hpa", "scaled", "--type=merge", "-p", '{"spec": {"maxReplicas": 9}}')
    namespace.wait("what was changed by hand put right", lambda: spec(namespace, "scaled")["maxReplicas"] == 4)
    namespace.change("scaled", autoscaling=None)
    namespace.wait("its end", lambda: autoscaler(namespace, "scaled") is None)
    namespace.wait("nothing told of it", lambda: "scaling" not in namespace.model("scaled")["status"])


def test_replicas_are_the_autoscalers_to_write_and_applying_the_object_again_leaves_them(namespace: Namespace) -> None:
    object_ = without_replicas("floored", minReplicas=2)
    namespace.kubectl("apply", "-f", "-", stdin=json.dumps(object_))
    namespace.wait(
        "as many replicas as there are at least, written by Kubernetes",
        lambda: namespace.model("floored")["spec"]["replicas"] == 2,
        SYNC_SECONDS,
    )
    namespace.wait_ready("floored")
    (step,) = namespace.wait("the change told", lambda: namespace.model("floored")["status"]["scaling"].get("steps"))
    assert (step["fromReplicas"], step["toReplicas"]) == (1, 2)
    object_["metadata"]["labels"] = {"team": "a"}
    namespace.kubectl("apply", "-f", "-", stdin=json.dumps(object_))
    object_["metadata"]["labels"] = {"team": "b"}
    namespace.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(object_))
    model = namespace.model("floored")
    assert (model["metadata"]["labels"]["team"], model["spec"]["replicas"]) == ("b", 2)


def test_beside_an_autoscaler_of_somebody_else_there_is_none_and_that_is_said(
    cluster: Cluster, namespace: Namespace
) -> None:
    namespace.apply(without_replicas("shared"))
    made = namespace.wait("its autoscaler", lambda: autoscaler(namespace, "shared"))
    other = {
        "apiVersion": made["apiVersion"],
        "kind": made["kind"],
        "metadata": {"name": "keda-hpa-shared"},
        "spec": {key: made["spec"][key] for key in ("scaleTargetRef", "minReplicas", "maxReplicas", "metrics")},
    }
    namespace.kubectl("create", "-f", "-", stdin=json.dumps(other))
    namespace.wait("its own gone", lambda: autoscaler(namespace, "shared") is None)
    namespace.wait_ready("shared")
    said = namespace.wait_condition("shared", "Degraded", "True", "ForeignScaler")
    assert "kubectl -n" in said["message"] and "delete hpa keda-hpa-shared" in said["message"]
    namespace.kubectl("delete", "hpa", "keda-hpa-shared")
    namespace.wait("its own again", lambda: autoscaler(namespace, "shared") is not None)
    wait_for("nothing to say", lambda: namespace.condition("shared", "Degraded") is None, 30, namespace.explain)
