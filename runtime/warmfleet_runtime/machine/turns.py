"""Whose turn it is to start or to wake: one load at a time, and only into memory that is free."""

from collections.abc import Iterable
from dataclasses import replace

from warmfleet_api.vocabulary import EngineType
from warmfleet_runtime.machine import starts
from warmfleet_runtime.machine.events import Action, Start, Wake
from warmfleet_runtime.machine.room import has_room, has_room_to_sleep_anew, order_of
from warmfleet_runtime.machine.state import FRESH_AFTER_STARTS, Engine, Phase, State


def start_next(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    """Begin the wake or the start whose turn it is.

    A wake is quick and somebody waits for it, so it waits for no start; a start that hangs would hold it up for its
    whole budget. A start waits for both.
    """
    phases = {engine.phase for engine in state.engines.values()}
    if Phase.WAKING in phases:
        return state, ()
    for engine in _by_order(state):
        if engine.phase is Phase.ASLEEP and engine.is_to_stay and engine.is_wanted_awake and has_room(state, engine):
            return _begin(state, starts.begun_wake(engine, now))
    if Phase.STARTING in phases:
        return state, ()
    # Those that shall serve come before those that are started only to sleep.
    for engine in sorted(_by_order(state), key=lambda each: not each.is_wanted_awake):
        if not engine.missing and _may_start(state, engine, now):
            return _begin(state, starts.begun(engine, state, now))
    return state, ()


def await_weights(state: State, now: float) -> State:
    """Take note of engines that only weights which are not in memory yet keep from starting. They hold up no other."""
    engines = dict(state.engines)
    for key, engine in state.engines.items():
        if engine.missing and engine.waits_since is None and _may_start(state, engine, now):
            engines[key] = starts.begun_wait(engine, state, now)
    return replace(state, engines=engines)


def park(state: State) -> State:
    """Let engines be asleep without a process that shall sleep and have no turn to be started for it."""
    engines = dict(state.engines)
    for key, engine in state.engines.items():
        is_parked = engine.phase is Phase.QUEUED and not _ought_to_start(state, engine)
        if engine.is_parked is not is_parked:
            engines[key] = replace(engine, is_parked=is_parked)
    return replace(state, engines=engines)


def _begin(state: State, engine: Engine) -> tuple[State, tuple[Action, ...]]:
    key = engine.content.id
    is_fresh = engine.failed_starts == FRESH_AFTER_STARTS
    action = (
        Wake(key, engine.attempt) if engine.phase is Phase.WAKING else Start(engine.content, engine.attempt, is_fresh)
    )
    return replace(state, engines={**state.engines, key: engine}), (action,)


def _by_order(state: State) -> Iterable[Engine]:
    return sorted(state.engines.values(), key=lambda each: order_of(each.content))


def _may_start(state: State, engine: Engine, now: float) -> bool:
    """Whether it could be started now, its weights and whose turn it is left aside."""
    if engine.phase is not Phase.QUEUED or engine.retry_at > now:
        return False
    if engine.refusal or not _ought_to_start(state, engine):
        return False
    waits_for_zygote = state.zygote_is_importing and engine.content.engine.type is EngineType.VLLM
    return not waits_for_zygote and has_room(state, engine)


def _ought_to_start(state: State, engine: Engine) -> bool:
    """Whether an engine without a process ought to have one, if only to sleep in it."""
    if engine.is_wanted_awake:
        return True
    sleeps_in_place = engine.content.engine.type in state.limits.sleepers and not engine.cannot_sleep
    return sleeps_in_place and has_room_to_sleep_anew(state, engine)
