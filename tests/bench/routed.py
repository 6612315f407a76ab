"""Our router and a backend as processes, for benchmarks of routers."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from bench.peers import until_open
from support.ports import free_port

START_SECONDS = 120.0


@dataclass
class Ours:
    """Our router, as a process that hears of models and runners by `tell`."""

    process: asyncio.subprocess.Process
    port: int = 0
    public_key: str = ""
    """Of what signs its tokens, as an assignment carries it."""
    wakes: list[str] = field(default_factory=list)

    def tell(self, **told: Any) -> None:
        """Tell it of a model, a runner or a tenant; see `support.router_process`."""
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(told) + b"\n")

    @property
    def pid(self) -> int:
        """Of its process."""
        return self.process.pid


@asynccontextmanager
async def our_router(folder: Path, runner_port: int, *flags: str, name: str = "access") -> AsyncIterator[Ours]:
    """Run our router, with all it does in a cluster but the cluster; `name` is that of its log."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "support.router_process"),
        *("--runner-port", str(runner_port), "--log", str(folder / f"{name}.log")),
        *flags,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    ours = Ours(process)
    assert process.stdout is not None
    output = process.stdout
    listening: asyncio.Task[None] | None = None

    async def listen() -> None:
        while line := await output.readline():
            ours.wakes.append(line.decode().split()[1])

    try:
        async with asyncio.timeout(START_SECONDS):
            _, port, ours.public_key = (await output.readline()).decode().split()
        ours.port = int(port)
        listening = asyncio.create_task(listen(), name="wakes")
        yield ours
    finally:
        await _end(process)
        if listening is not None:
            await listening


@asynccontextmanager
async def backend(port: int = 0) -> AsyncIterator[tuple[int, int]]:
    """Run a backend; give its port and pid."""
    port = port or free_port()
    process = await asyncio.create_subprocess_exec(sys.executable, "-P", "-m", "support.backend_process", str(port))
    try:
        await until_open(port, START_SECONDS, "the backend")
        yield port, process.pid
    finally:
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
