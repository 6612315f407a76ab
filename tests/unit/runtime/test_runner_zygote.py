"""A whole runner that forks its engines, from a zygote that has something light in the place of vLLM."""

import asyncio
import os
import signal
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from support.runner_process import RunnerProcess, engine_of, is_running, runner_with_fake_zygote, vllm
from support.waiting import wait_for
from warmfleet_api.artifacts import cache_name
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import Launch, Stage, ZygoteState

pytestmark = pytest.mark.timeout(60)


def forking_runner(folder: Path, fault: str = "none") -> AbstractAsyncContextManager[RunnerProcess]:
    weights = folder / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    (weights / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return runner_with_fake_zygote(folder, fault=fault)


def engine_pids(runner: RunnerProcess) -> list[int]:
    """Return the processes of the engine: they have the zygote's command line, but a log of their own."""
    pids = runner.processes("fake_zygote.py")
    return [pid for pid in pids if is_running(pid) and Path(f"/proc/{pid}/fd/1").readlink().name == "m.log"]


def has_converged(revision: int, status: RunnerStatus) -> bool:
    return status.revision == revision


async def forked_pids(runner: RunnerProcess) -> list[int]:
    await runner.wait(is_forked)
    return engine_pids(runner)


def is_forked(status: RunnerStatus) -> bool:
    m = engine_of(status, "m")
    return m is not None and m.launch is Launch.FORK and m.weight_bytes == 10


async def test_an_engine_waits_for_the_zygote_and_is_forked(tmp_path: Path) -> None:
    async with forking_runner(tmp_path) as runner:
        runner.assign(1, vllm("m", tmp_path / "weights"))
        status = await runner.wait(is_forked)
        assert status.zygote and status.zygote.state is ZygoteState.READY
        m = engine_of(status, "m")
        assert m and [stage.name for stage in m.stages] == [Stage.RUNNER_READY]
        assert m.stages[0].milliseconds >= (status.zygote.import_milliseconds or 0)
        assert len(engine_pids(runner)) == 2, "with its helper"


async def test_a_zygote_that_is_killed_takes_no_engine_along_and_comes_back(tmp_path: Path) -> None:
    async with forking_runner(tmp_path) as runner:
        runner.assign(1, vllm("m", tmp_path / "weights"))
        engines = await forked_pids(runner)
        (zygote,) = set(runner.processes("fake_zygote.py")) - set(engines)
        os.kill(zygote, signal.SIGKILL)
        await runner.wait(lambda status: status.zygote is not None and status.zygote.state is ZygoteState.IMPORTING)
        await runner.wait(lambda status: status.zygote is not None and status.zygote.state is ZygoteState.READY)
        assert engine_pids(runner) == engines
        os.kill(engines[0], signal.SIGKILL)
        await runner.wait(lambda status: (m := engine_of(status, "m")) is not None and m.failed_starts == 1)
        await runner.wait(lambda status: (m := engine_of(status, "m")) is not None and m.starts == 2)
        await runner.wait(is_forked)
        assert not is_running(engines[1]), "a group ends as a whole"


async def test_an_engine_that_is_taken_out_while_it_is_forked_leaves_nothing(tmp_path: Path) -> None:
    async with forking_runner(tmp_path) as runner:
        await runner.wait(lambda status: status.zygote is not None and status.zygote.state is ZygoteState.READY)
        for revision in range(1, 20, 2):
            runner.assign(revision, vllm("m", tmp_path / "weights"))
            await runner.wait(partial(has_converged, revision))
            runner.assign(revision + 1)
            await runner.wait(partial(has_converged, revision + 1))
            await runner.wait(lambda status: not status.engines)
            assert engine_pids(runner) == []


async def test_forked_engines_die_with_pid_1(tmp_path: Path) -> None:
    async with forking_runner(tmp_path) as runner:
        runner.assign(1, vllm("m", tmp_path / "weights"))
        engines = await forked_pids(runner)
        runner.process.kill()
        await runner.process.wait()
        await asyncio.to_thread(wait_for, "the engine's end", lambda: not is_running(engines[0]), 5)


async def test_an_engine_that_compiles_without_a_word_is_alive_as_long_as_it_leaves_files(tmp_path: Path) -> None:
    async with forking_runner(tmp_path) as runner:
        await runner.wait(lambda status: status.zygote is not None and status.zygote.state is ZygoteState.READY)
        silent = replace(vllm("m", tmp_path / "weights"), start_budget_seconds=2)
        runner.assign(1, silent)
        await runner.wait(is_forked)
        locks = tmp_path / "cache" / cache_name(silent.engine) / "inductor" / "locks"
        locks.mkdir(parents=True)
        for number in range(8):
            (locks / f"{number}.lock").touch()
            await asyncio.sleep(0.5)
        m = engine_of(await runner.status(), "m")
        assert m and m.failed_starts == 0
        await runner.wait(lambda status: (m := engine_of(status, "m")) is not None and m.failed_starts == 1)


async def test_a_zygote_that_can_not_be_is_told_and_engines_are_executed(tmp_path: Path) -> None:
    async with forking_runner(tmp_path, "mismatch") as runner:
        runner.assign(1, vllm("m", tmp_path / "weights"))
        status = await runner.wait(lambda status: (m := engine_of(status, "m")) is not None and m.launch is not None)
        m = engine_of(status, "m")
        assert m and m.launch is Launch.EXEC
        assert status.zygote and status.zygote.state is ZygoteState.UNAVAILABLE
        assert "vLLM 9.9 is installed" in status.zygote.message
