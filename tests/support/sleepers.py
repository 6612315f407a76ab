"""Runners of pools that obey step by step, with what that needs of people and of the operator's status writer.

A `World` whose runners tell of their engines as real ones do: an engine starts, gets Ready, drains, falls asleep,
wakes, and one that is not assigned any more is still told of until it is gone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

import msgspec

from support import make
from support.world import World
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.status import Dormancy
from warmfleet_api.vocabulary import DesiredState, EngineState, WakePolicy
from warmfleet_operator.decide.actions import Decisions
from warmfleet_operator.decide.fleet import Demand, Fleet, ModelKey, PoolKey, Runner
from warmfleet_operator.decide.runners import owner_of
from warmfleet_operator.decide.schedule import schedule


@dataclass
class Sleepers(World):
    """A world with sleep."""

    now: datetime = make.NOW
    demand: dict[str, Demand] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    """Model → for how long its engines have been idle; absent: they are busy."""
    awake_seconds: float = 1000.0
    switches: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def fleet(self) -> Fleet:
        """The snapshot of now."""
        fleet = super().fleet()
        return replace(
            fleet,
            runners=tuple(self._timed(runner) for runner in fleet.runners),
            demand={ModelKey("default", name): demand for name, demand in self.demand.items()},
            switches=self.switches,
        )

    def round(self) -> Decisions:
        """Decide once, carry it out, and note what models shall sleep."""
        decisions = schedule(self.fleet(), self.now)
        self.carry_out(decisions)
        for key, reason in decisions.yields.items():
            if key.name not in self.demand:
                self.sleep(key.name, reason)
        return decisions

    def sleep(self, name: str, reason: str = "no request for 300 s") -> None:
        """Write into a model's status that it sleeps."""
        self._dormant(name, Dormancy(time=make.ago(0), reason=reason))

    def wake(self, name: str) -> None:
        """Write into a model's status that it is wanted."""
        self._dormant(name, None)

    def pooled(self) -> Iterator[tuple[str, Runner]]:
        """The runners of pools, by name."""
        return ((name, each) for name, each in sorted(self.runners.items()) if isinstance(owner_of(each.pod), PoolKey))

    def obey(self, name: str) -> bool:
        """Let a pool's runner get all its engines one step further; return whether any did."""
        runner = self.runners[name]
        if runner.assignment is None or runner.pod.metadata.deletion_timestamp is not None or runner.pod.is_terminal:
            return False
        if runner.status is None:
            self.runners[name] = make.up(runner)
            return True
        wanted = {each.id: each for each in runner.assignment.engines}
        told = {each.id: each for each in runner.status.engines}
        engines = [
            step
            for id_ in {**told, **wanted}
            if (step := _step(told.get(id_), wanted.get(id_), told.values())) is not None
        ]
        status = RunnerStatus(
            pod_uid=runner.pod.metadata.uid, revision=runner.assignment.revision, engines=tuple(engines)
        )
        self.runners[name] = replace(runner, status=status, silent_seconds=0.2)
        return status != runner.status

    def settle(self, rounds: int = 80) -> None:
        """Let everything get where it is told to be."""
        for _ in range(rounds):
            acted = bool(self.round().actions)
            moved = [self.obey(name) for name, _ in list(self.pooled())]
            for name, runner in list(self.runners.items()):
                is_own = isinstance(owner_of(runner.pod), ModelKey)
                if runner.pod.metadata.deletion_timestamp is not None:
                    self.reap(name)
                    moved.append(True)
                elif is_own and runner.assignment is not None:
                    asleep = runner.assignment.engines[0].state is DesiredState.ASLEEP
                    state = EngineState.ASLEEP if asleep else EngineState.READY
                    new = make.with_condition(make.says(runner, state), "Ready", "True", seconds_ago=2)
                    moved.append(new != runner)
                    self.runners[name] = new
            if not acted and not any(moved):
                return
        raise AssertionError(f"still acting after {rounds} rounds")

    def _timed(self, runner: Runner) -> Runner:
        ready = [] if runner.status is None else [e for e in runner.status.engines if e.state is EngineState.READY]
        return replace(
            runner,
            awake_seconds={each.id: self.awake_seconds for each in ready},
            idle_seconds={each.id: self.idle[each.model] for each in ready if each.model in self.idle},
        )

    def _dormant(self, name: str, dormant: Dormancy | None) -> None:
        model = self.models.get(name)
        if model is not None:
            self.models[name] = replace(model, status=model.status.model_copy(update={"dormant": dormant}))


def _step(told: EngineStatus | None, wanted: EngineAssignment | None, all_told: object) -> EngineStatus | None:
    """Return one engine a step nearer to what is wanted; None: it is gone."""
    if told is None:
        assert wanted is not None
        return _told(wanted, EngineState.STARTING)
    if wanted is None or (wanted.model_uid, wanted.hash) != (told.model_uid, told.hash):
        is_gone = told.state is not EngineState.READY
        return None if is_gone else msgspec.structs.replace(told, state=EngineState.DRAINING)
    sleeps = wanted.state is DesiredState.ASLEEP
    follower = {
        EngineState.STARTING: EngineState.READY,
        EngineState.READY: EngineState.DRAINING if sleeps else EngineState.READY,
        EngineState.DRAINING: EngineState.ASLEEP if sleeps else EngineState.READY,
        EngineState.ASLEEP: EngineState.ASLEEP if sleeps else EngineState.STARTING,
        EngineState.FAILED: EngineState.STARTING,
    }[told.state]
    return _told(wanted, follower)


def _told(engine: EngineAssignment, state: EngineState) -> EngineStatus:
    return EngineStatus(
        id=engine.id,
        model=engine.model,
        model_uid=engine.model_uid,
        hash=engine.hash,
        gpus=engine.gpus,
        awake_bytes=engine.awake_bytes,
        state=state,
        starts=1,
        asleep_memory_bytes=engine.awake_bytes // 4 if state is EngineState.ASLEEP and not engine.gpus else 0,
    )


def held_awake(engine: EngineAssignment, told: EngineStatus | None, *, obeys: bool) -> bool:
    """Whether an assigned engine holds, or may take at any time, what it needs awake."""
    ordered = engine.state is DesiredState.ASLEEP and engine.wake is WakePolicy.ON_ASSIGNMENT
    return not (ordered and obeys and told is not None and told.state is EngineState.ASLEEP)
