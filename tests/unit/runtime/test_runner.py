"""A whole runner: real processes on unix sockets, requests through the real front."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from support.runner_process import (
    QUICK,
    RunnerProcess,
    engine_of,
    fault,
    is_running,
    running_runner,
    simulated,
    state_of,
    vllm,
)
from warmfleet_api import names
from warmfleet_api.assignment import SimulatedEngine
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import EngineState, Reason, Stage

pytestmark = pytest.mark.timeout(60)
MIB = 1 << 20
SLOW_TOKENS = SimulatedEngine(
    load_milliseconds=0, initialize_milliseconds=0, first_token_milliseconds=5, tokens_per_second=20
)


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    async with running_runner(tmp_path, "--stop-seconds=2", "--drain-seconds=5") as runner:
        yield runner


async def events_of(response: aiohttp.ClientResponse) -> list[str]:
    """Return the data of all server-sent events."""
    text = (await response.read()).decode()
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


async def test_an_assigned_engine_becomes_ready_with_its_stages_and_streams_an_answer(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("m"))
    engine = engine_of(await runner.wait_ready("m"), "m")
    assert engine
    assert [stage.name.value for stage in engine.stages] == [
        "RunnerReady",
        "EngineForked",
        "WeightsLoaded",
        "CacheAllocated",
        "WarmedUp",
    ]
    assert engine.first_request_milliseconds is not None and engine.first_request_milliseconds >= 5
    async with runner.chat("m", tokens=3) as response:
        events = await events_of(response)
    contents = [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:-1]]
    assert (contents, events[-1]) == (["token 0 ", "token 1 ", "token 2 "], "[DONE]")
    async with runner.chat("m", tokens=3, stream=False) as response:
        assert (await response.json())["usage"]["completion_tokens"] == 3
    assert await runner.metric('warmfleet_requests_total{code="200",model="m"}') == 2
    assert await runner.metric('vllm:request_success_total{finished_reason="length",model="m"}') == 4, (
        "the two of the warm-up included"
    )


async def test_probes_follow_the_engine(runner: RunnerProcess) -> None:
    await runner.wait(lambda _: True)
    assert [await runner.probe(path) for path in (names.PATH_STARTUP, names.PATH_READY, names.PATH_LIVE)] == [
        503,
        503,
        200,
    ]
    runner.assign(1, simulated("m"))
    await runner.wait_ready("m")
    assert [await runner.probe(path) for path in (names.PATH_STARTUP, names.PATH_READY, names.PATH_LIVE)] == [
        200,
        200,
        200,
    ]


async def test_a_request_finds_its_engine_by_name_and_others_are_told_what_is_served(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("a", order=1), simulated("b", order=2))
    await runner.wait_ready("a", "b")
    async with runner.chat("b", tokens=1, stream=False) as response:
        assert (await response.json())["model"] == "b"
    async with runner.chat("c", tokens=1) as response:
        body = await response.json()
        assert (response.status, body["error"]["message"]) == (404, "model 'c' is not served here; served: a, b")
    async with runner.http.get(runner.api + "/v1/models") as response:
        assert [model["id"] for model in (await response.json())["data"]] == ["a", "b"]


async def test_a_body_that_names_no_model_is_refused_in_openai_s_shape(runner: RunnerProcess) -> None:
    await runner.wait(lambda _: True)
    for body in (b"", b"{", b"[]", b'{"model": 3}', b"\xff\xfe", b"[" * 100_000, b'{"messages": []}'):
        async with runner.http.post(runner.api + "/v1/completions", data=body) as response:
            assert (response.status, (await response.json())["error"]["type"]) == (400, "invalid_request_error")


async def test_an_engine_that_still_starts_answers_503_with_its_state(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("m", SimulatedEngine(load_milliseconds=8000)))
    await runner.wait(lambda status: state_of(status, "m") is EngineState.STARTING)
    async with runner.chat("m", tokens=1) as response:
        assert (response.status, response.headers[names.HEADER_STATE]) == (503, "Starting")
        assert int(response.headers["Retry-After"]) > 0


async def test_a_client_that_leaves_frees_the_engine(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("m", SLOW_TOKENS))
    await runner.wait_ready("m")
    # Control: while the client stays the engine is seen to work.
    async with runner.chat("m", tokens=1000) as response:
        await response.content.readany()
        assert await runner.metric("vllm:num_requests_running") == 1
        response.close()
    await runner.wait_metric("vllm:num_requests_running", 0)
    whole = asyncio.create_task(_read_whole(runner, tokens=1000))
    await runner.wait_metric("vllm:num_requests_running", 1)
    whole.cancel()
    await asyncio.gather(whole, return_exceptions=True)
    await runner.wait_metric("vllm:num_requests_running", 0)
    assert await runner.metric('vllm:request_success_total{finished_reason="abort"') == 2
    assert await runner.metric('warmfleet_requests_total{code="cancelled",model="m"}') == 2


async def _read_whole(runner: RunnerProcess, tokens: int) -> None:
    async with runner.chat("m", tokens=tokens, stream=False) as response:
        await response.read()


async def test_an_engine_killed_mid_stream_ends_it_with_an_error_and_comes_back(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("m", SLOW_TOKENS))
    await runner.wait_ready("m")
    async with runner.chat("m", tokens=1000) as response:
        await response.content.readany()
        (pid,) = runner.processes("warmfleet_runtime.simulated")
        os.kill(pid, signal.SIGKILL)
        events = await events_of(response)
    assert json.loads(events[-1])["error"]["code"] == "engine_lost"
    assert "[DONE]" not in events
    status = await runner.wait(lambda status: (m := engine_of(status, "m")) is not None and m.starts == 2)
    assert engine_of(status, "m")
    await runner.wait_ready("m")
    async with runner.chat("m", tokens=1) as response:
        assert (await events_of(response))[-1] == "[DONE]"


async def test_a_crashing_engine_is_failed_with_its_last_words_and_disturbs_no_other(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("bad", fault("CrashAtStart"), order=1), simulated("good", order=2))
    await runner.wait_ready("good")
    status = await runner.wait(lambda status: state_of(status, "bad") is EngineState.FAILED, seconds=15)
    bad = engine_of(status, "bad")
    assert bad and bad.error and bad.failed_starts == 3
    assert bad.error.reason is Reason.ENGINE_CRASHING
    assert "simulated fault: CrashAtStart" in bad.error.message
    assert state_of(status, "good") is EngineState.READY
    assert await runner.probe(names.PATH_STARTUP) == 200, "the kubelet must not restart the good one"


async def test_a_hanging_start_is_killed_when_its_budget_is_spent(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("m", fault("HangAtStart"), start_budget_seconds=1))
    status = await runner.wait(lambda status: (m := engine_of(status, "m")) is not None and m.failed_starts == 1)
    m = engine_of(status, "m")
    assert m and m.error and "no stage of the start progressed within 1 s" in m.error.message


async def test_a_missing_model_is_told_at_once_and_looked_for_again(runner: RunnerProcess, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    runner.assign(1, vllm("m", weights))
    await runner.wait(partial(_has_error, Reason.MODEL_NOT_FOUND))
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "pytorch_model.bin").touch()
    await runner.wait(partial(_has_error, Reason.UNSAFE_FORMAT))
    assert await runner.probe(names.PATH_STARTUP) == 200, "a restart of the container would not help"


def _has_error(reason: Reason, status: RunnerStatus) -> bool:
    return any(engine.error is not None and engine.error.reason is reason for engine in status.engines)


VLLM_WITH_A_STUBBORN_CHILD = """
import os, signal
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("child", os.getpid(), flush=True)
else:
    print("INFO [cpu_model_runner.py:68] Starting to load model /weights...", flush=True)
signal.pause()
"""


async def test_a_vllm_that_is_killed_takes_all_its_processes_with_it(tmp_path: Path) -> None:
    main = tmp_path / "packages/vllm/entrypoints/cli/main.py"
    main.parent.mkdir(parents=True)
    main.write_text(VLLM_WITH_A_STUBBORN_CHILD)
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    path = os.pathsep.join([str(tmp_path / "packages"), os.environ.get("PYTHONPATH", "")])
    async with running_runner(tmp_path, "--stop-seconds=1", environment={"PYTHONPATH": path}) as runner:
        runner.assign(1, vllm("m", weights))
        status = await runner.wait(lambda status: (m := engine_of(status, "m")) is not None and len(m.stages) == 2)
        m = engine_of(status, "m")
        assert m and (m.stage, m.weight_bytes) == (Stage.WEIGHTS_LOADED, 10)
        pids = runner.processes("vllm.entrypoints.cli.main serve")
        assert len(pids) == 2, "control: it has a child"
        runner.assign(2)
        await runner.wait(lambda status: status.revision == 2 and not status.engines)
        assert not any(map(is_running, pids))


async def test_an_engine_that_crashes_while_ready_is_started_again(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("m", fault("CrashAfterSeconds", after_seconds=0)))
    await runner.wait(lambda status: (m := engine_of(status, "m")) is not None and m.starts >= 2)


async def test_failed_requests_reach_the_client_as_the_engine_gave_them(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("m", fault("FailRequests")))
    await runner.wait_ready("m")
    async with runner.chat("m", tokens=1) as response:
        assert (response.status, (await response.json())["error"]["message"]) == (500, "simulated fault")


async def test_the_front_is_replaced_while_engines_go_on(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("m"))
    await runner.wait_ready("m")
    engines = runner.processes("warmfleet_runtime.simulated")
    (front,) = runner.processes("warmfleet_runtime.front")
    os.kill(front, signal.SIGKILL)
    await asyncio.sleep(0.1)
    await runner.wait_ready("m")
    assert runner.processes("warmfleet_runtime.front") != [front]
    assert runner.processes("warmfleet_runtime.simulated") == engines
    async with runner.chat("m", tokens=2) as response:
        assert (await events_of(response))[-1] == "[DONE]"


async def test_sigterm_lets_running_requests_finish_and_refuses_new_ones(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("m", SLOW_TOKENS))
    await runner.wait_ready("m")
    async with runner.chat("m", tokens=30) as response:
        await response.content.readany()
        ending = asyncio.create_task(runner.terminate())
        await runner.wait(lambda status: status.draining)
        assert await runner.probe(names.PATH_READY) == 503
        async with runner.chat("m", tokens=1) as refused:
            assert (refused.status, refused.headers[names.HEADER_STATE]) == (503, "Draining")
        assert (await events_of(response))[-1] == "[DONE]"
    assert await ending == 0
    assert not runner.processes("warmfleet_runtime")


async def test_draining_does_not_wait_for_ever(tmp_path: Path) -> None:
    async with running_runner(tmp_path, "--stop-seconds=1", "--drain-seconds=0.5") as runner:
        runner.assign(1, simulated("m", SLOW_TOKENS))
        await runner.wait_ready("m")
        async with runner.chat("m", tokens=10_000) as response:
            await response.content.readany()
            assert await runner.terminate() == 0


async def test_an_engine_taken_out_of_the_assignment_is_drained_and_gone(runner: RunnerProcess) -> None:
    runner.assign(1, simulated("a"), simulated("b", SLOW_TOKENS))
    await runner.wait_ready("a", "b")
    async with runner.chat("b", tokens=20) as response:
        await response.content.readany()
        runner.assign(2, simulated("a"))
        await runner.wait(lambda status: state_of(status, "b") is EngineState.DRAINING)
        assert (await events_of(response))[-1] == "[DONE]"
    await runner.wait(lambda status: state_of(status, "b") is None)
    assert len(runner.processes("warmfleet_runtime.simulated")) == 1


async def test_bad_assignments_are_told_and_change_nothing(runner: RunnerProcess) -> None:
    status = await runner.wait(lambda status: bool(status.error))
    assert "no assignment file at" in status.error
    runner.assign(5, simulated("m"))
    await runner.wait_ready("m")
    for value, message in (
        ("{", "unreadable assignment"),
        ("", "unreadable assignment"),
        ("[" * 70_000, "over the limit"),
    ):
        runner.write_assignment(value)
        status = await runner.wait(partial(_says, message))
        assert (status.revision, state_of(status, "m")) == (5, EngineState.READY)
    runner.assign(4)
    await runner.wait(lambda status: "refused assignment revision 4" in status.error)
    runner.assign(6, simulated("m"))
    status = await runner.wait(lambda status: not status.error)
    m = engine_of(status, "m")
    assert m and (m.starts, status.revision) == (1, 6)


def _says(message: str, status: RunnerStatus) -> bool:
    return message in status.error


async def test_what_does_not_fit_the_memory_limit_is_refused(tmp_path: Path) -> None:
    async with running_runner(tmp_path, memory_limit_bytes=1000 * MIB) as runner:
        runner.assign(1, simulated("big", awake_bytes=2000 * MIB), simulated("small", awake_bytes=1000 * MIB))
        status = await runner.wait_ready("small")
        big = engine_of(status, "big")
        assert big and big.error and big.error.reason is Reason.NEVER_FITS
        assert f"engine big: needs {2000 * MIB} bytes" in status.error


async def test_the_stream_has_a_line_per_change_and_a_heartbeat(runner: RunnerProcess) -> None:
    await runner.wait(lambda _: True)
    lines: list[dict[str, object]] = []
    async with runner.http.get(runner.status_url + names.PATH_STATUS + "?watch=1") as response:
        runner.assign(1, simulated("m", QUICK))
        async with asyncio.timeout(8):
            while not lines or lines[-1].get("engines", [{}])[0].get("state") != "Ready":  # type: ignore[index]
                lines.append(json.loads(await response.content.readline()))
            await response.content.readline()
            await response.content.readline()
    states = [line["engines"][0]["state"] for line in lines if line.get("engines")]  # type: ignore[index]
    assert states[0] == "Starting" and states[-1] == "Ready"


async def test_heads_over_the_bound_are_refused_and_the_next_request_is_served(runner: RunnerProcess) -> None:
    await runner.wait(lambda _: True)
    host, port = "127.0.0.1", int(runner.api.rpartition(":")[2])
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + b"x-filler: " + b"a" * 200_000)
    await writer.drain()
    assert b" 431 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    async with runner.http.get(runner.api + "/v1/models") as response:
        assert response.status == 200
