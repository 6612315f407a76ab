"""The runner's memory and GPUs: what each engine holds and has set aside, and whether another fits beside it.

Without GPUs the memory limit plays the part of GPU memory. Of GPUs only the leaving are watched: what fits on one at
the same time is the operator's to say.
"""

from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.vocabulary import DesiredState, WakePolicy
from warmfleet_runtime.machine.state import Engine, Limits, Phase, State

_LEAVING = frozenset({Phase.DRAINING, Phase.FALLING_ASLEEP, Phase.STOPPING})


def order_of(engine: EngineAssignment) -> tuple[int, str]:
    """Return the order in which engines start, and in which memory is given to them."""
    return engine.order, engine.id


def reserved_bytes(engine: EngineAssignment) -> int:
    """Return the memory an assignment sets aside for an engine."""
    is_ordered_asleep = engine.state is DesiredState.ASLEEP and engine.wake is WakePolicy.ON_ASSIGNMENT
    return engine.asleep_bytes if is_ordered_asleep else engine.awake_bytes


def has_room(state: State, engine: Engine) -> bool:
    """Whether what the others hold leaves room to be awake; the assignment as a whole was checked before."""
    others = [each for each in state.engines.values() if each.content.id != engine.content.id]
    gpus = set(engine.content.gpus)
    if gpus:
        return not any(gpus & set(each.content.gpus) for each in others if each.phase in _LEAVING)
    return _fits(sum(_held_bytes(each) for each in others if not each.content.gpus), engine, state.limits)


def has_room_to_sleep_anew(state: State, engine: Engine) -> bool:
    """Whether an engine that is ordered asleep may be started for it: if its awake memory is nobody else's.

    True for those that are not ordered asleep.
    """
    if not engine.is_ordered_asleep:
        return True
    others = [each for each in state.engines.values() if each.content.id != engine.content.id]
    gpus = set(engine.content.gpus)
    if gpus:
        return not any(gpus & set(each.content.gpus) for each in others if _is_awake_now_or_soon(each))
    taken = sum(max(_held_bytes(each), _reserved_bytes(each)) for each in others if not each.content.gpus)
    return _fits(taken, engine, state.limits)


def _fits(taken_bytes: int, engine: Engine, limits: Limits) -> bool:
    return not limits.memory_bytes or taken_bytes + engine.content.awake_bytes <= limits.memory_bytes


def _held_bytes(engine: Engine) -> int:
    """Return what an engine holds now, and what it may take back at any time because it sleeps only while idle."""
    keeps_awake_bytes = engine.sleeps_when_idle and engine.is_to_stay
    if engine.phase is Phase.QUEUED:
        return engine.content.awake_bytes if keeps_awake_bytes else 0
    if engine.holds_asleep_bytes and not keeps_awake_bytes:
        return engine.content.asleep_bytes
    return engine.content.awake_bytes


def _reserved_bytes(engine: Engine) -> int:
    return 0 if engine.wanted is None or engine.refusal else reserved_bytes(engine.wanted)


def _is_awake_now_or_soon(engine: Engine) -> bool:
    has_process = engine.phase is not Phase.QUEUED and not engine.holds_asleep_bytes
    return has_process or (engine.wanted is not None and not engine.refusal and not engine.is_ordered_asleep)
