"""What a handler writes its answer to. Two of them behave alike: one over a transport, one over plain ASGI."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from warmfleet_http.messages import Header
from warmfleet_http.replies import DONE, JSON, broken_stream


class Source(Protocol):
    """Where an answer's bytes come from while they flow by themselves."""

    def pause_reading(self) -> None:
        """Send no more for now: the client is behind."""

    def resume_reading(self) -> None:
        """Go on."""


class Answer(ABC):
    """An answer: `start`, any number of `write`, `finish`; or `reply`, which does all three.

    Nothing of it waits but `drain`. When the client leaves, the handler is cancelled, and all of it does nothing.
    """

    # Of the class, so that an answer costs nothing for what it does not use.
    status = 0
    """0: nothing was sent yet, so another answer can still be given."""
    first_body_at: float | None = None
    """Monotonic seconds."""
    is_stream = False
    """Of server-sent events."""
    is_ended = False
    is_gone = False
    """The client left before the end."""
    source: Source | None = None
    """Told to pause while the client is behind; see `Exchange.pipe`."""
    takes_chunks = False
    """Whether `write_chunk` may be called: the body is sent in chunks, and its first piece is."""
    last = b""
    """The piece of the body that was sent last."""

    @property
    def is_told(self) -> bool:
        """Whether the client has all of it: OpenAI's own leaves at the last event of a stream, before its end."""
        return self.is_ended or self.last.endswith(DONE)

    def start(self, status: int, headers: Iterable[Header]) -> None:
        """Give status and headers. Without `content-length` the body is chunked; framing headers are not the caller's.

        Raises:
            RuntimeError: the answer has begun already.
            ValueError: a header holds a line end.
        """
        if self.status:
            raise RuntimeError("the answer has begun already")
        fields = list(headers)
        kind = dict(fields).get(b"content-type")
        self._start(status, fields)
        self.status = status
        self.is_stream = kind is not None and kind.startswith(b"text/event-stream")

    def write(self, data: bytes) -> None:
        """Send a piece of the body. It is buffered without bound: `drain` before the next one, unless a pipe writes."""
        self._note(data)
        self._write(data)

    def write_chunk(self, chunk: bytes, body: bytes) -> None:
        """Send a piece of the body that is one chunk already, framed as `chunks.body_of_one` says; see `write`.

        Raises:
            RuntimeError: the answer takes none.
        """
        raise RuntimeError("the answer takes no chunks")

    def finish(self, data: bytes = b"") -> None:
        """End the answer, with the last piece of its body if there is one; more of it does nothing.

        Raises:
            RuntimeError: it has not begun.
        """
        if not self.status:
            raise RuntimeError("the answer has not begun")
        if not self.is_ended:
            if data:
                self._note(data)
            self.is_ended = True
            self._finish(data)

    def reply(self, status: int, body: Any = b"", headers: Iterable[Header] = ()) -> None:
        """Send a whole answer; bytes as they are, anything else as JSON."""
        fields = list(headers)
        if not isinstance(body, bytes):
            body = msgspec.json.encode(body)
        if body and all(name != b"content-type" for name, _ in fields):
            fields.append(JSON)
        self.start(status, [*fields, (b"content-length", b"%d" % len(body))])
        self.finish(body)

    def break_off(self, message: str) -> None:
        """End an answer that has begun and will not be whole.

        A stream ends with an error as its last event, and without [DONE]: no client takes it for complete. Any other
        answer is left unfinished, and its connection cut.
        """
        if self.is_stream:
            event = broken_stream(message)
            self.finish(event if not self.last or self.last.endswith(b"\n\n") else b"\n\n" + event)
        else:
            self.abort()

    def _note(self, data: bytes) -> None:
        if self.first_body_at is None:
            self.first_body_at = time.monotonic()
        self.last = data

    @abstractmethod
    async def drain(self) -> None:
        """Wait until the client has taken most of what was written.

        Raises:
            ClientGoneError: it left.
        """

    @abstractmethod
    def abort(self) -> None:
        """Cut the connection without sending what its client does not take."""

    @abstractmethod
    def _start(self, status: int, headers: list[Header]) -> None:
        """Take the head; it may be sent with the first bytes of the body.

        Raises:
            ValueError: a header holds a line end.
        """

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Send a piece of the body."""

    @abstractmethod
    def _finish(self, data: bytes) -> None:
        """End the body with its last piece, which may be empty."""
