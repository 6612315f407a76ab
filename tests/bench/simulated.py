"""Runners with Simulated engines for benchmarks of the router: each a pod's processes at an address of its own."""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from msgspec.structs import replace

from bench.routed import Ours
from support.ports import free_port
from support.runner_process import RunnerProcess, running_runner, simulated
from warmfleet_api import assignment
from warmfleet_api.assignment import Assignment, EngineAssignment, Serving, SimulatedEngine

MODEL = "m"
SERVING = Serving()
START_SECONDS = 120.0
LOOK_SECONDS = 0.005


class Backend:
    """One runner; it may be killed, and started again at the same address as the same pod."""

    def __init__(self, number: int, port: int, root: Path) -> None:
        self.name = f"runner-{number}"
        self.address = f"127.0.0.{number + 1}", port
        self._root = root
        self._stack = AsyncExitStack()
        self._runner: RunnerProcess | None = None

    @property
    def runner(self) -> RunnerProcess:
        """The process. Only while it runs."""
        assert self._runner is not None
        return self._runner

    async def start(self, engine: EngineAssignment, trusted_keys: tuple[str, ...] = ()) -> None:
        """Start the processes; they are not ready yet."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir=self._root)))
        host, port = self.address
        self._runner = await self._stack.enter_async_context(
            running_runner(folder, "--stop-seconds=2", host=host, port=port, pod_uid=f"uid-{self.name}")
        )
        wanted = Assignment(version=assignment.VERSION, revision=1, engines=(engine,), trusted_keys=trusted_keys)
        self._runner.write_assignment(assignment.encode(wanted))

    async def ready(self) -> None:
        """Wait until its engine is."""
        await self.runner.wait_ready(MODEL, seconds=START_SECONDS)

    async def kill(self) -> None:
        """End all its processes at once, as the loss of the pod does."""
        self._runner = None
        await self._stack.aclose()
        self._stack = AsyncExitStack()

    async def listens(self) -> float:
        """Wait until it takes connections; return the moment (unix seconds)."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    _, writer = await asyncio.open_connection(*self.address)
                except OSError:
                    await asyncio.sleep(LOOK_SECONDS)
                else:
                    writer.close()
                    return time.time()


def engine(behaviour: SimulatedEngine, serving: Serving = SERVING) -> EngineAssignment:
    """Return the assignment of an engine that behaves so."""
    return replace(simulated(MODEL, behaviour), serving=serving)


@asynccontextmanager
async def backends(count: int) -> AsyncIterator[list[Backend]]:
    """Give runners that are not started; at the end all are killed."""
    with tempfile.TemporaryDirectory(prefix="warmfleet-bench-") as directory:
        port = free_port()
        found = [Backend(number + 1, port, Path(directory)) for number in range(count)]
        try:
            yield found
        finally:
            for each in found:
                await each.kill()


def introduce(router: Ours, runners: list[Backend], state: str = "Ready") -> None:
    """Tell a router of runners whose engines are in this state."""
    for each in runners:
        router.tell(runner=each.name, host=each.address[0], **{MODEL: state})
