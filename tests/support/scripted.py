"""An HTTP server that says what a test wrote into its script: for what the operator does with broken transport.

It knows nothing of Kubernetes; whatever depends on how Kubernetes behaves is tested against the real one.
"""

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from support.waiting import PATIENCE
from warmfleet_kube.client import KubeClient, open_session
from warmfleet_kube.credentials import Credentials
from warmfleet_operator.metrics import Metrics

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(slots=True)
class Script:
    """Answers by method, each given once in order; the last one again and again."""

    answers: dict[str, deque[Answer]] = field(default_factory=lambda: defaultdict(deque))
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def on(self, method: str, *answers: Answer) -> None:
        """Append answers for a method; a watch is the method WATCH."""
        self.answers[method].extend(answers)

    def methods(self) -> list[str]:
        """Return the methods that were asked, in order."""
        return [each.method for each in self.seen]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a request."""
        method = "WATCH" if request.query.get("watch") else request.method
        text = await request.text()
        body = json.loads(text) if text else None
        self.seen.append(Seen(method, request.path, dict(request.query), dict(request.headers), body))
        script = self.answers[method]
        answer = script.popleft() if len(script) > 1 else script[0]
        return await answer(request)


def says(body: Any, status: int = 200, **headers: str) -> Answer:
    """Answer with JSON."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.json_response(
            body, status=status, headers={name.replace("_", "-"): it for name, it in headers.items()}
        )

    return answer


def refuses(code: int, reason: str = "", **headers: str) -> Answer:
    """Answer with a `Status` object."""
    return says({"kind": "Status", "code": code, "reason": reason, "message": "no"}, code, **headers)


def streams(*lines: Any, holds: bool = False) -> Answer:
    """Answer with JSON lines and end, or hold the connection open in silence."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for line in lines:
            await response.write(json.dumps(line).encode() + b"\n")
        if holds:
            await asyncio.sleep(60)
        return response

    return answer


def hangs() -> Answer:
    """Never answer."""

    async def answer(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError("the test waited too long")

    return answer


async def until(holds: Callable[[], object], bound_seconds: float = 5.0) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE * bound_seconds):
        while not holds():  # noqa: ASYNC110 - what is waited for has no event to wait on
            await asyncio.sleep(0.005)


@asynccontextmanager
async def scripted() -> AsyncIterator[Script]:
    """Run a server with an empty script."""
    script = Script()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", script.handle)
    server = TestServer(application)
    await server.start_server(shutdown_timeout=0.0)
    script.url = str(server.make_url("")).rstrip("/")
    try:
        yield script
    finally:
        await server.close()


@asynccontextmanager
async def client_of(script: Script, *, request_seconds: float = 5.0) -> AsyncIterator[KubeClient]:
    """Return a client of the scripted server."""
    credentials = Credentials(server=script.url)
    async with open_session(credentials) as session:
        yield KubeClient(
            credentials, session, Metrics().kube, request_seconds=request_seconds, agent="warmfleet-operator"
        )
