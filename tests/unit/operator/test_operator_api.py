"""The operator's API: who may call, what is answered, and that a follower lets the leader answer."""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web

from support import make
from support.observer import observer_of
from support.scaling import scalings_of
from support.scripted import Script, client_of, scripted, until
from warmfleet_api import names
from warmfleet_api.operator_api import (
    MAX_BODY_BYTES,
    DemandAnswer,
    DemandReport,
    ErrorAnswer,
    ModelDemand,
    ModelScaling,
    QueueAnswer,
    ScalingAnswer,
    WakeAnswer,
    WakeRequest,
)
from warmfleet_api.vocabulary import Reason, StartType
from warmfleet_kube.client import KubeClient
from warmfleet_kube.reviews import GRANTED_SECONDS
from warmfleet_operator import keys
from warmfleet_operator.cluster import Cluster, mirrored
from warmfleet_operator.decide.actions import Decisions, Forecast, Waiting
from warmfleet_operator.decide.fleet import ModelKey
from warmfleet_operator.decide.situation import ModelView, Situation, situation_of
from warmfleet_operator.demand import Demands
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.operator_access import Access
from warmfleet_operator.operator_api import Leader, OperatorApi
from warmfleet_operator.rounds import Rounds
from warmfleet_operator.scaling import Scalings
from warmfleet_operator.workqueue import WorkQueue

KEY = ModelKey("default", "llama")
RIGHTS = {
    "router": {"create demand", "create wake"},
    "reader": {"list "},
    "metrics": {"list scaling"},
    "nobody": set[str](),
}
"""What the bearer of each token may do; the token's text is its bearer's name."""


async def review(request: web.Request) -> web.StreamResponse:
    """Answer as the API server does: who bears the token, and whether they may."""
    body = await request.json()
    spec = body["spec"]
    if body["kind"] == "TokenReview":
        known = spec["token"] in RIGHTS and spec["audiences"] == [names.TOKEN_AUDIENCE]
        status: dict[str, Any] = {"authenticated": known}
        if known:
            status |= {"user": {"username": spec["token"]}, "audiences": spec["audiences"]}
    else:
        wanted = spec["resourceAttributes"]
        assert (wanted["group"], wanted["resource"]) == (names.GROUP, names.MODEL_DEPLOYMENT_PLURAL)
        status = {"allowed": f"{wanted['verb']} {wanted['subresource']}" in RIGHTS[spec["user"]]}
    return web.json_response({**body, "metadata": {"creationTimestamp": None}, "status": status}, status=201)


@dataclass
class World:
    """One served API with what it stands on."""

    script: Script
    client: KubeClient
    cluster: Cluster
    http: aiohttp.ClientSession
    demands: Demands = field(default_factory=Demands)
    rounds: Rounds = field(default_factory=Rounds)
    situations: list[Situation] = field(default_factory=list)
    """Models with autoscaling."""
    scalings: Scalings = field(init=False)
    queue: WorkQueue[keys.Key] = field(default_factory=WorkQueue)
    leads: bool = True
    leader: str = ""
    url: str = ""
    now: float = 100.0

    def __post_init__(self) -> None:
        self.scalings = scalings_of(self.cluster, self.demands, lambda: self.situations)

    def has(self, ready: str = "False", reason: Reason = Reason.QUEUED, **fields: Any) -> None:
        """Have the model in the mirror, with a condition Ready."""
        condition = {
            "type": "Ready",
            "status": ready,
            "observedGeneration": 1,
            "lastTransitionTime": make.ago(60),
            "reason": reason,
            "message": "as the test says",
        }
        record = make.record("llama", make.spec("llama"), status={"conditions": [condition], **fields})
        known = self.cluster.models.get("default", "llama")
        version = int(known.metadata.resource_version) + 1 if known is not None else 1
        metadata = msgspec.structs.replace(record.metadata, resource_version=str(version))
        self.cluster.models.saw(msgspec.structs.replace(record, metadata=metadata))

    async def post(self, path: str, body: msgspec.Struct | bytes, token: str = "router") -> tuple[int, bytes]:
        data = io.BytesIO(body if isinstance(body, bytes) else msgspec.json.encode(body))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.http.post(self.url + path, data=data, headers=headers) as answer:
            return answer.status, await answer.read()

    async def wake(self, model: str = "llama") -> tuple[int, WakeAnswer]:
        status, body = await self.post(names.PATH_WAKE, WakeRequest(namespace="default", model=model))
        return status, msgspec.json.decode(body, type=WakeAnswer)

    async def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        async with self.http.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.read()

    def woken(self) -> set[keys.Key]:
        found = set()
        while (taken := self.queue.take()) is not None:
            found.add(taken[0])
            self.queue.done(taken[0])
        return found


@asynccontextmanager
async def serving(world: World) -> AsyncIterator[World]:
    api = OperatorApi(
        leader=Leader(lambda: world.leads, lambda: world.leader),
        access=Access(world.client, lambda: world.now),
        observer=observer_of(world.cluster),
        demands=world.demands,
        scalings=world.scalings,
        rounds=world.rounds,
        queue=world.queue,
    )
    opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(api.serve(0, opened.set_result))
    try:
        world.url = f"http://127.0.0.1:{await asyncio.wait_for(opened, 5)}"
        yield world
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with scripted() as script, client_of(script) as client, aiohttp.ClientSession() as http:
        script.on("POST", review)
        async with serving(World(script, client, mirrored(client, Metrics(), 30), http)) as world:
            yield world


async def test_a_sleeping_model_is_woken_and_the_answer_waits_for_its_place_in_the_queue(world: World) -> None:
    world.has("True", Reason.ASLEEP, dormant={"time": make.ago(60), "reason": "no request for 60 s"})
    asked = asyncio.create_task(world.wake())
    await until(lambda: world.demands.of(KEY).is_wanted)
    assert world.woken() == {keys.model(KEY), keys.FLEET}
    world.has("True", Reason.WAKING)
    decisions = Decisions(
        waiting={KEY: Waiting(KEY, 2, 3, Reason.NO_FREE_MEMORY, "no room on n1")},
        forecasts={KEY: Forecast(7.5, StartType.HOT, "room in 7 s, then 0.5 s Hot on n1")},
    )
    world.rounds.ended(decisions, make.NOW)
    status, answer = await asked
    assert (status, answer.state, answer.position, answer.of) == (202, "Waking", 2, 3)
    assert (answer.ready_seconds, answer.start_type, answer.blocker) == (7.5, StartType.HOT, "no room on n1")


async def test_waking_what_is_wanted_already_changes_nothing_but_for_how_long(world: World) -> None:
    world.has("True", Reason.SERVING)
    assert (await world.wake())[0] == 200
    world.woken()
    assert (await world.wake())[0] == 200
    assert world.woken() == set()


async def test_without_a_round_a_wake_answers_in_time_with_what_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmfleet_operator.operator_api.DECISION_SECONDS", 0.1)
    world.has("True", Reason.ASLEEP)
    status, answer = await world.wake()
    assert (status, answer.state) == (202, "Asleep")


async def test_an_unknown_model_is_named_with_the_command_to_look(world: World) -> None:
    status, answer = await world.wake("lama")
    assert (status, answer.state) == (404, "NotFound")
    assert "kubectl -n default get mdl" in answer.message


async def test_a_stopped_model_is_not_woken(world: World) -> None:
    world.has("False", Reason.STOPPED)
    status, answer = await world.wake()
    assert (status, answer.state, answer.message) == (409, "Stopped", "as the test says")
    assert not world.demands.of(KEY).is_wanted
    assert world.woken() == set()


async def test_a_report_of_held_requests_wakes_once_and_is_answered_for_those_models(world: World) -> None:
    world.has("True", Reason.WAKING)
    report = DemandReport(
        router="r",
        models=(
            ModelDemand(namespace="default", model="llama", held=2),
            ModelDemand(namespace="default", model="other", queued=4),
        ),
    )
    status, body = await world.post(names.PATH_DEMAND, report)
    assert status == 200
    assert [each.model for each in msgspec.json.decode(body, type=DemandAnswer).models] == ["llama"]
    assert world.woken() == {keys.model(KEY), keys.FLEET}
    await world.post(names.PATH_DEMAND, report)
    assert world.woken() == set()
    assert world.demands.of(KEY).held == 2


async def test_who_shows_no_token_or_a_wrong_one_or_lacks_the_right_is_told_which(world: World) -> None:
    world.has()
    wanted = WakeRequest(namespace="default", model="llama")
    for token, code, words in (
        ("", 401, "create token SERVICEACCOUNT --audience=warmfleet-operator"),
        ("forged", 401, "not valid for warmfleet-operator"),
        ("reader", 403, "reader may not create modeldeployments/wake.warmfleet.dev in namespace default"),
    ):
        status, body = await world.post(names.PATH_WAKE, wanted, token)
        assert status == code
        assert words in msgspec.json.decode(body, type=ErrorAnswer).error
    assert not world.demands.of(KEY).is_wanted


async def test_reads_take_the_token_where_the_api_servers_proxy_lets_it_through(world: World) -> None:
    world.has()
    status, body = await world.get(names.PATH_QUEUE, **{names.HEADER_AUTHORIZATION: "Bearer reader"})
    assert (status, msgspec.json.decode(body, type=QueueAnswer).starts) == (200, ())
    assert (await world.get(names.PATH_FLEET, Authorization="Bearer nobody"))[0] == 403


async def test_a_right_is_asked_for_once_a_minute(world: World) -> None:
    for _ in range(3):
        await world.get(names.PATH_QUEUE, Authorization="Bearer reader")
    assert len(world.script.seen) == 2
    world.now += GRANTED_SECONDS
    await world.get(names.PATH_QUEUE, Authorization="Bearer reader")
    assert len(world.script.seen) == 4


async def test_nonsense_is_refused_in_words_and_too_much_of_it_too(world: World) -> None:
    for path, body, code in (
        (names.PATH_WAKE, b"{", 400),
        (names.PATH_WAKE, b'{"namespace": "default"}', 400),
        (names.PATH_DEMAND, b'{"router": "r", "models": [{"namespace": "n", "model": "m", "held": -1}]}', 400),
        (names.PATH_DEMAND, b'{"router": "r", "models": [{"namespace": "n", "model": "m", "held": 1e400}]}', 400),
        (names.PATH_DEMAND, b" " * (MAX_BODY_BYTES + 1), 413),
        ("/v1/nothing", b"{}", 404),
    ):
        status, answer = await world.post(path, body)
        assert (path, status) == (path, code)
        assert msgspec.json.decode(answer, type=ErrorAnswer).error
    assert world.demands.all() == {}


async def test_a_follower_lets_the_leader_answer_and_keeps_what_routers_report(world: World) -> None:
    world.has("True", Reason.SERVING)
    follower = World(world.script, world.client, world.cluster, world.http, leads=False)
    follower.leader = world.url.removeprefix("http://")
    async with serving(follower):
        assert (await follower.wake())[0] == 200
        assert world.demands.of(KEY).is_wanted and not follower.demands.of(KEY).is_wanted
        report = DemandReport(router="r", models=(ModelDemand(namespace="default", model="llama", held=1),))
        assert (await follower.post(names.PATH_DEMAND, report))[0] == 200
        assert (world.demands.of(KEY).held, follower.demands.of(KEY).held) == (1, 1)


async def test_a_request_is_passed_on_once_and_without_a_leader_not_at_all(world: World) -> None:
    world.leads = False
    wanted = WakeRequest(namespace="default", model="llama")
    status, body = await world.post(names.PATH_WAKE, wanted)
    assert (status, msgspec.json.decode(body, type=ErrorAnswer).error) == (
        503,
        "no operator leads at this moment; try again",
    )
    world.leader = world.url.removeprefix("http://")
    assert (await world.post(names.PATH_WAKE, wanted))[0] == 503


async def test_the_server_of_external_metrics_hears_what_each_autoscaler_is_to_see(world: World) -> None:
    headers = {"Authorization": "Bearer metrics"}
    model = make.model("llama", autoscaling={})
    lost = make.model("lost", autoscaling={})
    world.situations = [
        situation_of(ModelView(model, (make.serving(make.runner(model, "n1")),), {"n1": make.node("n1")})),
        situation_of(ModelView(lost, (make.silent(make.serving(make.runner(lost, "n1"))),), {"n1": make.node("n1")})),
    ]
    await world.scalings.measure()
    status, body = await world.get(names.PATH_SCALING, **headers)
    told = msgspec.json.decode(body, type=ScalingAnswer)
    assert status == 200
    assert told.models == (
        ModelScaling(namespace="default", model="llama", value=20),
        ModelScaling(namespace="default", model="lost", value=None),
    )
    assert (await world.get(names.PATH_SCALING, Authorization="Bearer reader"))[0] == 403
