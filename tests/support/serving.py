"""A handler served in this process, over our protocol and over plain ASGI."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from support.front import until
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Limits, Request
from warmfleet_http.protocol import Handler
from warmfleet_http.server import LIMITS, Server, bind, server


@dataclass
class Served:
    """Where a handler answers."""

    address: tuple[str, int]
    server: Server

    async def say(self, data: bytes, seconds: float = 2.0) -> bytes:
        """Send bytes on a connection of their own; return all that comes until it is closed."""
        reader, writer = await asyncio.open_connection(*self.address)
        try:
            writer.write(data)
            async with asyncio.timeout(seconds):
                return await reader.read()
        finally:
            writer.close()


@asynccontextmanager
async def serving(handler: Handler, *, plain: bool = False, limits: Limits = LIMITS) -> AsyncIterator[Served]:
    """Serve until left; what goes on then is cut."""
    listening = bind("127.0.0.1", 0)
    each = server(handler, shutdown_seconds=0.05, limits=limits, plain=plain)
    task = asyncio.create_task(each.serve([listening]))
    try:
        await until(lambda: each.started, what="the server to start")
        yield Served(listening.getsockname()[:2], each)
    finally:
        each.force_exit = each.should_exit = True
        await task


async def echo(request: Request, answer: Answer) -> None:
    """Answer with what was understood."""
    headers = [[name.decode(), value.decode("latin-1")] for name, value in request.headers]
    body = request.body.decode("latin-1")
    answer.reply(200, {"method": request.method, "path": request.path, "headers": headers, "body": body})
