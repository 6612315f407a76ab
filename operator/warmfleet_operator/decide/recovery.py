"""What was lost with a pool's runner comes back before the runner is replaced. Pure.

A new runner takes processor time, disk and links for many seconds: an image, a container, the imports of an engine.
What it would hold starts again elsewhere in that very moment, in runners that are there, and somebody waits for it. So
a pool's missing runners wait until the models that were lost serve again, but no longer than `RECOVERY_SECONDS`, and
not at all where a start finds no room in the runners that are there: then it is the new runner that it waits for.
"""

from collections.abc import Iterable

from warmfleet_api.vocabulary import Reason
from warmfleet_operator.decide.fleet import ModelKey, Pool
from warmfleet_operator.decide.placement import NoPlace
from warmfleet_operator.decide.pools import PoolRunner
from warmfleet_operator.decide.rooms import engine_need
from warmfleet_operator.decide.rounds import Round

RECOVERY_SECONDS = 30.0
"""How long after a loss a pool's runner is replaced at latest."""
_NAMED = 3
"""So many models are named."""


def recovers_first(round_: Round, pool: Pool) -> NoPlace | None:
    """Say for which models the replacement of a pool's lost runners waits; None where it need not wait."""
    lost = [each for each in round_.pool_runners[pool.key] if each.lost]
    left = RECOVERY_SECONDS - min(map(_lost_seconds, lost), default=RECOVERY_SECONDS)
    if left <= 0:
        return None
    models = sorted({key for each in lost for key in _models_in(round_, each) if _is_coming_back(round_, key)})
    if not models or not _all_have_room(round_, pool):
        return None
    round_.recheck(left)
    more = f" and {len(models) - _NAMED} more" if len(models) > _NAMED else ""
    names = ", ".join(str(key) for key in models[:_NAMED])
    return NoPlace(Reason.WAITING_FOR_TURN, f"{names}{more}, lost with a runner, serve again before that is replaced")


def _lost_seconds(lost: PoolRunner) -> float:
    """Return for how long a lost runner has not been heard; for ever where nobody knows."""
    silent = lost.runner.silent_seconds
    return RECOVERY_SECONDS if silent is None else silent


def _models_in(round_: Round, lost: PoolRunner) -> Iterable[ModelKey]:
    sight = round_.sights.get(lost.pod.metadata.uid)
    return (member.model for member in sight.members if not member.is_told_to_sleep) if sight is not None else ()


def _is_coming_back(round_: Round, key: ModelKey) -> bool:
    """Whether a model is awake and has fewer replicas that serve than it wants."""
    model = round_.fleet.models.get(key)
    if model is None or model.problem is not None or model.status.dormant is not None:
        return False
    return sum(member.is_serving for member in round_.members[key]) < model.spec.replicas


def _all_have_room(round_: Round, pool: Pool) -> bool:
    """Whether each start that may take place in the pool fits into a runner that is there."""
    rooms = round_.rooms.rooms[pool.key]
    for key in round_.in_want():
        if key.namespace != pool.key.namespace or pool.key.name not in round_.fleet.models[key].pools:
            continue
        for start in round_.plan_of(key).starts:
            need = engine_need(start, round_.stores)
            if not any(room.fits(need, is_now=False) for room in rooms):
                return False
    return True
