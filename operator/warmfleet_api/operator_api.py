"""What the operator answers over HTTP, beside its objects: who is asked for, what waits until when, what is where.

`POST /v1/wake` and `POST /v1/demand` tell it what clients want; `GET /v1/queue` and `GET /v1/fleet` have the exact
numbers whose rounded form is in the objects' status. Every replica of the operator answers: a follower passes on to the
leader. `GET /v1/scaling` has what autoscalers go by. Callers show a Kubernetes token of the audience
`names.TOKEN_AUDIENCE`.
"""

from typing import Annotated

import msgspec

from warmfleet_api.assignment import Wire
from warmfleet_api.runner_status import StageTime
from warmfleet_api.vocabulary import EngineState, EntryState, Priority, Reason, Stage, StartType, Tier

DEMAND_SECONDS = 5.0
"""How long a router's report counts; routers report every second."""
MAX_BODY_BYTES = 1024 * 1024
MAX_MODELS = 5000
"""Of one report."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]


class WakeRequest(Wire, frozen=True, kw_only=True):
    """Somebody wants a model to answer. Asking again changes nothing, but that it is wanted for longer."""

    namespace: Name
    model: Name
    """Name of the ModelDeployment."""


class ModelDemand(Wire, frozen=True, kw_only=True):
    """What one router knows of one model."""

    namespace: Name
    model: Name
    held: Count = 0
    """Requests it holds until the model answers; any wakes it."""
    queued: Count = 0
    """Requests it has at runners, queued or running there."""
    deadline_seconds: Annotated[float, msgspec.Meta(ge=-86_400, le=86_400)] | None = None
    """Earliest deadline of those that are held, from now."""


class DemandReport(Wire, frozen=True, kw_only=True):
    """All that one router knows, as levels: what is not named has none. It counts for `DEMAND_SECONDS`."""

    router: Name
    """Tells routers apart, e.g. the name of its pod."""
    models: Annotated[tuple[ModelDemand, ...], msgspec.Meta(max_length=MAX_MODELS)] = ()


class WakeAnswer(Wire, frozen=True, kw_only=True):
    """How far a model is from answering."""

    namespace: str
    model: str
    state: str
    """Reason of its condition Ready: `Serving`, `Asleep`, `Waking`, `Queued`, `Starting`, `FetchingWeights`, `Stopped`,
    `NoEngine`; `NotFound` where there is no such ModelDeployment."""
    position: int = 0
    """Place in the queue, 1 is next; 0: it does not wait for a place."""
    of: int = 0
    """How many starts wait."""
    start_type: StartType | None = None
    ready_seconds: float | None = None
    """In how many seconds it is expected to answer; None: nobody can tell, or it does already."""
    blocker: str = ""
    """What it waits for."""
    message: str = ""
    """The same in a sentence for a person, with what to do if only a person can."""


class DemandAnswer(Wire, frozen=True, kw_only=True):
    """How far the models are for which requests are held, in the order of the report."""

    models: tuple[WakeAnswer, ...] = ()


class PendingEntry(Wire, frozen=True, kw_only=True):
    """A start that waits for its turn, or is under way."""

    namespace: str
    model: str
    priority: Priority
    position: int = 0
    """Place in the queue, 1 is next; 0: it is under way, or in no queue as it can't start before something else is
    mended."""
    of: int = 0
    start_type: StartType | None = None
    stage: Stage
    """The stage under way, `Queued` before it has begun."""
    stages: tuple[StageTime, ...] = ()
    """Those it has passed in the engine."""
    reason: Reason | None = None
    """Why it waits; None: it is under way."""
    blocker: str = ""
    """The same in words with numbers."""
    place: str = ""
    """Node or runner where it starts, or whose room it waits for."""
    waited_seconds: float = 0.0
    """Since it was wanted."""
    ready_seconds: float | None = None
    """In how many seconds it is expected to answer; None: nobody can tell."""
    forecast: str = ""
    """Where that time goes, in words."""
    deadline_seconds: float | None = None
    """Until its deadline; below 0: that has passed. None: it has none."""
    misses_deadline_seconds: float | None = None
    """By how much it is expected to be late."""
    fetched_bytes: int = 0
    total_bytes: int = 0
    """Of its weights, while they are fetched."""


class QueueAnswer(Wire, frozen=True, kw_only=True):
    """All starts that wait, in the order of their turns, then those under way."""

    time: str
    """When this was so, RFC 3339 in UTC."""
    round_seconds: float | None = None
    """How long ago the scheduler's last round was; None: there was none since this process leads."""
    starts: tuple[PendingEntry, ...] = ()


class EngineEntry(Wire, frozen=True, kw_only=True):
    """One engine of a runner."""

    id: str
    model: str
    priority: Priority | None = None
    """None: its ModelDeployment is gone or can't be read."""
    state: EngineState
    """As the runner says; Starting before it said anything."""
    desired: str = ""
    """What the assignment asks of it: Ready or Asleep."""
    gpus: tuple[int, ...] = ()
    """Indices into the runner's."""
    reserved_bytes: int = 0
    """What the ledger keeps for it now."""
    awake_bytes: int = 0
    asleep_bytes: int = 0
    memory_bytes: int = 0
    """What its processes hold now, as measured."""
    running: int = 0
    waiting: int = 0
    """Requests at the engine, and in front of it."""
    idle_seconds: float | None = None
    """For how long it has been Ready without a request; None: it is not."""


class RunnerEntry(Wire, frozen=True, kw_only=True):
    """One runner."""

    namespace: str
    name: str
    pool: str = ""
    """The WarmPool it belongs to; empty: the model it was made for."""
    gpus: int = 0
    gpu_resource: str = ""
    memory_bytes: int = 0
    """Its memory limit."""
    lost: str = ""
    """Why it does not count at present; empty: it does."""
    terminating: bool = False
    engines: tuple[EngineEntry, ...] = ()


class CachedEntry(Wire, frozen=True, kw_only=True):
    """What a node has of one model's weights, a draft, an adapter or a compile cache."""

    key: str
    tier: Tier
    state: EntryState
    bytes: int = 0
    fetched_bytes: int = 0


class TierUse(Wire, frozen=True, kw_only=True):
    """How full a tier of a node's weight store is."""

    tier: Tier
    capacity_bytes: int = 0
    used_bytes: int = 0


class NodeEntry(Wire, frozen=True, kw_only=True):
    """One node with what is on it."""

    name: str
    ready: bool
    cordoned: bool = False
    gpus: int = 0
    """All extended resources together that count GPUs of runners or models."""
    gpus_used: int = 0
    """Held by runners and by pods of others."""
    gpu_memory_bytes: int = 0
    """Of each GPU; 0: the node does not say."""
    memory_bytes: int = 0
    memory_used_bytes: int = 0
    """Requested by all its pods."""
    runners: tuple[RunnerEntry, ...] = ()
    tiers: tuple[TierUse, ...] = ()
    cached: tuple[CachedEntry, ...] = ()


class FleetAnswer(Wire, frozen=True, kw_only=True):
    """All nodes that have GPUs, runners or weights."""

    time: str
    """When this was so, RFC 3339 in UTC."""
    fragmentation: float = 0.0
    """Share of the free GPUs that no waiting or usual size can use, 0 to 1."""
    nodes: tuple[NodeEntry, ...] = ()


class ModelScaling(Wire, frozen=True, kw_only=True):
    """What the autoscaler of one model is to see."""

    namespace: str
    model: str
    """Name of the ModelDeployment."""
    value: float | None = None
    """Of the metric, for all its replicas together; None: not known, which is not the same as none."""


class ScalingAnswer(Wire, frozen=True, kw_only=True):
    """All models that are scaled by demand."""

    time: str
    """When this was so, RFC 3339 in UTC."""
    models: tuple[ModelScaling, ...] = ()


class ErrorAnswer(Wire, frozen=True, kw_only=True):
    """Body of every answer of 400 and above, but of those that carry a WakeAnswer."""

    error: str
    """What is wrong and what to do."""
