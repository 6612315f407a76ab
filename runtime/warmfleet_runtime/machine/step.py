"""The step of the state machine: `step(state, event, now)`; read it first, the rest is called from there."""

from dataclasses import replace

from warmfleet_runtime.machine import starts, weights
from warmfleet_runtime.machine.assigning import assign
from warmfleet_runtime.machine.events import (
    Action,
    Assigned,
    AssignmentRefused,
    Event,
    Finish,
    Heard,
    Measured,
    Terminate,
    Tick,
    WeightsSeen,
    ZygoteChanged,
)
from warmfleet_runtime.machine.lifecycle import deadline_of, on_engine_event, settle
from warmfleet_runtime.machine.room import has_room_to_sleep_anew
from warmfleet_runtime.machine.state import Engine, Phase, State
from warmfleet_runtime.machine.turns import await_weights, park, start_next


def step(state: State, event: Event, now: float) -> tuple[State, tuple[Action, ...]]:
    """Return the state after `event` at `now`, and what has to be done."""
    match event:
        case Assigned(assignment):
            state = assign(state, assignment)
        case AssignmentRefused(message):
            state = replace(state, error=message)
        case ZygoteChanged(is_importing):
            state = replace(state, zygote_is_importing=is_importing)
        case Measured(bytes_by_id):
            state = starts.measured(state, bytes_by_id)
        case WeightsSeen():
            state = weights.seen(state, event, now)
        case Terminate():
            state = replace(state, draining=True)
        case Tick():
            pass
        case _:
            engine = state.engines.get(event.id)
            has_process = engine is not None and engine.phase is not Phase.QUEUED
            if engine and engine.attempt == event.attempt and (has_process or isinstance(event, Heard)):
                state = starts.recorded(state, engine, on_engine_event(engine, event, now), now)
    if state.runner_ready_at is None and state.revision and not state.zygote_is_importing:
        state = replace(state, runner_ready_at=now)
    state, changes = _settle_all(state, now)
    state, beginnings = start_next(state, now)
    state = await_weights(weights.let_go(park(state), now), now)
    finish = (Finish(),) if state.draining and not state.engines else ()
    return state, (*changes, *beginnings, *finish)


def next_deadline(state: State, now: float) -> float | None:
    """When time alone changes something, if ever; later than `now` right after a step at `now`."""
    deadlines = (deadline_of(engine) for engine in state.engines.values())
    return min((each for each in deadlines if each is not None and each > now), default=None)


def _settle_all(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    """Bring every engine nearer to what is wanted; forget those that are gone."""
    engines: dict[str, Engine] = {}
    actions: list[Action] = []
    for key, each in state.engines.items():
        engine = replace(each, wanted=None) if state.draining else each
        gives_way = engine.phase is Phase.STARTING and not has_room_to_sleep_anew(state, engine)
        settled, action = settle(engine, state.limits, now, gives_way=gives_way)
        if settled:
            engines[key] = settled
        if action:
            actions.append(action)
    return replace(state, engines=engines), tuple(actions)
