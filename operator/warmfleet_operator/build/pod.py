"""The runner's pod: one generic shape, hardened for Pod Security `restricted`, pinned to its node."""

from typing import Any

from warmfleet_api import assignment, names
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.vocabulary import EngineState, EngineType
from warmfleet_operator.build.template import image_of, runner_name
from warmfleet_operator.decide.actions import CreateRunner
from warmfleet_operator.decide.fleet import Limits, Model

USER_ID = 65532
PRE_STOP_SECONDS = 3
"""Until every node has heard that the Service no longer selects the pod."""
TERMINATION_GRACE_SECONDS = 60
"""preStop, then the time running requests have to end."""
UNREACHABLE_SECONDS = 30
"""How long the pod stays on a node that is not Ready before Kubernetes evicts it."""

_FILE_SCHEME = "file://"


def runner_pod(action: CreateRunner, limits: Limits) -> dict[str, Any]:
    """Return the pod to create."""
    spec = action.model.spec
    template = spec.pod_template
    pod_spec: dict[str, Any] = {
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": _pinned_to(action.node),
        "tolerations": _tolerations(spec),
        "containers": [_container(action, limits)],
        "volumes": _volumes(spec),
    }
    if template.node_selector:
        pod_spec["nodeSelector"] = dict(template.node_selector)
    if template.runtime_class_name is not None:
        pod_spec["runtimeClassName"] = template.runtime_class_name
    if template.image_pull_secrets:
        pod_spec["imagePullSecrets"] = [{"name": secret.name} for secret in template.image_pull_secrets]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(action), "spec": pod_spec}


def _metadata(action: CreateRunner) -> dict[str, Any]:
    model = action.model
    return {
        "name": runner_name(model.key.name, action.slot, action.attempt),
        "namespace": model.key.namespace,
        "labels": {
            names.LABEL_MANAGED_BY: names.MANAGED_BY,
            names.LABEL_RUNNER: names.MODEL_DEPLOYMENT_KIND,
            names.LABEL_OWNER: model.key.name,
            names.LABEL_SLOT: str(action.slot),
            names.LABEL_TEMPLATE_HASH: model.hash,
            names.LABEL_SCALE_OF: model.metadata.uid,
            names.serve_label(model.key.name): EngineState.STARTING.value,
        },
        "annotations": {names.ANNOTATION_ASSIGNMENT: assignment.encode(action.assignment)},
        "ownerReferences": [owner_reference(model)],
    }


def owner_reference(model: Model) -> dict[str, Any]:
    """Return the reference that lets a child go with its ModelDeployment."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.MODEL_DEPLOYMENT_KIND,
        "name": model.key.name,
        "uid": model.metadata.uid,
        "controller": True,
    }


def _pinned_to(node: str) -> dict[str, Any]:
    """Require the node by affinity and not by nodeName: the Kubernetes scheduler still checks and binds."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def _tolerations(spec: ModelDeploymentSpec) -> list[dict[str, Any]]:
    own = [
        {
            "key": f"node.kubernetes.io/{condition}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": UNREACHABLE_SECONDS,
        }
        for condition in ("not-ready", "unreachable")
    ]
    return [each.model_dump(by_alias=True, exclude_none=True) for each in spec.pod_template.tolerations] + own


def _container(action: CreateRunner, limits: Limits) -> dict[str, Any]:
    spec = action.model.spec
    return {
        "name": names.RUNNER_CONTAINER,
        "image": image_of(spec, limits.default_image),
        "imagePullPolicy": limits.image_pull_policy,
        "command": ["python", "-m", "warmfleet_runtime"],
        "ports": [
            {"name": "api", "containerPort": names.API_PORT, "protocol": "TCP"},
            {"name": "status", "containerPort": names.STATUS_PORT, "protocol": "TCP"},
        ],
        "env": _environment(),
        "resources": _resources(spec),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "startupProbe": _probe(names.PATH_STARTUP, period=1, failures=action.start_budget_seconds),
        "readinessProbe": _probe(names.PATH_READY, period=1, failures=3),
        "livenessProbe": _probe(names.PATH_LIVE, period=10, failures=3),
        "volumeMounts": _mounts(spec),
    }


def _environment() -> list[dict[str, Any]]:
    fields = {
        names.ENV_POD_UID: "metadata.uid",
        names.ENV_POD_NAME: "metadata.name",
        names.ENV_POD_NAMESPACE: "metadata.namespace",
        names.ENV_NODE_NAME: "spec.nodeName",
    }
    environment: list[dict[str, Any]] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()
    ]
    memory = {"containerName": names.RUNNER_CONTAINER, "resource": "limits.memory", "divisor": "1"}
    return [*environment, {"name": names.ENV_MEMORY_LIMIT_BYTES, "valueFrom": {"resourceFieldRef": memory}}]


def _resources(spec: ModelDeploymentSpec) -> dict[str, Any]:
    """Request and limit; CPU has no limit: an idle core helps a start."""
    resources = spec.resources
    memory = str(resources.memory)
    gpus = {resources.gpu_resource: str(spec.gpus)} if spec.gpus else {}
    return {"requests": {"cpu": str(resources.cpu), "memory": memory, **gpus}, "limits": {"memory": memory, **gpus}}


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": names.STATUS_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _mounts(spec: ModelDeploymentSpec) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "assignment", "mountPath": names.ASSIGNMENT_DIRECTORY, "readOnly": True},
        {"name": "run", "mountPath": names.RUN_DIRECTORY},
        {"name": "cache", "mountPath": names.CACHE_DIRECTORY},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if _weights_folder(spec) is not None:
        mounts.append({"name": "weights", "mountPath": names.WEIGHTS_DIRECTORY, "readOnly": True})
    return mounts


def _volumes(spec: ModelDeploymentSpec) -> list[dict[str, Any]]:
    annotation = f"metadata.annotations['{names.ANNOTATION_ASSIGNMENT}']"
    volumes: list[dict[str, Any]] = [
        {
            "name": "assignment",
            "downwardAPI": {"items": [{"path": names.ASSIGNMENT_FILE, "fieldRef": {"fieldPath": annotation}}]},
        },
        {"name": "run", "emptyDir": {}},
        {"name": "cache", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
    ]
    folder = _weights_folder(spec)
    if folder is not None:
        # No `type: Directory`: a missing folder would leave the pod without a word; the engine says ModelNotFound.
        volumes.append({"name": "weights", "hostPath": {"path": folder}})
    return volumes


def _weights_folder(spec: ModelDeploymentSpec) -> str | None:
    """Return the node's folder with the weights; a Simulated engine reads none."""
    if spec.engine.type is EngineType.SIMULATED or not spec.model.uri.startswith(_FILE_SCHEME):
        return None
    return spec.model.uri.removeprefix(_FILE_SCHEME)
