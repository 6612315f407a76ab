"""What a leader sees of a pool's runner and no object has a time for."""

from dataclasses import replace

import msgspec
import pytest

from support import make
from support.observer import observer_of
from support.scripted import client_of, scripted
from warmfleet_api import names
from warmfleet_api.vocabulary import DesiredState, EngineState
from warmfleet_operator.cluster import Cluster, mirrored
from warmfleet_operator.decide.fleet import Runner
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import Pod
from warmfleet_operator.sightings import Sightings

FREE = make.up(make.pool_runner(make.pool(), "a"))
BUSY = make.hosting(FREE, make.model())


@pytest.fixture
async def cluster() -> Cluster:
    async with scripted() as script, client_of(script) as client:
        return mirrored(client, Metrics(), 30)


def at(runner: Runner, version: int) -> Pod:
    metadata = msgspec.structs.replace(runner.pod.metadata, resource_version=str(version))
    return msgspec.structs.replace(runner.pod, metadata=metadata)


async def test_the_leader_that_writes_an_assignment_knows_when_the_start_began(cluster: Cluster) -> None:
    observer = observer_of(cluster)
    cluster.runners.subscribe(observer.runner_changed)
    cluster.runners.saw(at(FREE, 1))
    cluster.runners.saw(at(BUSY, 2))
    runner = observer.fleet().runners[0]
    assert runner.start_times["llama-0-1"].assigned is not None
    assert runner.start_times["llama-0-1"].ready is None


async def test_a_leader_that_finds_an_engine_assigned_does_not_know_since_when(cluster: Cluster) -> None:
    observer = observer_of(cluster)
    cluster.runners.subscribe(observer.runner_changed)
    cluster.runners.saw(at(BUSY, 1))
    assert observer.fleet().runners[0].start_times == {}


def test_the_moment_an_engine_is_ready_is_kept_from_then_on() -> None:
    sightings = Sightings()
    sightings.assigned(BUSY.pod, {}, {"llama-0-1": DesiredState.READY})
    first = sightings.start_times(BUSY.pod, BUSY.status)["llama-0-1"]
    assert first.ready is not None and first.assigned is not None and first.ready >= first.assigned
    assert sightings.start_times(BUSY.pod, BUSY.status)["llama-0-1"] == first


def test_a_model_counts_as_unserved_while_its_label_says_draining() -> None:
    sightings = Sightings()
    draining = make.with_labels(BUSY, {names.serve_label("llama"): "Draining"}).pod
    assert sightings.unserved_seconds(BUSY.pod) == {}
    first = sightings.unserved_seconds(draining)["llama"]
    assert sightings.unserved_seconds(draining)["llama"] >= first >= 0
    assert sightings.unserved_seconds(BUSY.pod) == {}


def test_what_was_seen_of_a_pod_that_is_gone_is_dropped() -> None:
    sightings = Sightings()
    sightings.assigned(BUSY.pod, {}, {"llama-0-1": DesiredState.READY})
    sightings.forget(BUSY.pod.metadata.uid)
    assert sightings.start_times(BUSY.pod, BUSY.status) == {}


def test_of_own_runners_nothing_is_remembered() -> None:
    own = make.serving(make.runner(make.model(), "a"))
    draining = replace(own, pod=make.with_labels(own, {names.serve_label("llama"): "Draining"}).pod)
    assert Sightings().unserved_seconds(draining.pod) == {}


def test_an_engine_that_is_to_be_awake_again_begins_a_start_in_own_runners_too() -> None:
    own, sightings = make.serving(make.runner(make.model(), "a")), Sightings()
    asleep, ready = {"llama-0": DesiredState.ASLEEP}, {"llama-0": DesiredState.READY}
    sightings.assigned(own.pod, {}, ready)
    assert sightings.start_times(own.pod, own.status) == {}
    sightings.assigned(own.pod, asleep, ready)
    assert sightings.start_times(own.pod, None)["llama-0"].assigned is not None


def test_a_wake_that_nobody_decided_has_no_time_of_a_decision() -> None:
    sightings = Sightings()
    sightings.assigned(BUSY.pod, {}, {"llama-0-1": DesiredState.READY})
    assert sightings.start_times(BUSY.pod, BUSY.status)["llama-0-1"].ready is not None
    assert BUSY.status is not None
    asleep = msgspec.structs.replace(BUSY.status.engines[0], state=EngineState.ASLEEP)
    sightings.start_times(BUSY.pod, msgspec.structs.replace(BUSY.status, engines=(asleep,)))
    assert sightings.start_times(BUSY.pod, BUSY.status)["llama-0-1"].assigned is None


def test_switches_are_told_by_runner_with_their_age(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("warmfleet_operator.sightings.time.monotonic", lambda: now)
    sightings = Sightings()
    sightings.switched("r")
    now += 400.0
    sightings.switched("r")
    assert sightings.switches() == {"r": (400.0, 0.0)}
    now += 300.0
    assert sightings.switches() == {"r": (300.0,)}
    now += 301.0
    assert sightings.switches() == {}
