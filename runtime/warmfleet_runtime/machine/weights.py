"""The entries of the weight store that engines read: who needs them, and what becomes of it when some are missing.

An engine is started once all of them are in memory and locked for it. The wait is no part of the start's budget, and
nothing that the engine could fail at.
"""

from collections.abc import Mapping
from dataclasses import replace

from warmfleet_runtime.machine.events import WeightsSeen
from warmfleet_runtime.machine.lifecycle import failed_start
from warmfleet_runtime.machine.state import Engine, Phase, State


def readers(state: State, now: float) -> Mapping[str, Engine]:
    """Return the engines, by id, whose entries have to be locked: those with a process, and those about to get one."""
    return {key: engine for key, engine in state.engines.items() if _is_reader(engine, now)}


def seen(state: State, event: WeightsSeen, now: float) -> State:
    """Return the state after a look at the entries of an engine that has no process yet."""
    engine = state.engines.get(event.id)
    is_meant = engine is not None and engine.entries == event.entries and engine.phase is Phase.QUEUED
    if engine is None or not is_meant or not _is_reader(engine, now):
        return state
    if event.error is not None:
        engine = replace(failed_start(engine, event.error, now), missing=engine.entries)
    else:
        found_at = engine.found_at if event.missing else now
        engine = replace(engine, missing=event.missing, weight_bytes=event.weight_bytes, found_at=found_at)
    return replace(state, engines={**state.engines, event.id: engine})


def let_go(state: State, now: float) -> State:
    """Count as missing what nobody holds a lock on any more: it may be evicted at any time."""
    engines = dict(state.engines)
    for key, engine in state.engines.items():
        if engine.entries and not _is_reader(engine, now):
            engines[key] = replace(engine, missing=engine.entries, waits_since=None)
    return replace(state, engines=engines)


def _is_reader(engine: Engine, now: float) -> bool:
    if not engine.entries:
        return False
    if engine.phase is not Phase.QUEUED:
        return True
    return engine.is_to_stay and not engine.is_parked and engine.retry_at <= now
