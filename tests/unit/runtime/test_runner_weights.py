"""A whole runner whose engine reads from the weight store."""

import fcntl
import os
import signal
from pathlib import Path

import pytest

from support.entries import show
from support.runner_process import RunnerProcess, engine_of, runner_with_fake_zygote, state_of, vllm
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState, Stage, ZygoteState

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def view(tmp_path: Path) -> Path:
    folder = tmp_path / "view"
    folder.mkdir()
    return folder


def reader(view: Path) -> EngineAssignment:
    return vllm("m", view / "model-1")


def m(status: RunnerStatus) -> EngineStatus:
    found = engine_of(status, "m")
    assert found is not None
    return found


def waits(status: RunnerStatus) -> bool:
    found = engine_of(status, "m")
    return found is not None and found.waits_for == ("model-1",)


def is_forked(status: RunnerStatus) -> bool:
    found = engine_of(status, "m")
    return found is not None and found.launch is not None


def has_zygote(status: RunnerStatus) -> bool:
    return status.zygote is not None and status.zygote.state is ZygoteState.READY


def engine_pids(runner: RunnerProcess) -> list[int]:
    """Return the processes of the engine: they have the zygote's command line, but a log of their own."""
    pids = runner.processes("fake_zygote.py")
    return [pid for pid in pids if Path(f"/proc/{pid}/fd/1").readlink().name == "m.log"]


def is_locked(manifest: Path) -> bool:
    with manifest.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


async def test_an_engine_is_forked_when_its_weights_come_and_they_are_locked_as_long_as_it_lives(
    tmp_path: Path, view: Path
) -> None:
    async with runner_with_fake_zygote(tmp_path, f"--weights={view}") as runner:
        await runner.wait(has_zygote)
        runner.assign(1, reader(view))
        status = await runner.wait(waits)
        assert (m(status).state, m(status).stage) == (EngineState.STARTING, Stage.WEIGHTS_IN_MEMORY)
        assert engine_pids(runner) == []
        manifest = show(view, "model-1")
        status = await runner.wait(is_forked)
        assert m(status).waits_for == ()
        assert m(status).weight_bytes == 12, "as the manifest says, before the engine says anything"
        assert Stage.WEIGHTS_IN_MEMORY in [stage.name for stage in m(status).stages]
        assert is_locked(manifest)

        runner.assign(2)
        await runner.wait(lambda status: not status.engines)
        assert engine_pids(runner) == []
        assert not is_locked(manifest)


async def test_weights_that_are_there_cost_no_wait(tmp_path: Path, view: Path) -> None:
    show(view, "model-1")
    async with runner_with_fake_zygote(tmp_path, f"--weights={view}") as runner:
        await runner.wait(has_zygote)
        runner.assign(1, reader(view))
        stages = {stage.name: stage.milliseconds for stage in m(await runner.wait(is_forked)).stages}
        assert stages[Stage.WEIGHTS_IN_MEMORY] < 100


async def test_a_wait_ends_with_the_assignment_and_with_the_runner(tmp_path: Path, view: Path) -> None:
    async with runner_with_fake_zygote(tmp_path, f"--weights={view}") as runner:
        runner.assign(1, reader(view))
        await runner.wait(waits)
        runner.assign(2)
        await runner.wait(lambda status: not status.engines, seconds=2)
        runner.assign(3, reader(view))
        await runner.wait(waits)
        assert await runner.terminate(5) == 0


async def test_a_restarted_container_locks_again_and_its_wait_is_no_death_of_the_engine(
    tmp_path: Path, view: Path
) -> None:
    for _ in range(3):
        async with runner_with_fake_zygote(tmp_path, f"--weights={view}") as runner:
            runner.assign(1, reader(view))
            await runner.wait(waits)
            os.kill(runner.process.pid, signal.SIGKILL)
    manifest = show(view, "model-1")
    async with runner_with_fake_zygote(tmp_path, f"--weights={view}") as runner:
        runner.assign(1, reader(view))
        await runner.wait(is_forked)
        assert is_locked(manifest)
    assert not is_locked(manifest), "the kernel lets go of what a killed PID 1 held"


async def test_weights_that_are_not_whole_fail_the_engine_in_words(tmp_path: Path, view: Path) -> None:
    show(view, "model-1", sizes={"model.safetensors": 4096})
    async with runner_with_fake_zygote(tmp_path, f"--weights={view}") as runner:
        runner.assign(1, reader(view))
        status = await runner.wait(lambda status: state_of(status, "m") is EngineState.FAILED)
        error = m(status).error
        assert error is not None and "has 10 bytes instead of 4096" in error.message
        assert engine_pids(runner) == []
