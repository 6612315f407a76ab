"""One generation for several identical requests: each gets its own stream of it, from its first byte.

The generation belongs to none of them. It goes on while one reads, whoever left; when the last has left, it ends.
"""

import asyncio
from collections.abc import Callable

from warmfleet_api import names
from warmfleet_http.answer import Answer, Source
from warmfleet_http.errors import ClientGoneError
from warmfleet_http.messages import Header

HOLD_SECONDS = 2.0
"""How long, altogether, a reader may hold back the others by being behind. Then it is cut."""
_LOAD = names.HEADER_LOAD.lower().encode()
MAX_HISTORY_BYTES = 8 * 1024 * 1024
"""What is kept for those who come late. A generation that is longer takes nobody any more."""


class Shared(Answer):
    """The answer of one generation, written to all its readers' answers as it comes.

    `abandoned` is called once, when the last reader leaves before its end. A reader whose client is behind pauses the
    engine, for a while.
    """

    __slots__ = ("_abandoned", "_error", "_headers", "_history", "_history_bytes", "_is_joined", "_readers", "_slow")

    def __init__(self, abandoned: Callable[[], None]) -> None:
        super().__init__()
        self._abandoned = abandoned
        self._readers: dict[Reader, None] = {}
        self._slow: set[Reader] = set()
        self._headers: list[Header] = []
        self._history: list[bytes] | None = []
        self._history_bytes = 0
        self._is_joined = False
        self._error: Exception | None = None

    @property
    def can_join(self) -> bool:
        """Whether a newcomer would get everything from the first byte."""
        return self._history is not None and self._error is None

    def join(self, answer: Answer) -> "Reader":
        """Write to one more answer what came so far, and what comes; only while `can_join`."""
        reader = Reader(self, answer, is_merged=self._is_joined)
        self._is_joined = True
        self._readers[reader] = None
        answer.source = reader
        if self.status:
            reader.start(self.status, self._headers)
            if self._history:
                answer.write(b"".join(self._history))
        if self.is_ended:
            reader.be_whole()
        return reader

    def close_to_newcomers(self) -> None:
        """Forget what only newcomers would need."""
        self._history = None

    def fail(self, error: Exception) -> None:
        """End all readers with an error."""
        self._error = error
        for reader in self._readers:
            reader.end(error)

    def leave(self, reader: "Reader") -> None:
        """A reader is done, or gone."""
        reader.answer.source = None
        self.hold_back_no_more(reader)
        if self._readers.pop(reader, self) is self:
            return
        if not self._readers and not self.is_ended and self._error is None:
            self._abandoned()

    def hold_back(self, reader: "Reader") -> None:
        """Let the engine wait for a reader that is behind."""
        if not self._slow and self.source:
            self.source.pause_reading()
        self._slow.add(reader)

    def hold_back_no_more(self, reader: "Reader") -> None:
        """Go on, unless another one is behind."""
        if reader in self._slow:
            self._slow.discard(reader)
            if not self._slow and self.source:
                self.source.resume_reading()

    def cut(self, reader: "Reader") -> None:
        """End a reader that has held back the others for too long."""
        if self._readers.pop(reader, self) is None:
            self.hold_back_no_more(reader)
            reader.end(ClientGoneError())

    async def drain(self) -> None:
        """Readers that are behind pause the engine; nobody waits here."""

    def abort(self) -> None:
        """Cut all readers."""
        if not self.is_ended and self._error is None:
            self.fail(ClientGoneError())

    def _start(self, status: int, headers: list[Header]) -> None:
        self._headers = headers
        for reader in self._readers:
            reader.start(status, headers)

    def _write(self, data: bytes) -> None:
        self._keep(data)
        for reader in list(self._readers):
            reader.answer.write(data)

    def _finish(self, data: bytes) -> None:
        self._keep(data)
        for reader in list(self._readers):
            reader.be_whole(data)

    def _keep(self, data: bytes) -> None:
        """Keep it for newcomers."""
        if self._history is not None:
            self._history.append(data)
            self._history_bytes += len(data)
            if self._history_bytes > MAX_HISTORY_BYTES:
                self._history = None


class Reader(Source):
    """One subscriber: its answer, and how it ends."""

    __slots__ = ("_done", "_is_merged", "_loop", "_patience_seconds", "_shared", "_since", "_timer", "answer")

    def __init__(self, shared: Shared, answer: Answer, *, is_merged: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._shared = shared
        self._is_merged = is_merged
        self._patience_seconds = HOLD_SECONDS
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._done: asyncio.Future[None] = self._loop.create_future()
        self.answer = answer

    async def read(self) -> None:
        """Wait until the answer is whole.

        Raises:
            ClientGoneError: this reader was too slow.
            Exception: what the generation failed with.
        """
        await self._done

    def start(self, status: int, headers: list[Header]) -> None:
        """The answer begins; routers are told of a request that it was merged."""
        if self._is_merged:
            headers = [(name, value + names.LOAD_MERGED if name == _LOAD else value) for name, value in headers]
        self.answer.start(status, headers)

    def be_whole(self, data: bytes = b"") -> None:
        """This is the last piece."""
        self.answer.finish(data)
        if not self._done.done():
            self._done.set_result(None)

    def end(self, error: Exception) -> None:
        """Nothing will come after what is there."""
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # whoever read may have left

    def pause_reading(self) -> None:
        """The client is behind."""
        self._since = self._loop.time()
        self._timer = self._loop.call_later(max(0.0, self._patience_seconds), self._shared.cut, self)
        self._shared.hold_back(self)

    def resume_reading(self) -> None:
        """It has caught up."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
            self._patience_seconds -= self._loop.time() - self._since
        self._shared.hold_back_no_more(self)

    def left(self) -> None:
        """Whoever reads is gone, or has all."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._shared.leave(self)
