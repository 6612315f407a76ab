"""A cheap client for benchmarks: it shares two cores with what it measures.

A connection carries one request after another and looks at no more of an answer than its status, its first event, the
number of its events and its end.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import msgspec

REQUEST_SECONDS = 120.0
IDLE_SECONDS = 3.0
PATH = "/v1/completions"
_EVENT = b"data: "
_HEAD_END = b"\r\n\r\n"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


@dataclass(slots=True)
class Answer:
    """What came back; times are monotonic seconds."""

    sent_at: float
    status: int = 0
    head: bytes = b""
    first_at: float = 0.0
    """When the first bytes of the body came: with a stream that is the first token."""
    ended_at: float = 0.0
    events: int = 0
    """Of a stream, `[DONE]` included."""
    body: bytes = b""
    """Of an answer that is no stream."""

    @property
    def first_seconds(self) -> float:
        """Time to the first token."""
        return self.first_at - self.sent_at

    @property
    def seconds(self) -> float:
        """Time to the end."""
        return self.ended_at - self.sent_at


class Target:
    """Where requests go: a port of this machine, or a unix socket; keeps its connections open."""

    def __init__(self, port: int = 0, socket: str = "") -> None:
        self._port = port
        self._socket = socket
        self._idle: list[_Connection] = []

    async def ask(self, request: bytes) -> Answer:
        """Send a request and return its answer once it is whole."""
        connection = self._take_idle() or await self._connect()
        answer = await connection.ask(request)
        if connection.is_open:
            self._idle.append(connection)
        return answer

    async def open(self, connections: int) -> None:
        """Open connections ahead, so that none is opened within a measurement."""
        self._drop_old()
        while len(self._idle) < connections:
            self._idle.append(await self._connect())

    def close(self) -> None:
        """Close all connections that carry no request."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take_idle(self) -> "_Connection | None":
        self._drop_old()
        return self._idle.pop() if self._idle else None

    def _drop_old(self) -> None:
        """Close connections that the other side may be closing at this moment: vLLM does so after 5 s of rest."""
        oldest = time.monotonic() - IDLE_SECONDS
        for connection in self._idle:
            if connection.rests_since < oldest:
                connection.close()
        self._idle = [connection for connection in self._idle if connection.is_open]

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        if self._socket:
            _, connection = await loop.create_unix_connection(_Connection, self._socket)
        else:
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
        return connection


@asynccontextmanager
async def targets(**where: Any) -> AsyncIterator[dict[str, Target]]:
    """Give targets by name, and close them: `targets(ours=8000, direct="/run/engine.sock")`."""
    found = {
        name: Target(socket=place) if isinstance(place, str) else Target(port=place) for name, place in where.items()
    }
    try:
        yield found
    finally:
        for target in found.values():
            target.close()


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: Answer | None = None
        self._done: asyncio.Future[None] | None = None
        self._length = -1  # of the body; -1: chunked
        self._head = b""
        self._tail = b""
        self._parts: list[bytes] = []
        self.is_open = True
        self.rests_since = time.monotonic()

    async def ask(self, request: bytes) -> Answer:
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._head = self._tail = b""
        self._parts = []
        answer = self._answer = Answer(time.monotonic())
        self._transport.write(request)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._done
        except BaseException:
            self.close()
            raise
        self.rests_since = time.monotonic()
        return answer

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
        if answer is None or self._done is None:
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
        if not answer.first_at:
            answer.first_at = time.monotonic()
        if self._length < 0:
            answer.events += data.count(_EVENT)
            self._tail = (self._tail + data)[-len(_LAST_CHUNK) :]
            is_whole = self._tail == _LAST_CHUNK
        else:
            self._parts.append(data)
            is_whole = sum(map(len, self._parts)) >= self._length
        if is_whole and self._done and not self._done.done():
            answer.ended_at = time.monotonic()
            answer.body = b"".join(self._parts)
            self._answer = None
            self._done.set_result(None)


def header(answer: Answer, name: bytes) -> bytes:
    """Return the value of a header of an answer, empty if it has none."""
    for line in answer.head.split(b"\r\n"):
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return b""


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
