"""The emulated world as the decisions see it: one frozen `Fleet`."""

from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec

from warmfleet_api import names
from warmfleet_api.runner_status import SILENT_SECONDS, RunnerStatus
from warmfleet_api.status import PendingStart
from warmfleet_api.vocabulary import EngineState, Stage, StartType
from warmfleet_emulator.clock import SAME_INSTANT_SECONDS
from warmfleet_emulator.models import LIMITS, NAMESPACE
from warmfleet_emulator.runners import EmulatedRunner
from warmfleet_operator.decide.fleet import Demand, Fleet, ModelKey, Runner, StartTimes
from warmfleet_runtime.machine.state import Phase

if TYPE_CHECKING:
    from warmfleet_emulator.world import World

SWITCHES_SECONDS = 600.0
"""For so long the operator remembers that engines had to go for others."""
UNREACHABLE_SECONDS = 1.75
"""From the loss of a node until its runners are taken for lost: a missed heartbeat, and two tries to connect."""
_HEARD_SECONDS = 0.2


def fleet_of(world: "World") -> Fleet:
    """Return what the operator would have before it."""
    now = world.clock.now
    clients = world.clients
    return Fleet(
        models={world.models[name].record.key: world.models[name].record for name in sorted(world.applied)},
        nodes=world.node_records,
        pools=world.pools,
        runners=tuple(_runner(world, runner) for runner in world.runners.values()),
        caches={name: node.cache() for name, node in world.nodes.items()},
        demand={
            ModelKey(NAMESPACE, name): Demand(held=len(clients.held.get(name, ())), queued=clients.running.get(name, 0))
            for name in world.applied
            if clients.held.get(name) or clients.running.get(name)
        },
        estimates=world.estimates,
        switches={
            runner: tuple(now - time for time in times if now - time <= SWITCHES_SECONDS)
            for runner, times in world.switches.items()
        },
        limits=LIMITS,
    )


def pending(time: str) -> PendingStart:
    """Return the start of a model that is wanted since then."""
    return PendingStart(
        position=0, of=0, start_type=StartType.WARM, stage=Stage.QUEUED, queued_time=time, summary="waits"
    )


def _runner(world: "World", runner: EmulatedRunner) -> Runner:
    now = world.clock.now
    status = runner.status
    ready = {id_: each for id_, each in runner.state.engines.items() if each.phase is Phase.READY}
    idle = {id_: world.idle_seconds(each.content.model) for id_, each in ready.items()}
    return Runner(
        pod=runner.pod,
        assignment=runner.assignment,
        status=_with_load(world, status) if status is not None else None,
        silent_seconds=_silent_seconds(runner, now) if status is not None else None,
        is_gone=_is_gone(runner, now),
        start_times={
            id_: StartTimes(
                assigned=world.now - timedelta(seconds=now - assigned) if assigned is not None else None,
                ready=world.now - timedelta(seconds=now - ready[id_].ready_at) if id_ in ready else None,
            )
            for id_ in runner.state.engines
            if (assigned := world.assigned.get((runner.name, id_))) is not None or id_ in ready
        },
        unserved_seconds={
            label.removeprefix(names.SERVE_LABEL_PREFIX): now - runner.label_times.get(label, now)
            for label, value in runner.pod.metadata.labels.items()
            if label.startswith(names.SERVE_LABEL_PREFIX) and value == EngineState.DRAINING
        },
        idle_seconds={id_: seconds for id_, seconds in idle.items() if seconds > 0},
        awake_seconds={id_: now - each.ready_at for id_, each in ready.items()},
        stage_seconds={
            id_: now - each.stage_since
            for id_, each in runner.state.engines.items()
            if each.phase in {Phase.STARTING, Phase.WAKING}
        },
    )


def _silent_seconds(runner: EmulatedRunner, now: float) -> float:
    if runner.silent_since is None:
        return _HEARD_SECONDS
    silent = now - runner.silent_since
    return max(silent, SILENT_SECONDS) if _is_gone(runner, now) else silent


def _is_gone(runner: EmulatedRunner, now: float) -> bool:
    since = runner.silent_since
    return since is not None and now - since >= UNREACHABLE_SECONDS - SAME_INSTANT_SECONDS


def _with_load(world: "World", status: RunnerStatus) -> RunnerStatus:
    running = world.clients.running
    if not any(running.get(each.model) for each in status.engines):
        return status
    engines = tuple(
        msgspec.structs.replace(each, running=running[each.model])
        if running.get(each.model) and each.state is EngineState.READY
        else each
        for each in status.engines
    )
    return msgspec.structs.replace(status, engines=engines)
