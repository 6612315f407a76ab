"""The parts of a router on loopback, and scripted runners behind it: each on an address of its own, all on one port."""

import asyncio
import io
import itertools
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from support.ports import free_port
from support.waiting import PATIENCE
from warmfleet_api import names
from warmfleet_api.assignment import VERSION, Assignment, EngineAssignment, EngineSpec, encode
from warmfleet_api.tenant import TenantSpec
from warmfleet_api.vocabulary import EngineType
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Limits, Request
from warmfleet_http.replies import DONE
from warmfleet_http.server import Server, server
from warmfleet_kube.objects import Metadata
from warmfleet_router.access_log import AccessLog
from warmfleet_router.cache.guard import Tier
from warmfleet_router.catalog import ModelKey
from warmfleet_router.dispatch import Bounds
from warmfleet_router.metrics import Metrics
from warmfleet_router.records import ModelDeployment, Pod, PodStatus
from warmfleet_router.tenants import TenantKey
from warmfleet_router.tokens import Tokens
from warmfleet_router.wiring import KeptBounds, Outside, Parts

Behaviour = Callable[[Request, Answer], Awaitable[None]]
CHAT = "/v1/chat/completions"


async def answers(request: Request, answer: Answer) -> None:
    """Answer at once: a stream of three events if asked for one."""
    body = msgspec.json.decode(request.body)
    if body.get("stream"):
        answer.start(200, [(b"content-type", b"text/event-stream")])
        for index in range(3):
            answer.write(b'data: {"index": %d}\n\n' % index)
            await asyncio.sleep(0)
        answer.write(DONE)
        answer.finish()
        return
    answer.reply(200, {"model": body["model"], "choices": []})


def state(value: str) -> Behaviour:
    """Say that the engine is in a state, as a runner does."""

    async def reply(_: Request, answer: Answer) -> None:
        answer.reply(503, {"error": {"code": "model_not_ready"}}, [(b"x-warmfleet-state", value.encode())])

    return reply


def status(code: int, error: str = "simulated") -> Behaviour:
    """Answer with an error."""

    async def reply(_: Request, answer: Answer) -> None:
        answer.reply(code, {"error": {"code": error, "message": error}}, [(b"retry-after", b"7")])

    return reply


async def lingers(_: Request, answer: Answer) -> None:
    """Send a whole stream, and be slow to end the answer."""
    answer.start(200, [(b"content-type", b"text/event-stream")])
    answer.write(b'data: {"index": 0}\n\n')
    answer.write(DONE)
    await asyncio.sleep(30)


async def breaks(_: Request, answer: Answer) -> None:
    """Close the connection instead of answering."""
    answer.abort()


async def breaks_late(_: Request, answer: Answer) -> None:
    """Close the connection within a stream."""
    answer.start(200, [(b"content-type", b"text/event-stream")])
    answer.write(b'data: {"index": 0}\n\n')
    await asyncio.sleep(0.02)
    answer.abort()


def after(seconds: float, behaviour: Behaviour = answers) -> Behaviour:
    """Behave later."""

    async def wait(request: Request, answer: Answer) -> None:
        await asyncio.sleep(seconds)
        await behaviour(request, answer)

    return wait


@dataclass
class ScriptedRunner:
    """A runner at an address of loopback, which behaves as it is told."""

    name: str
    host: str
    port: int
    behaviour: Behaviour = answers
    served: list[Request] = field(default_factory=list)
    cancelled: int = 0
    _server: Server | None = None
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = server(self._handle, shutdown_seconds=0.05, limits=Limits(body_bytes=64 * 1024 * 1024))
        listening = socket.create_server((self.host, self.port), backlog=4096)
        self._task = asyncio.create_task(self._server.serve([listening]), name=self.name)
        while not self._server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    async def kill(self) -> None:
        """Close everything at once."""
        if self._server is None or self._task is None:
            return
        for connection in list(self._server.server_state.connections):
            connection._transport.abort()  # type: ignore[union-attr]
        self._server.force_exit = self._server.should_exit = True
        await self._task
        self._server = self._task = None

    async def _handle(self, request: Request, answer: Answer) -> None:
        if request.path == "/v1/models":
            answer.reply(200, {"object": "list", "data": []})
            return
        self.served.append(request)
        try:
            await self.behaviour(request, answer)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


@dataclass
class RoutedFleet:
    """A router that serves on loopback, and its runners."""

    parts: Parts
    metrics: Metrics
    url: str
    http: aiohttp.ClientSession
    port: int
    wakes: list[ModelKey]
    log: io.BytesIO
    access_log: AccessLog
    key: Ed25519PrivateKey
    runners: list[ScriptedRunner] = field(default_factory=list)
    _versions: Any = field(default_factory=lambda: itertools.count(1))

    @property
    def router_port(self) -> int:
        """Port of the router's API on loopback."""
        return int(self.url.rpartition(":")[2])

    def model(self, name: str = "m", namespace: str = "ns", **spec: Any) -> None:
        """Apply a ModelDeployment, as the mirror would tell of it; `status` is not part of the spec."""
        told = spec.pop("status", {})
        metadata = Metadata(
            name=name,
            namespace=namespace,
            creation_timestamp="2026-01-01T00:00:00Z",
            resource_version=str(next(self._versions)),
        )
        record = ModelDeployment(metadata=metadata, spec={"model": {"uri": "hf://a/b"}, **spec}, status=told)
        self.parts.model_changed(None, record)

    def deleted(self, name: str = "m", namespace: str = "ns") -> None:
        """Take a ModelDeployment away."""
        record = ModelDeployment(metadata=Metadata(name=name, namespace=namespace, resource_version="0"), spec={})
        self.parts.model_changed(record, None)

    def tenant(self, name: str, *keys: str, namespace: str = "ns", **spec: Any) -> None:
        """Apply a Tenant with these API keys."""
        told = TenantSpec.model_validate({"secretRef": {"name": "keys"}, **spec})
        key = TenantKey(namespace, name)
        self.parts.tenants.put(key, told, [each.encode() for each in keys])
        self.parts.quotas.put(key, told.limits, time.monotonic())

    async def runner(self, behaviour: Behaviour = answers, *, hash_: str = "", **labels: str) -> ScriptedRunner:
        """Start a runner whose engines are in these states."""
        number = len(self.runners) + 2
        each = ScriptedRunner(f"runner-{number}", f"127.0.0.{number}", self.port, behaviour)
        await each.start()
        self.runners.append(each)
        self.label(each, hash_=hash_, **(labels or {"m": "Ready"}))
        return each

    def label(self, runner: ScriptedRunner, *, hash_: str = "", **states: str) -> None:
        """Set the states of a runner's engines, as the operator's labels; `hash_` is of the spec they run."""
        self.parts.pod_changed(None, self._pod(runner, hash_=hash_, **states))

    def gone(self, runner: ScriptedRunner) -> None:
        """Take a runner's pod away."""
        self.parts.pod_changed(self._pod(runner), None)

    def _pod(self, runner: ScriptedRunner, *, hash_: str = "", **states: str) -> Pod:
        engines = [
            EngineAssignment(
                id=model,
                model=model,
                model_uid="uid",
                hash=hash_,
                engine=EngineSpec(type=EngineType.SIMULATED, uri="hf://a/b", served_names=(model,)),
            )
            for model in states
        ]
        told = encode(Assignment(version=VERSION, revision=1, engines=tuple(engines))) if hash_ else None
        metadata = Metadata(
            name=runner.name,
            namespace="ns",
            uid=f"uid-{runner.name}",
            labels={names.serve_label(model): value for model, value in states.items()},
            annotations={names.ANNOTATION_ASSIGNMENT: told} if told is not None else {},
        )
        return Pod(metadata=metadata, status=PodStatus(phase="Running", pod_ip=runner.host))

    def ask(self, model: str = "m", *, headers: Any = None, **fields: Any) -> Any:
        """Send a chat request (an aiohttp request context)."""
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **fields}
        return self.http.post(self.url + CHAT, json=body, headers=headers)

    async def reply(self, model: str = "m", *, headers: Any = None, **fields: Any) -> tuple[int, Any, Any]:
        """Send a chat request; return status, headers and body as JSON."""
        async with self.ask(model, headers=headers, **fields) as response:
            return response.status, response.headers, await response.json(content_type=None)

    async def events(self, model: str = "m", *, headers: Any = None, **fields: Any) -> str:
        """Send a chat request for a stream; return all of it."""
        async with self.ask(model, headers=headers, stream=True, **fields) as response:
            return str(await response.text())

    def value(self, metric: str, **labels: str) -> float:
        """Return the value of a sample, 0 where it is missing."""
        return self.metrics.registry.get_sample_value(metric, labels) or 0.0

    async def until(self, condition: Callable[[], Any], seconds: float = 5.0) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + PATIENCE * seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {PATIENCE * seconds} s"
            await asyncio.sleep(0.002)


@asynccontextmanager
async def routed_fleet(
    *, kept: KeptBounds | None = None, tiers: Callable[[], list[Tier]] = list, tracing: Any = None, **limits: Any
) -> AsyncIterator[RoutedFleet]:
    """Serve a router without runners."""
    wakes: list[ModelKey] = []
    log, metrics, key = io.BytesIO(), Metrics(), Ed25519PrivateKey.generate()
    access_log = AccessLog(log)
    port = free_port()
    bounds = Bounds(10_000_000, 20_000_000)
    outside = Outside(
        *(wakes.append, Tokens(key), metrics, bounds, access_log),
        runner_port=port,
        kept=kept or KeptBounds(),
        tiers=tiers,
        tracing=tracing,
    )
    parts = Parts(outside)
    serving = server(parts.handler, shutdown_seconds=0.05, limits=Limits(**limits))
    listening = socket.create_server(("127.0.0.1", 0), backlog=4096)
    task = asyncio.create_task(serving.serve([listening]), name="router")
    timeout = aiohttp.ClientTimeout(total=PATIENCE * 30)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        fleet = RoutedFleet(parts, metrics, url, http, port, wakes, log, access_log, key)
        await fleet.until(lambda: serving.started)
        try:
            yield fleet
        finally:
            serving.force_exit = serving.should_exit = True
            await task
            await parts.close()
            for runner in fleet.runners:
                await runner.kill()
