"""Other routers to measure beside ours: from PyPI, each in an environment of its own below the cache."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from support.ports import free_port

CACHE = Path(os.environ.get("WARMFLEET_CACHE") or Path.home() / ".cache" / "warmfleet")
INSTALL_SECONDS = 300
START_SECONDS = 60.0


@dataclass(frozen=True)
class Peer:
    """A router that can be installed, run in one way; `{port}`, `{backend}`, `{metrics}` of its command are ports."""

    package: str
    how: str
    requirement: str
    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is called in tables."""
        return f"{self.package} ({self.how})"


AS_INSTALLED = "as installed"
LEANEST = "leanest"
_ADDRESSES = (
    *("--host", "127.0.0.1", "--port", "{port}", "--prometheus-port", "{metrics}"),
    *("--worker-urls", "http://127.0.0.1:{backend}"),
)
_LEAN = ("--policy", "round_robin", "--log-level", "error", "--disable-retries", "--disable-circuit-breaker")
_VLLM_ROUTER, _SMG = "vllm-router==0.1.17", "smg==1.13.0"
PEERS = (
    Peer("vllm-router", AS_INSTALLED, _VLLM_ROUTER, ("vllm-router", *_ADDRESSES)),
    Peer("vllm-router", LEANEST, _VLLM_ROUTER, ("vllm-router", *_ADDRESSES, *_LEAN)),
    Peer("smg", AS_INSTALLED, _SMG, ("smg", "launch", *_ADDRESSES)),
)
"""As installed: with the options that say where they listen and whom they serve, all else as it comes.

Leanest: with all off that can be, round robin instead of cache_aware, no retries, no breaker, no log.
"""


class UnavailableError(Exception):
    """A peer can't be measured here; the message says why."""


def install(peer: Peer) -> Path:
    """Return the folder of a peer's commands, after installing it where it is not.

    Raises:
        UnavailableError: it can't be installed.
    """
    folder = CACHE / "peers" / peer.requirement
    if (folder / "installed").exists():
        return folder / "bin"
    uv = CACHE / "tools" / "bin" / "uv"
    python = str(folder / "bin" / "python")
    try:
        for command in (
            [str(uv), "venv", "--quiet", "--clear", "--python", "/usr/bin/python3.11", str(folder)],
            [str(uv), "pip", "install", "--quiet", "--python", python, peer.requirement],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        raise UnavailableError(f"{peer.requirement} does not install: {detail.strip()[-300:]}") from error
    (folder / "installed").touch()
    return folder / "bin"


@asynccontextmanager
async def running(peer: Peer, backend: int, log: Path, *, wait: bool = True) -> AsyncIterator[tuple[int, int]]:
    """Run a peer in front of a backend; give its port and pid. `wait`: until it answers.

    Raises:
        UnavailableError: it does not start.
    """
    folder = install(peer)
    ports = {"port": free_port(), "metrics": free_port(), "backend": backend}
    command = [part.format(**ports) for part in peer.command]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(folder / command[0]), *command[1:], stdout=output, stderr=output, start_new_session=True
        )
    try:
        if wait:
            await until_open(ports["port"], START_SECONDS, peer.name)
        yield ports["port"], process.pid
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait_for(process.wait(), 10)


async def until_open(port: int, seconds: float, name: str) -> None:
    """Wait until a port of this machine takes connections.

    Raises:
        UnavailableError: it does not.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if time.monotonic() > deadline:
                raise UnavailableError(f"{name} does not listen after {seconds:.0f} s") from None
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return


@dataclass(frozen=True)
class Cpu:
    """Processor time of a process, its threads and its children."""

    seconds: float = 0.0
    """As the scheduler accounts for it, to the nanosecond; of threads that are still there."""
    user_ticks: int = 0
    system_ticks: int = 0

    def __add__(self, other: "Cpu") -> "Cpu":
        return Cpu(
            self.seconds + other.seconds,
            self.user_ticks + other.user_ticks,
            self.system_ticks + other.system_ticks,
        )

    def __sub__(self, other: "Cpu") -> "Cpu":
        return self + Cpu(-other.seconds, -other.user_ticks, -other.system_ticks)

    @property
    def user_share(self) -> float:
        """How much of it was not the kernel's."""
        return self.user_ticks / ((self.user_ticks + self.system_ticks) or 1)


def cpu(pid: int) -> Cpu:
    """Return the processor time of a process and its children; of none where the process is 0."""
    total = Cpu()
    for each in (pid, *children(pid)) if pid else ():
        try:
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            tasks = [path.read_text() for path in Path(f"/proc/{each}/task").glob("*/schedstat")]
        except FileNotFoundError:
            continue
        total += Cpu(sum(int(task.split()[0]) for task in tasks) / 1e9, int(fields[11]), int(fields[12]))
    return total


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its children."""
    return cpu(pid).seconds


def children(pid: int) -> list[int]:
    """Return the pids of all descendants of a process."""
    try:
        found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [*found, *(below for each in found for below in children(each))]
