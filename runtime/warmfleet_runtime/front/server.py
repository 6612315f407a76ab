"""HTTP servers: uvicorn without signals of its own, with bounds on what comes before the body."""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from typing import Any

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0
BACKLOG = 2048
_ABORT = "abort"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a bound on the size of request line and headers, and on the time they take."""

    _head_bytes = 0
    _is_head_open = False
    _head_timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Count what belongs to a head that is not complete yet."""
        if self._head_timer is None and self._head_bytes == 0 and self._is_between_requests():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)
            self._is_head_open = True
        super().data_received(data)
        if self._is_head_open:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.transport.write(_TOO_LARGE)
                self._give_up()

    def on_message_begin(self) -> None:
        """A request begins: let the application cut its connection, see `cut_off`."""
        super().on_message_begin()
        self.scope["state"][_ABORT] = self.transport.abort

    def on_headers_complete(self) -> None:
        """The head is complete: what follows is bounded by the application."""
        self._close_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._close_head()
        super().connection_lost(exc)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_head(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
        self._head_timer = None
        self._head_bytes = 0
        self._is_head_open = False

    def _give_up(self) -> None:
        self._close_head()
        self.transport.close()


def cut_off(scope: Scope) -> None:
    """Close a request's connection without sending what its client does not take: a mere close would wait for that."""
    if abort := scope.get("state", {}).get(_ABORT):
        abort()


class Server(uvicorn.Server):
    """A server whose process handles signals itself: several of them share one loop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Capture none."""
        yield


def server(app: Any, *, shutdown_seconds: float, **address: Any) -> Server:
    """Return a server for an ASGI application (`address`: uvicorn's host and port, or uds)."""
    return Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            interface="asgi3",
            proxy_headers=False,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(shutdown_seconds),
            **address,
        )
    )


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; `::` takes IPv4 as well, and IPv4 alone where there is no IPv6.

    Raises:
        OSError: the port is taken.
    """
    if host == "::" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG, dualstack_ipv6=host == "::")
