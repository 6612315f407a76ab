"""One request and its answer over a connection to an engine: HTTP/1.1 on a unix socket, and nothing else.

Every token of every stream passes here, so this is own code on httptools' parser instead of an HTTP client: it holds
no body, builds no objects per chunk, and leaves framing to the parser, which is strict.
"""

import asyncio
from collections.abc import Iterable
from typing import cast

import httptools

MAX_BUFFERED_BYTES = 256 * 1024
"""What is read ahead of the client; beyond it the engine has to wait."""
MAX_HEAD_BYTES = 64 * 1024

Header = tuple[bytes, bytes]


class EngineLostError(Exception):
    """The engine did not answer, or broke off its answer. The message says what happened."""


class Connection(asyncio.Protocol):
    """A connection that carries one exchange after another: `send`, `head`, then `read` until it gives nothing.

    Not for two tasks at once. An exchange that is not read to its end has to be ended by `abort`.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: EngineLostError | None = None
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._head_bytes = 0
        self._is_paused = False
        self._is_head_complete = False
        self._is_complete = True
        self._keeps_alive = False
        self.status = 0
        self.headers: list[Header] = []
        """Names in lower case."""
        self.has_heard = False
        """Whether anything of the present answer came."""
        self.idle_since = self._loop.time()

    @property
    def is_open(self) -> bool:
        """Whether the engine has not closed it, as far as we know."""
        return self._error is None

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent: the answer to the last was read to its end."""
        return self._is_complete and self._keeps_alive and not self._chunks and self._error is None

    def send(self, method: bytes, path: str, headers: Iterable[Header], body: bytes = b"") -> None:
        """Send a request. Its headers must come from a parser: they are not looked at again.

        Raises:
            EngineLostError: the connection is closed.
        """
        if self._error or self._transport is None:
            raise self._error or EngineLostError("not connected")
        self._parser = httptools.HttpResponseParser(self)
        self.status, self.headers, self.has_heard = 0, [], False
        self._is_head_complete = self._is_complete = self._keeps_alive = False
        self._head_bytes = 0
        head = [method, b" ", path.encode("ascii"), b" HTTP/1.1\r\nhost: engine\r\ncontent-length: %d\r\n" % len(body)]
        for name, value in headers:
            head += (name, b": ", value, b"\r\n")
        head.append(b"\r\n")
        self._transport.write(b"".join(head))
        if body:
            self._transport.write(body)

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            EngineLostError: the engine closed the connection, or sent no HTTP.
        """
        while self._error is None and not self._is_head_complete:
            await self._wait()
        if self._error and not self._is_complete:
            raise self._error

    async def read(self) -> bytes:
        """Return what came of the body since, empty at its end.

        Raises:
            EngineLostError: the engine broke off.
        """
        while not self._chunks:
            if self._is_complete:
                return b""
            if self._error:
                raise self._error
            await self._wait()
        chunk = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered_bytes = 0
        if self._is_paused and self._transport:
            self._is_paused = False
            self._transport.resume_reading()
        return chunk

    def abort(self) -> None:
        """Close at once: the engine ends the generation."""
        self._lose("the exchange was aborted")
        if self._transport:
            self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _lose(self, why: str) -> None:
        if self._error is None:
            self._error = EngineLostError(why)
            self._wake()

    # Of the transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse, and wake whoever reads."""
        if self._is_complete or self._parser is None:
            # Nothing was asked, so this belongs to no answer.
            self.abort()
            return
        self.has_heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._lose(f"the engine sent no HTTP: {error!r}")
            if self._transport:
                self._transport.abort()
            return
        if self._buffered_bytes > MAX_BUFFERED_BYTES and not self._is_paused and self._transport:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed. An answer without a length would end so too; nobody could tell it from half a one, so it is lost."""
        self._lose(f"the engine closed the connection{f': {exc}' if exc else ''}")
        self._parser = None

    # Of the parser --------------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what is raised here ends the exchange as any other bad HTTP does."""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(f"headers of more than {MAX_HEAD_BYTES} bytes")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Status and headers are there."""
        assert self._parser is not None
        self.status = self._parser.get_status_code()
        self._keeps_alive = self._parser.should_keep_alive()
        if self.status < 200:
            raise ValueError(f"status {self.status}, for which nobody asked")
        self._is_head_complete = True

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._chunks.append(body)
        self._buffered_bytes += len(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._is_complete = True
        self.idle_since = self._loop.time()
