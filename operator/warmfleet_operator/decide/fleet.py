"""The fleet as the decisions see it: one immutable snapshot of models, nodes, runners and strangers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from warmfleet_api.agent_status import Transfer
from warmfleet_api.assignment import Assignment
from warmfleet_api.model_deployment import ModelDeploymentSpec
from warmfleet_api.node_cache import NodeCacheSpec, NodeCacheStatus, SeenEntry
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.status import ModelDeploymentStatus
from warmfleet_api.vocabulary import Reason
from warmfleet_api.warm_pool import WarmPoolSpec, WarmPoolStatus
from warmfleet_kube.objects import Metadata
from warmfleet_operator.decide.estimates import Estimates
from warmfleet_operator.decide.times import parse_time
from warmfleet_operator.decide.weights import NeededEntry
from warmfleet_operator.records import Node, Pod


class ModelKey(NamedTuple):
    """Namespace and name of a ModelDeployment. A tuple, as a round looks for keys a hundred thousand times."""

    namespace: str
    name: str
    kind: Literal["ModelDeployment"] = "ModelDeployment"
    """Tells it apart from the key of a pool of the same name."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class PoolKey(NamedTuple):
    """Namespace and name of a WarmPool."""

    namespace: str
    name: str
    kind: Literal["WarmPool"] = "WarmPool"
    """Tells it apart from the key of a model of the same name."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


OwnerKey = ModelKey | PoolKey
"""Whose a runner is."""


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
    pools: tuple[str, ...] = ()
    """WarmPools of its namespace whose runners host its engines, by preference; none: it has runners of its own."""
    weights: tuple[NeededEntry, ...] = ()
    """What its engines read, the model first; none for a Simulated engine."""
    image: str = ""
    """Runtime image of its own runners; empty where it has none."""
    stable: "Model | None" = None
    """What goes on serving while this spec is only tried beside it; None: this spec is to replace any other."""
    beside: str = ""
    """Hash of the other one of the two: engines of both never share a runner, where requests could not choose."""

    rank: int = field(init=False, repr=False, compare=False)
    """Of its class."""
    home: tuple[str, tuple[str, ...]] = field(init=False, repr=False, compare=False)
    """Namespace and names of its pools: what a place in them is remembered by."""
    due: datetime | None = field(init=False, repr=False, compare=False)
    """The deadline of its queued start, by its spec alone; None: it has none, or is queued only now."""

    def __post_init__(self) -> None:
        # Once, as every round asks for them of every start that waits.
        object.__setattr__(self, "rank", self.spec.priority.rank)
        object.__setattr__(self, "home", (self.key.namespace, self.pools))
        object.__setattr__(self, "due", _due(self.spec, self.status))

    @property
    def knows_weights(self) -> bool:
        """Whether the sources have said what all of it holds."""
        return all(entry.is_known for entry in self.weights)


def _due(spec: ModelDeploymentSpec, status: ModelDeploymentStatus) -> datetime | None:
    wanted, pending = spec.cold_start.deadline_seconds, status.pending_start
    since = parse_time(pending.queued_time) if wanted is not None and pending is not None else None
    return since + timedelta(seconds=wanted) if wanted is not None and since is not None else None


@dataclass(frozen=True, slots=True)
class Pool:
    """A WarmPool, parsed."""

    key: PoolKey
    metadata: Metadata
    spec: WarmPoolSpec
    hash: str
    """Hash of what a runner of the pool depends on (without replicas and the like)."""
    status: WarmPoolStatus
    problem: Problem | None = None
    """No runner is created while it stands."""


Owner = Model | Pool


@dataclass(frozen=True, slots=True)
class StartTimes:
    """When the leader saw what of a start; None where it was not there to see."""

    assigned: datetime | None = None
    """When the engine came into the assignment."""
    ready: datetime | None = None
    """When the runner called it Ready."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What clients want of a model, as routers and callers of the wake endpoint told within the last seconds."""

    held: int = 0
    """Requests that routers hold until it answers."""
    queued: int = 0
    """Requests that wait in front of its engines or run in them, as routers count them."""
    woken_seconds: float | None = None
    """Seconds since somebody last asked for it to be awake; None: nobody did lately."""
    deadline: datetime | None = None
    """Earliest deadline of the held requests."""

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits for it now."""
        return self.held > 0 or self.woken_seconds is not None


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
    is_gone: bool = False
    """Whether its address, which was heard before, answers nobody any more: its machine has no power, or no network."""
    returned_seconds: float | None = None
    """Seconds since it was heard of again after it had been lost, while that counts; None: it was not lost lately."""
    start_times: Mapping[str, StartTimes] = field(default_factory=dict)
    """Engine id → when its start was decided and done, as far as this operator saw it."""
    unserved_seconds: Mapping[str, float] = field(default_factory=dict)
    """Model → for how long its serve label has been seen to say Draining."""
    idle_seconds: Mapping[str, float] = field(default_factory=dict)
    """Engine id → for how long it has been seen Ready without any request; absent: it is busy, or not Ready."""
    awake_seconds: Mapping[str, float] = field(default_factory=dict)
    """Engine id → for how long it has been seen Ready (its residency); absent: it is not Ready."""
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Engine id → for how long the stage under way of its start has been seen; absent: nobody saw it begin."""


@dataclass(frozen=True, slots=True)
class Cache:
    """The weight store of one node, as its NodeCache says."""

    node: str
    spec: NodeCacheSpec
    status: NodeCacheStatus
    seen: Mapping[str, SeenEntry] = field(default_factory=dict)
    """What the node has, by key."""
    transfers: Mapping[str, Transfer] = field(default_factory=dict)
    """What is on its way, by key, as the agent's stream last told."""
    trouble: str = ""
    """Why its agent does not work, in words; empty while it does."""
    listed: Mapping[NeededEntry, SeenEntry] = field(default_factory=dict)
    """What its WeightCache has frozen of the models it lists, by what was asked for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Settings of the operator that decisions depend on."""

    default_image: str
    image_pull_policy: str = "IfNotPresent"
    agent_image: str = ""
    """Of the node agents."""
    kubelet_path: str = "/var/lib/kubelet"
    """Folder of the nodes' kubelets."""
    unscheduled_seconds: float = 10.0
    """A runner that is not PodScheduled for longer is deleted and planned anew."""
    drain_deadline_seconds: float = 600.0
    """How long a cordoned node's last Ready engine stays protected while no place is found elsewhere."""
    claims: int = 0
    """For how many runners at once a node may be asked of a cluster autoscaler; 0: there is none."""
    trusted_keys: tuple[str, ...] | None = None
    """Public keys of the routers: whoever signs with one of them may name class and tenant of a request. None: they
    are not known yet, so that assignments keep those they have."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Everything `schedule()` may look at."""

    models: Mapping[ModelKey, Model]
    """Those that are not being deleted."""
    nodes: Mapping[str, Node]
    pools: Mapping[PoolKey, Pool] = field(default_factory=dict)
    """Those that are not being deleted."""
    runners: tuple[Runner, ...] = ()
    strangers: tuple[Pod, ...] = ()
    """All other non-terminal pods that are bound to a node: they take room too."""
    caches: Mapping[str, Cache] = field(default_factory=dict)
    """The weight stores, by the node's name."""
    demand: Mapping[ModelKey, Demand] = field(default_factory=dict)
    """Only of models for which somebody asked lately."""
    estimates: Estimates = field(default_factory=Estimates)
    """How long stages of starts take, by what was measured."""
    switches: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Name of a runner's pod → how many seconds ago engines in it were put to sleep or taken out for others, within the
    last ten minutes."""
    unanswered: frozenset[OwnerKey] = frozenset()
    """Models and pools for which no cluster autoscaler made a node lately, though one was asked for."""
    unreadable: frozenset[OwnerKey] = frozenset()
    """Models and pools whose spec this code can't read: their runners are left as they are."""
    limits: Limits = field(default_factory=lambda: Limits(default_image=""))

    def asked(self) -> dict[ModelKey, datetime]:
        """Return by when clients want models that have requests waiting, of those for which they said so."""
        return {key: demand.deadline for key, demand in self.demand.items() if demand.deadline is not None}
