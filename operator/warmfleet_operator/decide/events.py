"""What is told as a Kubernetes event: one per transition, in words with numbers.

Transitions are found by comparing the old status with the new one, so a restarted operator repeats none.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class EventReason(StrEnum):
    """Reasons of events."""

    START_QUEUED = "StartQueued"
    START_SUCCEEDED = "StartSucceeded"
    START_FAILED = "StartFailed"
    FETCH_FAILED = "FetchFailed"
    ROLLED_OUT = "RolledOut"
    CANARY_SERVES = "CanaryServes"
    ROLLED_BACK = "RolledBack"
    INFERENCE_POOL_TAKEN = "InferencePoolTaken"
    STARTED_BY_EXEC = "StartedByExec"
    FETCHED = "Fetched"
    SLEPT = "Slept"
    SCALED = "Scaled"
    PREEMPTED = "Preempted"
    STANDBY_PROMOTED = "StandbyPromoted"
    DEADLINE_MISSED = "DeadlineMissed"


@dataclass(frozen=True, slots=True)
class ModelEvent:
    """An event about a ModelDeployment."""

    type: Literal["Normal", "Warning"]
    reason: EventReason
    message: str
