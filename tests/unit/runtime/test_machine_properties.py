"""Properties of the state machine: whatever arrives in whatever order, it converges and never does harm meanwhile."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from warmfleet_api.assignment import Assignment, EngineAssignment, EngineSpec
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import EngineState, EngineType, Reason, Stage
from warmfleet_runtime.machine import events
from warmfleet_runtime.machine.state import Limits, Phase, State, identity
from warmfleet_runtime.machine.step import next_deadline, step
from warmfleet_runtime.machine.view import runner_status

MEMORY = 10
CRASH = EngineError(reason=Reason.ENGINE_CRASHING, message="crashed")


@st.composite
def assignments(draw: st.DrawFn) -> Assignment:
    names = draw(st.lists(st.sampled_from("abcd"), unique=True, max_size=4))
    return Assignment(
        version=1,
        revision=draw(st.integers(1, 12)),
        engines=tuple(
            EngineAssignment(
                id=name,
                model=name,
                model_uid=draw(st.sampled_from(["uid-1", "uid-2"])),
                hash="h",
                awake_bytes=draw(st.integers(1, 7)),
                order=draw(st.integers(0, 3)),
                start_budget_seconds=20,
                engine=EngineSpec(type=EngineType.SIMULATED, uri="hf://a/b", served_names=(name,)),
            )
            for name in names
        ),
    )


@dataclass
class World:
    """Processes that do as they are told, and the clock."""

    state: State = field(default_factory=lambda: State(limits=Limits(memory_bytes=MEMORY)))
    now: float = 0.0
    processes: dict[str, tuple[int, EngineAssignment]] = field(default_factory=dict)
    told_to_stop: set[str] = field(default_factory=set)
    finished: bool = False

    def feed(self, event: events.Event) -> None:
        self.state, actions = step(self.state, event, self.now)
        for action in actions:
            match action:
                case events.Start(engine, attempt):
                    assert engine.id not in self.processes, "two processes of one engine"
                    held = sum(self.state.engines[name].content.awake_bytes for name in self.processes)
                    assert held + engine.awake_bytes <= MEMORY, "started into memory that is not free"
                    self.processes[engine.id] = (attempt, engine)
                case events.Stop(name, attempt, _):
                    assert self.processes[name][0] == attempt, "a signal for a process that is gone"
                    self.told_to_stop.add(name)
                case events.Finish():
                    self.finished = True

    def exit(self, name: str) -> None:
        attempt, _ = self.processes.pop(name)
        self.told_to_stop.discard(name)
        self.feed(events.Exited(name, attempt, CRASH))

    def settle(self) -> None:
        """Let everything that is under way end well, until nothing is under way."""
        for _ in range(200):
            for name in sorted(self.told_to_stop):
                self.exit(name)
            for name, engine in sorted(self.state.engines.items()):
                if engine.phase is Phase.STARTING:
                    self.feed(events.WarmedUp(name, engine.attempt, 1))
                elif engine.phase is Phase.DRAINING:
                    self.feed(events.Drained(name, engine.attempt))
            deadline = next_deadline(self.state, self.now)
            if deadline is None and not self.told_to_stop:
                return
            self.now = max(self.now, deadline or 0.0) + 0.001
            self.feed(events.Tick())
        raise AssertionError(f"does not come to rest: {self.state}")


class RunnerMachine(RuleBasedStateMachine):
    """Assignments in any order, crashes, hangs and late news; then peace."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.last: Assignment | None = None

    @rule(assignment=assignments())
    def assign(self, assignment: Assignment) -> None:
        if self.last and assignment.revision == self.last.revision:
            assignment = self.last  # one revision has one content: compare-and-swap sees to that
        self.world.feed(events.Assigned(assignment))
        if self.last is None or assignment.revision > self.last.revision:
            self.last = assignment

    @rule(name=st.sampled_from("abcd"))
    def crash(self, name: str) -> None:
        if name in self.world.processes:
            self.world.exit(name)

    @rule(name=st.sampled_from("abcd"), attempt_offset=st.integers(-1, 0), which=st.integers(0, 3))
    def hear(self, name: str, attempt_offset: int, which: int) -> None:
        engine = self.world.state.engines.get(name)
        if engine is None or (attempt_offset == 0 and name not in self.world.processes):
            return
        attempt = engine.attempt + attempt_offset
        news: list[events.Event] = [
            events.Progressed(name, attempt, Stage.WEIGHTS_LOADED),
            events.WarmedUp(name, attempt, 5),
            events.WarmUpFailed(name, attempt, "500"),
            events.Drained(name, attempt),
        ]
        self.world.feed(news[which])

    @rule(seconds=st.floats(0.01, 30))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.feed(events.Tick())

    @invariant()
    def one_load_at_a_time(self) -> None:
        assert sum(engine.phase is Phase.STARTING for engine in self.world.state.engines.values()) <= 1

    @invariant()
    def every_process_is_known(self) -> None:
        phases = {name: engine.phase for name, engine in self.world.state.engines.items()}
        assert set(self.world.processes) == {name for name, phase in phases.items() if phase is not Phase.QUEUED}

    @invariant()
    def revisions_only_grow(self) -> None:
        assert self.world.state.revision == (self.last.revision if self.last else 0)

    def teardown(self) -> None:
        self.world.settle()
        wanted = {engine.id: engine for engine in self.last.engines} if self.last else {}
        status = runner_status(self.world.state, "pod")
        ready = {engine.id for engine in status.engines if engine.state is EngineState.READY}
        refused = {engine.id for engine in status.engines if engine.error and engine.error.reason is Reason.NEVER_FITS}
        assert ready | refused == set(wanted)
        assert set(self.world.processes) == ready
        assert all(identity(self.world.processes[name][1]) == identity(wanted[name]) for name in ready)
        before = self.world.state
        if self.last:
            self.world.feed(events.Assigned(self.last))
        assert self.world.state.engines == before.engines, "the same assignment again changes nothing"
        self.world.feed(events.Terminate())
        self.world.settle()
        assert self.world.finished and not self.world.processes


RunnerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestRunnerMachine = RunnerMachine.TestCase
