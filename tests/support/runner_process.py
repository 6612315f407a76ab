"""A real runner on this machine: PID 1 as a subprocess, its ports on loopback, its assignment in a file."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from support.ports import free_port
from support.waiting import PATIENCE
from warmfleet_api import assignment, names, runner_status
from warmfleet_api.assignment import Assignment, EngineAssignment, EngineSpec, SimulatedEngine, SimulatedFault
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState, EngineType

POLL_SECONDS = 0.03
REQUEST_SECONDS = 20
QUICK = SimulatedEngine(
    load_milliseconds=20, initialize_milliseconds=10, first_token_milliseconds=5, tokens_per_second=200
)


def simulated(name: str, behaviour: SimulatedEngine = QUICK, **fields: Any) -> EngineAssignment:
    """Return the assignment of a Simulated engine that serves `name`."""
    spec = EngineSpec(type=EngineType.SIMULATED, uri="hf://org/model", served_names=(name,), simulated=behaviour)
    return EngineAssignment(
        **{"id": name, "model": name, "model_uid": f"uid-{name}", "hash": "h1", "engine": spec, **fields}
    )


def vllm(name: str, folder: Path, *args: str) -> EngineAssignment:
    """Return the assignment of a vLLM engine that serves `folder` as `name`."""
    uri = f"file:///models/{name}"
    spec = EngineSpec(type=EngineType.VLLM, uri=uri, folder=str(folder), served_names=(name,), args=args)
    return simulated(name, engine=spec)


def fault(kind: Any, after_seconds: int = 0) -> SimulatedEngine:
    """Return a quick behaviour with a fault."""
    return SimulatedEngine(
        load_milliseconds=0,
        initialize_milliseconds=0,
        first_token_milliseconds=0,
        fault=SimulatedFault(kind=kind, after_seconds=after_seconds),
    )


class RunnerProcess:
    """Talks to one runner."""

    def __init__(
        self, folder: Path, http: aiohttp.ClientSession, process: asyncio.subprocess.Process, host: str, port: int
    ) -> None:
        self.folder = folder
        self.http = http
        self.process = process
        self.api = f"http://{host}:{port}"
        self.status_url = f"http://{host}:{port + 1}"

    def assign(self, revision: int, *engines: EngineAssignment) -> None:
        """Swap the assignment file as the kubelet does: a new folder, a new link, one rename."""
        value = assignment.encode(Assignment(version=assignment.VERSION, revision=revision, engines=engines))
        self.write_assignment(value)

    def write_assignment(self, value: str) -> None:
        """Swap the assignment file for any text."""
        write_assignment(self.folder, value)

    async def status(self) -> RunnerStatus:
        """Return the runner's status now."""
        async with self.http.get(self.status_url + names.PATH_STATUS) as response:
            return runner_status.decode(await response.read())

    async def wait(self, condition: Callable[[RunnerStatus], bool], seconds: float = 15.0) -> RunnerStatus:
        """Return the first status that meets the condition."""
        last: RunnerStatus | None = None
        try:
            async with asyncio.timeout(PATIENCE * seconds):
                while True:
                    try:
                        last = await self.status()
                        if condition(last):
                            return last
                    except (aiohttp.ClientError, ValueError):
                        last = None
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(f"not within {PATIENCE * seconds} s; last status: {last}") from None

    async def wait_ready(self, *engines: str, seconds: float = 15.0) -> RunnerStatus:
        """Wait until these engines are Ready."""
        return await self.wait(
            lambda status: all(state_of(status, name) is EngineState.READY for name in engines), seconds
        )

    def chat(self, model: str, tokens: int, *, stream: bool = True) -> Any:
        """Send a chat request (an aiohttp request context)."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": tokens, "stream": stream}
        return self.http.post(self.api + "/v1/chat/completions", json=body)

    async def metric(self, name: str) -> float:
        """Return the value of a sample, 0 where it is missing."""
        async with self.http.get(self.status_url + names.PATH_METRICS) as response:
            lines = (await response.text()).splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)

    async def wait_metric(self, name: str, value: float, seconds: float = 15.0) -> None:
        """Wait until a sample has a value: an engine counts a moment after the front does."""
        last = None
        try:
            async with asyncio.timeout(PATIENCE * seconds):
                while True:
                    last = await self.metric(name)
                    if last == value:
                        return
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise AssertionError(f"{name} was not {value} within {PATIENCE * seconds} s but {last}") from None

    async def probe(self, path: str) -> int:
        """Return the status code of a probe."""
        async with self.http.get(self.status_url + path) as response:
            return response.status

    def processes(self, needle: str) -> list[int]:
        """Return the pids of this runner's descendants whose command line has `needle`."""
        return [pid for pid in _descendants(self.process.pid) if needle in _command_line(pid)]

    async def terminate(self, seconds: float = 15.0) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), PATIENCE * seconds)


def state_of(status: RunnerStatus, name: str) -> EngineState | None:
    """Return the state of an engine, None if the runner has none of that name."""
    engine = engine_of(status, name)
    return engine.state if engine else None


def engine_of(status: RunnerStatus, name: str) -> EngineStatus | None:
    """Return an engine's status."""
    return next((engine for engine in status.engines if engine.id == name), None)


def write_assignment(folder: Path, value: str) -> None:
    """Write `folder`/assignment as a downward-API volume does."""
    data = folder / f"..{len(list(folder.iterdir()))}"
    data.mkdir()
    (data / names.ASSIGNMENT_FILE).write_text(value)
    link = folder / "..data_tmp"
    link.symlink_to(data.name)
    link.rename(folder / "..data")
    file = folder / names.ASSIGNMENT_FILE
    if not file.is_symlink():
        file.symlink_to(Path("..data", names.ASSIGNMENT_FILE))


@asynccontextmanager
async def running_runner(
    folder: Path,
    *flags: str,
    memory_limit_bytes: int = 0,
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
    host: str = "127.0.0.1",
    port: int = 0,
    pod_uid: str = "pod-uid",
) -> AsyncIterator[RunnerProcess]:
    """Start a runner; at the end it is killed, and with it everything it started. `python` is its interpreter.

    Its API is at `port` of an address of loopback, its status at the next one; 0: any that are free.

    Raises:
        TimeoutError: a process of it stayed behind.
    """
    port = port or free_port()
    volume = folder / "assignment"
    volume.mkdir(exist_ok=True)
    places = (
        f"--run-directory={folder / 'run'}",
        f"--cache={folder / 'cache'}",
        f"--assignment={volume / names.ASSIGNMENT_FILE}",
        f"--host={host}",
        f"--api-port={port}",
        f"--status-port={port + 1}",
    )
    merged = {
        **os.environ,
        **(environment or {}),
        names.ENV_POD_UID: pod_uid,
        names.ENV_MEMORY_LIMIT_BYTES: str(memory_limit_bytes),
    }
    with (folder / "runner.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            python, "-m", "warmfleet_runtime", *places, *flags, stdout=log, stderr=log, env=merged
        )
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE * REQUEST_SECONDS)) as http:
            yield RunnerProcess(volume, http, process, host, port)
    finally:
        left = _descendants(process.pid)
        if process.returncode is None:
            process.kill()
            await asyncio.wait_for(process.wait(), 5)
        for pid in left:
            _kill(pid)
        await _nothing_left_of(folder / "run")


def runner_with_fake_zygote(
    folder: Path, *flags: str, fault: str = "none"
) -> AbstractAsyncContextManager[RunnerProcess]:
    """Start a runner that forks vLLM engines from something light; `fault` is one of `fake_zygote`."""
    script = Path(__file__).with_name("runner_with_fake_zygote.py")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} -P {script} {fault} "$@"\n')
    python.chmod(0o755)
    return running_runner(folder, "--stop-seconds=1", *flags, python=str(python))


async def _nothing_left_of(run_directory: Path) -> None:
    """Wait until no process names a runner's folder: its engines end with PID 1, whoever killed that."""
    async with asyncio.timeout(PATIENCE * 10):
        while any(str(run_directory) in _command_line(int(path.name)) for path in _processes()):  # noqa: ASYNC110
            await asyncio.sleep(POLL_SECONDS)


def _processes() -> list[Path]:
    return [path for path in Path("/proc").iterdir() if path.name.isdecimal()]


def is_running(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    found = [int(child) for child in children]
    return [*found, *(each for child in found for each in _descendants(child))]


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
