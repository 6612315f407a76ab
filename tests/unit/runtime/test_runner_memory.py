"""The memory of a whole runner: room that sleep makes, and an engine that outgrows its part."""

from pathlib import Path

import msgspec
import pytest

from support.runner_process import QUICK, RunnerProcess, engine_of, running_runner, simulated, state_of
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.vocabulary import DesiredState, EngineState

pytestmark = pytest.mark.timeout(60)
MIB = 1 << 20


def holding(name: str, held_mib: int, budget_mib: int, **fields: object) -> EngineAssignment:
    """Return an engine that really holds memory, beside the 20 MiB its process takes."""
    behaviour = msgspec.structs.replace(QUICK, memory=held_mib * MIB, asleep_memory=4 * MIB, holds_memory=True)
    return simulated(name, behaviour, awake_bytes=budget_mib * MIB, asleep_bytes=60 * MIB, **fields)


async def test_an_engine_that_sleeps_makes_room_for_another(tmp_path: Path) -> None:
    async with running_runner(tmp_path, "--stop-seconds=2", memory_limit_bytes=400 * MIB) as runner:
        asleep = {"state": DesiredState.ASLEEP}
        runner.assign(1, holding("a", 100, 300))
        await runner.wait_ready("a")
        runner.assign(2, holding("a", 100, 300, **asleep), holding("b", 100, 300))
        assert state_of(await runner.wait_ready("b"), "a") is EngineState.ASLEEP
        runner.assign(3, holding("a", 100, 300), holding("b", 100, 300, **asleep))
        assert state_of(await runner.wait_ready("a"), "b") is EngineState.ASLEEP
        pids = runner.processes("warmfleet_runtime.simulated")
        assert len(pids) == 2, "both kept their process"
        await runner.wait(lambda status: 0 < status.memory_bytes < 250 * MIB)


async def test_an_engine_that_outgrows_its_budget_ends_alone_and_backs_off(tmp_path: Path) -> None:
    async with running_runner(tmp_path, memory_limit_bytes=400 * MIB) as runner:
        runner.assign(1, holding("good", 60, 200, order=1))
        await runner.wait_ready("good")
        (good,) = engine_pids(runner)
        runner.assign(2, holding("good", 60, 200, order=1), holding("greedy", 330, 200, order=2))
        status = await runner.wait(
            lambda status: (m := engine_of(status, "greedy")) is not None and m.failed_starts > 0
        )
        greedy = engine_of(status, "greedy")
        assert greedy and greedy.error
        assert f"outgrew its memory budget of {200 * MIB} bytes" in greedy.error.message
        assert "raise resources.memory" in greedy.error.message
        assert state_of(status, "good") is EngineState.READY
        assert good in engine_pids(runner), "the other one was not touched"
        async with runner.chat("good", tokens=1) as response:
            assert response.status == 200


def engine_pids(runner: RunnerProcess) -> list[int]:
    return runner.processes("warmfleet_runtime.simulated")
