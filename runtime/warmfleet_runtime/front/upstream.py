"""Connections to the engines' unix sockets, one pool per engine process."""

import aiohttp

# Less than the keep-alive of the engines' servers (5 s), so that no request goes into a connection that just closes.
_IDLE_SECONDS = 3.0
READ_SECONDS = 600.0
"""An engine that sends nothing for this long has failed the request."""


class Upstream:
    """Pools by socket and attempt: a new process of an engine never sees connections of its predecessor."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, int], aiohttp.ClientSession] = {}

    def session(self, socket: str, attempt: int) -> aiohttp.ClientSession:
        """Return the pool of one engine process."""
        session = self._sessions.get((socket, attempt))
        if session is None:
            session = aiohttp.ClientSession(
                base_url="http://engine",
                # Admission is bounded elsewhere; here a limit would only queue out of sight.
                connector=aiohttp.UnixConnector(socket, limit=0, keepalive_timeout=_IDLE_SECONDS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=READ_SECONDS),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            self._sessions[socket, attempt] = session
        return session

    async def keep_only(self, alive: set[tuple[str, int]]) -> None:
        """Close the pools of processes that are gone."""
        for key in set(self._sessions) - alive:
            await self._sessions.pop(key).close()

    async def close(self) -> None:
        """Close all pools."""
        await self.keep_only(set())
