"""Models that nobody asks for sleep and wake on demand, and their specs have no part in it."""

import json
import threading
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.request import Request, urlopen

import pytest

from support.cluster import Cluster
from support.kubeapi import Object
from support.models import simulated
from support.namespace import Namespace
from support.operator import ProxiedOperator
from support.operator_calls import OperatorCalls
from support.pools import warm_pool
from warmfleet_api import names

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

AFTER_SECONDS = 10


@pytest.fixture
def calls(cluster: Cluster, operator: ProxiedOperator) -> OperatorCalls:
    return OperatorCalls(cluster, operator)


def status_of(namespace: Namespace, name: str) -> Object:
    found: Object = namespace.model(name)["status"]
    return found


def states(namespace: Namespace, name: str) -> list[str]:
    return [each["state"] for each in status_of(namespace, name).get("engines", [])]


def sleeps(namespace: Namespace, name: str) -> bool:
    return "dormant" in status_of(namespace, name) and states(namespace, name) == ["Asleep"]


class LongRequest:
    """One request at a model's engine that lasts until its tokens are told, or the connection is closed."""

    def __init__(self, namespace: Namespace, model: str, tokens: int) -> None:
        runner = status_of(namespace, model)["engines"][0]["runner"]
        pod = namespace.api.get(f"{namespace.core_path}/pods/{runner}")
        assert pod is not None
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "max_tokens": tokens}
        self._request = Request(
            f"http://{pod['status']['podIP']}:{names.API_PORT}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        self.answer: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        # A broken answer is none.
        with suppress(OSError, HTTPException, ValueError), urlopen(self._request, timeout=120) as answer:
            self.answer = json.load(answer)

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join(60)
        assert self.answer is not None, "the request was not answered"


def test_an_idle_model_sleeps_over_a_restart_of_the_operator_and_is_woken_while_a_busy_one_stays_awake(
    namespace: Namespace, operator: ProxiedOperator, calls: OperatorCalls
) -> None:
    slow = simulated("busy", pools=["pool"], idle={"afterSeconds": AFTER_SECONDS})
    slow["spec"]["engine"]["simulated"]["tokensPerSecond"] = 10
    namespace.apply(warm_pool(cpu="10m", memory="4Gi"), slow)
    namespace.apply(simulated("quiet", pools=["pool"], idle={"afterSeconds": AFTER_SECONDS}))
    namespace.wait_ready("busy", "quiet")
    specs = {name: namespace.model(name)["metadata"]["generation"] for name in ("busy", "quiet")}
    request = LongRequest(namespace, "busy", tokens=250)
    namespace.wait("the idle one sleeps", lambda: sleeps(namespace, "quiet"))
    assert not request.is_done
    assert "dormant" not in status_of(namespace, "busy")
    assert namespace.condition("quiet", "Ready") is not None
    assert namespace.wait_condition("quiet", "Ready", "True", "Asleep")["message"]
    namespace.wait_condition("quiet", "Serving", "False", "Asleep")
    assert status_of(namespace, "quiet")["replicas"] == 1

    written = namespace.model("quiet")["metadata"]["resourceVersion"]
    operator.restart()
    operator.wait_ready()
    namespace.stays(
        "it sleeps on",
        lambda: (
            namespace.model("quiet")["metadata"]["resourceVersion"] == written
            and states(namespace, "busy") == ["Ready"]
        ),
        6,
    )

    code, answer = calls.wake(namespace.name, "quiet")
    assert code in {200, 202}, answer
    namespace.wait_condition("quiet", "Serving", "True")
    start = status_of(namespace, "quiet")["lastStart"]
    assert start["startType"] == "Hot"
    assert [stage["name"] for stage in start["stages"]][-3:] == ["WeightsLoaded", "WarmedUp", "Routable"]
    assert "dormant" not in status_of(namespace, "quiet")
    assert calls.wake(namespace.name, "quiet")[1]["state"] == "Serving"
    assert calls.wake(namespace.name, "missing")[0] == 404

    request.wait()
    namespace.wait("the busy one sleeps once it is idle", lambda: sleeps(namespace, "busy"))
    assert {name: namespace.model(name)["metadata"]["generation"] for name in specs} == specs
    notes = [each["reason"] for each in namespace.events()]
    assert "Slept" in notes


def test_two_models_with_room_for_one_answer_in_turn(namespace: Namespace, calls: OperatorCalls) -> None:
    large = {"gpus": 0, "cpu": "10m", "memory": "1800Mi"}
    namespace.apply(warm_pool(cpu="10m", memory="4Gi"), simulated("first", pools=["pool"], resources=large))
    namespace.wait_ready("first")
    # Of a higher class, so that it waits for no residency of the first; idle, so that it ends its own by itself.
    idle = {"afterSeconds": AFTER_SECONDS}
    namespace.apply(simulated("second", pools=["pool"], resources=large, priority="High", idle=idle))
    namespace.wait_condition("second", "Serving", "True")
    assert namespace.wait_condition("first", "Ready", "True", "Asleep")
    assert "second" in status_of(namespace, "first")["dormant"]["reason"]
    code, answer = calls.wake(namespace.name, "first")
    assert code == 202 and answer["state"] in {"Waking", "Queued"}, answer
    queue = calls.call("GET", f"{names.PATH_QUEUE}?namespace={namespace.name}")[1]
    assert [each["model"] for each in queue["starts"]] == ["first"]
    namespace.wait_condition("first", "Serving", "True")
    assert namespace.wait_condition("second", "Ready", "True", "Asleep")
    assert status_of(namespace, "first")["lastStart"]["startType"] == "Hot"
    fleet = calls.call("GET", f"{names.PATH_FLEET}?namespace={namespace.name}")[1]
    hosted = [
        (engine["model"], engine["state"])
        for node in fleet["nodes"]
        for runner in node.get("runners", [])
        for engine in runner["engines"]
    ]
    assert sorted(hosted) == [("first", "Ready"), ("second", "Asleep")]
