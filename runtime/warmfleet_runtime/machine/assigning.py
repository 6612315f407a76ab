"""Takes an assignment over: what is refused of it, and what becomes wanted."""

import re
from dataclasses import replace

from warmfleet_api.assignment import Assignment, EngineAssignment
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import EngineType, Reason
from warmfleet_runtime.machine.room import order_of, reserved_bytes
from warmfleet_runtime.machine.state import CRASHING_AFTER_STARTS, Engine, Limits, State, new_engine, start_key

DEADLY_AFTER_DEATHS = 2
DEADLY_RETRY_SECONDS = 300.0
"""Until an engine that seems to kill the runner is tried again: so long the others serve undisturbed."""
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""Ids name sockets and logs; a unix socket's path has at most 107 characters."""


def assign(state: State, assignment: Assignment) -> State:
    """Return the state with an assignment in force, or with the reason why not."""
    if problem := _problem(state, assignment):
        return replace(state, error=f"refused assignment revision {assignment.revision}: {problem}")
    wanted = {engine.id: engine for engine in assignment.engines}
    refusals = _refusals(assignment, state.limits)
    engines: dict[str, Engine] = {}
    for key in {**state.engines, **wanted}:
        engine = state.engines.get(key) or _new_engine(state, wanted[key])
        engines[key] = replace(engine, wanted=wanted.get(key), refusal=refusals.get(key))
    error = "; ".join(f"engine {key}: {refusal.message}" for key, refusal in sorted(refusals.items()))
    return replace(
        state, revision=assignment.revision, engines=engines, trusted_keys=assignment.trusted_keys, error=error
    )


def _problem(state: State, assignment: Assignment) -> str:
    """Say why an assignment can't be taken as a whole."""
    if assignment.revision < state.revision:
        return f"revision {state.revision} is in force"
    ids = [engine.id for engine in assignment.engines]
    if len(set(ids)) != len(ids):
        return "two engines share an id"
    bad = [each for each in ids if not _FILE_NAME.fullmatch(each)]
    return f"{bad[0]!r} is no engine id" if bad else ""


def _new_engine(state: State, wanted: EngineAssignment) -> Engine:
    is_found = state.revision == 0
    engine = new_engine(wanted, state.limits, found_at_birth=is_found)
    deaths = state.deaths.get(start_key(wanted), 0) if is_found else 0
    if deaths < DEADLY_AFTER_DEATHS:
        return engine
    message = (
        f"the runner's container died {deaths} times while this engine was starting; raise resources.memory, or see "
        f"the log of the container's last run. It is tried again after {DEADLY_RETRY_SECONDS:.0f} s"
    )
    return replace(
        engine,
        failed_starts=max(deaths, CRASHING_AFTER_STARTS),
        retry_at=state.born + DEADLY_RETRY_SECONDS,
        error=EngineError(reason=Reason.ENGINE_CRASHING, message=message),
    )


def _refusals(assignment: Assignment, limits: Limits) -> dict[str, EngineError]:
    """Engines that can't run here: by ascending order, those for which memory or GPUs do not suffice."""
    refusals: dict[str, EngineError] = {}
    reserved = 0
    for engine in sorted(assignment.engines, key=order_of):
        # Simulated GPUs need no device; only engines without GPUs live on the memory limit.
        if engine.engine.type is not EngineType.SIMULATED and any(gpu >= limits.gpus for gpu in engine.gpus):
            message = (
                f"needs GPU {max(engine.gpus)}, this runner has {limits.gpus}; recreate the runner on another node"
            )
            refusals[engine.id] = EngineError(reason=Reason.NEVER_FITS, message=message)
            continue
        if engine.gpus or not limits.memory_bytes:
            continue
        needed = reserved_bytes(engine)
        if reserved + needed > limits.memory_bytes:
            shortage = f"needs {needed} bytes of memory beside {reserved} bytes of other engines"
        elif engine.awake_bytes > limits.memory_bytes:
            shortage = f"needs {engine.awake_bytes} bytes of memory when it wakes"
        else:
            reserved += needed
            continue
        message = f"{shortage}, the limit is {limits.memory_bytes}; raise resources.memory"
        refusals[engine.id] = EngineError(reason=Reason.NEVER_FITS, message=message)
    return refusals
