"""The fleet player: many runners behind one pair of ports, told apart by the address that was called."""

import asyncio
import ipaddress
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec
import pytest
from prometheus_client import CollectorRegistry

from support.runner_process import engine_of, fault, simulated, state_of
from warmfleet_api import assignment, names, runner_status
from warmfleet_api.assignment import Assignment, EngineAssignment, SimulatedEngine
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import EngineState, EngineType, Reason
from warmfleet_http.server import asgi_server
from warmfleet_runtime.front.metrics import RequestMetrics
from warmfleet_runtime.front.status import StatusEndpoint
from warmfleet_runtime.player.fleet import BEATS, Fleet, RunnerPod
from warmfleet_runtime.player.watch import Metadata, Watched

NODE = Watched(metadata=Metadata(name="fake-1", uid="node-1"))
# All of 127/8 is this machine: a range of addresses that leads here, as in the cluster.
RANGE = ipaddress.ip_network("127.77.0.0/24")


def annotation(revision: int, *engines: EngineAssignment) -> str:
    return assignment.encode(Assignment(version=assignment.VERSION, revision=revision, engines=engines))


def pod(number: int, value: str = "", **metadata: Any) -> RunnerPod:
    return msgspec.convert(
        {
            "metadata": {
                "name": f"m-{number}",
                "namespace": "ns",
                "uid": f"pod-{number}",
                "annotations": {names.ANNOTATION_ASSIGNMENT: value},
                **metadata,
            },
            "spec": {
                "nodeName": "fake-1",
                "containers": [{"name": "runner", "resources": {"limits": {"memory": "1Gi"}}}],
            },
            "status": {"podIP": f"127.77.0.{number}", "phase": "Running"},
        },
        RunnerPod,
    )


@dataclass
class Played:
    """A fleet behind real ports."""

    fleet: Fleet
    http: aiohttp.ClientSession
    api_port: int
    status_port: int

    def status_url(self, number: int) -> str:
        return f"http://127.77.0.{number}:{self.status_port}{names.PATH_STATUS}"

    async def status(self, number: int) -> RunnerStatus | None:
        async with self.http.get(self.status_url(number)) as response:
            return runner_status.decode(await response.read()) if response.status == 200 else None

    async def wait(self, number: int, engine: str, state: EngineState) -> RunnerStatus:
        async with asyncio.timeout(5):
            async with self.http.get(self.status_url(number) + "?watch=1") as response:
                while True:
                    status = runner_status.decode(await response.content.readline())
                    if state_of(status, engine) is state:
                        return status


@pytest.fixture
async def played() -> AsyncIterator[Played]:
    fleet = Fleet(RANGE, RequestMetrics(CollectorRegistry()))
    fleet.node_seen(NODE)
    async with AsyncExitStack() as stack:
        ports = []
        for app in (fleet.api, StatusEndpoint(fleet.find_feed)):
            listening = socket.create_server(("0.0.0.0", 0))
            running = asgi_server(app, shutdown_seconds=1)
            task = asyncio.create_task(running.serve([listening]))
            stack.push_async_callback(asyncio.wait_for, task, 5)
            stack.callback(setattr, running, "should_exit", True)
            ports.append(listening.getsockname()[1])
        stack.callback(fleet.close)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Played(fleet, http, *ports)


async def test_each_address_is_a_runner_of_its_own(played: Played) -> None:
    played.fleet.pod_seen(pod(1, annotation(1, simulated("a"))))
    played.fleet.pod_seen(pod(2, annotation(4, simulated("b"))))
    first, second = await played.wait(1, "a", EngineState.READY), await played.wait(2, "b", EngineState.READY)
    assert (first.pod_uid, first.revision, second.pod_uid, second.revision) == ("pod-1", 1, "pod-2", 4)
    assert await played.status(3) is None


async def test_a_pod_that_gets_another_address_is_played_there(played: Played) -> None:
    played.fleet.pod_seen(pod(1, annotation(1, simulated("a"))))
    first = await played.wait(1, "a", EngineState.READY)
    there = pod(1, annotation(1, simulated("a")))
    played.fleet.pod_seen(msgspec.structs.replace(there, status=pod(2).status))
    assert await played.status(2) == first
    assert await played.status(1) is None


async def test_a_played_engine_answers_like_a_real_one(played: Played) -> None:
    played.fleet.pod_seen(pod(1, annotation(1, simulated("a"))))
    await played.wait(1, "a", EngineState.READY)
    body = {"model": "a", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, "stream": True}
    async with played.http.post(f"http://127.77.0.1:{played.api_port}/v1/chat/completions", json=body) as response:
        lines = (await response.text()).split("\n\n")
    assert json.loads(lines[0].removeprefix("data: "))["choices"][0]["delta"]["content"] == "token 0 "
    assert lines[-2] == "data: [DONE]"


async def test_a_changed_annotation_reaches_the_runner_and_a_broken_one_changes_nothing(played: Played) -> None:
    played.fleet.pod_seen(pod(1, annotation(1, simulated("a"))))
    await played.wait(1, "a", EngineState.READY)
    played.fleet.pod_seen(pod(1, "{"))
    status = await played.status(1)
    assert status and "unreadable assignment" in status.error and state_of(status, "a") is EngineState.READY
    played.fleet.pod_seen(pod(1, annotation(2, simulated("b"))))
    status = await played.wait(1, "b", EngineState.READY)
    assert (status.revision, status.error, state_of(status, "a")) == (2, "", None)


async def test_faults_look_like_those_of_processes(played: Played) -> None:
    bad = simulated("bad", fault("CrashAtStart"))
    hung = simulated("hung", fault("HangAtStart"), start_budget_seconds=1)
    played.fleet.pod_seen(pod(1, annotation(1, bad)))
    played.fleet.pod_seen(pod(2, annotation(1, hung)))
    status = await played.wait(1, "bad", EngineState.FAILED)
    engine = engine_of(status, "bad")
    assert engine and engine.error and (engine.failed_starts, engine.error.reason) == (3, Reason.ENGINE_CRASHING)
    engine = engine_of(await played.status(2) or status, "hung")
    assert engine and engine.error and "within 1 s" in engine.error.message


async def test_a_real_engine_on_a_fake_node_is_refused_in_words(played: Played) -> None:
    real = simulated("a")
    real = msgspec.structs.replace(
        real, engine=msgspec.structs.replace(real.engine, type=EngineType.VLLM, simulated=None)
    )
    played.fleet.pod_seen(pod(1, annotation(1, real)))
    status = await played.wait(1, "a", EngineState.FAILED)
    engine = engine_of(status, "a")
    assert engine and engine.error and "Simulated engines only" in engine.error.message


async def test_a_terminating_pod_drains_what_runs(played: Played) -> None:
    slow = SimulatedEngine(load_milliseconds=0, initialize_milliseconds=0, tokens_per_second=20)
    played.fleet.pod_seen(pod(1, annotation(1, simulated("a", slow))))
    await played.wait(1, "a", EngineState.READY)
    body = {"model": "a", "prompt": "x", "max_tokens": 20, "stream": True}
    async with played.http.post(f"http://127.77.0.1:{played.api_port}/v1/completions", json=body) as response:
        await response.content.readany()
        played.fleet.pod_seen(pod(1, annotation(1, simulated("a", slow)), deletionTimestamp="2026-01-01T00:00:00Z"))
        status = await played.status(1)
        assert status and status.draining and state_of(status, "a") is EngineState.DRAINING
        assert (await response.text()).endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("loss", ["pod", "node"])
async def test_streams_end_when_pod_or_node_is_gone(played: Played, loss: str) -> None:
    seen = pod(1, annotation(1, simulated("a")))
    played.fleet.pod_seen(seen)
    await played.wait(1, "a", EngineState.READY)
    async with played.http.get(played.status_url(1) + "?watch=1") as response:
        await response.content.readline()
        if loss == "pod":
            played.fleet.pod_gone(seen)
        else:
            played.fleet.node_gone(NODE)
        async with asyncio.timeout(2):
            await response.content.read()
    assert await played.status(1) is None


async def test_an_address_given_to_another_pod_stays_with_it_when_the_former_is_gone(played: Played) -> None:
    former = pod(1, annotation(1, simulated("a")))
    played.fleet.pod_seen(former)
    successor = pod(1, annotation(1, simulated("b")), uid="pod-new")
    played.fleet.pod_seen(successor)
    played.fleet.pod_gone(former)
    assert (await played.wait(1, "b", EngineState.READY)).pod_uid == "pod-new"


async def test_a_heartbeat_repeats_the_last_line(played: Played) -> None:
    played.fleet.pod_seen(pod(1, annotation(1, simulated("a"))))
    await played.wait(1, "a", EngineState.READY)
    async with played.http.get(played.status_url(1) + "?watch=1") as response:
        first = await response.content.readline()
        waiting = asyncio.create_task(response.content.readline())
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done, "control: without a beat nothing comes"
        played.fleet.beat(0)
        assert await asyncio.wait_for(waiting, 2) == first


async def test_a_runner_has_its_heartbeat_every_second_while_older_ones_keep_leaving(played: Played) -> None:
    # An odd place among all, and one less with every part: never that of the part.
    staying = 2 * BEATS + 2
    older = [pod(number, annotation(1, simulated("a"))) for number in range(1, staying)]
    for each in (*older, pod(staying, annotation(1, simulated("a")))):
        played.fleet.pod_seen(each)
    await played.wait(staying, "a", EngineState.READY)
    async with played.http.get(played.status_url(staying) + "?watch=1") as response:
        await response.content.readline()
        for second in range(2):
            for part in range(BEATS):
                played.fleet.beat(part)
                played.fleet.pod_gone(older.pop())
            line = await asyncio.wait_for(response.content.readline(), 2)
            assert runner_status.decode(line).pod_uid == f"pod-{staying}", f"second {second}"


async def test_requests_are_counted_in_the_status_though_none_is_there_any_more(played: Played) -> None:
    played.fleet.pod_seen(pod(1, annotation(1, simulated("a"))))
    await played.wait(1, "a", EngineState.READY)
    body = {"model": "a", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
    url = f"http://127.77.0.1:{played.api_port}/v1/chat/completions"
    async with played.http.post(url, json=body) as response:
        assert response.status == 200
        await response.read()

    async def load() -> list[tuple[int, int, int]]:
        played.fleet.beat(0)
        status = await played.status(1)
        return [(each.running, each.waiting, each.requests) for each in (status.engines if status else ())]

    async with asyncio.timeout(5):
        while (seen := await load()) != [(0, 0, 1)]:
            assert seen == [(1, 0, 1)]
            await asyncio.sleep(0.01)
