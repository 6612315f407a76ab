"""The status of a ModelDeployment: what waits, why, and until when.

The operator alone writes it. Lists are bounded so that an object stays small whatever happens.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from warmfleet_api.lists import UniqueBy
from warmfleet_api.rules import Block
from warmfleet_api.vocabulary import EngineState, Stage, StartType

MAX_ENGINES = 16
MAX_WEIGHTS = 80
"""What a spec names (the model, its draft, 32 adapters) twice: for the present spec and the one that gives way."""
MAX_WEIGHTS_NODES = 64
MAX_RECENT_STARTS = 16
MAX_SCALING_STEPS = 10
MAX_STANDBYS = 16
Timestamp = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
"""RFC 3339 in UTC with seconds."""
Count = Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})]
Summary = Annotated[str, StringConstraints(max_length=512)]
NodeName = Annotated[str, StringConstraints(max_length=253)]


class Condition(Block):
    """A condition as in every Kubernetes API (metav1.Condition)."""

    type: Annotated[str, StringConstraints(min_length=1, max_length=316)]
    """Ready, Reconciling, Stalled, Scheduled, WeightsReady, Serving or Degraded."""
    status: Literal["True", "False", "Unknown"]
    """True, False or Unknown."""
    observed_generation: Annotated[int, Field(ge=0, json_schema_extra={"format": "int64"})] = 0
    """Generation of the spec this was seen for."""
    last_transition_time: Timestamp
    """When the status last changed."""
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)]
    """One word for machines."""
    message: Annotated[str, StringConstraints(max_length=4096)]
    """What happens and what to do, with numbers."""


class ModelStatus(Block):
    """The model as it was found."""

    bytes: Count
    """Size of the weights."""
    revision: Annotated[str, StringConstraints(max_length=128)] = ""
    """Which state of it is served, as the source calls it."""
    digest: Annotated[str, StringConstraints(max_length=71)] = ""
    """Hash of what it holds, once a node has it whole."""


class WeightsStatus(Block):
    """One thing that engines of the model read: the model itself, a draft or an adapter. Where it is."""

    key: Annotated[str, StringConstraints(max_length=63)]
    """Its name in the weight stores, e.g. in `kubectl get nodecaches -o yaml`."""
    uri: Annotated[str, StringConstraints(min_length=1, max_length=1024)]
    """Where it comes from."""
    requested: Annotated[str, StringConstraints(max_length=128)] = ""
    """The revision that the spec asks for; empty: what the source called current when it was first asked."""
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    """What the source answered. It is asked again only when the uri or the revision in the spec changes."""
    bytes: Count
    """Size of its files together."""
    digest: Annotated[str, StringConstraints(max_length=71)] = ""
    """Hash of what it holds, once a node has it whole."""
    memory_nodes: Annotated[list[NodeName], Field(max_length=MAX_WEIGHTS_NODES)] = []
    """Nodes that have it in memory, the first 64 by name."""
    disk_nodes: Annotated[list[NodeName], Field(max_length=MAX_WEIGHTS_NODES)] = []
    """Nodes that have it on disk only, the first 64 by name."""


class PendingStart(Block):
    """A start that waits or is under way."""

    position: Count
    """Place in the queue, 1 is next; 0 while starting."""
    of: Count
    """How many starts wait."""
    start_type: StartType
    """How it will start."""
    stage: Stage
    """The stage under way."""
    queued_time: Timestamp | None = None
    """Since when it waits."""
    ready_time: Timestamp | None = None
    """When the model is expected to answer; unknown where nobody can tell when there will be room."""
    fetched_bytes: Count = 0
    """How much of the weights is in memory of its node, while they are fetched."""
    weights_time: Timestamp | None = None
    """When they are expected to be there whole."""
    blocker: Summary = ""
    """What it waits for."""
    summary: Summary
    """The line that columns show."""


class Dormancy(Block):
    """The model sleeps: no engine of it is awake or wanted awake until somebody asks for it."""

    time: Timestamp
    """Since when."""
    reason: Summary
    """Why, e.g. `no request for 300 s`, or for whom it made room."""


class StageStatus(Block):
    """A finished stage."""

    name: Stage
    """Name of the stage."""
    milliseconds: Count
    """How long it took."""


class LastStart(Block):
    """The last start that ended."""

    start_type: StartType
    """How it started."""
    result: Literal["Succeeded", "Failed"]
    """Succeeded or Failed."""
    error: Summary = ""
    """Why it failed."""
    duration_milliseconds: Count
    """From the decision to the first engine that can be reached."""
    time: Timestamp
    """When it ended."""
    node: Annotated[str, StringConstraints(max_length=253)]
    """Where."""
    stages: Annotated[list[StageStatus], Field(max_length=16)] = []
    """The stages, in order."""
    summary: Summary
    """The line that columns show."""


class EngineSummary(Block):
    """One engine of the model."""

    id: Annotated[str, StringConstraints(max_length=63)]
    """Tells the model's engines apart: the name of an own runner, in a WarmPool's runner the engine's id there."""
    runner: Annotated[str, StringConstraints(max_length=253)]
    """Name of the runner's pod."""
    node: Annotated[str, StringConstraints(max_length=253)] = ""
    """Node of the runner."""
    state: EngineState
    """Starting, Ready, Asleep, Draining or Failed."""
    hash: Annotated[str, StringConstraints(max_length=63)]
    """Hash of the spec it runs."""
    gpus: Count = 0
    """GPUs it holds."""
    memory: Count = 0
    """Bytes it holds."""


class StandbyStatus(Block):
    """What stands by to take over for a lost replica."""

    mode: StartType
    """Hot, Warm or Cold, as the spec says."""
    replicas: Count
    """How many are wanted."""
    ready_replicas: Count = 0
    """How many could take over now."""
    nodes: Annotated[list[NodeName], Field(max_length=MAX_STANDBYS)] = []
    """Where they are, or are being made."""
    message: Summary = ""
    """What is missing, and what to do about it; empty: nothing is."""


class RolloutStatus(Block):
    """Which spec serves, and what is tried beside it."""

    stable_hash: Annotated[str, StringConstraints(max_length=63)]
    """Hash of the spec that serves: the last one that did without being a canary."""
    stable_pools: Annotated[list[Annotated[str, StringConstraints(max_length=253)]], Field(max_length=8)] = []
    """The WarmPools that host it; none: it has runners of its own."""
    stable_spec: Annotated[str, StringConstraints(min_length=2, max_length=131072)]
    """That spec as JSON, without defaults and without what changes no engine: its engines are started from it while a
    canary of another spec is on."""
    canary_hash: Annotated[str, StringConstraints(max_length=63)] = ""
    """Hash of the spec that is tried; empty: none is."""
    canary_weight: Annotated[int, Field(ge=1, le=99)] | None = None
    """How many percent of the requests routers give to other specs than the stable one; absent: they don't look."""
    canary_replicas: Count = 0
    """Replicas of the canary that serve."""


class ScalingStep(Block):
    """A change of the number of replicas that are to be awake."""

    time: Timestamp
    """When it was seen."""
    from_replicas: Count
    """How many there were to be."""
    to_replicas: Count
    """How many there are to be; 0: the model sleeps."""
    reason: Summary
    """Why."""


class ScalingStatus(Block):
    """How many replicas autoscaling wants, and what it did."""

    wish: Count | None = None
    """Replicas that the policy wants; absent while what it goes by is not known. How fast there are as many is the
    HorizontalPodAutoscaler's matter."""
    reason: Summary = ""
    """Why so many, or what is not known."""
    replicas: Count = 0
    """Replicas that are to be awake."""
    steps: Annotated[list[ScalingStep], Field(max_length=MAX_SCALING_STEPS)] = []
    """The last ten changes of that, oldest first."""


class ModelDeploymentStatus(Block):
    """What is."""

    observed_generation: Annotated[int, Field(ge=-1, json_schema_extra={"format": "int64"})] = -1
    """Generation of the spec this status speaks of."""
    conditions: Annotated[list[Condition], Field(max_length=16), UniqueBy("type")] = []
    """Ready, Reconciling, Stalled, Scheduled, WeightsReady, Serving, Degraded."""
    replicas: Count = 0
    """Replicas that hold or await a place."""
    ready_replicas: Count = 0
    """Replicas that serve."""
    selector: Annotated[str, StringConstraints(max_length=512)] = ""
    """Label selector of the runners `/scale` counts."""
    endpoint: Annotated[str, StringConstraints(max_length=512)] = ""
    """Base URL of the OpenAI-compatible API inside the cluster."""
    model: ModelStatus | None = None
    """The model as it was found."""
    weights: Annotated[list[WeightsStatus], Field(max_length=MAX_WEIGHTS), UniqueBy("key")] = []
    """What its engines read, and which nodes have it."""
    served_hash: Annotated[str, StringConstraints(max_length=63)] = ""
    """Hash of the spec that last served."""
    rollout: RolloutStatus | None = None
    """Which spec serves, and what is tried beside it; absent until a first one has served."""
    standby: StandbyStatus | None = None
    """What stands by to take over for a lost replica; absent where the spec wants nothing, or the model sleeps."""
    pending_start: PendingStart | None = None
    """A start that waits or is under way."""
    scaling: ScalingStatus | None = None
    """How many replicas autoscaling wants, and the last ten changes; present with spec.autoscaling."""
    dormant: Dormancy | None = None
    """Present while the model sleeps. A request or `warmfleet wake` ends it; the spec has no part in it."""
    last_start: LastStart | None = None
    """The last start that ended."""
    recent_starts: Annotated[list[Timestamp], Field(max_length=MAX_RECENT_STARTS)] = []
    """When starts succeeded lately, the last 16: how worthwhile it is to keep the weights near."""
    engines: Annotated[list[EngineSummary], Field(max_length=MAX_ENGINES), UniqueBy("id")] = []
    """The model's engines, the first 16."""
