"""Connections to the engines' unix sockets, kept apart by engine process.

`pool` carries the requests of clients; `session` is for our own.
"""

import aiohttp

from warmfleet_http.pool import Origin, Pool
from warmfleet_runtime.link import Route

# Less than the keep-alive of the engines' servers (5 s), so that no request goes into a connection that just closes.
_IDLE_SECONDS = 3.0
CONNECT_SECONDS = 5.0
READ_SECONDS = 600.0
"""A session's request to which an engine sends nothing for this long has failed."""


class Upstream:
    """By socket and attempt: a new process of an engine never sees connections of its predecessor."""

    def __init__(self) -> None:
        self.pool = Pool(idle_seconds=_IDLE_SECONDS)
        self._sessions: dict[Origin, aiohttp.ClientSession] = {}

    def session(self, socket: str, attempt: int) -> aiohttp.ClientSession:
        """Return the session of one engine process."""
        origin = Origin(socket, attempt)
        session = self._sessions.get(origin)
        if session is None:
            session = aiohttp.ClientSession(
                base_url="http://engine",
                # Admission is bounded elsewhere; here a limit would only queue out of sight.
                connector=aiohttp.UnixConnector(socket, limit=0, keepalive_timeout=_IDLE_SECONDS),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            self._sessions[origin] = session
        return session

    async def keep_only(self, alive: set[tuple[str, int]]) -> None:
        """Close what belongs to processes that are gone."""
        origins = {Origin(*each) for each in alive}
        for origin in set(self._sessions) - origins:
            await self._sessions.pop(origin).close()
        self.pool.keep_only(origins)

    async def close(self) -> None:
        """Close all."""
        await self.keep_only(set())
        self.pool.close()


def origin_of(route: Route) -> Origin:
    """Return where an engine's process is asked."""
    return Origin(route.socket, route.attempt)
