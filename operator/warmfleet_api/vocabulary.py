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


class StartType(StrEnum):
    """How an engine gets to Ready. `Cold`: a new runner."""

    COLD = "Cold"


class Stage(StrEnum):
    """The measured steps of a start, in order. Not every start has all of them."""

    QUEUED = "Queued"
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


class Priority(StrEnum):
    """Class of a model, highest first."""

    CRITICAL = "Critical"
    HIGH = "High"
    NORMAL = "Normal"
    LOW = "Low"

    @property
    def rank(self) -> int:
        """0 for the highest class; sorts ascending."""
        return list(Priority).index(self)


class EngineType(StrEnum):
    """Which engine serves the model."""

    VLLM = "VLLM"
    SIMULATED = "Simulated"


class ConditionType(StrEnum):
    """Condition types of a ModelDeployment. `DEGRADED` and `STALLED` are removed when false."""

    READY = "Ready"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"
    SCHEDULED = "Scheduled"
    WEIGHTS_READY = "WeightsReady"
    SERVING = "Serving"
    DEGRADED = "Degraded"


class Reason(StrEnum):
    """Reasons of conditions and of engine errors."""

    SERVING = "Serving"
    QUEUED = "Queued"
    STARTING = "Starting"
    STOPPED = "Stopped"
    NO_ENGINE = "NoEngine"
    NEW_SPEC = "NewSpec"
    ROLLING_OUT = "RollingOut"
    MODEL_NOT_FOUND = "ModelNotFound"
    ACCESS_DENIED = "AccessDenied"
    UNSAFE_FORMAT = "UnsafeFormat"
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
    QUOTA_EXCEEDED = "QuotaExceeded"
    ON_DISK = "OnDisk"
    DRAINING = "Draining"
    REPLICAS_MISSING = "ReplicasMissing"
