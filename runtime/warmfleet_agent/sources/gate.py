"""A proxy of this process for clients that connect by themselves: it lets them through to allowed addresses only.

obstore (Rust) and huggingface_hub (httpx) look names up and follow redirects on their own. Through a CONNECT proxy each
of their connections comes by here, and TLS still ends in the client. It listens on loopback, with a password.
"""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from yarl import URL

from warmfleet_agent.sources.contract import SourceError
from warmfleet_agent.sources.endpoints import Endpoints

_CONNECT_SECONDS = 15.0
_IDLE_SECONDS = 120.0
_BLOCK_BYTES = 256 * 1024


class Gate:
    """An open gate."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._password = secrets.token_urlsafe(16)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.refused: SourceError | None = None
        """Why the last connection was refused: clients tell only that the proxy said no."""

    @property
    def url(self) -> str:
        """As clients are told it."""
        return f"http://warmfleet:{self._password}@127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client sees a closed connection
        finally:
            self._tasks.discard(task)
            writer.close()

    async def close(self) -> None:
        """End all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_CONNECT_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, target = self._admitted(head)
            if target is not None:
                try:
                    upstream = await self._connect(*target)
                except SourceError as error:
                    self.refused, status = error, "403 Forbidden"
                except OSError:
                    status = "502 Bad Gateway"
            if not status.startswith("200"):
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
                await writer.drain()
                return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await _pump_both(reader, writer, *upstream)
        finally:
            upstream[1].close()

    def _admitted(self, head: str) -> tuple[str, tuple[str, int] | None]:
        """Read the request: the status to answer with and, if it is to go on, host and port."""
        request, *lines = head.split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        expected = "Basic " + base64.b64encode(f"warmfleet:{self._password}".encode()).decode()
        if not secrets.compare_digest(headers.get("proxy-authorization", "").encode(), expected.encode()):
            return "407 Proxy Authentication Required", None
        method, _, rest = request.partition(" ")
        host, _, port = rest.partition(" ")[0].rpartition(":")
        if method != "CONNECT" or not host or not port.isdecimal():
            return "405 Method Not Allowed", None
        return "200", (host.strip("[]"), int(port))

    async def _connect(self, host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        self._endpoints.check(URL.build(scheme="https", host=host, port=port))
        failure: OSError = OSError("no address")
        for address in await self._endpoints.addresses(host, port):
            try:
                return await asyncio.open_connection(address, port, limit=4 * _BLOCK_BYTES)
            except OSError as error:
                failure = error
        raise failure


async def _pump_both(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    up_reader: asyncio.StreamReader,
    up_writer: asyncio.StreamWriter,
) -> None:
    up = asyncio.create_task(_pump(reader, up_writer), name="gate up")
    down = asyncio.create_task(_pump(up_reader, writer), name="gate down")
    try:
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        # What the other side still sends after one has closed is little: TLS ends both ways.
        await asyncio.wait({up, down}, timeout=1.0)
    finally:
        for task in (up, down):
            task.cancel()
        await asyncio.gather(up, down, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, TimeoutError):
        while True:
            async with asyncio.timeout(_IDLE_SECONDS):
                block = await reader.read(_BLOCK_BYTES)
            if not block:
                break
            writer.write(block)
            await writer.drain()
        writer.write_eof()


@asynccontextmanager
async def opened(endpoints: Endpoints) -> AsyncIterator[Gate]:
    """Open a gate on a free port of loopback."""
    gate = Gate(endpoints)
    server = await asyncio.start_server(gate.serve, "127.0.0.1", 0, limit=4 * _BLOCK_BYTES)
    gate.port = server.sockets[0].getsockname()[1]
    try:
        yield gate
    finally:
        server.close()
        await gate.close()
        await server.wait_closed()
