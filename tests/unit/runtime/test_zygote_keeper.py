"""The keeper with real processes, links and forks; only vLLM is missing."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from support.runner_process import is_running
from warmfleet_api import names
from warmfleet_api.runner_status import ZygoteStatus
from warmfleet_api.vocabulary import ZygoteState
from warmfleet_runtime import config, processes, zygote_keeper
from warmfleet_runtime.engines.vllm import environment_of
from warmfleet_runtime.zygote_keeper import ForkError, ForkRequest, ZygoteKeeper

FAKE = Path(__file__).parents[2] / "support" / "fake_zygote.py"
URI = "file:///models/m"


@pytest.fixture(autouse=True)
def subreaper() -> Iterator[None]:
    """This process inherits orphans meanwhile, as PID 1 does."""
    processes.become_subreaper()
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


class Kept:
    """A keeper and what drives it: the loop of a supervisor, as far as a zygote needs it."""

    def __init__(self, folder: Path, fault: str, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.model = folder / "model"
        self.model.mkdir()
        (self.model / "config.json").write_text("{}")
        (self.model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        self.changes: list[ZygoteStatus | None] = []
        self.ended: dict[int, int] = {}
        self.mine: set[int] = set()
        runner = config.parse([f"--run-directory={folder}", f"--cache={folder}"], prog="test")
        self.environment = {**os.environ, **(environment or {})}
        command = (sys.executable, "-P", str(FAKE), fault)
        self.keeper = ZygoteKeeper(
            runner, lambda: self.changes.append(self.keeper.status), command=command, environment=self.environment
        )

    @property
    def pid(self) -> int:
        """The zygote's."""
        return self.keeper.pid or 0

    @property
    def state(self) -> ZygoteState | None:
        """The zygote's."""
        return self.keeper.status.state if self.keeper.status else None

    def reap(self) -> None:
        """Reap what this test started, and nothing of pytest's own."""
        for pid in _children():
            found, status = os.waitpid(pid, os.WNOHANG) if "fake_zygote" in _command(pid) or _is_zombie(pid) else (0, 0)
            if found:
                ended = processes.Exit(found, os.waitstatus_to_exitcode(status))
                if not self.keeper.exited(ended):
                    self.ended[found] = ended.exit_code

    async def turn(self, wanted: bool = True) -> None:
        """Do what the supervisor does again and again."""
        self.reap()
        await self.keeper.keep(wanted)
        await asyncio.sleep(0.01)

    async def until(self, condition: Callable[[], object], wanted: bool = True) -> None:
        """Turn until the condition holds."""
        async with asyncio.timeout(30):
            while not condition():
                await self.turn(wanted)

    async def ready(self) -> None:
        """Turn until the zygote is ready."""
        await self.until(lambda: self.state is ZygoteState.READY)

    async def fork(self, name: str, *arguments: str, environment: dict[str, str] | None = None) -> int:
        """Fork an engine of that name."""
        own = environment_of(name, (), self.folder)
        request = ForkRequest(
            arguments=(str(self.model), URI, "--", "serve", *arguments),
            environment={**self.environment, **own, **(environment or {})},
            log=self.folder / f"{name}.log",
        )
        return await self.keeper.fork(request)

    async def said(self, name: str, start: str) -> str:
        """Return what an engine says after `start`, once it does."""
        log = self.folder / f"{name}.log"
        found: list[str] = []

        def look() -> bool:
            lines = log.read_text().splitlines() if log.exists() else []
            found.extend(line.removeprefix(start).strip() for line in lines if line.startswith(start))
            return bool(found)

        await self.until(look)
        return found[0]


@pytest.fixture
async def kept(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Kept]:
    """A keeper; the parameter is the fault its zygote has."""
    kept = Kept(tmp_path, getattr(request, "param", "none"))
    yield kept
    await _end(kept)


async def _end(kept: Kept) -> None:
    kept.keeper.stop(signal.SIGKILL)
    for pid in _children():
        if "fake_zygote" in _command(pid):
            processes.signal_group(os.getpgid(pid), signal.SIGKILL)
    await kept.keeper.close()
    async with asyncio.timeout(5):
        while any("fake_zygote" in _command(pid) or _is_zombie(pid) for pid in _children()):
            kept.reap()
            await asyncio.sleep(0.01)


def _children(pid: int | None = None) -> list[int]:
    """Children of a process, this one by default, unreaped ones included."""
    pid = pid or os.getpid()
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _descriptors(pid: int) -> list[str]:
    return sorted(path.name for path in Path(f"/proc/{pid}/fd").iterdir())


def _parent_group_session(pid: int) -> list[int]:
    return [int(field) for field in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1:4]]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and not is_running(pid)


async def test_a_forked_engine_is_a_child_of_this_process_that_leads_its_own_session(kept: Kept) -> None:
    await kept.ready()
    pid = await kept.fork("m")
    await kept.said("m", "helper")
    assert _parent_group_session(pid) == [os.getpid(), pid, pid]


async def test_the_folder_is_checked_and_vllm_gets_the_arguments_after_it(kept: Kept) -> None:
    await kept.ready()
    await kept.fork("m", "model", "--option")
    assert await kept.said("m", "warmfleet weight bytes:") == "10"
    assert await kept.said("m", "arguments") == "serve model --option"


async def test_an_engine_has_its_own_environment_and_no_descriptor_of_the_zygote(kept: Kept) -> None:
    await kept.ready()
    await kept.fork("m", environment={"VARIABLE": "its own"})
    assert await kept.said("m", "variable") == "its own"
    assert await kept.said("m", "descriptors") == "0 1 2"


async def test_paths_that_libraries_took_from_the_environment_at_import_are_the_engine_s_own(kept: Kept) -> None:
    await kept.ready()
    await kept.fork("m")
    assert await kept.said("m", "cache") == f"{kept.folder}/m/library"


@pytest.mark.parametrize("name", ["READ_AT_IMPORT", "OMP_NUM_THREADS", "LD_PRELOAD"])
async def test_a_variable_that_comes_too_late_refuses_the_fork_and_is_named(kept: Kept, name: str) -> None:
    await kept.ready()
    with pytest.raises(ForkError, match=f"too late for {name}"):
        await kept.fork("m", environment={name: "9"})
    assert await kept.fork("m")


async def test_an_engine_that_fails_ends_with_its_error_in_its_log_and_its_exit_code_here(kept: Kept) -> None:
    await kept.ready()
    pid = await kept.fork("m", "fail")
    await kept.until(lambda: pid in kept.ended)
    assert kept.ended[pid] == 1
    assert await kept.said("m", "RuntimeError:") == "as told"


async def test_a_folder_without_a_model_refuses_the_engine_and_not_the_zygote(kept: Kept) -> None:
    await kept.ready()
    request = ForkRequest(("/nowhere", URI, "--", "serve"), kept.environment, kept.folder / "m.log")
    pid = await kept.keeper.fork(request)
    await kept.until(lambda: pid in kept.ended)
    assert kept.ended[pid] == os.EX_CONFIG
    assert "ModelNotFound" in await kept.said("m", "warmfleet refused:")
    assert kept.state is ZygoteState.READY


async def test_killing_the_zygote_leaves_its_engines_and_brings_up_another_one(kept: Kept) -> None:
    await kept.ready()
    engine = await kept.fork("m")
    await kept.said("m", "helper")
    first = kept.pid
    os.kill(first, signal.SIGKILL)
    await kept.until(lambda: kept.state is ZygoteState.IMPORTING)
    await kept.ready()
    assert is_running(engine) and not is_running(first)
    second = await kept.fork("n")
    await kept.said("n", "helper")
    assert is_running(engine) and is_running(second)


async def test_an_engine_s_group_is_killed_with_everything_it_started(kept: Kept) -> None:
    await kept.ready()
    pid = await kept.fork("m")
    helper = int(await kept.said("m", "helper"))
    assert is_running(helper)
    processes.signal_group(pid, signal.SIGKILL)
    await kept.until(lambda: not is_running(helper) and pid in kept.ended)


async def test_forks_at_once_are_all_answered(kept: Kept) -> None:
    await kept.ready()
    pids = await asyncio.gather(*(kept.fork(f"m{number}") for number in range(5)))
    assert len(set(pids)) == 5
    for number in range(5):
        await kept.said(f"m{number}", "helper")


async def test_twenty_forks_leave_no_descriptor_and_no_zombie_in_the_zygote(kept: Kept) -> None:
    await kept.ready()
    before = _descriptors(kept.pid)
    for number in range(20):
        pid = await kept.fork(f"m{number}", "fail")
        await kept.until(lambda pid=pid: pid in kept.ended)  # type: ignore[misc]
    assert (_descriptors(kept.pid), _children(kept.pid)) == (before, [])


@pytest.mark.parametrize("kept", ["mismatch"], indirect=True)
async def test_a_vllm_of_another_version_makes_it_unavailable_for_good_and_says_why(kept: Kept) -> None:
    await kept.until(lambda: kept.state is ZygoteState.UNAVAILABLE)
    assert kept.keeper.status == ZygoteStatus(state=ZygoteState.UNAVAILABLE, message="vLLM 9.9 is installed")
    for _ in range(20):
        await kept.turn()
    assert kept.pid == 0
    with pytest.raises(ForkError, match=r"vLLM 9\.9 is installed"):
        await kept.fork("m")


@pytest.mark.parametrize("kept", ["thread"], indirect=True)
async def test_a_thread_left_by_the_imports_makes_it_unavailable(kept: Kept) -> None:
    await kept.until(lambda: kept.state is ZygoteState.UNAVAILABLE)
    assert kept.keeper.status and "left 2 threads" in kept.keeper.status.message


@pytest.mark.parametrize("kept", ["crash"], indirect=True)
async def test_a_zygote_that_keeps_dying_is_unavailable_with_its_last_words(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygote_keeper, "RESTART_SECONDS", 0.01)
    await kept.until(lambda: kept.state is ZygoteState.UNAVAILABLE)
    assert kept.keeper.status
    assert kept.keeper.status.message == (
        "it died 3 times in a row; the last time it ended with code 1 during its imports: no such module"
    )
    assert [change.state for change in kept.changes if change] == [
        *[ZygoteState.IMPORTING] * 2,
        ZygoteState.UNAVAILABLE,
    ]


@pytest.mark.parametrize("kept", ["hang"], indirect=True)
async def test_a_zygote_that_hangs_in_its_imports_is_killed(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote_keeper, "IMPORT_SECONDS", 0.3)
    await kept.until(lambda: kept.keeper.status and kept.keeper.status.message)
    assert kept.keeper.status and kept.keeper.status.message == "it did not finish its imports within 0 s"


async def test_a_zygote_that_does_not_answer_is_killed_and_the_next_one_forks(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    await kept.ready()
    monkeypatch.setattr(zygote_keeper, "FORK_SECONDS", 0.3)
    os.kill(kept.pid, signal.SIGSTOP)
    with pytest.raises(ForkError, match="hangs"):
        await kept.fork("m")
    await kept.until(lambda: kept.state is ZygoteState.IMPORTING)
    await kept.ready()
    monkeypatch.undo()
    assert await kept.fork("m")


async def test_an_engine_nobody_waits_for_any_more_is_killed(kept: Kept) -> None:
    await kept.ready()
    os.kill(kept.pid, signal.SIGSTOP)
    asked = asyncio.create_task(kept.fork("m"))
    await asyncio.sleep(0.05)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    os.kill(kept.pid, signal.SIGCONT)
    await kept.until(lambda: -signal.SIGKILL in kept.ended.values())
    await kept.until(lambda: [pid for pid in _children() if "fake_zygote" in _command(pid)] == [kept.pid])
    assert await kept.fork("n")


async def test_it_is_ended_when_it_is_not_wanted_and_started_when_it_is(kept: Kept) -> None:
    await kept.ready()
    await kept.until(lambda: kept.pid == 0, wanted=False)
    assert kept.keeper.status is None
    await kept.ready()


async def test_it_is_not_started_where_it_is_switched_off(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "none", {names.ENV_ZYGOTE: "Off"})
    await kept.turn()
    assert kept.keeper.status == ZygoteStatus(
        state=ZygoteState.UNAVAILABLE, message="switched off by WARMFLEET_ZYGOTE=Off"
    )
    assert kept.pid == 0
    await _end(kept)
