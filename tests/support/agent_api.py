"""As much of an API server as one agent speaks to: one NodeCache, and Secrets. What Kubernetes itself does with them is
tested against a real one, in the tier `cluster`."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from support.agent import node_cache, seen
from support.ports import free_port
from support.scripted import Script, client_of, says, scripted, until
from warmfleet_agent.agent import Agent
from warmfleet_agent.metrics import Metrics
from warmfleet_agent.settings import Settings
from warmfleet_api import agent_status
from warmfleet_api.agent_status import AgentStatus

NODE = "node-1"
Object = dict[str, Any]


@dataclass(slots=True)
class OneNodeCache:
    """The scripted server's one NodeCache."""

    script: Script
    object: Object | None = None
    secrets: dict[str, Mapping[str, bytes] | int] = field(default_factory=dict)
    """Data by `namespace/name`, or the status that asking for it gives."""
    writes: list[Object] = field(default_factory=list)
    """Every status that was written."""
    drops: frozenset[str] = frozenset()
    """Fields of the status that this server does not know."""
    refusal: int = 0
    """Status that writes are answered with; 0: they are taken."""
    _version: int = 1
    _generation: int = 0
    _watches: list[asyncio.Queue[Object]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.script.on("GET", self._get)
        self.script.on("WATCH", self._watch)
        self.script.on("PATCH", self._apply)

    @property
    def status(self) -> Object:
        """The NodeCache's status."""
        return self.object.get("status", {}) if self.object is not None else {}

    def seen(self, key: str) -> Mapping[str, Any]:
        """Return an entry of the status."""
        return seen(self.status, key)

    def put(self, spec: Mapping[str, Any], *, uid: str = "uid-1", status: Mapping[str, Any] | None = None) -> None:
        """Write the spec, as the operator would."""
        self._generation += 1
        former = self.object.get("status", {}) if self.object is not None else {}
        self.object = node_cache(NODE, spec) | {"status": dict(status if status is not None else former)}
        self.object["metadata"] |= {"uid": uid, "generation": self._generation}
        self._changed("MODIFIED" if self._version > 2 else "ADDED")

    def delete(self) -> None:
        """Take the object away."""
        self._changed("DELETED")
        self.object = None

    def _changed(self, kind: str) -> None:
        assert self.object is not None
        self._version += 1
        self.object["metadata"]["resourceVersion"] = str(self._version)
        for watch in self._watches:
            watch.put_nowait({"type": kind, "object": json.loads(json.dumps(self.object))})

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if "/secrets/" in request.path:
            _, _, rest = request.path.partition("/namespaces/")
            namespace, _, name = rest.partition("/secrets/")
            found = self.secrets.get(f"{namespace}/{name}", 404)
            if isinstance(found, int):
                return web.json_response({"kind": "Status", "code": found, "message": "no"}, status=found)
            data = {key: base64.b64encode(value).decode() for key, value in found.items()}
            metadata = {"name": name, "namespace": namespace}
            return await says({"metadata": metadata, "data": data})(request)
        items = [self.object] if self.object is not None else []
        return await says({"metadata": {"resourceVersion": str(self._version)}, "items": items})(request)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        events: asyncio.Queue[Object] = asyncio.Queue()
        self._watches.append(events)
        try:
            while True:
                await response.write(json.dumps(await events.get()).encode() + b"\n")
        finally:
            self._watches.remove(events)

    async def _apply(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.text())
        if self.object is None or self.refusal:
            code = self.refusal or 404
            return web.json_response({"kind": "Status", "code": code, "message": "no"}, status=code)
        assert request.path.endswith("/status")
        self.object["status"] = {key: value for key, value in body["status"].items() if key not in self.drops}
        self.writes.append(body["status"])
        self._changed("MODIFIED")
        return web.json_response(self.object)


@dataclass(slots=True)
class Running:
    """An agent that runs inside the test."""

    api: OneNodeCache
    agent: Agent
    metrics: Metrics
    task: asyncio.Task[None]
    folder: Path

    @property
    def memory(self) -> Path:
        """The folder of the memory tier."""
        return self.folder / "memory"

    @property
    def disk(self) -> Path:
        """The folder of the disk tier."""
        return self.folder / "disk"

    def status(self) -> AgentStatus:
        """Return what the stream would say now."""
        return agent_status.decode(self.agent.line())

    def sample(self, name: str, **labels: str) -> float:
        """Return a metric; 0 where it was never counted."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0

    async def present(self, key: str, tier: str = "Memory") -> None:
        """Wait until an entry is in a tier by the status."""
        await until(lambda: self.api.seen(key).get("tier") == tier and self.api.seen(key).get("state") == "Present", 20)

    async def stop(self) -> None:
        """End the agent as a signal does."""
        self.agent.end_transfers()
        self.task.cancel()
        await asyncio.wait([self.task], timeout=10)
        assert self.task.done(), "the agent did not end"


def spec_for(folder: Path, *entries: Mapping[str, Any], memory_bytes: int = 256 << 20, **more: Any) -> Object:
    """Return a spec for stores in `folder`; `disk_bytes` gives it a disk."""
    disk_bytes = more.pop("disk_bytes", 0)
    spec: Object = {
        "cache": "default",
        "memory": {"bytes": memory_bytes, "path": str(folder / "memory")},
        "fileRoots": [str(folder / "models")],
        "entries": [dict(entry) for entry in entries],
        **more,
    }
    if disk_bytes:
        spec["disk"] = {"bytes": disk_bytes, "path": str(folder / "disk")}
    return spec


def settings_for(folder: Path, **more: Any) -> Settings:
    """Return settings for stores in `folder`, without mounts and kubelet."""
    return Settings.model_validate(
        {
            "node_name": NODE,
            "memory_path": folder / "memory",
            "memory_mount": "Present",
            "disk_path": folder / "disk",
            "kubelet_path": None,
            "port": free_port(),
        }
        | more
    )


@asynccontextmanager
async def api_server() -> AsyncIterator[OneNodeCache]:
    """Serve one NodeCache that is not there yet."""
    async with scripted() as script:
        yield OneNodeCache(script)


@asynccontextmanager
async def running(api: OneNodeCache, folder: Path, **settings: Any) -> AsyncIterator[Running]:
    """Run an agent until the context ends."""
    metrics = Metrics()
    async with client_of(api.script) as client:
        agent = Agent(client, settings_for(folder, **settings), metrics)
        task: asyncio.Task[None] = asyncio.create_task(agent.run())
        found = Running(api, agent, metrics, task, folder)
        try:
            yield found
        finally:
            if not task.done():
                await found.stop()
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
