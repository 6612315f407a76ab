"""A cheap client for benchmarks: it shares two cores with what it measures.

A connection carries one request after another and looks at no more of an answer than its status, its first event, the
number of its events and its end. `traffic.py` sends by it what comes whatever becomes of the requests before.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import msgspec

REQUEST_SECONDS = 120.0
IDLE_SECONDS = 3.0
PATH = "/v1/completions"
TAIL_BYTES = 512
_EVENT = b"data: "
_HEAD_END = b"\r\n\r\n"
_DONE = b"data: [DONE]"
_LAST_CHUNK = b"\r\n0\r\n\r\n"

Address = tuple[str, int] | str
"""A host and its port, or the path of a unix socket."""


@dataclass(slots=True)
class Answer:
    """What came back; times are monotonic seconds."""

    sent_at: float = 0.0
    address: Address = ""
    """Who was asked."""
    status: int = 0
    head: bytes = b""
    first_at: float = 0.0
    """When the first bytes of the body came: with a stream that is the first token."""
    ended_at: float = 0.0
    events: int = 0
    """Of a stream, `[DONE]` included."""
    is_done: bool = False
    """Whether a stream said at its end that it is whole."""
    body: bytes = b""
    """Of an answer that is no stream."""
    tail: bytes = b""
    """The end of what came of a body in chunks."""

    @property
    def first_seconds(self) -> float:
        """Time to the first token."""
        return self.first_at - self.sent_at

    @property
    def seconds(self) -> float:
        """Time to the end."""
        return self.ended_at - self.sent_at


class Target:
    """Where requests go: a server, or equal ones behind one name as a Service has them.

    Each new connection goes to one of the addresses by chance and is kept for later requests. `addresses` may change,
    as the endpoints of a Service do: connections that are open stay.
    """

    def __init__(self, *addresses: Address, seed: int = 1) -> None:
        self.addresses = list(addresses)
        self.chance = random.Random(seed)
        self._idle: list[_Connection] = []

    async def ask(self, request: bytes, answer: Answer | None = None) -> Answer:
        """Send a request and return its answer once it is whole; `answer`: what to note it in.

        Raises:
            OSError: nobody takes the connection, or it ended before the answer did.
            TimeoutError: it takes too long.
        """
        answer = answer or Answer()
        connection = self._take_idle() or await self._connect(answer)
        answer.address = connection.address
        await connection.ask(request, answer)
        if connection.is_open and header(answer, b"connection").lower() != b"close":
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def open(self, connections: int) -> None:
        """Open connections ahead, so that none is opened within a measurement."""
        self._idle = [connection for connection in self._idle if connection.is_fresh]
        while len(self._idle) < connections:
            self._idle.append(await self._connect(Answer()))

    def close(self) -> None:
        """Close all connections that carry no request."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take_idle(self) -> "_Connection | None":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_fresh:
                return connection
        return None

    async def _connect(self, answer: Answer) -> "_Connection":
        loop = asyncio.get_running_loop()
        answer.address = address = self.chance.choice(self.addresses)
        async with asyncio.timeout(REQUEST_SECONDS):
            if isinstance(address, str):
                _, connection = await loop.create_unix_connection(lambda: _Connection(address), address)
            else:
                _, connection = await loop.create_connection(lambda: _Connection(address), *address)
        return connection


@asynccontextmanager
async def targets(**where: int | str) -> AsyncIterator[dict[str, Target]]:
    """Give targets by name, and close them: `targets(ours=8000, direct="/run/engine.sock")`."""
    found = {name: Target(place if isinstance(place, str) else ("127.0.0.1", place)) for name, place in where.items()}
    try:
        yield found
    finally:
        for target in found.values():
            target.close()


class _Connection(asyncio.Protocol):
    def __init__(self, address: Address) -> None:
        self.address = address
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._done: asyncio.Future[None] | None = None
        self._length = -1  # of the body that is still to come; -1: chunked
        self._head = b""
        self._parts: list[bytes] = []
        self.is_open = True
        self._rests_since = time.monotonic()

    @property
    def is_fresh(self) -> bool:
        """Whether it may carry a request; one that rested for long is closed here.

        The other side may be closing it at this very moment: vLLM does so after 5 s of rest.
        """
        if self.is_open and self._rests_since < time.monotonic() - IDLE_SECONDS:
            self.close()
        return self.is_open

    async def ask(self, request: bytes, answer: Answer) -> None:
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._head = b""
        self._parts = []
        self._answer = answer
        answer.sent_at = answer.sent_at or time.monotonic()
        self._transport.write(request)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._done
        except BaseException:
            self.close()
            raise
        finally:
            self._answer = None
        self._rests_since = time.monotonic()

    def close(self) -> None:
        self.is_open = False
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._done and not self._done.done():
            self._done.set_exception(ConnectionError(f"closed before the answer ended: {exc}"))

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None or self._done is None or self._done.done():
            return
        if not answer.status:
            self._head += data
            end = self._head.find(_HEAD_END)
            if end < 0:
                return
            answer.head, data = self._head[:end], self._head[end + len(_HEAD_END) :]
            answer.status = int(answer.head[9:12])
            length = header(answer, b"content-length")
            self._length = int(length) if length else -1
        if data or not self._length:
            self._take(answer, data)

    def _take(self, answer: Answer, data: bytes) -> None:
        if data and not answer.first_at:
            answer.first_at = time.monotonic()
        if self._length < 0:
            answer.events += data.count(_EVENT)
            seen = answer.tail + data
            answer.is_done = answer.is_done or _DONE in seen
            answer.tail = seen[-TAIL_BYTES:]
            is_whole = seen.endswith(_LAST_CHUNK)
        else:
            self._parts.append(data)
            self._length -= len(data)
            is_whole = self._length <= 0
        if is_whole and self._done:
            answer.ended_at = time.monotonic()
            answer.body = b"".join(self._parts)
            self._done.set_result(None)


def header(answer: Answer, name: bytes) -> bytes:
    """Return the value of a header of an answer, empty if it has none; `name` in lower case."""
    start = answer.head.lower().find(b"\r\n%b:" % name)
    if start < 0:
        return b""
    start += len(name) + 3
    end = answer.head.find(b"\r\n", start)
    return answer.head[start : end if end >= 0 else None].strip()


def request(fields: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> bytes:
    """Return a whole request with this body."""
    body = msgspec.json.encode(fields)
    lines = [f"POST {PATH} HTTP/1.1", "host: model", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + _HEAD_END + body


async def keep_asking(ask: Callable[[], Awaitable[Answer]], at_once: int, requests: int) -> tuple[list[Answer], float]:
    """Ask so many times, so many at once; return the answers and the seconds from the first to the last."""
    left = itertools.repeat(None, requests)
    answers: list[Answer] = []

    async def work() -> None:
        for _ in left:
            answers.append(await ask())  # noqa: PERF401 - they are asked one after the other

    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return answers, time.monotonic() - started


def percentile(values: Iterable[float], share: float) -> float:
    """Return the value which so large a share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
