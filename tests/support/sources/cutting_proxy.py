"""A TCP proxy that cuts connections in the middle of what the server sends, and counts the bytes that came through."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Cut = Callable[[], int | None]
"""After how many bytes of the server the next connection is cut; None: never."""


def never() -> int | None:
    """Cut nothing."""
    return None


def at_random(seed: int, most_bytes: int, times: int) -> Cut:
    """Cut the first so many connections, each at a random place."""
    chance, left = random.Random(seed), [times]

    def cut() -> int | None:
        left[0] -= 1
        return chance.randrange(1, most_bytes) if left[0] >= 0 else None

    return cut


class CuttingProxy:
    """Stands in front of a server on loopback."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._cut: Cut = never
        self.cuts = 0
        self.connections = 0
        self.sent_bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        open_ones = [writer]
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            open_ones.append(up_writer)
            upward = asyncio.create_task(self._upward(reader, up_writer))
            try:
                await self._downward(up_reader, writer)
            finally:
                upward.cancel()
                await asyncio.gather(upward, return_exceptions=True)
        except OSError:
            pass
        finally:
            for each in open_ones:
                await _close(each)
            self._tasks.discard(task)

    async def _downward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self._cut()
        while block := await reader.read(65536):
            if left is not None and len(block) >= left:
                block, self.cuts = block[:left], self.cuts + 1
                left = 0
            elif left is not None:
                left -= len(block)
            writer.write(block)
            self.sent_bytes += len(block)
            await writer.drain()
            if left == 0:
                return

    @staticmethod
    async def _upward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(65536):
            writer.write(block)
            await writer.drain()

    async def cut(self, cut: Cut) -> None:
        """Cut from now on, what is open at once."""
        self._cut = cut
        await self.close()

    async def close(self) -> None:
        """End all connections."""
        # What was accepted just now has no task yet.
        await asyncio.sleep(0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _close(writer: asyncio.StreamWriter) -> None:
    """Close once what was written has left, at latest after a moment."""
    writer.close()
    try:
        async with asyncio.timeout(0.2):
            await writer.wait_closed()
    except (OSError, TimeoutError, asyncio.CancelledError):
        writer.transport.abort()


@asynccontextmanager
async def cutting_proxy(target_port: int) -> AsyncIterator[CuttingProxy]:
    """Run a proxy."""
    proxy = CuttingProxy(target_port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
