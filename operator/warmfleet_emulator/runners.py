"""A runner of the emulated fleet: its pod, the runner's own state machine, and its engines on a timeline.

The state machine is the one that PID 1 of a real runner has; what it wants done takes here the time that the scenario
says, over the links and cores of the node.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec

from warmfleet_api import names, quantity
from warmfleet_api.assignment import Assignment
from warmfleet_api.runner_status import EngineError, RunnerStatus
from warmfleet_api.vocabulary import EngineType, Launch, Reason, Stage
from warmfleet_emulator.clock import Clock
from warmfleet_emulator.links import Shared
from warmfleet_emulator.nodes import EmulatedNode, Entry
from warmfleet_emulator.outcome import Span
from warmfleet_emulator.scenario import StartBlock
from warmfleet_operator.decide.runners import is_pod_ready
from warmfleet_operator.records import ContainerState, ContainerStatus, Pod, PodCondition
from warmfleet_runtime.machine import events, weights
from warmfleet_runtime.machine.state import Engine, Limits, Phase, State
from warmfleet_runtime.machine.step import next_deadline, step
from warmfleet_runtime.machine.view import runner_status

DELIVERY_SECONDS = 0.2
"""Until an annotation of a pod is in the runner's file."""
STOP_SECONDS = 0.5
"""Until the processes of an engine are gone."""
WARM_UP_SECONDS = 0.1
TERMINATION_SECONDS = 4.0
"""Until a deleted pod is gone: preStop, and the end of its processes."""
_AWAKE = frozenset({Phase.STARTING, Phase.READY, Phase.DRAINING, Phase.FALLING_ASLEEP, Phase.WAKING, Phase.STOPPING})


class Hosted(NamedTuple):
    """What a runner has to know of a model whose engine it hosts."""

    start: StartBlock
    rank: int
    entries: tuple[Entry, ...]


class _Step(NamedTuple):
    """A part of a start: an amount of a shared resource, or seconds where there is none."""

    stage: Stage
    resource: Shared | None
    amount: float


@dataclass(slots=True)
class EmulatedRunner:
    """The runner of one pod."""

    pod: Pod
    node: EmulatedNode
    clock: Clock
    hosted: Callable[[str], Hosted]
    """What is known of a model, by its name."""
    changed: Callable[["EmulatedRunner"], None]
    """Called after each change of an engine's state."""
    gone: Callable[["EmulatedRunner"], None]
    assignment: Assignment
    """What the annotation says."""
    is_up: bool = False
    is_removed: bool = False
    silent_since: float | None = None
    """When its node lost power; nothing happens in it since, and nothing is heard of it."""
    state: State = field(init=False)
    spans: list[Span] = field(default_factory=list)
    """What its engines did, for the picture."""
    label_times: dict[str, float] = field(default_factory=dict)
    """Label → when it was last changed."""
    _attempts: dict[str, int] = field(default_factory=dict)
    """Engine → the attempt whose process exists."""
    _wanted: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _status: RunnerStatus | None = None
    _tick: float | None = None

    def __post_init__(self) -> None:
        limits = self.pod.spec.containers[0].resources.limits
        self.state = State(
            limits=Limits(
                memory_bytes=quantity.to_bytes(limits.get("memory", 0)),
                gpus=int(limits.get(names.DEFAULT_GPU_RESOURCE, 0)),
                sleepers=frozenset(EngineType),
                weights_root=names.WEIGHTS_DIRECTORY,
            ),
            born=self.clock.now,
        )

    # Life of the pod --------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the pod."""
        return self.pod.metadata.name

    @property
    def is_leaving(self) -> bool:
        """Whether it is being deleted."""
        return self.pod.metadata.deletion_timestamp is not None

    def come_up(self, seconds: float) -> None:
        """Let the pod be bound now, and its container take engines after so many seconds."""
        self._change_pod(PodCondition(type="PodScheduled", status="True"), node_name=self.node.name)
        for entry_owner in self._engines_of(self.assignment):
            self._want_weights(*entry_owner)
        self.clock.later(seconds, self._up)

    def lose_power(self) -> None:
        """End without a word, as its node does; the pod stays in the API."""
        self._status = self.status
        self.silent_since = self.clock.now
        for id_ in list(self._attempts):
            self._end_process(id_)

    def _up(self) -> None:
        if self.is_leaving or self.node.lost:
            return
        self.is_up = True
        self.state = replace(self.state, born=self.clock.now)
        running = ContainerStatus(
            name=names.RUNNER_CONTAINER, ready=True, state=ContainerState(running={"startedAt": ""})
        )
        status = msgspec.structs.replace(self.pod.status, phase="Running", container_statuses=(running,))
        self.pod = msgspec.structs.replace(self.pod, status=status)
        self._dispatch(events.Assigned(self.assignment))

    def assign(self, assignment: Assignment) -> None:
        """Write the annotation; the runner hears of it after a moment."""
        self.assignment = assignment
        for id_, model in self._engines_of(assignment):
            self._want_weights(id_, model)
        self.clock.later(DELIVERY_SECONDS, lambda: self._deliver(assignment))

    def _deliver(self, assignment: Assignment) -> None:
        if self.is_up and not self.is_removed and assignment.revision >= self.state.revision:
            self._dispatch(events.Assigned(assignment))

    def label(self, labels: Mapping[str, str | None], now: float) -> None:
        """Change labels of the pod; None removes one."""
        merged = {**self.pod.metadata.labels, **labels}
        self.label_times |= dict.fromkeys(labels, now)
        kept = {key: value for key, value in merged.items() if value is not None}
        metadata = msgspec.structs.replace(self.pod.metadata, labels=kept)
        self.pod = msgspec.structs.replace(self.pod, metadata=metadata)

    def delete(self, time: str) -> None:
        """Begin to end it."""
        metadata = msgspec.structs.replace(self.pod.metadata, deletion_timestamp=time)
        self.pod = msgspec.structs.replace(self.pod, metadata=metadata)
        if self.node.lost:
            return  # nobody is there to end it
        if self.is_up:
            self._dispatch(events.Terminate())
        self.clock.later(TERMINATION_SECONDS, self._remove)

    def _remove(self) -> None:
        if self.node.lost:
            return
        self.is_removed = True
        for id_ in list(self._attempts):
            self._end_process(id_)
        for id_ in list(self._wanted):
            self.node.let_go(f"{self.name}/{id_}")
        self.gone(self)

    # The state machine ------------------------------------------------------------------------------------------------

    @property
    def status(self) -> RunnerStatus | None:
        """The last line of its status stream; None before it is up."""
        if self.silent_since is not None:
            return self._status
        if not self.is_up or self.is_removed:
            return None
        if self._status is None:
            self._status = runner_status(self.state, self.pod.metadata.uid)
        return self._status

    def hear(self, id_: str, *, busy: bool, wake_requested: bool) -> None:
        """Tell what requests do to an engine."""
        engine = self.state.engines.get(id_)
        if engine is not None and self.is_up and not self.is_removed:
            self._dispatch(events.Heard(id_, engine.attempt, busy, wake_requested))

    def look_for_weights(self) -> None:
        """See what of the weights that engines wait for is in memory by now."""
        if self.is_up and not self.is_removed:
            self._dispatch(events.Tick())

    def drained(self, id_: str) -> None:
        """An engine that drains has no request left."""
        engine = self.state.engines.get(id_)
        if engine is not None and engine.phase is Phase.DRAINING:
            self._dispatch(events.Drained(id_, engine.attempt))

    def awake(self) -> Iterator[Engine]:
        """Engines that hold the memory of one that is awake."""
        return (
            engine
            for engine in self.state.engines.values()
            if engine.phase in _AWAKE and not (engine.phase is Phase.STOPPING and engine.holds_asleep_bytes)
        )

    def _dispatch(self, event: events.Event) -> None:
        if self.is_removed or self.node.lost:
            return
        before = self.state
        pending: list[events.Event] = [event]
        while pending:
            self.state, actions = step(self.state, pending.pop(0), self.clock.now)
            for action in actions:
                self._act(action)
            pending += self._weights_found()
        assigned = {each.id for each in self.assignment.engines} | self.state.engines.keys()
        for id_ in [each for each in self._wanted if each not in assigned]:
            del self._wanted[id_]
            self.node.let_go(f"{self.name}/{id_}")
        self._arm()
        if self.state != before:
            self._status = None
            self._follow_readiness()
            self.changed(self)

    def _arm(self) -> None:
        deadline = next_deadline(self.state, self.clock.now)
        if deadline is not None and (self._tick is None or deadline < self._tick or self._tick <= self.clock.now):
            self._tick = deadline
            self.clock.at(deadline, lambda: self._dispatch(events.Tick()))

    def _weights_found(self) -> list[events.Event]:
        found: list[events.Event] = []
        for key, engine in weights.readers(self.state, self.clock.now).items():
            if engine.phase is not Phase.QUEUED or not engine.missing:
                continue
            missing = tuple(each for each in engine.entries if each not in self.node.in_memory)
            if missing != engine.missing:
                size = sum(each.bytes for each in self.hosted(engine.content.model).entries)
                found.append(events.WeightsSeen(key, engine.entries, missing, size))
        return found

    def _act(self, action: events.Action) -> None:
        match action:
            case events.Start(engine, attempt):
                self._attempts[engine.id] = attempt
                self._run(engine.id, attempt, self._start_steps(engine.model, len(engine.gpus)), self.clock.now)
                self._dispatch_later(0.0, events.Launched(engine.id, attempt, Launch.FORK))
            case events.Sleep(id_, attempt):
                seconds = self._start_of(id_).sleep_seconds
                self._span(id_, Stage.QUEUED, "sleep", self.clock.now, self.clock.now + seconds)
                self._dispatch_later(seconds, events.FellAsleep(id_, attempt))
            case events.Wake(id_, attempt):
                self._attempts[id_] = attempt
                seconds = self._start_of(id_).wake_seconds
                self._span(id_, Stage.WEIGHTS_LOADED, "wake", self.clock.now, self.clock.now + seconds)
                self._dispatch_later(seconds, events.Woken(id_, attempt))
                self._dispatch_later(seconds + WARM_UP_SECONDS, events.WarmedUp(id_, attempt, 100))
            case events.Stop(id_, attempt, _):
                self._end_process(id_)
                error = EngineError(reason=Reason.ENGINE_CRASHING, message="stopped")
                self._dispatch_later(STOP_SECONDS, events.Exited(id_, attempt, error))
            case events.Finish():
                pass

    def _dispatch_later(self, seconds: float, event: events.Event) -> None:
        self.clock.later(seconds, lambda: self._dispatch(event))

    # The timeline of a start ------------------------------------------------------------------------------------------

    def _start_steps(self, model: str, gpus: int) -> list[_Step]:
        start, node = self.hosted(model).start, self.node
        loaded = quantity.to_bytes(start.bytes)
        return [
            _Step(Stage.ENGINE_FORKED, node.cores, start.cpu_seconds),
            _Step(Stage.WEIGHTS_LOADED, node.load if loaded else None, loaded),
            _Step(Stage.CACHE_ALLOCATED, None, start.initialize_seconds),
            _Step(Stage.WARMED_UP, None, WARM_UP_SECONDS),
        ]

    def _run(self, id_: str, attempt: int, steps: Sequence[_Step], began: float) -> None:
        """Do the steps one after another, as long as the process is the same."""
        first, rest = steps[0], steps[1:]

        def done() -> None:
            if self._attempts.get(id_) != attempt or self.is_removed:
                return
            self._span(id_, first.stage, first.stage.value, began, self.clock.now)
            if rest:
                self._dispatch(events.Progressed(id_, attempt, first.stage))
                self._run(id_, attempt, rest, self.clock.now)
            else:
                self._dispatch(events.WarmedUp(id_, attempt, round(WARM_UP_SECONDS * 1000)))

        if first.resource is None:
            self.clock.later(first.amount, done)
        else:
            first.resource.begin(self._flow(id_), first.amount, done)

    def _end_process(self, id_: str) -> None:
        self._attempts.pop(id_, None)
        for resource in (self.node.cores, self.node.load):
            resource.end(self._flow(id_))

    def _flow(self, id_: str) -> str:
        return f"{self.name}/{id_}"

    # What others see --------------------------------------------------------------------------------------------------

    def _engines_of(self, assignment: Assignment) -> list[tuple[str, str]]:
        return [(each.id, each.model) for each in assignment.engines]

    def _want_weights(self, id_: str, model: str) -> None:
        hosted = self.hosted(model)
        self._wanted[id_] = tuple(each.key for each in hosted.entries)
        for entry in hosted.entries:
            self.node.want(entry, hosted.rank, f"{self.name}/{id_}")

    def _start_of(self, id_: str) -> StartBlock:
        return self.hosted(self.state.engines[id_].content.model).start

    def _span(self, id_: str, stage: Stage, what: str, begin: float, end: float) -> None:
        engine = self.state.engines.get(id_)
        if engine is not None:
            self.spans.append(Span(self.name, self.node.name, engine.content.model, what, begin, end))

    def _follow_readiness(self) -> None:
        """Let the pod be Ready as the kubelet's probe would have it."""
        own = self.pod.metadata.labels.get(names.LABEL_RUNNER) == names.MODEL_DEPLOYMENT_KIND
        ready = (
            any(each.phase is Phase.READY for each in self.state.engines.values()) if own else self.state.revision > 0
        )
        if ready != is_pod_ready(self.pod):
            self._change_pod(PodCondition(type="Ready", status="True" if ready else "False"))

    def _change_pod(self, condition: PodCondition, node_name: str | None = None) -> None:
        others = tuple(each for each in self.pod.status.conditions if each.type != condition.type)
        status = msgspec.structs.replace(self.pod.status, conditions=(*others, condition))
        spec = self.pod.spec if node_name is None else msgspec.structs.replace(self.pod.spec, node_name=node_name)
        self.pod = msgspec.structs.replace(self.pod, status=status, spec=spec)
