"""The front's request path in this process: real sockets on both sides, and a table as the test wants it.

The engines are Simulated ones, or any ASGI application, each on its own unix socket.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client import CollectorRegistry

from support.runner_process import QUICK, simulated
from support.waiting import PATIENCE
from warmfleet_api.assignment import EngineAssignment, SimulatedEngine
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState
from warmfleet_http.messages import Limits
from warmfleet_http.server import Server, asgi_server, server
from warmfleet_runtime.front.api import LIMITS, Api
from warmfleet_runtime.front.board import Board
from warmfleet_runtime.front.metrics import RequestMetrics
from warmfleet_runtime.front.relay import Relay
from warmfleet_runtime.front.upstream import Upstream
from warmfleet_runtime.link import Route, Table
from warmfleet_runtime.simulated.app import SimulatedApp

POD_UID = "pod-uid"


@dataclass
class Front:
    """One front without a supervisor: the test writes the table."""

    folder: Path
    http: aiohttp.ClientSession
    board: Board
    upstream: Upstream
    api: Api
    registry: CollectorRegistry
    server: Server
    port: int = 0
    trusted_keys: tuple[str, ...] = ()
    apps: dict[str, Any] = field(default_factory=dict)
    _routes: dict[str, Route] = field(default_factory=dict)
    _states: dict[str, EngineState] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _servers: dict[str, tuple[Server, asyncio.Task[None]]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://127.0.0.1:{self.port}"

    async def host(
        self,
        name: str = "m",
        behaviour: SimulatedEngine = QUICK,
        *,
        app: Any = None,
        max_sequences: int = 0,
        **fields: Any,
    ) -> None:
        """Add a Ready engine."""
        await self.start(name, app or SimulatedApp(simulated(name, behaviour, **fields).engine))
        engine = simulated(name, behaviour, **fields)
        self.set(name, EngineState.READY, engine=engine, attempt=1, accepts=True, max_sequences=max_sequences)

    async def start(self, name: str, app: Any) -> None:
        """Start the server of an engine: its process, as it were."""
        path = self.folder / f"{name}.sock"
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(path))
        each = asgi_server(app, shutdown_seconds=0.05)
        self.apps[name] = app
        self._servers[name] = each, asyncio.create_task(each.serve([listening]), name=f"engine {name}")
        await _until_started(each)

    async def kill(self, name: str) -> None:
        """Cut all connections of an engine and take no more, as when its process is killed."""
        each, task = self._servers.pop(name)
        (self.folder / f"{name}.sock").unlink()
        for connection in list(each.server_state.connections):
            connection.transport.abort()
        each.force_exit = each.should_exit = True
        await task

    def set(
        self,
        name: str,
        state: EngineState,
        *,
        engine: EngineAssignment | None = None,
        attempt: int | None = None,
        accepts: bool = False,
        drains: bool = False,
        wakes_on_request: bool = False,
        max_sequences: int | None = None,
    ) -> None:
        """Change how an engine is, as the supervisor would say it."""
        former = self._routes.get(name)
        assert former or engine
        self._routes[name] = Route(
            attempt=attempt if attempt is not None else former.attempt,  # type: ignore[union-attr]
            socket=str(self.folder / f"{name}.sock"),
            engine=engine or former.engine,  # type: ignore[union-attr]
            accepts=accepts,
            warms_up=False,
            drains=drains,
            wakes_on_request=wakes_on_request,
            max_sequences=former.max_sequences if max_sequences is None and former else max_sequences or 0,
        )
        self._states[name] = state
        self.publish()

    def publish(self) -> None:
        """Hand the table to the front, as a heartbeat does."""
        engines = tuple(
            EngineStatus(
                id=key,
                model=route.engine.model,
                model_uid=route.engine.model_uid,
                hash=route.engine.hash,
                state=self._states[key],
            )
            for key, route in self._routes.items()
        )
        status = RunnerStatus(pod_uid=POD_UID, revision=1, engines=engines)
        self.board.update(Table(status=status, routes=dict(self._routes), trusted_keys=self.trusted_keys))
        self.api.follow()

    def ask(self, model: str = "m", tokens: int = 2, *, stream: bool = False, headers: Any = None, **more: Any) -> Any:
        """Send a chat request (an aiohttp request context)."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": tokens,
            "stream": stream,
            **more,
        }
        return self.http.post(self.url + "/v1/chat/completions", json=body, headers=headers)

    async def status_of(self, *args: Any, **fields: Any) -> int:
        """Send a chat request and return its status, the answer read to its end."""
        async with self.ask(*args, **fields) as response:
            await response.read()
            return int(response.status)

    def at_engine(self, name: str = "m") -> int:
        """Return how many requests the engine itself counts as running."""
        return int(self.apps[name]._running._value.get())

    def waiting(self, name: str = "m") -> int:
        """Return how many requests wait in the engine's queue."""
        return self.board.activity(name).waiting

    def running(self, name: str = "m") -> int:
        """Return how many requests the front counts as being at the engine."""
        return self.board.running(name)


@asynccontextmanager
async def running_front(folder: Path, *, limits: Limits = LIMITS, plain: bool = False) -> AsyncIterator[Front]:
    """Serve the API of a front without engines on a port of loopback."""
    board, upstream, registry = Board(), Upstream(), CollectorRegistry()
    api = Api(board, Relay(upstream.pool), RequestMetrics(registry))
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    serving = server(api, shutdown_seconds=0.05, limits=limits, plain=plain)
    task = asyncio.create_task(serving.serve([listening]), name="api")
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE * 30)) as http:
        front = Front(folder, http, board, upstream, api, registry, serving, port=listening.getsockname()[1])
        front.publish()
        await _until_started(serving)
        try:
            yield front
        finally:
            serving.force_exit = serving.should_exit = True
            await task
            await api.close()
            await upstream.close()
            for name in list(front._servers):
                await front.kill(name)


async def until(condition: Any, seconds: float = 10.0, what: str = "") -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE * seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE * seconds} s: {what}"
        await asyncio.sleep(0.005)


async def _until_started(each: Server) -> None:
    await until(lambda: each.started, what="the server to start")
