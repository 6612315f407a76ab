"""Which spec serves and which is tried beside it, as the status keeps it: what a new operator goes on with. Pure."""

from collections.abc import Iterator

from warmfleet_api.status import ModelDeploymentStatus, RolloutStatus
from warmfleet_operator.decide.canary import as_stable
from warmfleet_operator.decide.events import EventReason, ModelEvent
from warmfleet_operator.decide.situation import Situation


def rollout_of(situation: Situation) -> RolloutStatus | None:
    """Return what the status keeps of rollouts; None before a first spec has served.

    A spec is the stable one as soon as it serves without being a canary. The weight of a canary that was taken back
    stays until its last engine is gone: until then routers have to know whom to leave alone.
    """
    model = situation.model
    old, spec_weight = model.status.rollout, model.spec.rollout.canary_weight
    if model.stable is not None and old is not None:
        return _with_canary(situation, old, model.hash, spec_weight)
    if not situation.serves_current and model.status.served_hash != model.hash:
        return _alone(old) if old is not None else None
    if old is not None and old.stable_hash == model.hash and old.canary_hash:
        is_there = any(member.hash == old.canary_hash for member in situation.members)
        if is_there:
            return _with_canary(situation, old, old.canary_hash, old.canary_weight)
    return as_stable(model)


def rollout_events(old: ModelDeploymentStatus, new: ModelDeploymentStatus) -> Iterator[ModelEvent]:
    """Tell of a canary that serves, of a spec that has replaced the former, and of one that was taken back."""
    before, after = old.rollout, new.rollout
    if after is None:
        return
    if before is None:
        # Written by a version that kept nothing of rollouts.
        if old.served_hash and old.served_hash != after.stable_hash:
            yield _rolled_out(after.stable_hash, old.served_hash)
        return
    if before.stable_hash != after.stable_hash:
        yield _rolled_out(after.stable_hash, before.stable_hash)
    elif before.canary_hash and not after.canary_hash and old.served_hash == new.served_hash == after.stable_hash:
        text = f"the canary {before.canary_hash} is gone; {after.stable_hash} serves alone"
        yield ModelEvent("Normal", EventReason.ROLLED_BACK, text)
    elif after.canary_replicas and (before.canary_hash != after.canary_hash or not before.canary_replicas):
        text = f"{after.canary_hash} gets {after.canary_weight} % of the requests beside {after.stable_hash}"
        yield ModelEvent("Normal", EventReason.CANARY_SERVES, text)


def _rolled_out(new: str, former: str) -> ModelEvent:
    return ModelEvent("Normal", EventReason.ROLLED_OUT, f"{new} serves instead of {former}")


def _with_canary(situation: Situation, old: RolloutStatus, canary: str, weight: int | None) -> RolloutStatus:
    serving = sum(member.hash == canary for member in situation.serving)
    return old.model_copy(update={"canary_hash": canary, "canary_weight": weight, "canary_replicas": serving})


def _alone(old: RolloutStatus) -> RolloutStatus:
    return old.model_copy(update={"canary_hash": "", "canary_weight": None, "canary_replicas": 0})
