"""Sleep through a whole runner, PID 1, front and process of a Simulated engine, in both ways to sleep."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from support.runner_process import RunnerProcess, engine_of, running_runner, simulated, state_of
from warmfleet_api import names
from warmfleet_api.assignment import SimulatedEngine, SimulatedFault
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import DesiredState, EngineState, StartType, WakePolicy

MIB = 1024 * 1024
BEHAVIOUR = SimulatedEngine(
    load_milliseconds=20,
    initialize_milliseconds=10,
    first_token_milliseconds=5,
    tokens_per_second=200,
    sleep_milliseconds=20,
    wake_milliseconds=20,
    memory=96 * MIB,
    asleep_memory=8 * MIB,
    holds_memory=True,
)
ASLEEP = DesiredState.ASLEEP


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    async with running_runner(tmp_path, "--stop-seconds=1", "--drain-seconds=2") as runner:
        yield runner


async def test_an_engine_ordered_asleep_gives_its_memory_back_and_is_woken_by_the_next_assignment(
    runner: RunnerProcess,
) -> None:
    engine = simulated("a", BEHAVIOUR)
    runner.assign(1, engine)
    awake = await runner.wait(lambda status: holds(status, "a") > 96 * MIB)
    pids = runner.processes("warmfleet_runtime.simulated")
    runner.assign(2, msgspec.structs.replace(engine, state=ASLEEP))
    await runner.wait(
        lambda status: state_of(status, "a") is EngineState.ASLEEP and holds(status, "a") < holds(awake, "a") - 80 * MIB
    )
    async with runner.chat("a", tokens=1) as response:
        assert (response.status, response.headers[names.HEADER_STATE]) == (503, "Asleep")
        assert int(response.headers["Retry-After"]) > 0
    runner.assign(3, engine)
    status = await runner.wait(lambda status: state_of(status, "a") is EngineState.READY, seconds=15)
    told = engine_of(status, "a")
    assert told is not None and told.start_type is StartType.HOT
    assert runner.processes("warmfleet_runtime.simulated") == pids, "it is the same process"
    async with runner.chat("a", tokens=1) as response:
        assert response.status == 200


async def test_an_idle_engine_falls_asleep_and_a_request_wakes_it(runner: RunnerProcess) -> None:
    engine = simulated("a", BEHAVIOUR, state=ASLEEP, wake=WakePolicy.ON_REQUEST, idle_seconds=1)
    runner.assign(1, msgspec.structs.replace(engine, state=DesiredState.READY))
    await runner.wait_ready("a")
    runner.assign(2, engine)
    for _ in range(2):
        await runner.wait(lambda status: state_of(status, "a") is EngineState.ASLEEP)
        async with runner.chat("a", tokens=2) as response:
            assert response.status == 200
            assert b"[DONE]" in await response.read()
        assert state_of(await runner.status(), "a") is EngineState.READY


async def test_an_engine_that_can_not_sleep_in_place_sleeps_by_being_stopped(runner: RunnerProcess) -> None:
    engine = simulated("a", msgspec.structs.replace(BEHAVIOUR, fault=SimulatedFault(kind="FailSleep")))
    runner.assign(1, engine)
    await runner.wait_ready("a")
    runner.assign(2, msgspec.structs.replace(engine, state=ASLEEP))
    await runner.wait(lambda status: state_of(status, "a") is EngineState.ASLEEP)
    assert not runner.processes("warmfleet_runtime.simulated")
    runner.assign(3, engine)
    await runner.wait_ready("a")


async def test_an_engine_that_hangs_at_its_wake_is_started_anew(runner: RunnerProcess) -> None:
    behaviour = msgspec.structs.replace(BEHAVIOUR, fault=SimulatedFault(kind="HangAtWake"))
    engine = simulated("a", behaviour, start_budget_seconds=8)
    runner.assign(1, engine)
    await runner.wait_ready("a")
    runner.assign(2, msgspec.structs.replace(engine, state=ASLEEP))
    await runner.wait(lambda status: state_of(status, "a") is EngineState.ASLEEP)
    (pid,) = runner.processes("warmfleet_runtime.simulated")
    runner.assign(3, engine)
    await runner.wait_ready("a", seconds=60)
    assert runner.processes("warmfleet_runtime.simulated") not in ([], [pid])


def holds(status: RunnerStatus, name: str) -> int:
    engine = engine_of(status, name)
    return engine.memory_bytes if engine else 0
