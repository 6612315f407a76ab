"""Which engines are told to sleep and to wake, and what they keep while they sleep.

A model is *dormant* while its status says so: nobody wants an engine of it awake. Its engines sleep where they are,
first with their memory still reserved, so that their runner wakes them at once on a request (`wake: OnRequest`). When
another start needs that memory they are *ordered* asleep (`OnAssignment`) and keep only what sleeping engines need;
when even that or the place is needed, they are taken out (`give_way.py`). A runner of the model's own is the model's
alone, so its engine is never ordered; the whole runner goes when its node's room is needed.
"""

import msgspec

from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineStatus
from warmfleet_api.vocabulary import DesiredState, WakePolicy
from warmfleet_operator.decide.fleet import Model

IDLE_SECONDS = 1
"""A dormant model's engine sleeps after so long without a request: that nobody wants it was decided already."""
SLEEP_SECONDS = 1.0
"""An idle engine is expected to be asleep after that."""
DRAIN_SECONDS = 10.0
"""One with requests is."""
GPU_BYTES = 2 * 1024**3
"""What a sleeping engine is taken to hold of each GPU at most: its context and graphs. It is assumed, as no runner
measures it; where it is too low only `room.GPU_MARGIN_BYTES` is left."""
_STEP_BYTES = 64 * 1024**2
"""Measurements are rounded up to whole steps, so that an assignment isn't written for every change."""
_MARGIN = 1.1


def is_dormant(model: Model) -> bool:
    """Whether nobody wants an engine of the model awake."""
    return model.status.dormant is not None


def on_request(engine: EngineAssignment) -> EngineAssignment:
    """Return the engine asleep with its memory reserved: its runner wakes it on a request."""
    return msgspec.structs.replace(
        engine, state=DesiredState.ASLEEP, wake=WakePolicy.ON_REQUEST, idle_seconds=IDLE_SECONDS
    )


def ordered(engine: EngineAssignment, told: EngineStatus | None) -> EngineAssignment:
    """Return the engine asleep until an assignment wakes it: its awake memory is somebody else's."""
    return msgspec.structs.replace(
        engine,
        state=DesiredState.ASLEEP,
        wake=WakePolicy.ON_ASSIGNMENT,
        asleep_bytes=asleep_bytes(engine, told),
    )


def awake(engine: EngineAssignment) -> EngineAssignment:
    """Return the engine awake."""
    return msgspec.structs.replace(engine, state=DesiredState.READY, wake=WakePolicy.ON_ASSIGNMENT)


def asleep_bytes(engine: EngineAssignment, told: EngineStatus | None) -> int:
    """Return what to reserve for an engine asleep: what was measured and a tenth more, else half of what it has awake.

    It never falls below what was promised before. On GPUs it is what a process keeps of each one.
    """
    if engine.gpus:
        share = engine.awake_bytes // len(engine.gpus)
        each = min(GPU_BYTES, share // 2) if share else GPU_BYTES
        return max(engine.asleep_bytes, each * len(engine.gpus))
    measured = told.asleep_memory_bytes if told is not None else 0
    wanted = -(-int(measured * _MARGIN) // _STEP_BYTES) * _STEP_BYTES if measured else engine.awake_bytes // 2
    return min(engine.awake_bytes, max(engine.asleep_bytes, wanted))
