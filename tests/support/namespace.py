"""A namespace of one test: what it applies, what it waits for, and what to print when that does not come."""

import json
import os
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, TypeVar

from support.cluster import Cluster
from support.kubeapi import MDL, ApiError, KubeApi, Object
from support.waiting import stays_true, wait_for
from warmfleet_api import names

APPLY_PATCH = "application/apply-patch+yaml"
READY_SECONDS = 90
Found = TypeVar("Found")
_numbers = count(1)


def new_name(purpose: str) -> str:
    """Return a name that no other namespace of the cluster has or had."""
    return f"{purpose}-{os.getpid()}-{next(_numbers)}"


class Namespace:
    """Objects of one namespace. `log_tail` gives the end of the operator's log for messages."""

    def __init__(self, cluster: Cluster, name: str, log_tail: Callable[[], str] = lambda: "") -> None:
        self.cluster = cluster
        self.name = name
        self.log_tail = log_tail

    @property
    def api(self) -> KubeApi:
        """The API server, with an administrator's rights."""
        return self.cluster.api

    @property
    def models_path(self) -> str:
        """Path of the ModelDeployments."""
        return f"{MDL}/namespaces/{self.name}/{names.MODEL_DEPLOYMENT_PLURAL}"

    @property
    def core_path(self) -> str:
        """Path of the namespace's core objects."""
        return f"api/v1/namespaces/{self.name}"

    def create(self, **labels: str) -> None:
        """Create the namespace."""
        self.api.create("api/v1/namespaces", {"metadata": {"name": self.name, "labels": labels}})

    def delete(self) -> None:
        """Begin to delete the namespace; Kubernetes ends it on its own time."""
        self.api.delete(f"api/v1/namespaces/{self.name}")

    def kubectl(self, *arguments: str, stdin: str | None = None, bound_seconds: float = 90) -> str:
        """Run kubectl in this namespace and return its output."""
        return self.cluster.kubectl("--namespace", self.name, *arguments, stdin=stdin, bound_seconds=bound_seconds)

    @property
    def pools_path(self) -> str:
        """Path of the WarmPools."""
        return f"{MDL}/namespaces/{self.name}/{names.WARM_POOL_PLURAL}"

    def apply(self, *objects: Object) -> None:
        """Apply ModelDeployments and WarmPools as `kubectl apply --server-side` does."""
        for each in objects:
            collection = self.pools_path if each["kind"] == names.WARM_POOL_KIND else self.models_path
            path = f"{collection}/{each['metadata']['name']}?fieldManager=test&fieldValidation=Strict"
            self.api.request("PATCH", path, each, APPLY_PATCH)

    def pool(self, name: str) -> Object:
        """Return one WarmPool."""
        found = self.api.get(f"{self.pools_path}/{name}")
        assert found is not None, f"no WarmPool {self.name}/{name}"
        return found

    def wait_pool(self, name: str, within: float = READY_SECONDS) -> Object:
        """Wait until all runners of a pool take engines and none is being replaced; return it."""

        def stands() -> Object | None:
            found = self.pool(name)
            ready, reconciling = condition(found, "Ready"), condition(found, "Reconciling")
            settles = reconciling is not None and reconciling["status"] == "False"
            return found if settles and ready is not None and ready["status"] == "True" else None

        return self.wait(f"the runners of pool {name}", stands, within)

    def change(self, name: str, **spec: Any) -> None:
        """Merge fields into the spec of a ModelDeployment."""
        self.api.merge(f"{self.models_path}/{name}", {"spec": spec})

    def remove(self, name: str) -> None:
        """Delete a ModelDeployment."""
        self.api.delete(f"{self.models_path}/{name}")

    def events(self) -> list[Object]:
        """Return the events."""
        return self.api.list(f"apis/events.k8s.io/v1/namespaces/{self.name}/events")

    def models(self) -> dict[str, Object]:
        """Return the ModelDeployments by name."""
        return {each["metadata"]["name"]: each for each in self.api.list(self.models_path)}

    def model(self, name: str) -> Object:
        """Return one ModelDeployment."""
        found = self.api.get(f"{self.models_path}/{name}")
        assert found is not None, f"no ModelDeployment {self.name}/{name}"
        return found

    def runners(self, model: str | None = None) -> list[Object]:
        """Return the runners' pods, of one model or of all."""
        selector = names.LABEL_RUNNER if model is None else f"{names.LABEL_RUNNER},{names.LABEL_OWNER}={model}"
        return self.api.list(f"{self.core_path}/pods", labelSelector=selector)

    def condition(self, model: str, kind: str) -> Object | None:
        """Return a condition, if it speaks of the present generation."""
        return condition(self.model(model), kind)

    def wait_condition(
        self, model: str, kind: str, status: str, *reasons: str, within: float = READY_SECONDS
    ) -> Object:
        """Wait until a condition has that status and, where given, one of the reasons; return it."""

        def holds() -> Object | None:
            found = self.condition(model, kind)
            fits = found and found["status"] == status and (not reasons or found["reason"] in reasons)
            return found if fits else None

        return wait_for(f"{model} has {kind}={status} {'/'.join(reasons)}", holds, within, self.explain)

    def wait_ready(self, *models: str, within: float = READY_SECONDS) -> None:
        """Wait until these models are Ready with all their replicas and nothing is being rolled out."""
        self.wait(f"{', '.join(models)} Ready", lambda: all(settled(self.model(name)) for name in models), within)

    def wait(self, what: str, condition: Callable[[], Found | None], within: float = READY_SECONDS) -> Found:
        """Wait for anything; the failure prints the namespace."""
        return wait_for(what, condition, within, self.explain)

    def stays(self, what: str, condition: Callable[[], bool], seconds: float) -> None:
        """Check that something remains so for a while."""
        stays_true(what, condition, seconds, self.explain)

    def explain(self) -> str:
        """Return what a person would look at: models, pods, events, the operator's log."""
        try:
            parts = [
                *(_model_line(each) for each in (*self.models().values(), *self.api.list(self.pools_path))),
                *(_pod_line(each) for each in self.api.list(f"{self.core_path}/pods")),
                *_event_lines(self.events())[-20:],
            ]
        except (ApiError, OSError) as error:
            parts = [f"namespace {self.name} can't be read: {error}"]
        return "\n".join([f"--- namespace {self.name}", *parts, "--- operator log", self.log_tail()])


def condition(model: Object, kind: str) -> Object | None:
    """Return a model's condition, if it speaks of the present generation."""
    for each in model.get("status", {}).get("conditions", []):
        if each["type"] == kind:
            found: Object = each
            return found if found.get("observedGeneration") == model["metadata"]["generation"] else None
    return None


def settled(model: Object) -> bool:
    """Whether the present spec is Ready with all replicas."""
    status = model.get("status", {})
    ready = condition(model, "Ready")
    return (
        ready is not None
        and ready["status"] == "True"
        and (condition(model, "Reconciling") or {"status": "False"})["status"] != "True"
        and status.get("readyReplicas") == status.get("replicas") == model["spec"]["replicas"]
    )


def is_ready(pod: Object) -> bool:
    """Whether a pod has the condition Ready."""
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))


def _model_line(model: Object) -> str:
    status = model.get("status", {})
    conditions = "; ".join(
        f"{each['type']}={each['status']}/{each['reason']} {each['message']}" for each in status.get("conditions", [])
    )
    kept = {
        key: value for key, value in status.items() if key in {"replicas", "readyReplicas", "pendingStart", "blocker"}
    }
    metadata = model["metadata"]
    return f"{model['kind']} {metadata['name']} generation {metadata['generation']}: {conditions} {json.dumps(kept)}"


def _pod_line(pod: Object) -> str:
    metadata, status = pod["metadata"], pod.get("status", {})
    states = [each["state"] for each in status.get("containerStatuses", [])]
    serve = {
        key: value for key, value in metadata.get("labels", {}).items() if key.startswith(names.SERVE_LABEL_PREFIX)
    }
    ending = " terminating" if metadata.get("deletionTimestamp") else ""
    return (
        f"pod {metadata['name']} on {pod['spec'].get('nodeName')} {status.get('phase')}{ending}"
        f" {status.get('podIP', '')} ready={is_ready(pod)} {json.dumps(serve)} {json.dumps(states)}"
    )


def _event_lines(events: Iterable[Object]) -> list[str]:
    ordered = sorted(events, key=lambda each: each["metadata"]["creationTimestamp"])
    return [f"event {each['regarding'].get('name')} {each.get('reason')}: {each.get('note')}" for each in ordered]
