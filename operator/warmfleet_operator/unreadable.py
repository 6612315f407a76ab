"""The status of a ModelDeployment whose spec this operator can't read: written by another version of the API."""

from datetime import datetime

from pydantic import ValidationError

from warmfleet_api.status import Condition, ModelDeploymentStatus
from warmfleet_api.vocabulary import ConditionType, Reason
from warmfleet_operator.decide.times import format_time
from warmfleet_operator.records import ModelDeployment


def unreadable_status(record: ModelDeployment, why: str, now: datetime) -> ModelDeploymentStatus:
    """Return the former status with the condition Stalled in it: its runners are left as they are."""
    try:
        former = ModelDeploymentStatus.model_validate(record.status)
    except ValidationError:
        former = ModelDeploymentStatus()
    message = f"the operator can't read this object; apply it again with the CRD of the operator's version: {why}"
    before = {condition.type: condition for condition in former.conditions}
    found = [(ConditionType.RECONCILING, "False"), (ConditionType.STALLED, "True")]
    if ConditionType.READY not in before:
        found.insert(0, (ConditionType.READY, "False"))
    for kind, status in found:
        old = before.get(kind)
        unchanged = old is not None and old.status == status
        before[kind] = Condition(
            type=kind,
            status=status,
            observed_generation=record.metadata.generation,
            last_transition_time=old.last_transition_time if old is not None and unchanged else format_time(now),
            reason=Reason.INVALID_ARGS,
            message=message[:4096],
        )
    return former.model_copy(
        update={"observed_generation": record.metadata.generation, "conditions": list(before.values())}
    )
