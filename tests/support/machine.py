"""The runner's state machine under test: makers of its assignments, and a clock."""

from warmfleet_api.assignment import Assignment, EngineAssignment, EngineSpec
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import EngineState, EngineType, Reason
from warmfleet_runtime.machine import events
from warmfleet_runtime.machine.state import Limits, State
from warmfleet_runtime.machine.step import step
from warmfleet_runtime.machine.view import runner_status

CRASH = EngineError(reason=Reason.ENGINE_CRASHING, message="exited with code 1", exit_code=1)


def engine(
    name: str,
    *,
    order: int = 0,
    memory: int = 0,
    asleep: int = 0,
    gpus: tuple[int, ...] = (),
    spec_hash: str = "h",
) -> EngineAssignment:
    """Return an engine that is wanted Ready."""
    return EngineAssignment(
        id=name,
        model=name,
        model_uid=f"uid-{name}",
        hash=spec_hash,
        gpus=gpus,
        awake_bytes=memory,
        asleep_bytes=asleep,
        order=order,
        start_budget_seconds=60,
        engine=EngineSpec(type=EngineType.SIMULATED, uri="hf://a/b", served_names=(name,)),
    )


def assigned(revision: int, *engines: EngineAssignment) -> events.Assigned:
    """Return the event of an assignment."""
    return events.Assigned(Assignment(version=1, revision=revision, engines=engines))


class Machine:
    """The state machine with its clock and everything it asked for."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.state = State(limits=limits or Limits(drain_seconds=30, stop_seconds=10))
        self.now = 100.0
        self.actions: list[events.Action] = []

    def feed(self, *all_events: events.Event) -> tuple[events.Action, ...]:
        """Let things happen now; return what has to be done."""
        done: list[events.Action] = []
        for event in all_events:
            self.state, actions = step(self.state, event, self.now)
            done += actions
        self.actions += done
        return tuple(done)

    def after(self, seconds: float, *all_events: events.Event) -> tuple[events.Action, ...]:
        """Let things happen later; without any only time passes."""
        self.now += seconds
        return self.feed(*(all_events or (events.Tick(),)))

    def engine_state(self, name: str) -> EngineState:
        """Return the state an engine shows."""
        return next(each.state for each in runner_status(self.state, "pod").engines if each.id == name)

    def attempt(self, name: str) -> int:
        """Return how many times an engine was started or woken."""
        return self.state.engines[name].attempt

    def make_ready(self, *names: str) -> None:
        """Let starts succeed."""
        for name in names:
            self.feed(events.WarmedUp(name, self.attempt(name), 20))
