"""One connection to what is behind this process, and one exchange after another on it.

Every token of every stream passes here, so this is own code on httptools' parser instead of an HTTP client: it holds no
body, builds no objects per chunk, and leaves framing to the parser, which is strict.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import cast

import httptools

from warmfleet_http.answer import Answer
from warmfleet_http.chunks import body_of_one
from warmfleet_http.errors import BrokenError, LostError, UpstreamError
from warmfleet_http.messages import Header
from warmfleet_http.sweep import NEVER, sweep_of

MAX_BUFFERED_BYTES = 256 * 1024
"""What is read ahead of whoever reads; beyond it the other side has to wait."""
MAX_HEAD_BYTES = 64 * 1024
_JOINED_BYTES = 64 * 1024
"""A body up to this size goes out in one piece with its head."""

Seen = Callable[[bytes], None]
"""Looks at the bytes that go by."""


class Exchange(asyncio.Protocol):
    """A connection that carries one exchange after another: a request, and then an answer read to its end.

    Of the answer: `begun`, then `read` until it gives nothing, or `pipe`. Not for two tasks at once. An exchange that
    was not read to its end has to be ended by `abort`; the pool does both.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: UpstreamError | None = None
        self._chunks: list[bytes] = []
        self._buffered_bytes = 0
        self._head_bytes = 0
        self._is_paused = False
        self._is_head_complete = False
        self._is_complete = True
        self._keeps_alive = False
        self._is_between_chunks = False
        self._sink: Answer | None = None
        self._seen: Seen | None = None
        self._wire: Answer | None = None  # the sink, while a chunk of ours can be one of its own as it came
        self._patience_seconds = self._next_seconds = 0.0
        self.due = NEVER
        """When whoever asked loses patience."""
        self.status = 0
        self.headers: list[Header] = []
        """Names in lower case; those of the connection itself among them."""
        self.has_heard = False
        """Whether anything of the present answer came."""
        self.idle_since = self._loop.time()

    @property
    def is_open(self) -> bool:
        """Whether the other side has not closed it, as far as we know."""
        return self._error is None

    @property
    def is_reusable(self) -> bool:
        """Whether another request may be sent: the answer to the last was read to its end."""
        return self._is_complete and self._keeps_alive and not self._chunks and self._error is None

    @property
    def is_whole(self) -> bool:
        """Whether all of the answer has come, read or not."""
        return self._is_complete

    @property
    def is_stream(self) -> bool:
        """Whether the answer is a stream of server-sent events."""
        return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in self.headers)

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header of the answer, by its name in lower case."""
        return next((value for each, value in self.headers if each == name), None)

    def send(
        self, method: bytes, target: bytes, headers: Iterable[Header], body: bytes = b"", lines: bytes = b""
    ) -> None:
        """Send a request. Target and headers must come from a parser: they are not looked at again.

        Args:
            method: of the request.
            target: path and query.
            headers: with the host, unless `lines` has it, and nothing that frames the body.
            body: whole.
            lines: more headers, each with its line end: for those that are the same each time.

        Raises:
            LostError: the connection is closed.
        """
        if self._error or self._transport is None:
            raise self._error or LostError("not connected")
        self.status, self.headers, self.has_heard = 0, [], False
        self._is_head_complete = self._is_complete = self._keeps_alive = self._is_between_chunks = False
        self._head_bytes = 0
        head = [b"%b %b HTTP/1.1\r\ncontent-length: %d\r\n" % (method, target, len(body)), lines]
        for name, value in headers:
            head += (name, b": ", value, b"\r\n")
        head.append(b"\r\n")
        if len(body) <= _JOINED_BYTES:
            head.append(body)
            self._transport.write(b"".join(head))
        else:
            self._transport.write(b"".join(head))
            self._transport.write(body)

    def be_patient(self, first_seconds: float, next_seconds: float) -> None:
        """Bound the silence from now on, until the body's first bytes and between those that follow.

        Time in which whoever takes the bytes is behind does not count.
        """
        self._patience_seconds, self._next_seconds = first_seconds, next_seconds
        self.due = self._loop.time() + first_seconds

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            LostError: nothing of an answer came.
            BrokenError: it broke off, or is no HTTP.
        """
        while self._error is None and not self._is_head_complete:
            await self._wait()
        if self._error and not self._is_complete:
            raise self._error

    async def begun(self) -> None:
        """Wait for the body's first bytes, or its end: an answer that breaks before them can still be another one.

        Raises:
            BrokenError: it broke off.
        """
        while not self._chunks and not self._is_complete:
            if self._error:
                raise self._error
            await self._wait()

    async def read(self) -> bytes:
        """Return what came of the body since, empty at its end.

        Raises:
            BrokenError: it broke off.
        """
        await self.begun()
        return self._take()

    async def whole(self, limit_bytes: int) -> bytes:
        """Return the body.

        Raises:
            BrokenError: it broke off, or is longer than `limit_bytes`.
        """
        parts, size = [], 0
        while chunk := await self.read():
            size += len(chunk)
            if size > limit_bytes:
                raise BrokenError(f"the answer is over {limit_bytes} bytes")
            parts.append(chunk)
        return b"".join(parts)

    async def pipe(self, answer: Answer, seen: Seen | None = None) -> None:
        """Let the rest of the body flow to an answer that was started, and finish it.

        From one connection's callback to the other's transport: no task is woken before the end. `seen` looks at the
        bytes before they are written. A client that is behind pauses the reading here.

        Raises:
            BrokenError: it broke off; the answer is not finished.
        """
        self.flow(answer, seen)
        try:
            while not self._is_complete:
                if self._error:
                    raise self._error
                await self._wait()
        finally:
            self.flow_no_more()

    def flow(self, answer: Answer, seen: Seen | None = None) -> None:
        """Let the rest of the body flow to an answer that was started; see `pipe`."""
        self._sink, self._seen, answer.source = answer, seen, self
        # So much may have come already that no more is read; from now on the answer alone says when to pause.
        self.resume_reading()
        self._flow()

    def flow_no_more(self) -> None:
        """Pass on no more, whole or not."""
        if self._sink is not None:
            self._sink.source = None
        self._sink = self._seen = self._wire = None

    def abort(self) -> None:
        """Close at once: the other side ends its work."""
        self._lose("the exchange was aborted")
        if self._transport:
            self._transport.abort()

    def give_up(self, why: str) -> None:
        """Lose patience now: nothing more will come."""
        transport = self._transport
        self._lose(why, timed_out=True)
        if transport:
            transport.abort()

    def pause_reading(self) -> None:
        """Read no more until `resume_reading`: whoever takes the bytes is behind."""
        if not self._is_paused and self._transport:
            self._is_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on, with new patience."""
        if self._is_paused and self._transport:
            self._is_paused = False
            self._transport.resume_reading()
            if self.due != NEVER:
                self.due = self._loop.time() + self._patience_seconds

    # Parts ----------------------------------------------------------------------------------------------------------

    def _take(self) -> bytes:
        chunks = self._chunks
        if not chunks:
            return b""
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered_bytes = 0
        if self._sink is None:
            self.resume_reading()
        return data

    def _flow(self) -> None:
        """Pass on what came."""
        sink = self._sink
        if sink is None:
            return
        data = self._take()
        if data and self._seen:
            self._seen(data)
        if self._is_complete:
            sink.finish(data)
        elif data:
            sink.write(data)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _lose(self, why: str, *, timed_out: bool = False) -> None:
        self.due = NEVER
        if self._error is None:
            kind = BrokenError if self.has_heard else LostError
            self._error = kind(why, timed_out=timed_out)
            self._wake()

    def overdue(self, now: float) -> None:
        """The other side was silent for too long."""
        if self._is_paused:
            self.due = now + self._patience_seconds
            return
        what = "go on with its answer" if self.has_heard else "begin its answer"
        self.give_up(f"it did not {what} within {self._patience_seconds:g} s")

    # Of the transport -----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        sweep_of(self._loop).add(self)

    def data_received(self, data: bytes) -> None:
        """Parse, and pass on or wake whoever reads.

        A whole chunk between two others is no news to the parser: while it flows on it is not parsed, nor framed anew.
        """
        if self._wire is not None and (body := body_of_one(data)) is not None:
            self.due = self._loop.time() + self._patience_seconds
            if self._seen is not None:
                self._seen(body)
            self._wire.write_chunk(data, body)
            return
        self._wire = None
        if self._is_complete or self._parser is None:
            # Nothing was asked, so this belongs to no answer.
            self.abort()
            return
        self.has_heard = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._refuse(f"this is no HTTP: {error!r}")
            return
        if self._is_complete:
            self.due = NEVER
            if self._sink is not None:
                self._flow()
            self._wake()
            return
        self.due = self._loop.time() + self._patience_seconds
        if self._sink is not None:
            self._flow()
            if self._is_between_chunks and self._sink.takes_chunks and data.endswith(b"\r\n"):
                self._wire = self._sink
            return
        if self._buffered_bytes > MAX_BUFFERED_BYTES:
            self.pause_reading()
        self._wake()

    def _refuse(self, why: str) -> None:
        """Take nothing more; an answer that was whole before is one."""
        transport = self._transport
        if self._is_complete and self._sink is not None:
            self._flow()
        self._lose(why)
        if transport:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed. An answer without a length would end so too; nobody could tell it from half a one, so it is lost."""
        sweep_of(self._loop).discard(self)
        self._transport = None
        self._lose(f"the connection was closed{f': {exc}' if exc else ''}")
        # The parser holds us: without this each connection would be left for the collector.
        self._parser = None

    # Of the parser --------------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """Keep a header; what is raised here ends the exchange as any other bad HTTP does."""
        if self._is_head_complete:
            return
        value = value or b""
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(f"headers of more than {MAX_HEAD_BYTES} bytes")
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Status and headers are there."""
        assert self._parser is not None
        if self._is_head_complete:
            raise ValueError("a second answer, for which nobody asked")
        self.status = self._parser.get_status_code()
        if self.status < 200:
            raise ValueError(f"status {self.status}, for which nobody asked")
        self._keeps_alive = self._parser.should_keep_alive()
        self._is_head_complete = True

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._patience_seconds = self._next_seconds
        self._chunks.append(body)
        self._buffered_bytes += len(body)

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._is_between_chunks = False

    def on_chunk_complete(self) -> None:
        """A chunk ended: unless more was read already, the next bytes begin another one."""
        self._is_between_chunks = True

    def on_message_complete(self) -> None:
        """The answer is whole."""
        self._is_complete = True
        self.idle_since = self._loop.time()
