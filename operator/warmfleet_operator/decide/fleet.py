"""The fleet as the decisions see it: one immutable snapshot of models, nodes, runners and strangers."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from warmfleet_api.assignment import Assignment
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.status import ModelDeploymentStatus
from warmfleet_api.vocabulary import Reason
from warmfleet_operator.records import Metadata, Node, Pod


@dataclass(frozen=True, slots=True)
class ModelKey:
    """Namespace and name of a ModelDeployment."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a model can't start whatever the fleet looks like; the person has to change something."""

    reason: Reason
    message: str
    """What is wrong and what to change."""


@dataclass(frozen=True, slots=True)
class Model:
    """A ModelDeployment, parsed."""

    key: ModelKey
    metadata: Metadata
    spec: ModelDeploymentSpec
    hash: str
    """Hash of what a runner of this spec depends on (user fields and image, without replicas)."""
    status: ModelDeploymentStatus
    problem: Problem | None = None
    """No runner is created while it stands; runners of an older spec stay."""


@dataclass(frozen=True, slots=True)
class Runner:
    """A runner's pod with what it says of itself."""

    pod: Pod
    assignment: Assignment | None
    """What its annotation says; None where there is none or it can't be read."""
    status: RunnerStatus | None = None
    """The last line of its status stream, None before the first."""
    silent_seconds: float | None = None
    """Seconds since that line, before the first since it is waited for; None while nobody listens."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of the operator that decisions depend on."""

    default_image: str
    image_pull_policy: str = "IfNotPresent"
    file_roots: tuple[str, ...] = ()
    """Folders of the nodes below which `file://` models may lie."""
    unscheduled_seconds: float = 10.0
    """A runner that is not PodScheduled for longer is deleted and planned anew."""
    drain_deadline_seconds: float = 600.0
    """How long a cordoned node's last Ready engine stays protected while no place is found elsewhere."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything `schedule()` may look at."""

    models: Mapping[ModelKey, Model]
    """Those that are not being deleted."""
    nodes: Mapping[str, Node]
    runners: tuple[Runner, ...] = ()
    strangers: tuple[Pod, ...] = ()
    """All other non-terminal pods that are bound to a node: they take room too."""
    unreadable: frozenset[ModelKey] = frozenset()
    """Models whose spec this code can't read: their runners are left as they are."""
    limits: Limits = field(default_factory=lambda: Limits(default_image=""))
