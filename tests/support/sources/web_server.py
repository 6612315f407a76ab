"""A web server for tests: files of a folder, the Hugging Face API's shape above them, and lies on demand."""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
"""Answers in place of the server; None: the server answers."""
COMMIT = "0e9e39f249a16976918f6564b8830bc894c89659"


class WebServer:
    """Serves `root`: at /files/ as it is, as `org/model` of a Hub, and as a bucket of Google's storage."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = 0
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answer: Answer | None = None
        self.tokens: set[str] | None = None
        """Who may read; None: everybody."""
        self.gated = False
        self.commit = COMMIT
        self.siblings: list[dict[str, object]] | None = None
        """What the Hub lists instead of what is there."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path, dict(request.headers)))
        if self.answer is not None and (response := await self.answer(request)) is not None:
            return response
        if matched := re.fullmatch(r"/api/models/org/model(?:/revision/([^/]+))?", request.path):
            return self._model(request, matched[1])
        if request.path == "/models":
            return self._bucket(request.query["prefix"])
        matched = re.fullmatch(r"/(?:org/model/resolve/([^/]+)|files|models/org/model)/(.+)", request.path)
        if matched is None or matched[1] not in {None, self.commit}:
            return web.Response(status=404, headers={"X-Error-Code": "RepoNotFound"})
        return self._refusal(request) or self.file(request, matched[2])

    def file(self, request: web.Request, path: str) -> web.StreamResponse:
        """Serve a file with ranges, as any web server does."""
        found = self.root / path
        return web.FileResponse(found) if found.is_file() else web.Response(status=404)

    def _refusal(self, request: web.Request) -> web.Response | None:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens is None or token in self.tokens:
            return None
        if self.gated:
            return web.Response(status=403, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
        return web.Response(status=401, headers={"X-Error-Code": "RepoNotFound"})

    def _model(self, request: web.Request, revision: str | None) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        if revision not in {None, "main", self.commit}:
            return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        siblings = self.listed() if self.siblings is None else self.siblings
        return web.json_response({"id": "org/model", "sha": self.commit, "siblings": siblings})

    def listed(self) -> list[dict[str, object]]:
        """Return the files that are there, as the Hub lists them."""
        return [
            _sibling(path.relative_to(self.root).as_posix(), path.read_bytes())
            for path in sorted(self.root.rglob("*"))
            if path.is_file()
        ]

    def _bucket(self, prefix: str) -> web.Response:
        """List as Google's storage does (XML API)."""
        lines = ""
        for path in sorted(self.root.rglob("*")) if prefix == "org/model/" else ():
            status = path.stat()
            lines += (
                f"<Contents><Key>org/model/{path.relative_to(self.root)}</Key><Size>{status.st_size}</Size>"
                f"<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{status.st_mtime_ns:x}-{status.st_size:x}&quot;</ETag></Contents>"
            )
        return web.Response(
            text=f"<ListBucketResult><Name>models</Name>{lines}</ListBucketResult>", content_type="application/xml"
        )


def _sibling(path: str, content: bytes) -> dict[str, object]:
    found: dict[str, object] = {"rfilename": path, "size": len(content), "blobId": "0" * 40}
    if path.endswith((".safetensors", ".bin")):
        found["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return found


@asynccontextmanager
async def web_server(root: Path) -> AsyncIterator[WebServer]:
    """Run a server."""
    server = WebServer(root)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert isinstance(site._server, asyncio.Server)
    server.port = site._server.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        await runner.cleanup()
