"""The status of an object whose spec this operator can't read: written by another version of the API."""

from collections.abc import Sequence
from datetime import datetime

from pydantic import ValidationError

from warmfleet_api.status import Condition, ModelDeploymentStatus
from warmfleet_api.vocabulary import CacheConditionType, CacheReason, ConditionType, PoolReason, Reason
from warmfleet_api.warm_pool import WarmPoolStatus
from warmfleet_api.weight_cache import WeightCacheStatus
from warmfleet_kube.objects import Metadata
from warmfleet_operator.decide.caches_status import conditions_of
from warmfleet_operator.decide.times import format_time
from warmfleet_operator.records import ModelDeployment, WarmPool, WeightCache

_UNREADABLE = "the operator can't read this object; apply it again with the CRD of the operator's version: "


def unreadable_status(record: ModelDeployment, why: str, now: datetime) -> ModelDeploymentStatus:
    """Return the former status with the condition Stalled in it: its runners are left as they are."""
    try:
        former = ModelDeploymentStatus.model_validate(record.status)
    except ValidationError:
        former = ModelDeploymentStatus()
    conditions = _stalled(former.conditions, record.metadata, Reason.INVALID_ARGS, why, now)
    return former.model_copy(update={"observed_generation": record.metadata.generation, "conditions": conditions})


def unreadable_pool_status(record: WarmPool, why: str, now: datetime) -> WarmPoolStatus:
    """Return the former status with the condition Stalled in it: its runners are left as they are."""
    try:
        former = WarmPoolStatus.model_validate(record.status)
    except ValidationError:
        former = WarmPoolStatus()
    conditions = _stalled(former.conditions, record.metadata, PoolReason.UNREADABLE, why, now)
    return former.model_copy(update={"observed_generation": record.metadata.generation, "conditions": conditions})


def unreadable_cache_status(record: WeightCache, why: str, now: datetime) -> WeightCacheStatus:
    """Return the former status with Ready False in it: its agents and nodes are left as they are."""
    try:
        former = WeightCacheStatus.model_validate(record.status)
    except ValidationError:
        former = WeightCacheStatus()
    generation = record.metadata.generation
    finding = ("False", CacheReason.UNREADABLE, f"{_UNREADABLE}{why}")
    ready = conditions_of(former.conditions, generation, {CacheConditionType.READY: finding}, now)
    others = [condition for condition in former.conditions if condition.type != CacheConditionType.READY]
    return former.model_copy(update={"observed_generation": generation, "conditions": [*ready, *others]})


def _stalled(
    conditions: Sequence[Condition], metadata: Metadata, reason: Reason | PoolReason, why: str, now: datetime
) -> list[Condition]:
    message = f"{_UNREADABLE}{why}"
    before = {condition.type: condition for condition in conditions}
    found = [(ConditionType.RECONCILING, "False"), (ConditionType.STALLED, "True")]
    if ConditionType.READY not in before:
        found.insert(0, (ConditionType.READY, "False"))
    for kind, status in found:
        old = before.get(kind)
        unchanged = old is not None and old.status == status
        before[kind] = Condition(
            type=kind,
            status=status,
            observed_generation=metadata.generation,
            last_transition_time=old.last_transition_time if old is not None and unchanged else format_time(now),
            reason=reason,
            message=message[:4096],
        )
    return list(before.values())
