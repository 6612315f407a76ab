"""The runner's pod: one generic shape, hardened for Pod Security `restricted`, pinned to its node if it has one."""

from typing import Any

from warmfleet_api import assignment, names
from warmfleet_api.vocabulary import EngineState, StartType
from warmfleet_operator.build.shape import RunnerShape, shape_of
from warmfleet_operator.build.template import runner_name
from warmfleet_operator.decide.actions import CreateRunner
from warmfleet_operator.decide.fleet import Limits, Model, Owner

USER_ID = 65532
WEIGHTS_VOLUME = "weights"
PRE_STOP_SECONDS = 3
"""Until every node has heard that the Service no longer selects the pod."""
TERMINATION_GRACE_SECONDS = 60
"""preStop, then the time running requests have to end."""
UNREACHABLE_SECONDS = 30
"""How long the pod stays on a node that is not Ready before Kubernetes evicts it."""


def runner_pod(action: CreateRunner, limits: Limits) -> dict[str, Any]:
    """Return the pod to create."""
    shape = shape_of(action.owner, limits)
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
        **_place(action),
        "tolerations": _tolerations(shape),
        "containers": [_container(action, shape, limits)],
        "volumes": _volumes(action),
    }
    if shape.node_selector:
        pod_spec["nodeSelector"] = dict(shape.node_selector)
    if shape.runtime_class_name is not None:
        pod_spec["runtimeClassName"] = shape.runtime_class_name
    if shape.image_pull_secrets:
        pod_spec["imagePullSecrets"] = [{"name": name} for name in shape.image_pull_secrets]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(action, shape), "spec": pod_spec}


def _metadata(action: CreateRunner, shape: RunnerShape) -> dict[str, Any]:
    owner = action.owner
    served = {names.serve_label(each.model): EngineState.STARTING.value for each in action.assignment.engines}
    return {
        "name": runner_name(owner.key.name, action.slot, action.attempt),
        "namespace": owner.key.namespace,
        "labels": {
            names.LABEL_MANAGED_BY: names.MANAGED_BY,
            names.LABEL_RUNNER: shape.kind,
            names.LABEL_OWNER: owner.key.name,
            names.LABEL_SLOT: str(action.slot),
            names.LABEL_TEMPLATE_HASH: owner.hash,
            names.LABEL_SCALE_OF: owner.metadata.uid,
            **served,
        },
        "annotations": {names.ANNOTATION_ASSIGNMENT: assignment.encode(action.assignment)},
        "ownerReferences": [owner_reference(owner)],
    }


def owner_reference(owner: Owner) -> dict[str, Any]:
    """Return the reference that lets a child go with its ModelDeployment or WarmPool."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.MODEL_DEPLOYMENT_KIND if isinstance(owner, Model) else names.WARM_POOL_KIND,
        "name": owner.key.name,
        "uid": owner.metadata.uid,
        "controller": True,
    }


def _place(action: CreateRunner) -> dict[str, Any]:
    """Return what decides about the pod's node; a claim's is the cluster autoscaler's matter."""
    if action.priority is not None:
        return {"priorityClassName": f"{names.PRIORITY_CLASS_PREFIX}{action.priority.lower()}"}
    return {"affinity": _pinned_to(action.node)}


def _pinned_to(node: str) -> dict[str, Any]:
    """Require the node by affinity and not by nodeName: the Kubernetes scheduler still checks and binds."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}


def _tolerations(shape: RunnerShape) -> list[dict[str, Any]]:
    own = [
        {
            "key": f"node.kubernetes.io/{condition}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": UNREACHABLE_SECONDS,
        }
        for condition in ("not-ready", "unreachable")
    ]
    return [each.model_dump(by_alias=True, exclude_none=True) for each in shape.tolerations] + own


def _container(action: CreateRunner, shape: RunnerShape, limits: Limits) -> dict[str, Any]:
    return {
        "name": names.RUNNER_CONTAINER,
        "image": shape.image,
        "imagePullPolicy": limits.image_pull_policy,
        "command": ["python", "-m", "warmfleet_runtime"],
        "ports": [
            {"name": "api", "containerPort": names.API_PORT, "protocol": "TCP"},
            {"name": "status", "containerPort": names.STATUS_PORT, "protocol": "TCP"},
        ],
        "env": _environment(shape, action.standby),
        "resources": _resources(shape),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_SECONDS}}},
        "startupProbe": _probe(names.PATH_STARTUP, period=1, failures=action.start_budget_seconds),
        "readinessProbe": _probe(names.PATH_READY, period=1, failures=3),
        "livenessProbe": _probe(names.PATH_LIVE, period=10, failures=3),
        "volumeMounts": _mounts(action),
    }


def _environment(shape: RunnerShape, standby: StartType | None) -> list[dict[str, Any]]:
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
    return [
        *environment,
        {"name": names.ENV_MEMORY_LIMIT_BYTES, "valueFrom": {"resourceFieldRef": memory}},
        {"name": names.ENV_RUNNER_OF, "value": shape.kind},
        *(_standby(standby) if standby is not None else ()),
    ]


def _standby(mode: StartType) -> list[dict[str, Any]]:
    """Tell whoever looks at the pod what it was made for; nothing in it depends on that."""
    loads = "true" if mode is StartType.COLD else "false"
    return [
        {"name": names.ENV_STANDBY_MODE, "value": mode.lower()},
        {"name": names.ENV_LOAD_ON_DEMAND, "value": loads},
    ]


def _resources(shape: RunnerShape) -> dict[str, Any]:
    """Request and limit; CPU has no limit: an idle core helps a start."""
    gpus = {shape.gpu_resource: str(shape.gpus)} if shape.gpus else {}
    limits = {"memory": shape.memory, **gpus}
    return {"requests": {"cpu": shape.cpu, **limits}, "limits": limits}


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": names.STATUS_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }


def _mounts(action: CreateRunner) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "assignment", "mountPath": names.ASSIGNMENT_DIRECTORY, "readOnly": True},
        {"name": "run", "mountPath": names.RUN_DIRECTORY},
        {"name": "cache", "mountPath": names.CACHE_DIRECTORY},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
    ]
    if action.sees_weights:
        mounts.append({"name": WEIGHTS_VOLUME, "mountPath": names.WEIGHTS_DIRECTORY, "readOnly": True})
    return mounts


def _volumes(action: CreateRunner) -> list[dict[str, Any]]:
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
    if action.sees_weights:
        # The node's agent fills it, now and later: a pod's volumes are fixed, what lies in this one is not.
        volumes.append({"name": WEIGHTS_VOLUME, "csi": {"driver": names.CSI_DRIVER, "readOnly": True}})
    return volumes
