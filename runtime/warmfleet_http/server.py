"""Servers: uvicorn's start, date and graceful end, around our protocol or around plain ASGI.

    async def handler(request: Request, answer: Answer) -> None:
        answer.reply(200, {"path": request.path})

    await server(handler, shutdown_seconds=30).serve([bind("::", 8000)])

One coroutine per request. It gets the request whole and within `Limits`; what is not is refused before. It may take as
long as it likes before it begins to answer: when the client leaves it is cancelled, so what it holds is freed in
`finally`. A handler that ends without an answer, or raises, has a bug: the client gets a 500, or a cut connection.
What needs no coroutine may do without: see `protocol.Handler`.
"""

import contextlib
import socket
from collections.abc import Generator
from typing import Any, cast

import uvicorn

from warmfleet_http.asgi import AsgiHandler, BoundedProtocol
from warmfleet_http.messages import Limits
from warmfleet_http.protocol import Handler, HttpProtocol, State

BACKLOG = 2048
LIMITS = Limits()


class Server(uvicorn.Server):
    """A server whose process handles signals itself: several of them share one loop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state: State = State()

    def leave(self) -> None:
        """Close each connection with its next answer, which says so: then none is cut when the server ends.

        Between requests a connection stays open: its client could be sending one at this moment.
        """
        self.server_state.is_leaving = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield


def server(
    handler: Handler,
    *,
    shutdown_seconds: float,
    limits: Limits = LIMITS,
    plain: bool = False,
) -> Server:
    """Return a server for a handler. `plain`: over uvicorn's own protocol and ASGI.

    `should_exit = True` ends it: idle connections at once, others with their answer, all after `shutdown_seconds`.
    """
    if plain:
        return asgi_server(AsgiHandler(handler, limits), shutdown_seconds=shutdown_seconds, limits=limits)

    def protocol(config: uvicorn.Config, server_state: State, app_state: Any, _loop: Any = None) -> HttpProtocol:
        return HttpProtocol(handler, limits, server_state)

    return Server(_config(handler, protocol, shutdown_seconds))


def asgi_server(app: Any, *, shutdown_seconds: float, limits: Limits = LIMITS) -> Server:
    """Return a server for an ASGI application, with bounds on what comes before the body."""
    protocol = type("Protocol", (BoundedProtocol,), {"limits": limits})
    return Server(_config(app, protocol, shutdown_seconds, timeout_keep_alive=int(limits.idle_seconds)))


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; `::` takes IPv4 as well, and IPv4 alone where there is no IPv6.

    Raises:
        OSError: the port is taken.
    """
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")


def _config(app: Any, protocol: Any, shutdown_seconds: float, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=cast(Any, protocol),
        interface="asgi3",
        proxy_headers=False,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=int(shutdown_seconds),
        **more,
    )
