"""The snapshot: what is remembered between rounds, and for how long."""

import msgspec
import pytest

from support import make
from support.observer import observer_of
from support.scripted import client_of, scripted
from warmfleet_api import names
from warmfleet_api.vocabulary import Reason
from warmfleet_operator import snapshot
from warmfleet_operator.cluster import Cluster, as_stranger, mirrored
from warmfleet_operator.decide.fleet import Model, ModelKey, Problem
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import ModelDeployment
from warmfleet_operator.rounds import Rounds
from warmfleet_operator.snapshot import Observer

KEY = ModelKey("default", "llama")


@pytest.fixture
async def cluster() -> Cluster:
    async with scripted() as script, client_of(script) as client:
        return mirrored(client, Metrics(), 30)


@pytest.fixture
def observer(cluster: Cluster) -> Observer:
    return observer_of(cluster)


def applied(cluster: Cluster, version: int = 1, **fields: object) -> ModelDeployment:
    record = make.record("llama", make.spec(**fields), generation=version)  # type: ignore[arg-type]
    metadata = msgspec.structs.replace(record.metadata, resource_version=str(version))
    cluster.models.saw(msgspec.structs.replace(record, metadata=metadata))
    known = cluster.models.get("default", "llama")
    assert known is not None
    return known


async def test_a_spec_is_parsed_once_per_version(cluster: Cluster, observer: Observer) -> None:
    record = applied(cluster)
    parsed = observer.model(record)
    assert observer.model(record) is parsed
    changed = observer.model(applied(cluster, 2, replicas=3))
    assert isinstance(changed, Model)
    assert changed.spec.replicas == 3


async def test_a_spec_that_can_not_be_read_keeps_its_runners(cluster: Cluster, observer: Observer) -> None:
    applied(cluster, unknown=1)
    fleet = observer.fleet()
    assert fleet.unreadable == {KEY}
    assert fleet.models == {}


async def test_a_foreign_service_is_a_problem_of_the_model_until_it_is_gone(
    cluster: Cluster, observer: Observer
) -> None:
    record = applied(cluster)
    foreign = make.service("llama", owner_uid=None)
    assert observer.saw_service(KEY, foreign)
    assert not observer.saw_service(KEY, foreign)
    problem = observer.fleet().models[KEY].problem
    assert problem is not None
    assert problem.reason is Reason.NAME_TAKEN
    assert observer.saw_service(KEY, None)
    parsed = observer.model(record)
    assert isinstance(parsed, Model)
    assert parsed.problem is None


async def test_a_start_that_the_api_server_refused_takes_no_turn_from_others_until_it_is_tried_again(
    cluster: Cluster, observer: Observer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = observer.model(applied(cluster))
    assert isinstance(model, Model)
    problem = Problem(Reason.QUOTA_EXCEEDED, "exceeded quota: cpu")
    assert observer.refused(model, problem)
    assert not observer.refused(model, problem)
    assert observer.fleet().models[KEY].problem == problem
    assert observer.view(model, Rounds(), endpoint_ready=True).refusal == problem
    monkeypatch.setattr(snapshot, "REFUSAL_SECONDS", 0.0)
    assert not observer.refused(model, problem)
    assert observer.fleet().models[KEY].problem is None, "it is tried again"
    assert observer.view(model, Rounds(), endpoint_ready=True).refusal == problem, "until it succeeds it is said"
    assert observer.refused(model, None)
    assert observer.next_try_seconds() is None


async def test_a_refusal_ends_with_the_spec_it_was_about(cluster: Cluster, observer: Observer) -> None:
    model = observer.model(applied(cluster))
    assert isinstance(model, Model)
    observer.refused(model, Problem(Reason.QUOTA_EXCEEDED, "exceeded quota"))
    applied(cluster, 2)
    assert observer.fleet().models[KEY].problem is None


async def test_an_assignment_that_can_not_be_read_is_none(cluster: Cluster, observer: Observer) -> None:
    pod = make.runner(make.model("llama"), "n1").pod
    cluster.runners.saw(pod)
    assert observer.fleet().runners[0].assignment is not None
    broken = msgspec.structs.replace(pod.metadata, annotations={names.ANNOTATION_ASSIGNMENT: "{"}, resource_version="9")
    cluster.runners.saw(msgspec.structs.replace(pod, metadata=broken))
    assert observer.fleet().runners[0].assignment is None


def test_of_a_stranger_only_what_it_takes_is_kept() -> None:
    pod = make.runner(make.model("llama"), "n1").pod
    trimmed = as_stranger(pod)
    assert trimmed.metadata.labels == trimmed.metadata.annotations == {}
    assert trimmed.spec.containers == pod.spec.containers
    assert trimmed.spec.affinity is None
