"""Properties of the state machine: whatever arrives in whatever order, it converges and never does harm meanwhile."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from warmfleet_api.assignment import Assignment, EngineAssignment, EngineSpec
from warmfleet_api.runner_status import KEPT_STARTS, EngineError
from warmfleet_api.vocabulary import DesiredState, EngineState, EngineType, Launch, Reason, Stage, WakePolicy
from warmfleet_runtime.machine import events
from warmfleet_runtime.machine.state import Limits, Phase, State, identity
from warmfleet_runtime.machine.step import next_deadline, step
from warmfleet_runtime.machine.view import runner_status
from warmfleet_runtime.machine.weights import readers

MEMORY = 10
NAMES = "abcd"
CRASH = EngineError(reason=Reason.ENGINE_CRASHING, message="crashed")
LIMITS = Limits(memory_bytes=MEMORY, sleepers=frozenset({EngineType.SIMULATED}), weights_root="/weights")


@st.composite
def engines(draw: st.DrawFn, name: str) -> EngineAssignment:
    awake_bytes = draw(st.integers(1, 7))
    # d can't sleep in place, and waits for the zygote and for weights.
    kind = EngineType.SIMULATED if name < "d" else EngineType.VLLM
    return EngineAssignment(
        id=name,
        model=name,
        model_uid=draw(st.sampled_from(["uid-1", "uid-2"])),
        hash="h",
        state=draw(st.sampled_from(DesiredState)),
        wake=draw(st.sampled_from(WakePolicy)),
        idle_seconds=draw(st.integers(0, 5)),
        awake_bytes=awake_bytes,
        asleep_bytes=draw(st.integers(0, awake_bytes)),
        order=draw(st.integers(0, 3)),
        start_budget_seconds=20,
        engine=EngineSpec(type=kind, uri="hf://a/b", folder=f"/weights/{name}", served_names=(name,)),
    )


@st.composite
def assignments(draw: st.DrawFn) -> Assignment:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=4))
    return Assignment(
        version=1, revision=draw(st.integers(1, 12)), engines=tuple(draw(engines(name)) for name in names)
    )


@dataclass
class Process:
    """What runs on behalf of one engine."""

    attempt: int
    engine: EngineAssignment
    is_asleep: bool = False
    is_told_to_stop: bool = False


@dataclass
class World:
    """Processes that do as they are told, and the clock."""

    state: State = field(default_factory=lambda: State(limits=LIMITS, zygote_is_importing=True))
    now: float = 0.0
    processes: dict[str, Process] = field(default_factory=dict)
    finished: bool = False
    locked: set[str] = field(default_factory=set)
    """Engines whose entries are locked."""

    def feed(self, event: events.Event) -> None:
        self.state, actions = step(self.state, event, self.now)
        for action in actions:
            match action:
                case events.Start(engine, attempt):
                    assert engine.id not in self.processes, "two processes of one engine"
                    assert not (engine.engine.type is EngineType.VLLM and self.state.zygote_is_importing)
                    assert engine.engine.type is not EngineType.VLLM or engine.id in self.locked
                    self.must_have_room(engine)
                    assert self.count(Phase.WAKING) == 0, "a start beside a wake"
                    self.processes[engine.id] = Process(attempt, engine)
                case events.Wake(name, attempt):
                    process = self.processes[name]
                    assert process.is_asleep and attempt == process.attempt + 1
                    self.must_have_room(self.state.engines[name].content)
                    process.attempt, process.is_asleep = attempt, False
                case events.Sleep(name, attempt):
                    assert self.processes[name].attempt == attempt and not self.processes[name].is_asleep
                case events.Stop(name, attempt, _):
                    assert self.processes[name].attempt == attempt, "a signal for a process that is gone"
                    self.processes[name].is_told_to_stop = True
                case events.Finish():
                    self.finished = True
        self.locked &= readers(self.state, self.now).keys()

    def look_for_weights(self, *, are_there: bool) -> None:
        for name, engine in readers(self.state, self.now).items():
            if engine.missing:
                if are_there:
                    self.locked.add(name)
                missing = () if name in self.locked else engine.entries
                self.feed(events.WeightsSeen(name, engine.entries, missing))

    def must_have_room(self, engine: EngineAssignment) -> None:
        others = [self.held_bytes(name) for name in self.processes if name != engine.id]
        assert sum(others) + engine.awake_bytes <= MEMORY, "memory that is not free"

    def held_bytes(self, name: str) -> int:
        content = self.state.engines[name].content
        return content.asleep_bytes if self.processes[name].is_asleep else content.awake_bytes

    def count(self, phase: Phase) -> int:
        return sum(engine.phase is phase for engine in self.state.engines.values())

    def exit(self, name: str) -> None:
        self.feed(events.Exited(name, self.processes.pop(name).attempt, CRASH))

    def fall_asleep(self, name: str, attempt: int) -> None:
        if self.state.engines[name].phase is Phase.FALLING_ASLEEP and attempt == self.processes[name].attempt:
            self.processes[name].is_asleep = True
        self.feed(events.FellAsleep(name, attempt))

    def settle(self) -> None:
        """Let everything that is under way end well and nobody ask for anything, until nothing is under way."""
        self.feed(events.ZygoteChanged(is_importing=False))
        for _ in range(300):
            self.look_for_weights(are_there=True)
            for name in [name for name, process in sorted(self.processes.items()) if process.is_told_to_stop]:
                self.exit(name)
            for name in sorted(self.state.engines):
                self.progress(name)
            deadline = next_deadline(self.state, self.now)
            if deadline is None and not any(process.is_told_to_stop for process in self.processes.values()):
                return
            self.now = max(self.now, deadline or 0.0) + 0.001
            self.feed(events.Tick())
        raise AssertionError(f"does not come to rest: {self.state}")

    def progress(self, name: str) -> None:
        engine = self.state.engines[name]
        self.feed(events.Heard(name, engine.attempt, busy=False, wake_requested=False))
        if name not in self.state.engines:
            return
        engine = self.state.engines[name]
        match engine.phase:
            case Phase.STARTING:
                self.feed(events.WarmedUp(name, engine.attempt, 1))
            case Phase.WAKING:
                self.feed(events.Woken(name, engine.attempt))
                self.feed(events.WarmedUp(name, engine.attempt, 1))
            case Phase.DRAINING:
                self.feed(events.Drained(name, engine.attempt))
            case Phase.FALLING_ASLEEP:
                self.fall_asleep(name, engine.attempt)


class RunnerMachine(RuleBasedStateMachine):
    """Assignments in any order, requests, crashes, hangs and late news; then peace."""

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

    @rule(name=st.sampled_from(NAMES))
    def crash(self, name: str) -> None:
        if name in self.world.processes:
            self.world.exit(name)

    @rule(is_importing=st.booleans())
    def zygote(self, is_importing: bool) -> None:
        self.world.feed(events.ZygoteChanged(is_importing))

    @rule(are_there=st.booleans())
    def weights(self, are_there: bool) -> None:
        self.world.look_for_weights(are_there=are_there)

    @rule(name=st.sampled_from(NAMES))
    def damaged_weights(self, name: str) -> None:
        engine = self.world.state.engines.get(name)
        if engine is not None and engine.missing:
            self.world.locked.discard(name)
            self.world.feed(events.WeightsSeen(name, engine.entries, engine.entries, error=CRASH))

    @rule(name=st.sampled_from(NAMES), busy=st.booleans(), wake_requested=st.booleans())
    def requests(self, name: str, busy: bool, wake_requested: bool) -> None:
        if engine := self.world.state.engines.get(name):
            self.world.feed(events.Heard(name, engine.attempt, busy, wake_requested))

    @rule(name=st.sampled_from(NAMES))
    def go_on(self, name: str) -> None:
        """The engine does what its phase is about."""
        if name in self.world.processes and not self.world.processes[name].is_told_to_stop:
            self.world.progress(name)

    @rule(name=st.sampled_from(NAMES), attempt_offset=st.integers(-1, 0), which=st.integers(0, 7))
    def hear(self, name: str, attempt_offset: int, which: int) -> None:
        engine = self.world.state.engines.get(name)
        if engine is None or (attempt_offset == 0 and name not in self.world.processes):
            return
        attempt = engine.attempt + attempt_offset
        if which == 7:
            self.world.fall_asleep(name, attempt)
            return
        news: list[events.Event] = [
            events.Progressed(name, attempt, Stage.WEIGHTS_LOADED),
            events.WarmUpFailed(name, attempt, "500"),
            events.Drained(name, attempt),
            events.Woken(name, attempt),
            events.SleepFailed(name, attempt, "500"),
            events.Outgrown(name, attempt, "too large"),
            events.Launched(name, attempt, Launch.FORK),
        ]
        self.world.feed(news[which])

    @rule(seconds=st.floats(0.01, 30))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds
        self.world.feed(events.Tick())

    @invariant()
    def one_load_at_a_time(self) -> None:
        assert self.world.count(Phase.STARTING) <= 1
        assert self.world.count(Phase.WAKING) <= 1

    @invariant()
    def every_process_is_known(self) -> None:
        phases = {name: engine.phase for name, engine in self.world.state.engines.items()}
        assert set(self.world.processes) == {name for name, phase in phases.items() if phase is not Phase.QUEUED}

    @invariant()
    def what_reads_weights_holds_their_locks(self) -> None:
        processes = {name for name, each in self.world.processes.items() if each.engine.engine.type is EngineType.VLLM}
        assert processes <= self.world.locked

    @invariant()
    def only_what_sleeps_is_shown_asleep(self) -> None:
        for engine in runner_status(self.world.state, "pod").engines:
            process = self.world.processes.get(engine.id)
            assert engine.state is not EngineState.ASLEEP or process is None or process.is_asleep

    @invariant()
    def revisions_only_grow(self) -> None:
        assert self.world.state.revision == (self.last.revision if self.last else 0)

    @invariant()
    def starts_are_counted_and_bounded(self) -> None:
        sequences = [start.sequence for start in self.world.state.starts]
        assert len(sequences) <= KEPT_STARTS
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences))) if sequences else True

    def teardown(self) -> None:
        self.world.settle()
        wanted = {engine.id: engine for engine in self.last.engines} if self.last else {}
        status = runner_status(self.world.state, "pod")
        refused = {engine.id for engine in status.engines if engine.error and engine.error.reason is Reason.NEVER_FITS}
        states = {engine.id: engine.state.value for engine in status.engines if engine.id not in refused}
        assert states == {name: wanted[name].state.value for name in set(wanted) - refused}
        for name, process in self.world.processes.items():
            assert identity(process.engine) == identity(wanted[name])
            assert process.is_asleep is (states[name] == EngineState.ASLEEP)
        assert sum(map(self.world.held_bytes, self.world.processes)) <= MEMORY
        before = self.world.state
        if self.last:
            self.world.feed(events.Assigned(self.last))
        assert self.world.state.engines == before.engines, "the same assignment again changes nothing"
        self.world.feed(events.Terminate())
        self.world.settle()
        assert self.world.finished and not self.world.processes


RunnerMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestRunnerMachine = RunnerMachine.TestCase
