"""One generation for several identical requests: each gets its own stream of it, from its first byte.

The generation belongs to none of them. It goes on while one reads, whoever left; when the last has left, it ends.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from starlette.types import Message, Send

from warmfleet_runtime.front.replies import ClientGoneError
from warmfleet_runtime.front.watch import CLIENT, Watch

MAX_BEHIND_BYTES = 1024 * 1024
"""How far a reader may be behind the engine."""
HOLD_SECONDS = 2.0
"""How long, altogether, a reader may hold back the others by being so far behind. Then it is cut."""
MAX_HISTORY_BYTES = 8 * 1024 * 1024
"""What is kept for those who come late. A generation that is longer takes nobody any more."""


class Shared:
    """The answer of one generation. `abandoned` is called once, when the last reader leaves before its end."""

    def __init__(self, abandoned: Callable[[], None]) -> None:
        self._abandoned = abandoned
        self._readers: set[Reader] = set()
        self._history: list[Message] | None = []
        self._history_bytes = 0
        self._error: Exception | None = None
        self._has_ended = False
        self._caught_up = asyncio.Event()

    @property
    def can_join(self) -> bool:
        """Whether a newcomer would get everything from the first byte."""
        return self._history is not None and self._error is None

    def join(self) -> "Reader":
        """Return a new reader; only while `can_join`."""
        reader = Reader(self, self._history or [])
        self._readers.add(reader)
        return reader

    def close_to_newcomers(self) -> None:
        """Forget what only newcomers would need."""
        self._history = None

    async def send(self, message: Message) -> None:
        """Take one ASGI message of the answer, and wait for readers that are far behind, but not for long."""
        size = len(message.get("body", b""))
        if self._history is not None:
            self._history.append(message)
            self._history_bytes += size
            if self._history_bytes > MAX_HISTORY_BYTES:
                self._history = None
        self._has_ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        for reader in self._readers:
            reader.give(message, size)
        while slow := [reader for reader in self._readers if reader.behind_bytes > MAX_BEHIND_BYTES]:
            await self._hold_back(slow)

    def fail(self, error: Exception) -> None:
        """End all readers with an error."""
        self._error = error
        for reader in self._readers:
            reader.end(error)

    def leave(self, reader: "Reader") -> None:
        """A reader is done, or gone."""
        self._readers.discard(reader)
        self._caught_up.set()
        if not self._readers and not self._has_ended and self._error is None:
            self._abandoned()

    def caught_up(self) -> None:
        """A reader has taken what there was for it."""
        self._caught_up.set()

    async def _hold_back(self, slow: "list[Reader]") -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._caught_up.clear()
        patience = min(reader.patience_seconds for reader in slow)
        try:
            async with asyncio.timeout(patience):
                await self._caught_up.wait()
        except TimeoutError:
            pass
        waited = loop.time() - began
        for reader in slow:
            reader.patience_seconds -= waited
            if reader.patience_seconds <= 0 and reader.behind_bytes > MAX_BEHIND_BYTES:
                self._readers.discard(reader)
                reader.end(ClientGoneError())


class Reader:
    """One subscriber's place in the answer."""

    def __init__(self, shared: Shared, history: list[Message]) -> None:
        self._shared = shared
        self._waiting: deque[Message] = deque(history)
        self.behind_bytes = sum(len(message.get("body", b"")) for message in history)
        self.patience_seconds = HOLD_SECONDS
        self._error: Exception | None = None
        self._more = asyncio.Event()
        if history:
            self._more.set()

    def give(self, message: Message, size: int) -> None:
        """Add a message."""
        self._waiting.append(message)
        self.behind_bytes += size
        self._more.set()

    def end(self, error: Exception) -> None:
        """Nothing will come after what is there; then raise."""
        self._error = error
        self._more.set()

    async def read(self) -> Message:
        """Return the next message; bodies that wait together come as one.

        Raises:
            ClientGoneError: this reader was too slow.
            Exception: what the generation failed with.
        """
        while not self._waiting:
            if self._error:
                raise self._error
            self._more.clear()
            await self._more.wait()
        message = self._waiting.popleft()
        if message["type"] == "http.response.body" and self._waiting:
            bodies = [message, *self._waiting]
            self._waiting.clear()
            message = {
                "type": "http.response.body",
                "body": b"".join(each.get("body", b"") for each in bodies),
                "more_body": bodies[-1].get("more_body", False),
            }
        self.behind_bytes -= len(message.get("body", b""))
        self._shared.caught_up()
        return message

    async def pass_to(self, send: Send, watch: Watch) -> None:
        """Send everything.

        Raises:
            ClientGoneError: this reader was too slow.
            Exception: what the generation failed with.
        """
        is_complete = False
        while not is_complete:
            message = await self.read()
            is_complete = message["type"] == "http.response.body" and not message.get("more_body", False)
            watch.wait(CLIENT)
            await send(message)
            watch.rest()
