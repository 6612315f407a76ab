"""Reconciling a key: what is written the first time, nothing the second, and whom a failure concerns."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
import pytest
from aiohttp import web

from support import make
from support.scaling import scalings_of
from support.scripted import Answer, Script, client_of, refuses, says, scripted
from warmfleet_api import names
from warmfleet_kube.objects import Metadata
from warmfleet_operator import keys
from warmfleet_operator.agent_streams import AgentStreams
from warmfleet_operator.apply import RunnerWriter
from warmfleet_operator.caches import CachesPass
from warmfleet_operator.caches_apply import CachesWriter
from warmfleet_operator.caches_snapshot import StoresObserver
from warmfleet_operator.cluster import Cluster, mirrored
from warmfleet_operator.decide.fleet import ModelKey, PoolKey
from warmfleet_operator.demand import Demands
from warmfleet_operator.errors import Incomplete
from warmfleet_operator.estimates_keeper import Predictions
from warmfleet_operator.events import Recorder
from warmfleet_operator.inference_pools import InferencePools
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.reconcile import Reconciler
from warmfleet_operator.records import WarmPool
from warmfleet_operator.rounds import Rounds
from warmfleet_operator.snapshot import Observer
from warmfleet_operator.streams import Streams
from warmfleet_operator.workqueue import WorkQueue

KEY = keys.model(ModelKey("default", "llama"))
POOL_KEY = keys.pool(PoolKey("default", "pool"))
WRITES = {"POST", "PATCH", "DELETE"}


class World:
    """A reconciler, its mirrors, and the script of what the API server answers."""

    def __init__(self, script: Script, cluster: Cluster, reconciler: Reconciler, queue: WorkQueue[keys.Key]) -> None:
        self.script = script
        self.cluster = cluster
        self.reconcile = reconciler.reconcile
        self.queue = queue

    def apply(self, name: str, **fields: Any) -> None:
        self.record(name, make.spec(name, **fields))

    def record(self, name: str, spec: Mapping[str, Any]) -> None:
        made = make.record(name, spec)
        metadata = msgspec.structs.replace(made.metadata, resource_version="5")
        self.cluster.models.saw(msgspec.structs.replace(made, metadata=metadata))

    def remove(self, name: str) -> None:
        known = self.cluster.models.get("default", name)
        assert known is not None
        self.cluster.models.forget(known)

    def status(self, name: str) -> dict[str, Any]:
        known = self.cluster.models.get("default", name)
        assert known is not None
        return {each["type"]: each for each in known.status["conditions"]}

    def writes(self) -> list[str]:
        return [f"{each.method} {each.path.rsplit('/', 1)[1]}" for each in self.script.seen if each.method in WRITES]


def stores(cluster: Cluster) -> Answer:
    """Answer with what was sent, as stored: with a uid, the next version, and the spec beside a status."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        metadata = {"uid": "uid-new", "generation": 1} | body["metadata"]
        mirror = cluster.pools if body["kind"] == names.WARM_POOL_KIND else cluster.models
        known = mirror.get(metadata["namespace"], metadata["name"]) if "status" in body else None
        if known is not None:
            body["spec"] = known.spec
        metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", 5)) + 1)
        return web.json_response({**body, "metadata": metadata})

    return answer


async def _confirmed() -> None:
    """Nobody else leads."""


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with scripted() as script, client_of(script) as client:
        cluster = mirrored(client, Metrics(), 30)
        queue: WorkQueue[keys.Key] = WorkQueue()
        weights = StoresObserver(cluster, AgentStreams(lambda *_: None, Metrics()), make.LIMITS)
        streams, demands = Streams(lambda *_: None, Metrics()), Demands()
        predictions = Predictions(Metrics().prediction_ratio)
        observer = Observer(cluster, streams, make.LIMITS, weights, demands=demands, predictions=predictions)
        recorder = Recorder(client, "test", Metrics())
        caches_writer = CachesWriter(
            client=client,
            cluster=cluster,
            observer=weights,
            limits=make.LIMITS,
            metrics=Metrics(),
            confirmed=_confirmed,
        )
        reconciler = Reconciler(
            client=client,
            cluster=cluster,
            observer=observer,
            writer=RunnerWriter(client, cluster.runners, make.LIMITS, Metrics(), confirmed=_confirmed),
            recorder=recorder,
            caches=CachesPass(cluster, weights, caches_writer, recorder, Metrics()),
            inference_pools=InferencePools(client, list, lambda _: None),
            scalings=scalings_of(cluster, demands),
            demands=demands,
            rounds=Rounds(),
            queue=queue,
            metrics=Metrics(),
        )
        script.on("POST", stores(cluster))
        script.on("PATCH", stores(cluster))
        yield World(script, cluster, reconciler, queue)


async def test_a_model_gets_its_service_and_status_once_and_at_rest_nothing_is_written(world: World) -> None:
    world.apply("llama")
    await world.reconcile(KEY)
    assert world.writes() == ["POST services", "PATCH status"]
    await world.reconcile(KEY)
    await world.reconcile(KEY)
    assert len(world.writes()) == 2


async def test_a_status_is_written_on_condition_that_the_object_is_as_it_was_decided_upon(world: World) -> None:
    world.apply("llama")
    await world.reconcile(KEY)
    metadata = world.script.seen[-1].body["metadata"]
    assert (metadata["uid"], metadata["resourceVersion"]) == ("uid-default-llama", "5")
    assert world.script.seen[-1].query["fieldManager"] == names.MANAGER_STATUS


async def test_a_service_of_somebody_else_stalls_the_model_and_stays_as_it_is(world: World) -> None:
    world.apply("llama")
    world.script.answers.pop("POST")
    world.script.on("POST", refuses(409, "AlreadyExists"))
    world.script.on("GET", says({"metadata": {"name": "llama", "namespace": "default", "resourceVersion": "1"}}))
    assert await world.reconcile(KEY) == 0.0
    assert await world.reconcile(KEY) == pytest.approx(15)
    assert world.status("llama")["Stalled"]["reason"] == "NameTaken"
    assert world.writes() == ["POST services", "POST services", "PATCH status"]


async def test_a_spec_that_can_not_be_read_is_said_in_the_status_once(world: World) -> None:
    world.record("llama", {"surprise": 1})
    await world.reconcile(KEY)
    await world.reconcile(KEY)
    assert world.writes() == ["PATCH status"]
    assert "surprise" in world.status("llama")["Stalled"]["message"]


async def test_a_model_that_is_gone_needs_nothing(world: World) -> None:
    assert await world.reconcile(KEY) is None
    assert world.script.seen == []


async def test_the_budget_stands_while_the_namespace_has_models_and_goes_with_the_last(world: World) -> None:
    world.script.on("DELETE", says({"kind": "Status"}))
    world.apply("llama")
    key = keys.namespace("default")
    await world.reconcile(key)
    await world.reconcile(key)
    assert world.writes() == ["POST poddisruptionbudgets"]
    world.remove("llama")
    await world.reconcile(key)
    await world.reconcile(key)
    assert world.writes()[1:] == [f"DELETE {names.PDB_NAME}"]


async def test_the_fleet_pass_creates_a_runner_once(world: World) -> None:
    world.apply("llama")
    world.cluster.nodes.saw(make.node("n1"))
    await world.reconcile(keys.FLEET)
    await world.reconcile(keys.FLEET)
    assert world.writes() == ["POST pods"]


async def test_a_used_up_quota_is_said_by_the_model_and_takes_no_turn_from_another(world: World) -> None:
    world.apply("llama")
    world.cluster.nodes.saw(make.node("n1"))
    world.script.answers.pop("POST")
    quota = {"kind": "Status", "code": 403, "message": "pods is forbidden: exceeded quota: compute"}
    world.script.on("POST", says(quota, 403), stores(world.cluster))
    recheck = await world.reconcile(keys.FLEET)
    assert recheck == pytest.approx(30, abs=1)
    assert world.queue.take() is not None, "the model is told"
    await world.reconcile(KEY)
    assert world.status("llama")["Scheduled"]["reason"] == "QuotaExceeded"
    world.apply("other")
    await world.reconcile(keys.FLEET)
    assert [each for each in world.writes() if each == "POST pods"] == ["POST pods", "POST pods"]
    assert {pod.metadata.labels[names.LABEL_OWNER] for pod in world.cluster.runners.values()} == {"other"}


async def test_an_action_that_fails_by_chance_brings_the_pass_back(world: World) -> None:
    world.apply("llama")
    world.cluster.nodes.saw(make.node("n1"))
    world.script.answers.pop("POST")
    world.script.on("POST", refuses(500), stores(world.cluster))
    with pytest.raises(Incomplete, match="1 of 1 actions failed"):
        await world.reconcile(keys.FLEET)
    await world.reconcile(keys.FLEET)
    assert world.writes() == ["POST pods", "POST pods"]
    assert len(world.cluster.runners) == 1


async def test_a_model_whose_place_in_the_queue_changed_is_looked_at(world: World) -> None:
    world.apply("llama")
    await world.reconcile(keys.FLEET)
    assert world.queue.take() is not None
    await world.reconcile(keys.FLEET)
    assert world.queue.take() is None


def pool_record(**spec: Any) -> WarmPool:
    """A WarmPool as the mirror has it."""
    metadata = Metadata(name="pool", namespace="default", uid="uid-pool", resource_version="5", generation=1)
    return WarmPool(metadata=metadata, spec=spec)


async def test_a_pool_gets_its_status_once_and_at_rest_nothing_is_written(world: World) -> None:
    world.cluster.pools.saw(pool_record(replicas=2))
    for _ in range(3):
        await world.reconcile(POOL_KEY)
    assert world.writes() == ["PATCH status"]
    body = world.script.seen[-1].body
    assert (body["kind"], body["metadata"]["uid"]) == (names.WARM_POOL_KIND, "uid-pool")
    assert {each["type"]: each["reason"] for each in body["status"]["conditions"]} == {
        "Ready": "RunnersMissing",
        "Reconciling": "NewSpec",
    }


async def test_a_pool_that_can_not_be_read_is_said_in_the_status_once(world: World) -> None:
    world.cluster.pools.saw(pool_record(surprise=1))
    await world.reconcile(POOL_KEY)
    await world.reconcile(POOL_KEY)
    assert world.writes() == ["PATCH status"]
    stalled = next(each for each in world.script.seen[-1].body["status"]["conditions"] if each["type"] == "Stalled")
    assert stalled["reason"] == "Unreadable"
    assert "surprise" in stalled["message"]


async def test_a_pools_runner_that_the_api_server_refuses_is_told_of_the_pool(world: World) -> None:
    world.cluster.nodes.saw(make.node("n1"))
    world.cluster.pools.saw(pool_record())
    world.script.answers.pop("POST")
    world.script.on("POST", says({"kind": "Status", "code": 403, "message": "exceeded quota: small"}, 403))
    await world.reconcile(keys.FLEET)
    await world.reconcile(POOL_KEY)
    stalled = next(each for each in world.script.seen[-1].body["status"]["conditions"] if each["type"] == "Stalled")
    assert stalled["reason"] == "QuotaExceeded"
    seen = len(world.writes())
    await world.reconcile(keys.FLEET)
    assert len(world.writes()) == seen, "it is not asked again at once"


async def test_a_models_autoscaler_comes_and_goes_with_the_block_and_makes_room_for_another(world: World) -> None:
    world.apply("llama", autoscaling={"maxReplicas": 3})
    await world.reconcile(KEY)
    assert world.writes() == ["POST services", "POST horizontalpodautoscalers", "PATCH status"]
    (own,) = world.cluster.autoscalers.values()
    await world.reconcile(KEY)
    assert len(world.writes()) == 3
    world.script.on("DELETE", says({"kind": "Status"}))
    foreign = msgspec.structs.replace(
        own, metadata=msgspec.structs.replace(own.metadata, name="keda", uid="uid-keda", owner_references=())
    )
    world.cluster.autoscalers.saw(foreign)
    await world.reconcile(KEY)
    assert "DELETE llama" in world.writes()
    world.cluster.autoscalers.saw_deletion(foreign)
    await world.reconcile(KEY)
    assert world.writes()[-2:].count("POST horizontalpodautoscalers") == 1
