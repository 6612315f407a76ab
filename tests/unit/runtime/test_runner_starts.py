"""The starts of a whole runner: their records, and what a runner remembers of them when its container died."""

import os
import signal
from pathlib import Path

import msgspec
import pytest

from support.runner_process import RunnerProcess, engine_of, fault, running_runner, simulated, state_of
from warmfleet_api import names
from warmfleet_api.runner_status import StartRecord
from warmfleet_api.vocabulary import DesiredState, EngineState, Launch, StartType

pytestmark = pytest.mark.timeout(60)


async def starts_of(runner: RunnerProcess) -> list[StartRecord]:
    async with runner.http.get(runner.status_url + names.PATH_STARTS) as response:
        return [msgspec.json.decode(line, type=StartRecord) for line in (await response.read()).splitlines()]


async def test_every_start_is_recorded_with_its_stages_and_what_it_cost(tmp_path: Path) -> None:
    async with running_runner(tmp_path) as runner:
        runner.assign(1, simulated("m"), simulated("bad", fault("CrashAtStart"), order=1))
        await runner.wait(lambda status: (bad := engine_of(status, "bad")) is not None and bad.failed_starts == 1)
        runner.assign(2, simulated("m", state=DesiredState.ASLEEP))
        await runner.wait(lambda status: state_of(status, "m") is EngineState.ASLEEP)
        runner.assign(3, simulated("m"))
        await runner.wait_ready("m")
        cold, failed, hot = await starts_of(runner)
    assert [each.sequence for each in (cold, failed, hot)] == [1, 2, 3]
    assert (cold.engine, cold.start_type, cold.launch, cold.error) == ("m", StartType.COLD, Launch.EXEC, None)
    assert failed.engine == "bad" and failed.error and "CrashAtStart" in failed.error.message
    assert (hot.engine, hot.start_type, hot.launch) == ("m", StartType.HOT, None)
    assert [stage.name.value for stage in hot.stages] == ["WeightsLoaded", "WarmedUp"]
    for each in (cold, hot):
        assert each.milliseconds >= sum(stage.milliseconds for stage in each.stages) - len(each.stages), "rounded"
        assert each.first_request_milliseconds is not None
    assert sum(stage.cpu_milliseconds for stage in cold.stages) > 0
    assert sum(stage.cpu_milliseconds for stage in hot.stages) < sum(stage.cpu_milliseconds for stage in cold.stages)


async def test_an_engine_whose_start_took_the_container_down_twice_is_failed_and_the_others_serve(
    tmp_path: Path,
) -> None:
    good, deadly = simulated("good", order=1), simulated("deadly", fault("HangAtStart"), order=2)
    for _ in range(2):
        async with running_runner(tmp_path) as runner:
            runner.assign(1, good, deadly)
            await runner.wait(lambda status: (m := engine_of(status, "deadly")) is not None and bool(m.stages))
            os.kill(runner.process.pid, signal.SIGKILL)
            await runner.process.wait()
    async with running_runner(tmp_path) as runner:
        runner.assign(1, good, deadly)
        status = await runner.wait_ready("good")
        engine = engine_of(status, "deadly")
        assert engine and engine.state is EngineState.FAILED and engine.starts == 0
        assert engine.error and "died 2 times while this engine was starting" in engine.error.message
        runner.assign(2, good, simulated("deadly", order=2, hash="mended"))
        await runner.wait_ready("deadly")


async def test_a_runner_that_was_told_to_end_blames_no_engine(tmp_path: Path) -> None:
    slow = simulated("slow", fault("HangAtStart"))
    for _ in range(2):
        async with running_runner(tmp_path) as runner:
            runner.assign(1, slow)
            await runner.wait(lambda status: (m := engine_of(status, "slow")) is not None and bool(m.stages))
            assert await runner.terminate() == 0
    async with running_runner(tmp_path) as runner:
        runner.assign(1, slow)
        await runner.wait(lambda status: (m := engine_of(status, "slow")) is not None and m.starts == 1)
