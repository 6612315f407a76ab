"""The words of Warmfleet as enums: states, stages, start types, classes and reasons.

They appear on the wire as they stand here; CamelCase as in every Kubernetes API.
"""

from enum import StrEnum


class EngineState(StrEnum):
    """State of an engine: `Starting → Ready ⇄ Asleep`, `Draining`, `Failed`."""

    STARTING = "Starting"
    READY = "Ready"
    ASLEEP = "Asleep"
    DRAINING = "Draining"
    FAILED = "Failed"


class DesiredState(StrEnum):
    """What an assignment asks of an engine. An engine that is not assigned is drained and stopped."""

    READY = "Ready"
    ASLEEP = "Asleep"


class WakePolicy(StrEnum):
    """Who wakes an engine that is assigned Asleep.

    `OnAssignment`: the operator alone; its awake memory may be given away, and sleep is an order.
    `OnRequest`: its runner too, at the first request; its awake memory stays reserved, and a busy engine stays awake.
    """

    ON_ASSIGNMENT = "OnAssignment"
    ON_REQUEST = "OnRequest"


class StartType(StrEnum):
    """How an engine gets to Ready: woken (`Hot`), started in a running runner (`Warm`), or in a new one (`Cold`)."""

    HOT = "Hot"
    WARM = "Warm"
    COLD = "Cold"


class Launch(StrEnum):
    """How an engine's process comes to be: forked from the zygote, or executed anew with all its imports."""

    FORK = "Fork"
    EXEC = "Exec"


class ZygoteState(StrEnum):
    """State of a runner's zygote. `Unavailable`: engines are executed instead of forked."""

    IMPORTING = "Importing"
    READY = "Ready"
    UNAVAILABLE = "Unavailable"


class BatchingPolicy(StrEnum):
    """When waiting requests go to the engine.

    `Continuous`: at once, while there is room. `Static`: batch after batch, each when the former is done.
    `Dynamic`: after a window that adapts to load. `SizeOrWait`: when enough wait, or the first waited long enough.
    """

    CONTINUOUS = "Continuous"
    STATIC = "Static"
    DYNAMIC = "Dynamic"
    SIZE_OR_WAIT = "SizeOrWait"


class RoutingPolicy(StrEnum):
    """By what a router chooses among the engines of a model."""

    SCORE = "Score"
    LEAST_LOADED = "LeastLoaded"
    LEAST_RECENTLY_USED = "LeastRecentlyUsed"
    SESSION_AFFINITY = "SessionAffinity"
    PREFIX_AFFINITY = "PrefixAffinity"


class BrokenStream(StrEnum):
    """What becomes of a stream that breaks off at its engine."""

    ERROR = "Error"
    COMPLETE = "Complete"


class WarmupMode(StrEnum):
    """When a warmed-up engine is Ready.

    `Full`: after every warm-up request. `Progressive`: after a short one; longer contexts are warmed behind it, and
    prompts longer than what is warm wait for them.
    """

    FULL = "Full"
    PROGRESSIVE = "Progressive"


class Stage(StrEnum):
    """The measured steps of a start, in order. Not every start has all of them."""

    QUEUED = "Queued"
    NODE_PROVISIONED = "NodeProvisioned"
    RUNNER_SCHEDULED = "RunnerScheduled"
    IMAGE_PULLED = "ImagePulled"
    RUNNER_READY = "RunnerReady"
    WEIGHTS_IN_MEMORY = "WeightsInMemory"
    ENGINE_FORKED = "EngineForked"
    WEIGHTS_LOADED = "WeightsLoaded"
    COMPILED = "Compiled"
    CACHE_ALLOCATED = "CacheAllocated"
    WARMED_UP = "WarmedUp"
    ROUTABLE = "Routable"


WAITS = frozenset({Stage.QUEUED, Stage.NODE_PROVISIONED})
"""Stages in which a start waits for its turn or for a node: no part of its duration."""


class Priority(StrEnum):
    """Class of a model, highest first."""

    CRITICAL = "Critical"
    HIGH = "High"
    NORMAL = "Normal"
    LOW = "Low"

    @property
    def rank(self) -> int:
        """0 for the highest class; sorts ascending."""
        return _RANKS[self]


_RANKS = {each: rank for rank, each in enumerate(Priority)}


class EngineType(StrEnum):
    """Which engine serves the model."""

    VLLM = "VLLM"
    SIMULATED = "Simulated"


class IdlePolicy(StrEnum):
    """What becomes of an engine without requests when another model waits for its room.

    `Yield`: it gives way, the model's last one too. `Keep`: never below the model's floor.
    """

    YIELD = "Yield"
    KEEP = "Keep"


class ScalingPolicy(StrEnum):
    """By what the number of a model's replicas is chosen."""

    DEMAND = "Demand"
    UTILIZATION = "Utilization"
    RULES = "Rules"
    EXTERNAL = "External"


class ScaleBy(StrEnum):
    """In what a step of a HorizontalPodAutoscaler is measured."""

    PODS = "Pods"
    PERCENT = "Percent"


class SelectPolicy(StrEnum):
    """Which of several steps a HorizontalPodAutoscaler takes."""

    MAX = "Max"
    MIN = "Min"
    DISABLED = "Disabled"


class Tier(StrEnum):
    """Where weights are."""

    GPU = "GPU"
    MEMORY = "Memory"
    DISK = "Disk"
    REMOTE = "Remote"


class EntryState(StrEnum):
    """State of an entry of a node's weight store.

    `Known`: its revision and size are. `Waiting`: for its turn, or for room. `Fetching`: from afar. `Promoting`: from
    disk to memory. `Present`: where it should be. `Failed`: it is tried again later, `error` says why and when.
    """

    KNOWN = "Known"
    WAITING = "Waiting"
    FETCHING = "Fetching"
    PROMOTING = "Promoting"
    PRESENT = "Present"
    FAILED = "Failed"


class WeightsProblem(StrEnum):
    """Why weights can't be had. The first group is for a person to mend, the second passes by itself."""

    MODEL_NOT_FOUND = "ModelNotFound"
    ACCESS_DENIED = "AccessDenied"
    SECRET_MISSING = "SecretMissing"
    UNSAFE_FORMAT = "UnsafeFormat"
    NEVER_FITS = "NeverFits"
    FORBIDDEN_SOURCE = "ForbiddenSource"

    CACHE_FULL = "CacheFull"
    SOURCE_UNREACHABLE = "SourceUnreachable"
    DAMAGED = "Damaged"
    DISK_ERROR = "DiskError"


class CacheConditionType(StrEnum):
    """Condition types of a WeightCache."""

    READY = "Ready"
    FITS = "Fits"


class CacheReason(StrEnum):
    """Reasons of the conditions of a WeightCache and a NodeCache."""

    FITS = "Fits"
    PRELOAD_EXCEEDS_SIZE = "PreloadExceedsSize"
    NODE_MEMORY_TAKEN = "NodeMemoryTaken"
    SIZES_UNKNOWN = "SizesUnknown"
    AGENTS_READY = "AgentsReady"
    PRELOADING = "Preloading"
    PRELOAD_FAILED = "PreloadFailed"
    UNUSABLE_FOLDERS = "UnusableFolders"
    AGENTS_MISSING = "AgentsMissing"
    NO_NODES = "NoNodes"
    CONFLICT = "Conflict"
    AGENT_READY = "AgentReady"
    STORE_BROKEN = "StoreBroken"
    UNREADABLE = "Unreadable"


class FailureMode(StrEnum):
    """What a gateway does with requests while an endpoint picker does not answer."""

    FAIL_CLOSE = "FailClose"
    FAIL_OPEN = "FailOpen"


class ConditionType(StrEnum):
    """Condition types of a ModelDeployment. `DEGRADED` and `STALLED` are removed when false."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    SCHEDULED = "Scheduled"
    WEIGHTS_READY = "WeightsReady"
    SERVING = "Serving"
    DEGRADED = "Degraded"


class PoolReason(StrEnum):
    """Reasons of the conditions of a WarmPool."""

    RUNNERS_READY = "RunnersReady"
    RUNNERS_MISSING = "RunnersMissing"
    STOPPED = "Stopped"
    NEW_SPEC = "NewSpec"
    ROLLING_OUT = "RollingOut"
    NEVER_FITS = "NeverFits"
    QUOTA_EXCEEDED = "QuotaExceeded"
    ACCESS_DENIED = "AccessDenied"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNREADABLE = "Unreadable"


class TenantReason(StrEnum):
    """Reasons of the condition Ready of a Tenant: whether routers have its keys."""

    KEYS_READ = "KeysRead"
    NO_KEYS = "NoKeys"
    SECRET_MISSING = "SecretMissing"
    ACCESS_DENIED = "AccessDenied"
    UNREADABLE = "Unreadable"


class Reason(StrEnum):
    """Reasons of conditions and of engine errors. Every `WeightsProblem` is one, under the same word."""

    SERVING = "Serving"
    QUEUED = "Queued"
    FETCHING_WEIGHTS = "FetchingWeights"
    STARTING = "Starting"
    STOPPED = "Stopped"
    NO_ENGINE = "NoEngine"
    NEW_SPEC = "NewSpec"
    ROLLING_OUT = "RollingOut"
    CANARY = "Canary"
    MODEL_NOT_FOUND = "ModelNotFound"
    ACCESS_DENIED = "AccessDenied"
    SECRET_MISSING = "SecretMissing"
    UNSAFE_FORMAT = "UnsafeFormat"
    FORBIDDEN_SOURCE = "ForbiddenSource"
    NO_WEIGHT_CACHE = "NoWeightCache"
    INVALID_ARGS = "InvalidArgs"
    NEVER_FITS = "NeverFits"
    NAME_TAKEN = "NameTaken"
    ENGINE_CRASHING = "EngineCrashing"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    PLACED = "Placed"
    WAITING_FOR_TURN = "WaitingForTurn"
    NO_FREE_MEMORY = "NoFreeMemory"
    NO_MATCHING_NODE = "NoMatchingNode"
    POOL_NOT_FOUND = "PoolNotFound"
    QUOTA_EXCEEDED = "QuotaExceeded"
    WEIGHTS_UNKNOWN = "WeightsUnknown"
    IN_MEMORY = "InMemory"
    ON_DISK = "OnDisk"
    FETCHING = "Fetching"
    CACHE_FULL = "CacheFull"
    SOURCE_UNREACHABLE = "SourceUnreachable"
    DAMAGED = "Damaged"
    DISK_ERROR = "DiskError"
    DRAINING = "Draining"
    REPLICAS_MISSING = "ReplicasMissing"
    STANDBY_MISSING = "StandbyMissing"
    ASLEEP = "Asleep"
    WAKING = "Waking"
    PREEMPTED = "Preempted"
    FLOORS_HELD = "FloorsHeld"
    DEADLINE_MISSED = "DeadlineMissed"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    FOREIGN_SCALER = "ForeignScaler"
    INVALID_SCHEDULE = "InvalidSchedule"
