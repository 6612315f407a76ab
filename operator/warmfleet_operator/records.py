"""Trimmed records of Kubernetes objects: the fields the operator reads, decoded straight from watch bodies.

msgspec skips every field that is not named here, which keeps a mirror of thousands of pods small.
All are frozen: a snapshot may hold them without copying.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from warmfleet_api import names
from warmfleet_kube.objects import Object, Record

AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"
"""Of a node that the cluster autoscaler empties to remove it; its value is since when, in seconds of Unix time."""
UNHEALTHY = "Unhealthy"
"""Health of a device that its plugin does not count on any more."""
_LEAVES = frozenset({AUTOSCALER_TAINT, "karpenter.sh/disrupted"})
"""Taints of nodes that are emptied without being cordoned."""


class PodCondition(Record, frozen=True, kw_only=True):
    """A condition of a pod or node."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class Waiting(Record, frozen=True, kw_only=True):
    """Why a container waits."""

    reason: str = ""
    message: str = ""


class Terminated(Record, frozen=True, kw_only=True):
    """How a container ended."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None


class ContainerState(Record, frozen=True, kw_only=True):
    """One of the three states of a container."""

    waiting: Waiting | None = None
    running: Mapping[str, Any] | None = None
    terminated: Terminated | None = None


class DeviceHealth(Record, frozen=True, kw_only=True):
    """What a device's plugin says of a device that a container has."""

    resource_id: str = msgspec.field(default="", name="resourceID")
    health: str = ""
    """`Healthy`, `Unhealthy` or `Unknown`."""


class AllocatedResource(Record, frozen=True, kw_only=True):
    """The devices of one kind that a container has (KEP-4680, ResourceHealthStatus)."""

    name: str = ""
    """Of the resource, as nvidia.com/gpu."""
    resources: tuple[DeviceHealth, ...] = ()


class ContainerStatus(Record, frozen=True, kw_only=True):
    """Status of one container."""

    name: str
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    allocated_resources_status: tuple[AllocatedResource, ...] = ()


class ResourceRequirements(Record, frozen=True, kw_only=True):
    """Requests and limits as quantities."""

    requests: Mapping[str, str | int] = {}
    limits: Mapping[str, str | int] = {}


class Container(Record, frozen=True, kw_only=True):
    """What the ledger needs of a container."""

    name: str
    image: str = ""
    resources: ResourceRequirements = ResourceRequirements()
    restart_policy: str = ""
    """`Always` on an init container makes it a sidecar."""


class CsiVolume(Record, frozen=True, kw_only=True):
    """A volume that a driver on the node makes."""

    driver: str = ""


class Volume(Record, frozen=True, kw_only=True):
    """A volume of a pod."""

    csi: CsiVolume | None = None


class PodSpec(Record, frozen=True, kw_only=True):
    """What the ledger needs of a pod, and whether it sees weights."""

    node_name: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    overhead: Mapping[str, str | int] = {}
    affinity: Mapping[str, Any] | None = None
    volumes: tuple[Volume, ...] = ()

    @property
    def sees_weights(self) -> bool:
        """Whether the node's weight store fills a volume of it."""
        return any(each.csi is not None and each.csi.driver == names.CSI_DRIVER for each in self.volumes)


class PodStatus(Record, frozen=True, kw_only=True):
    """What the operator reads of a pod's status."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    start_time: str | None = None
    conditions: tuple[PodCondition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()


class Pod(Object, frozen=True, kw_only=True):
    """A pod: a runner, or a stranger that takes room on a node."""

    spec: PodSpec
    status: PodStatus = PodStatus()

    @property
    def is_runner(self) -> bool:
        """Whether Warmfleet made it."""
        return self.metadata.labels.get(names.LABEL_RUNNER) in names.RUNNER_KINDS

    @property
    def is_terminal(self) -> bool:
        """Whether it holds no resources any more."""
        return self.status.phase in {"Succeeded", "Failed"}

    def condition(self, kind: str) -> PodCondition | None:
        """Return the condition of that type, if any."""
        return next((each for each in self.status.conditions if each.type == kind), None)


class Taint(Record, frozen=True, kw_only=True):
    """A taint of a node."""

    key: str
    effect: str
    value: str = ""
    time_added: str | None = None
    """Set by Kubernetes for the taints it adds itself, among them that of a cordon."""


class NodeSpec(Record, frozen=True, kw_only=True):
    """What placement reads of a node's spec."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeStatus(Record, frozen=True, kw_only=True):
    """What placement reads of a node's status."""

    allocatable: Mapping[str, str | int] = {}
    conditions: tuple[PodCondition, ...] = ()


class Node(Object, frozen=True, kw_only=True):
    """A node."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()

    @property
    def is_ready(self) -> bool:
        """Whether its kubelet reports Ready."""
        return any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)

    @property
    def is_cordoned(self) -> bool:
        """Whether it is to be emptied: a person or an autoscaler takes it away."""
        return self.spec.unschedulable or any(taint.key in _LEAVES for taint in self.spec.taints)


class ModelDeployment(Object, frozen=True, kw_only=True):
    """A ModelDeployment with spec and status as plain JSON: the spec is parsed once, in the snapshot."""

    spec: Mapping[str, Any] = {}
    status: Mapping[str, Any] = {}


class WarmPool(Object, frozen=True, kw_only=True):
    """A WarmPool with spec and status as plain JSON: the spec is parsed once, in the snapshot."""

    spec: Mapping[str, Any] = {}
    status: Mapping[str, Any] = {}


class Service(Object, frozen=True, kw_only=True):
    """A Service of a model."""

    spec: Mapping[str, Any] = {}


class InferencePool(Object, frozen=True, kw_only=True):
    """An InferencePool of a model."""

    spec: Mapping[str, Any] = {}


class Secret(Object, frozen=True, kw_only=True):
    """The Secret with the routers' key; its values are base64."""

    data: Mapping[str, str] | None = None


class PodDisruptionBudget(Object, frozen=True, kw_only=True):
    """A namespace's PodDisruptionBudget."""

    spec: Mapping[str, Any] = {}


class AutoscalerStatus(Record, frozen=True, kw_only=True):
    """What the operator reads of an autoscaler's status."""

    conditions: tuple[PodCondition, ...] = ()


class HorizontalPodAutoscaler(Object, frozen=True, kw_only=True):
    """A HorizontalPodAutoscaler, of a model or of anything else."""

    spec: Mapping[str, Any] = {}
    status: AutoscalerStatus = AutoscalerStatus()

    def condition(self, kind: str) -> PodCondition | None:
        """Return the condition of that type, if any."""
        return next((each for each in self.status.conditions if each.type == kind), None)


class WeightCache(Object, frozen=True, kw_only=True):
    """A WeightCache with spec and status as plain JSON: the spec is parsed once, in the snapshot."""

    spec: Mapping[str, Any] = {}
    status: Mapping[str, Any] = {}


class NodeCache(Object, frozen=True, kw_only=True):
    """A NodeCache with spec and status as plain JSON: both are parsed once per version, in the snapshot."""

    spec: Mapping[str, Any] = {}
    status: Mapping[str, Any] = {}


class DaemonSet(Object, frozen=True, kw_only=True):
    """A DaemonSet of a WeightCache."""

    spec: Mapping[str, Any] = {}
