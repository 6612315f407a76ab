"""One answer under way for several identical requests: each gets all of it, from its first byte, at its own pace.

The answer belongs to none of them. It goes on while one reads, whoever left; when the last has left, it ends. Whoever
asked first hears what went wrong with it; the others, unless they were given a part already, ask for themselves.
"""

import asyncio
from collections.abc import Callable
from enum import Enum

from warmfleet_http.answer import Answer, Source
from warmfleet_http.messages import Header


class End(Enum):
    """How it ended for one reader."""

    WHOLE = "whole"
    CUT = "cut"
    """It broke off after its beginning."""
    ALONE = "alone"
    """Nothing of it came; whoever wants it has to ask for it."""


class Flight(Answer):
    """What an engine answers, written to all readers' answers as it comes, and kept as long as it is not too long.

    `abandoned` is called when the last reader leaves before the end. A reader that is behind catches up from what is
    kept. An answer of more than `max_bytes` is kept no more: then a reader that is behind holds back the engine.
    """

    __slots__ = (
        "_abandoned",
        "_kept",
        "_kept_bytes",
        "_max_bytes",
        "_readers",
        "error",
        "headers",
        "is_kept",
        "leader",
    )

    def __init__(self, max_bytes: int, abandoned: Callable[[], None]) -> None:
        super().__init__()
        self._abandoned = abandoned
        self._max_bytes = max_bytes
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._readers: dict[Reader, None] = {}
        self.headers: list[Header] = []
        self.is_kept = True
        """All that came is still there."""
        self.error: Exception | None = None
        """Why there was no answer at all."""
        self.leader: Reader | None = None
        """Whoever asked first, while it is there."""

    @property
    def can_join(self) -> bool:
        """Whether a newcomer would get everything from the first byte."""
        return self.is_kept and self.error is None and self.status in {0, 200}

    @property
    def body(self) -> bytes:
        """What is kept."""
        return b"".join(self._kept)

    def join(self, answer: Answer, request_id: bytes, shown: Header, *, leads: bool = False) -> "Reader":
        """Write to one more answer what came so far, and what comes; only while `can_join`."""
        reader = Reader(self, answer, (b"x-request-id", request_id), shown)
        self._readers[reader] = None
        answer.source = reader
        if leads:
            self.leader = reader
        if self.status:
            reader.start(self.status, self.headers)
            reader.go_on(self._kept)
        return reader

    def leave(self, reader: "Reader") -> None:
        """A reader is done, or gone."""
        reader.answer.source = None
        if self.leader is reader:
            self.leader = None
        if self._readers.pop(reader, self) is self:
            return
        if not self._readers and not self.is_ended and self.error is None:
            self._abandoned()
        self.hold_back()

    def fail(self, error: Exception) -> None:
        """There is no answer, or no more of it."""
        self.error = error
        for reader in self._readers:
            reader.end(End.CUT if reader.answer.status else End.ALONE)

    def caught_up(self, reader: "Reader") -> None:
        """A reader that was behind is not."""
        if self.is_kept:
            reader.go_on(self._kept)
        self.hold_back()

    def hold_back(self) -> None:
        """Let the engine wait for readers that are behind, once they could not catch up from what is kept."""
        if self.is_kept or self.source is None:
            return
        if any(each.is_behind for each in self._readers):
            self.source.pause_reading()
        else:
            self.source.resume_reading()

    async def drain(self) -> None:
        """Readers catch up by themselves; nobody waits here."""

    def abort(self) -> None:
        """It is broken off."""
        if not self.is_ended and self.error is None:
            self.is_ended = True
            self.fail(ConnectionError("the answer broke off"))

    def _start(self, status: int, headers: list[Header]) -> None:
        self.headers = headers
        for reader in list(self._readers):
            if status != 200 and reader is not self.leader:
                # A refusal is for whoever asked: others may be luckier.
                reader.end(End.ALONE)
                self.leave(reader)
            else:
                reader.start(status, headers)

    def _write(self, data: bytes) -> None:
        self._keep(data)
        for reader in list(self._readers):
            reader.take(data)
        self.hold_back()

    def _finish(self, data: bytes) -> None:
        if data:
            self._keep(data)
        for reader in list(self._readers):
            reader.take(data)

    def _keep(self, data: bytes) -> None:
        if not self.is_kept:
            return
        self._kept.append(data)
        self._kept_bytes += len(data)
        if self._kept_bytes > self._max_bytes:
            for reader in self._readers:
                # All but the newest piece, which all readers get next.
                reader.go_on(self._kept[:-1], at_once=True)
            self.is_kept = False
            self._kept = []


class Reader(Source):
    """One subscriber: its answer, and how it ends."""

    __slots__ = ("_done", "_flight", "_own", "_taken", "answer", "is_behind")

    def __init__(self, flight: Flight, answer: Answer, *own: Header) -> None:
        self._flight = flight
        self._own = own
        self._taken = 0
        self._done: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.answer = answer
        self.is_behind = False

    async def read(self, until: float | None = None) -> End:
        """Wait until the answer has ended, or has not begun at a moment of the loop's time."""
        loop = asyncio.get_running_loop()
        if until is not None:
            await asyncio.wait({self._done}, timeout=max(0.0, until - loop.time()))
            if not self._done.done() and not self.answer.status:
                return End.ALONE
        return await self._done

    def start(self, status: int, headers: list[Header]) -> None:
        """The answer begins."""
        own = {name for name, _ in self._own}
        self.answer.start(status, [*(each for each in headers if each[0] not in own), *self._own])

    def take(self, data: bytes) -> None:
        """Pass on a piece, unless the client is behind and will catch up."""
        flight = self._flight
        if self.is_behind and flight.is_kept:
            return
        self._taken += 1
        if flight.is_ended:
            self.answer.finish(data)
            self.end(End.WHOLE)
        elif data:
            self.answer.write(data)

    def go_on(self, kept: list[bytes], *, at_once: bool = False) -> None:
        """Pass on what is kept from where the client was, as far as it takes it; `at_once`: all of it."""
        while self._taken < len(kept) and (at_once or not self.is_behind):
            self._taken += 1
            self.answer.write(kept[self._taken - 1])
        if self._flight.is_ended and self._taken >= len(kept) and not self._done.done():
            self.answer.finish()
            self.end(End.WHOLE)

    def end(self, how: End) -> None:
        """Nothing will come after what is there."""
        if not self._done.done():
            self._done.set_result(how)

    def pause_reading(self) -> None:
        """The client is behind."""
        self.is_behind = True
        self._flight.hold_back()

    def resume_reading(self) -> None:
        """It has caught up with what was written."""
        self.is_behind = False
        self._flight.caught_up(self)
