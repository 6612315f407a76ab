"""Connections to the engines' unix sockets, one pool per engine process."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp

from warmfleet_runtime.front.exchange import Connection, EngineLostError, Header

# Less than the keep-alive of the engines' servers (5 s), so that no request goes into a connection that just closes.
_IDLE_SECONDS = 3.0
_CONNECT_SECONDS = 5.0
READ_SECONDS = 600.0
"""A session's request to which an engine sends nothing for this long has failed."""


class Upstream:
    """Pools by socket and attempt: a new process of an engine never sees connections of its predecessor.

    `exchange` carries the requests of clients; `session` is for our own.
    """

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, int], aiohttp.ClientSession] = {}
        self._idle: dict[tuple[str, int], list[Connection]] = {}

    def session(self, socket: str, attempt: int) -> aiohttp.ClientSession:
        """Return the session of one engine process."""
        session = self._sessions.get((socket, attempt))
        if session is None:
            session = aiohttp.ClientSession(
                base_url="http://engine",
                # Admission is bounded elsewhere; here a limit would only queue out of sight.
                connector=aiohttp.UnixConnector(socket, limit=0, keepalive_timeout=_IDLE_SECONDS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=READ_SECONDS),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            self._sessions[socket, attempt] = session
        return session

    @asynccontextmanager
    async def exchange(
        self, socket: str, attempt: int, path: str, headers: Iterable[Header], body: bytes
    ) -> AsyncIterator[Connection]:
        """Post a request and give the connection once status and headers of the answer are there.

        Leaving before the answer was read to its end closes the connection, which ends the work in the engine.

        Raises:
            EngineLostError: the engine can't be reached, or did not answer.
        """
        connection = await self._begin((socket, attempt), path, tuple(headers), body)
        try:
            yield connection
        except BaseException:
            connection.abort()
            raise
        if connection.is_reusable:
            self._idle.setdefault((socket, attempt), []).append(connection)
        else:
            connection.abort()

    async def open(self, socket: str, attempt: int, connections: int) -> None:
        """Open connections ahead of the first requests; those that are open already count.

        Raises:
            EngineLostError: the engine can't be reached.
        """
        idle = self._idle.setdefault((socket, attempt), [])
        while len(idle) < connections:
            idle.append(await _connect(socket))

    async def keep_only(self, alive: set[tuple[str, int]]) -> None:
        """Close the pools of processes that are gone, and what idles for too long. Called at least every second."""
        for key in set(self._sessions) - alive:
            await self._sessions.pop(key).close()
        for key, idle in list(self._idle.items()):
            is_alive = key in alive
            kept = [each for each in idle if is_alive and _is_fresh(each)]
            for each in set(idle) - set(kept):
                each.abort()
            if kept:
                self._idle[key] = kept
            else:
                del self._idle[key]

    async def close(self) -> None:
        """Close all pools."""
        await self.keep_only(set())

    async def _begin(self, key: tuple[str, int], path: str, headers: tuple[Header, ...], body: bytes) -> Connection:
        while True:
            connection = self._take_idle(key)
            is_new = connection is None
            if connection is None:
                connection = await _connect(key[0])
            try:
                connection.send(b"POST", path, headers, body)
                await connection.head()
            except EngineLostError:
                connection.abort()
                # The engine may close an idle connection at any time; it has not read the request then.
                if is_new or connection.has_heard:
                    raise
            except BaseException:
                connection.abort()
                raise
            else:
                return connection

    def _take_idle(self, key: tuple[str, int]) -> Connection | None:
        idle = self._idle.get(key)
        while idle:
            # The last used first: the others may grow old and be closed.
            connection = idle.pop()
            if _is_fresh(connection):
                return connection
            connection.abort()
        return None


def _is_fresh(connection: Connection) -> bool:
    return connection.is_open and asyncio.get_running_loop().time() - connection.idle_since < _IDLE_SECONDS


async def _connect(socket: str) -> Connection:
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, connection = await asyncio.get_running_loop().create_unix_connection(Connection, socket)
    except (OSError, TimeoutError) as error:
        raise EngineLostError(f"the engine's socket takes no connection: {error!r}") from error
    return connection
