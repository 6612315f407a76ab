"""What runners say of themselves: one status stream per runner, followed by the leader.

`GET http://<podIP>:8001/v1/status?watch=1` gives a JSON line at each change and one per second as a heartbeat.
A heartbeat only moves the time of the last line; a changed line wakes whoever subscribed. A runner that is silent for
`SILENT_SECONDS`, since its last line or since it is followed, wakes them once more: it no longer counts as a replica.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import aiohttp
import msgspec

from warmfleet_api import names, runner_status
from warmfleet_api.runner_status import SILENT_SECONDS, RunnerStatus
from warmfleet_kube.lines import LineTooLongError, lines
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import Pod

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 5.0
MAX_LINE_BYTES = 1024 * 1024
Listener = Callable[[Pod], None]
"""Is told the pod of a runner whose state is to be looked at."""


@dataclass(slots=True)
class _Stream:
    pod: Pod
    task: asyncio.Task[None]
    line: bytes = b""
    status: RunnerStatus | None = None
    heard: float = field(default_factory=time.monotonic)
    """When the last line came; before the first, since when it is followed."""
    alarm: asyncio.TimerHandle | None = None
    """Rings when it has been silent for too long; None once it has rung."""


class Streams:
    """The status streams of all runners that have an address. Use as an async context manager."""

    def __init__(self, listener: Listener, metrics: Metrics) -> None:
        self._listener = listener
        self._metrics = metrics
        self._streams: dict[str, _Stream] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._progress = asyncio.Event()
        """Set when a runner reports for the first time, or is no longer followed."""
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Streams":
        # No pool, no limit: each stream holds its connection for as long as the runner lives.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        for uid in list(self._streams):
            self._end(uid)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def follow(self, pods: Iterable[Pod]) -> None:
        """Follow these runners."""
        for pod in pods:
            self.changed(None, pod)

    def changed(self, former: Pod | None, new: Pod | None) -> None:
        """Listener of the runners' mirror: start, move or end a stream."""
        if former is not None and (new is None or new.metadata.uid != former.metadata.uid):
            self._end(former.metadata.uid)
        if new is None:
            return
        uid = new.metadata.uid
        known = self._streams.get(uid)
        if new.is_terminal or not new.status.pod_ip:
            self._end(uid)
        elif known is None:
            stream = _Stream(new, asyncio.create_task(self._run(uid), name=f"stream {_name(new)}"))
            self._streams[uid] = stream
            self._look_out(stream)
        else:
            known.pod = new

    def status(self, uid: str) -> RunnerStatus | None:
        """Return the last line of the runner with this pod uid."""
        stream = self._streams.get(uid)
        return stream.status if stream else None

    def silent_seconds(self, uid: str) -> float | None:
        """Return how long ago that line came, before the first since when it is awaited; None if it is not followed."""
        stream = self._streams.get(uid)
        return time.monotonic() - stream.heard if stream else None

    async def settle(self, seconds: float = SILENT_SECONDS) -> None:
        """Wait until every runner has reported once, at most for `seconds`: decide nothing half blind."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(each.status is None for each in self._streams.values()):
                    self._progress.clear()
                    await self._progress.wait()

    def _end(self, uid: str) -> None:
        stream = self._streams.pop(uid, None)
        if stream is not None:
            self._progress.set()
            if stream.alarm is not None:
                stream.alarm.cancel()
            stream.task.cancel()
            self._ending.add(stream.task)
            stream.task.add_done_callback(self._ending.discard)

    async def _run(self, uid: str) -> None:
        stream = self._streams[uid]
        failures = 0
        while True:
            heard = stream.heard
            try:
                await self._follow(stream)
                cause = "the runner ended it"
            except (aiohttp.ClientError, TimeoutError, OSError, LineTooLongError, msgspec.MsgspecError) as error:
                cause = str(error) or "no line in time"
            if stream.heard > heard:
                failures = 0
                logger.info("status stream of %s broke: %s", _name(stream.pod), cause)
            failures += 1
            longest = min(FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 10), LONGEST_DELAY_SECONDS)
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    async def _follow(self, stream: _Stream) -> None:
        """Read lines until the connection ends; aiohttp's read timeout ends a silent one."""
        assert self._session is not None
        host = stream.pod.status.pod_ip
        host = f"[{host}]" if ":" in host else host
        url = f"http://{host}:{names.STATUS_PORT}{names.PATH_STATUS}?watch=1"
        async with self._session.get(url, raise_for_status=True) as response:
            connected = False
            try:
                async for line in lines(response.content, limit_bytes=MAX_LINE_BYTES):
                    self._read(stream, line)
                    if not connected:
                        connected = True
                        self._metrics.streams.inc()
            finally:
                if connected:
                    self._metrics.streams.dec()

    def _read(self, stream: _Stream, line: bytes) -> None:
        self._metrics.status_lines.inc()
        was_silent = stream.alarm is None
        if line != stream.line:
            status = runner_status.decode(line)
            if status.pod_uid != stream.pod.metadata.uid:
                raise msgspec.ValidationError(f"{stream.pod.status.pod_ip} belongs to the pod {status.pod_uid} by now")
            wakes = was_silent or stream.status is None or _decisive(status) != _decisive(stream.status)
            stream.line, stream.status = line, status
        else:
            wakes = was_silent
        stream.heard = time.monotonic()
        if was_silent:
            self._look_out(stream)
        if wakes:
            self._progress.set()
            self._listener(stream.pod)

    def _look_out(self, stream: _Stream) -> None:
        """Wake the listener once the runner has been silent for too long.

        A timer of its own, not a delayed key: the queue keeps the earlier of two times, and a pass that comes before
        the silence is long enough would have used the key up.
        """
        left = stream.heard + SILENT_SECONDS - time.monotonic()
        if left > 0:
            stream.alarm = asyncio.get_running_loop().call_later(left, self._look_out, stream)
        else:
            stream.alarm = None
            self._listener(stream.pod)


def _decisive(status: RunnerStatus) -> RunnerStatus:
    """Return the status without what moves all the time and changes no decision: load, and memory in use."""
    engines = tuple(msgspec.structs.replace(engine, running=0, waiting=0, memory_bytes=0) for engine in status.engines)
    return msgspec.structs.replace(status, memory_bytes=0, engines=engines)


def _name(pod: Pod) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"
