"""Whether a model is to sleep: nobody wants an engine of it awake, until somebody asks for it. Pure.

The status is the durable record of it, so a new operator goes on where the former one was, and the spec has no part in
it. It is decided here alone; the fleet pass acts on it in its next round.
"""

from datetime import datetime

from warmfleet_api.operator_api import DEMAND_SECONDS
from warmfleet_api.status import Dormancy
from warmfleet_api.vocabulary import EngineState, IdlePolicy, StartType
from warmfleet_operator.decide.fleet import Model
from warmfleet_operator.decide.runners import Member
from warmfleet_operator.decide.situation import Situation
from warmfleet_operator.decide.times import format_time

SCALED_IDLE_SECONDS = 300
"""After this long without a request a model with autoscaling.minReplicas 0 sleeps, unless idle.afterSeconds says."""
_MAX_REASON = 512


def dormancy_of(situation: Situation, now: datetime) -> Dormancy | None:
    """Return the model's sleep as its status shall have it; None: it is wanted awake."""
    old = situation.model.status.dormant
    if old is not None:
        return old if _sleeps_on(situation) else None
    reason = _why_sleep(situation)
    return Dormancy(time=format_time(now), reason=reason[:_MAX_REASON]) if reason else None


def idle_left_seconds(situation: Situation) -> float | None:
    """Return when time alone may let the model sleep: after this many seconds look again; None: never."""
    after = _after_seconds(situation.model)
    if after is None or situation.wanted == 0 or situation.dormant is not None or not _ready(situation):
        return None
    idle = _idle_seconds(situation)
    if idle is None:
        return float(after)
    # Idle for long enough and awake all the same: somebody wants it, as far as is known for the next seconds.
    return after - idle if idle < after else DEMAND_SECONDS


def _sleeps_on(situation: Situation) -> bool:
    """Whether a model that sleeps goes on to."""
    model = situation.model
    if situation.wanted == 0 or situation.demand.is_wanted or model.status.served_hash != model.hash:
        return False
    before = {engine.id: engine.state for engine in model.status.engines}
    return not any(
        _has_requests(member) or (before.get(member.name) is EngineState.ASLEEP and _was_woken(member))
        for member in situation.alive
    )


def _why_sleep(situation: Situation) -> str:
    """Return why a model that is awake is to sleep; empty: it is not."""
    model, demand = situation.model, situation.demand
    may = (model.spec.idle.policy is IdlePolicy.YIELD or _scales_to_zero(model)) and situation.wanted > 0
    if (
        not may
        or model.problem is not None
        or demand.is_wanted
        or demand.queued
        or model.status.served_hash != model.hash
    ):
        return ""
    idle = _idle_seconds(situation)
    if idle is None or any(_has_requests(member) for member in situation.alive):
        return ""
    after = _after_seconds(model)
    if after is not None and idle >= after:
        return f"no request for {after} s"
    return situation.yields


def _idle_seconds(situation: Situation) -> float | None:
    """Return for how long all Ready engines of the present spec have had no request; None: one has, or none is."""
    ready = _ready(situation)
    idle = [each.runner.idle_seconds.get(each.engine.id) for each in ready if each.engine is not None]
    known = [each for each in idle if each is not None]
    return min(known) if ready and len(known) == len(ready) else None


def _after_seconds(model: Model) -> int | None:
    """Return after how many seconds without a request the model sleeps though nobody waits; None: never."""
    after = model.spec.idle.after_seconds
    return SCALED_IDLE_SECONDS if after is None and _scales_to_zero(model) else after


def _scales_to_zero(model: Model) -> bool:
    return model.spec.autoscaling is not None and model.spec.autoscaling.min_replicas == 0


def _ready(situation: Situation) -> list[Member]:
    return [member for member in situation.current if member.is_ready]


def _has_requests(member: Member) -> bool:
    return member.engine is not None and (member.engine.running > 0 or member.engine.waiting > 0)


def _was_woken(member: Member) -> bool:
    """Whether an engine that slept is awake, or nearly, by the runner's own wake: nobody else wakes a sleeping model's.

    Not that it is started anew only to sleep in its process.
    """
    engine = member.engine
    if engine is None or engine.state not in {EngineState.STARTING, EngineState.READY}:
        return False
    return engine.start_type is StartType.HOT
