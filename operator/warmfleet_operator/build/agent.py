"""The DaemonSets of a WeightCache: the node agents, and what pulls the runtime image ahead."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from warmfleet_api import names, quantity
from warmfleet_api.weight_cache import WeightCacheSpec
from warmfleet_operator.decide.caches_groups import AgentGroup
from warmfleet_operator.decide.fleet import Limits

AGENT_MEMORY_BYTES = 512 * 1024**2
"""What an agent needs beside the weights it keeps: itself, and blocks on their way."""
TERMINATION_GRACE_SECONDS = 30
USER_ID = 65532
_HASH_LENGTH = 10
_NEEDED_FOLDERS = tuple(
    PurePosixPath(path)
    for path in (
        *("/bin", "/dev", "/etc", "/lib", "/lib64", "/opt/warmfleet", "/proc", "/run", "/sbin", "/sys", "/tmp", "/usr"),
        "/var/run",
    )
)
"""Of the agent's container; a folder of the node in place of one of these, or around it, would hide it."""
_KERNEL_FOLDERS = (PurePosixPath("/proc"), PurePosixPath("/sys"))
_WAIT = 'trap "exit 0" TERM; while :; do sleep 3600 & wait $!; done'


def agent_name(cache: str) -> str:
    """Return the name of the DaemonSet of a WeightCache's agents."""
    return f"warmfleet-agent-{cache}"


def image_name(cache: str) -> str:
    """Return the name of the DaemonSet that pulls the runtime image ahead on the nodes of a WeightCache."""
    return f"warmfleet-image-{cache}"


def agent_daemon_set(cache: AgentGroup, limits: Limits) -> dict[str, Any]:
    """Return the agents of a WeightCache.

    OnDelete: whoever replaces the pods decides where and when. The weights survive that, but a node must not be left
    without an agent, and a larger cache needs room on the node first.
    """
    template = {
        "serviceAccountName": names.AGENT_SERVICE_ACCOUNT,
        "automountServiceAccountToken": True,
        "priorityClassName": "system-node-critical",
        "terminationGracePeriodSeconds": TERMINATION_GRACE_SECONDS,
        "containers": [_agent(cache, limits)],
        "volumes": [_host_volume(*each) for each in _folders(cache.spec, limits)]
        + [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}],
    }
    return _daemon_set(agent_name(cache.name), names.COMPONENT_AGENT, cache, template, {"type": "OnDelete"})


def image_daemon_set(cache: AgentGroup, limits: Limits) -> dict[str, Any]:
    """Return pods that do nothing but hold the runtime image on the nodes of a WeightCache.

    Apart from the agents, so that a new image is pulled as soon as it is set, a missing one leaves the agents alone,
    and kubelet does not clean it up while no runner is there.
    """
    container = {
        "name": "image",
        "image": limits.default_image,
        "imagePullPolicy": limits.image_pull_policy,
        "command": ["sh", "-c", _WAIT],
        "resources": {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    template = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 5,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    # A quarter of the nodes at once: all at once would be a storm on the registry.
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%"}}
    return _daemon_set(image_name(cache.name), names.COMPONENT_IMAGE, cache, template, strategy)


def unusable(spec: WeightCacheSpec, limits: Limits) -> str | None:
    """Say why no agent can run with these folders, and what to write instead; None: it can."""
    memory = PurePosixPath(spec.memory.path)
    fields = [("memory.path", memory)]
    fields += [("disk.path", PurePosixPath(spec.disk.path))] if spec.disk else []
    fields += [("fileRoots", PurePosixPath(root)) for root in spec.file_roots]
    for field, folder in fields:
        mounted = _shared_folder(folder) if folder == memory else folder
        hidden = next((each for each in _NEEDED_FOLDERS if each.is_relative_to(mounted)), None)
        if hidden is not None or any(folder.is_relative_to(each) for each in _KERNEL_FOLDERS):
            return (
                f"spec.{field}: {folder} can't be mounted into the agent, as it would hide {hidden or folder} there; "
                "name a folder such as /var/lib/warmfleet/models or /dev/shm/model_cache"
            )
    # What is mounted into a shared folder would appear on the node as well.
    shared = {"memory.path": _shared_folder(memory), "kubelet's folder": PurePosixPath(limits.kubelet_path)}
    for field, folder in fields[1:]:
        for owner, other in shared.items():
            if folder.is_relative_to(other):
                return f"spec.{field}: {folder} lies in {other}, where {owner} is; name another folder"
    disk = PurePosixPath(spec.disk.path) if spec.disk else None
    if disk is not None and memory.is_relative_to(disk):
        return f"spec.memory.path: {memory} lies in {disk}, the folder of spec.disk.path; name another folder"
    if disk is not None and any(root.is_relative_to(disk) for field, root in fields if field == "fileRoots"):
        return f"spec.fileRoots: one of them lies in {disk}, the folder of spec.disk.path; name another folder"
    if memory.is_relative_to(limits.kubelet_path):
        return f"spec.memory.path: {memory} lies in kubelet's folder {limits.kubelet_path}; name another folder"
    return None


def _agent(cache: AgentGroup, limits: Limits) -> dict[str, Any]:
    memory = str(quantity.to_bytes(cache.spec.memory.size) + AGENT_MEMORY_BYTES)
    return {
        "name": names.AGENT_CONTAINER,
        "image": limits.agent_image,
        "imagePullPolicy": limits.image_pull_policy,
        "command": ["python", "-m", "warmfleet_agent"],
        # Mirrors of the company: for all agents the same, and none where there is no such map.
        "envFrom": [{"configMapRef": {"name": names.AGENT_SETTINGS, "optional": True}}],
        "env": _environment(cache, limits),
        "ports": [{"name": "http", "containerPort": names.AGENT_PORT, "protocol": "TCP"}],
        # Pages of the tmpfs are charged to whoever writes them, which is the agent. CPU has no limit: hashing may
        # use what is idle.
        "resources": {"requests": {"cpu": "100m", "memory": memory}, "limits": {"memory": memory}},
        # Mounts spread to the node only from a privileged container; Kubernetes refuses it to any other. With that
        # least privilege ends: dropped capabilities would bound nothing. What is left are its own namespace, a
        # service account that may write one object's status, and no path of the node beyond what it works on.
        "securityContext": {"privileged": True, "runAsUser": 0, "runAsGroup": 0, "readOnlyRootFilesystem": True},
        "startupProbe": _probe(names.PATH_LIVE, period=1, failures=120),
        "readinessProbe": _probe(names.PATH_READY, period=5, failures=1),
        "livenessProbe": _probe(names.PATH_LIVE, period=10, failures=6),
        "volumeMounts": [_host_mount(*each) for each in _folders(cache.spec, limits)]
        + [{"name": "tmp", "mountPath": "/tmp"}],
    }


def _environment(cache: AgentGroup, limits: Limits) -> list[dict[str, Any]]:
    fields = {
        names.ENV_NODE_NAME: "spec.nodeName",
        names.ENV_POD_NAME: "metadata.name",
        names.ENV_POD_NAMESPACE: "metadata.namespace",
        names.ENV_POD_UID: "metadata.uid",
    }
    values = {
        names.ENV_CACHE: cache.name,
        names.ENV_MEMORY_PATH: cache.spec.memory.path,
        names.ENV_DISK_PATH: cache.spec.disk.path if cache.spec.disk else "",
        names.ENV_KUBELET_PATH: limits.kubelet_path,
        "HOME": "/tmp",
    }
    limit = {"containerName": names.AGENT_CONTAINER, "resource": "limits.memory", "divisor": "1"}
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        *({"name": name, "value": value} for name, value in values.items()),
        {"name": names.ENV_MEMORY_LIMIT_BYTES, "valueFrom": {"resourceFieldRef": limit}},
    ]


def _folders(spec: WeightCacheSpec, limits: Limits) -> Iterator[tuple[str, str, str, str]]:
    """Yield the node's folders that the agent works on: volume, path, type and how mounts spread."""
    yield "memory", str(_shared_folder(PurePosixPath(spec.memory.path))), "DirectoryOrCreate", "Bidirectional"
    # Not kubelet's whole folder: its keys lie there too.
    yield "pods", f"{limits.kubelet_path}/pods", "Directory", "Bidirectional"
    yield "plugin", f"{limits.kubelet_path}/plugins/{names.CSI_DRIVER}", "DirectoryOrCreate", "None"
    yield "registry", f"{limits.kubelet_path}/plugins_registry", "Directory", "None"
    if spec.disk:
        yield "disk", spec.disk.path, "DirectoryOrCreate", "None"
    for number, root in enumerate(_outermost(spec.file_roots)):
        # Made where it is missing: the models below it are not found then, and all others are.
        yield f"root-{number}", root, "DirectoryOrCreate", "HostToContainer"


def _shared_folder(memory: PurePosixPath) -> PurePosixPath:
    """Return the folder in which the agent mounts its tmpfs: the one around it, where it can see what lies there.

    A folder of the root is mounted itself, as the root can't be; nobody but root makes anything in the root.
    """
    return memory if memory.parent == PurePosixPath("/") else memory.parent


def _outermost(roots: Sequence[str]) -> list[str]:
    """Return the roots that lie in no other root."""
    paths = [PurePosixPath(root) for root in roots]
    return [str(path) for path in paths if not any(path != other and path.is_relative_to(other) for other in paths)]


def _host_volume(name: str, path: str, kind: str, _: str) -> dict[str, Any]:
    return {"name": name, "hostPath": {"path": path, "type": kind}}


def _host_mount(name: str, path: str, _: str, propagation: str) -> dict[str, Any]:
    is_root = name.startswith("root-")
    return {"name": name, "mountPath": path, "mountPropagation": propagation} | ({"readOnly": True} if is_root else {})


def _probe(path: str, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": names.AGENT_PORT},
        "periodSeconds": period,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def _daemon_set(
    name: str, component: str, cache: AgentGroup, pod: dict[str, Any], strategy: dict[str, Any]
) -> dict[str, Any]:
    pod = pod | {
        "enableServiceLinks": False,
        "tolerations": [each.model_dump(by_alias=True, exclude_none=True) for each in cache.spec.tolerations],
    }
    if cache.node_terms:
        terms = {"nodeSelectorTerms": [dict(each) for each in cache.node_terms]}
        pod["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    if cache.spec.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": each.name} for each in cache.spec.image_pull_secrets]
    selected = {names.LABEL_CACHE: cache.name, names.LABEL_COMPONENT: component}
    labels = selected | {names.LABEL_MANAGED_BY: names.MANAGED_BY}
    # Where the pods may run changes with every other WeightCache; those that run already are the same pods then.
    anywhere = {key: value for key, value in pod.items() if key not in {"affinity", "tolerations"}}
    owner = {
        "apiVersion": names.API_VERSION,
        "kind": names.WEIGHT_CACHE_KIND,
        "name": cache.name,
        "uid": cache.uid,
        "controller": True,
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "name": name,
            "namespace": names.AGENT_NAMESPACE,
            "labels": labels | {names.LABEL_TEMPLATE_HASH: _hash(pod)},
            "ownerReferences": [owner],
        },
        "spec": {
            "selector": {"matchLabels": selected},
            "updateStrategy": strategy,
            "revisionHistoryLimit": 2,
            "template": {"metadata": {"labels": labels | {names.LABEL_TEMPLATE_HASH: _hash(anywhere)}}, "spec": pod},
        },
    }


def _hash(pod: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(pod, sort_keys=True).encode()).hexdigest()[:_HASH_LENGTH]
