"""What pods of ours say of themselves: one status stream per runner, and one per node agent.

`GET http://<podIP>:<port>/v1/status?watch=1` gives a JSON line at each change and others as a heartbeat, a runner's one
per second. A heartbeat only moves the time of the last line; a changed line wakes whoever subscribed. A pod that is
silent for too long, since its last line or since it is followed, wakes them once more: a runner no longer counts as a
replica. Time in which this process itself stood still does not count: what was said meanwhile is not read yet. One that
misses a heartbeat is asked whether its machine is still there (`reachability.py`), one of a node at a time; if not, it
counts as silent at once, and its neighbours on the node are asked too.

A process that follows the leader listens as well, but tells nobody: when it takes over it knows how each runner is,
and for how long those on a node that is gone have been silent, so it need not listen first.
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

import aiohttp
import msgspec
from prometheus_client import Counter, Gauge

from warmfleet_api import names, runner_status
from warmfleet_api.runner_status import HEARTBEAT_SECONDS, SILENT_SECONDS, RunnerStatus
from warmfleet_kube.lines import LineTooLongError, lines
from warmfleet_operator import reachability
from warmfleet_operator.decide.standby import STEADY_SECONDS
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import Pod

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 2.0
FIRST_DELAY_SECONDS = 0.2
LONGEST_DELAY_SECONDS = 5.0
MAX_LINE_BYTES = 1024 * 1024
STALL_SECONDS = 0.25
"""A timer that rings so late tells that this process stood still."""
CATCH_UP_SECONDS = 1.0
"""So long it then has to read what was said meanwhile."""
DOUBT_SECONDS = 1.25 * HEARTBEAT_SECONDS
"""After so long without a line a runner's machine is asked for."""
Listener = Callable[[Pod], None]
"""Is told the pod whose state is to be looked at."""
S = TypeVar("S")
Reader = Callable[[Pod, S], None]
"""Is told every line that differs from the one before."""


def nobody(_: Pod, __: object) -> None:
    """Read no line."""


@dataclass(frozen=True, slots=True)
class Speech(Generic[S]):
    """What pods of a kind say of themselves.

    Args:
        port: where they say it.
        silent_seconds: how long they may say nothing.
        decode: reads a line; raises msgspec.MsgspecError.
        is_of: whether what was said is said by this pod: addresses are given away again.
        decisive: what of it, when it changes, has to be looked at.
        is_there: tells whether an address answers at all; None: silence alone counts.
    """

    port: int
    silent_seconds: float
    decode: Callable[[bytes], S]
    is_of: Callable[[S, Pod], bool]
    decisive: Callable[[S], object]
    is_there: Callable[[str, int], Awaitable[bool]] | None = None


class _Timer:
    """Calls once, and knows how late it does: not every event loop's handle tells."""

    def __init__(self, seconds: float, call: Callable[..., None], *arguments: object) -> None:
        self._due = time.monotonic() + seconds
        self._handle = asyncio.get_running_loop().call_later(seconds, call, *arguments)

    @property
    def stood_still(self) -> bool:
        """Whether this process did, told by a timer that rings just now."""
        return time.monotonic() - self._due > STALL_SECONDS

    def cancel(self) -> None:
        self._handle.cancel()


@dataclass(slots=True)
class _Stream(Generic[S]):
    pod: Pod
    task: asyncio.Task[None]
    line: bytes = b""
    status: S | None = None
    heard: float = field(default_factory=time.monotonic)
    """When the last line came; before the first, since when it is followed."""
    alarm: _Timer | None = None
    """Rings when it has been silent for too long; None once it has rung."""
    doubt: _Timer | None = None
    """Rings when it misses a heartbeat."""
    search: asyncio.Task[None] | None = None
    """Asks whether its machine is there."""
    is_gone: bool = False
    """Its machine is not, or was not when it was asked last."""
    returned: float | None = None
    """When it was heard again after it had been silent for too long."""


class StatusStreams(Generic[S]):
    """The status streams of all pods of a kind that have an address. Use as an async context manager."""

    def __init__(
        self, listener: Listener, speech: Speech[S], connected: Gauge, heard: Counter, reader: Reader[S] = nobody
    ) -> None:
        self._listener = listener
        self._reader = reader
        self._speech = speech
        self._connected = connected
        self._heard = heard
        self._streams: dict[str, _Stream[S]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._asked: set[str] = set()
        """Nodes of which a pod that missed a heartbeat was asked for lately."""
        self._progress = asyncio.Event()
        """Set when a pod reports for the first time, was silent for too long, or is no longer followed."""
        self._tells = False
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # No pool, no limit: each stream holds its connection for as long as the pod lives.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        # Longer than silence may be: a connection that is only read late need not be made anew.
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_SECONDS, sock_read=2 * self._speech.silent_seconds)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        for uid in list(self._streams):
            self._end(uid)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def follow(self, pods: Iterable[Pod]) -> None:
        """Follow these pods."""
        for pod in pods:
            self.changed(None, pod)

    def changed(self, former: Pod | None, new: Pod | None) -> None:
        """Listener of the pods' mirror: start, move or end a stream."""
        if former is not None and (new is None or new.metadata.uid != former.metadata.uid):
            self._end(former.metadata.uid)
        if new is None:
            return
        uid = new.metadata.uid
        known = self._streams.get(uid)
        if known is not None and not new.is_terminal and known.pod.status.pod_ip == new.status.pod_ip:
            known.pod = new
            return
        # With another address also while the former one still speaks: it is not what others reach.
        self._end(uid)
        if not new.is_terminal and new.status.pod_ip:
            stream: _Stream[S] = _Stream(new, asyncio.create_task(self._run(uid), name=f"stream {_name(new)}"))
            self._streams[uid] = stream
            self._look_out(stream)

    def status(self, uid: str) -> S | None:
        """Return the last line of the pod with this uid."""
        stream = self._streams.get(uid)
        return stream.status if stream else None

    def silent_seconds(self, uid: str) -> float | None:
        """Return how long ago that line came, before the first since when it is awaited; None if it is not followed.

        That is too long not before its alarm has rung.
        """
        stream = self._streams.get(uid)
        if stream is None:
            return None
        silent, limit = time.monotonic() - stream.heard, self._speech.silent_seconds
        if stream.is_gone:
            return max(silent, limit)
        return silent if stream.alarm is None else min(silent, math.nextafter(limit, 0.0))

    def is_gone(self, uid: str) -> bool:
        """Whether a pod that was heard before does not even take connections any more."""
        stream = self._streams.get(uid)
        return stream is not None and stream.is_gone

    def returned_seconds(self, uid: str) -> float | None:
        """Return how long ago a pod was heard again after it had been silent for too long; None: it was not lately."""
        stream = self._streams.get(uid)
        if stream is None or stream.returned is None:
            return None
        seconds = time.monotonic() - stream.returned
        return seconds if seconds < STEADY_SECONDS else None

    async def settle(self, seconds: float = SILENT_SECONDS) -> None:
        """Wait until every pod has reported once or is known to be silent, at most for `seconds`.

        Who leads decides nothing half blind; who followed for a while has nothing to wait for.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while any(each.status is None and each.alarm is not None for each in self._streams.values()):
                    self._progress.clear()
                    await self._progress.wait()

    def tell(self) -> None:
        """Tell reader and listener from now on; the reader also what each pod said last."""
        self._tells = True
        for stream in self._streams.values():
            if stream.status is not None:
                self._reader(stream.pod, stream.status)

    def _end(self, uid: str) -> None:
        stream = self._streams.pop(uid, None)
        if stream is not None:
            self._progress.set()
            for timer in (stream.alarm, stream.doubt):
                if timer is not None:
                    timer.cancel()
            for task in (stream.task, stream.search):
                if task is not None:
                    task.cancel()
                    self._ending.add(task)
                    task.add_done_callback(self._ending.discard)

    async def _run(self, uid: str) -> None:
        stream = self._streams[uid]
        failures = 0
        while True:
            heard = stream.heard
            try:
                await self._follow(stream)
                cause = "the other side ended it"
            except (aiohttp.ClientError, TimeoutError, OSError, LineTooLongError, msgspec.MsgspecError) as error:
                cause = str(error) or "no line in time"
            if stream.heard > heard:
                failures = 0
                logger.info("status stream of %s broke: %s", _name(stream.pod), cause)
            failures += 1
            longest = min(FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 10), LONGEST_DELAY_SECONDS)
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))

    async def _follow(self, stream: _Stream[S]) -> None:
        """Read lines until the connection ends; aiohttp's read timeout ends a silent one."""
        assert self._session is not None
        host = stream.pod.status.pod_ip
        host = f"[{host}]" if ":" in host else host
        url = f"http://{host}:{self._speech.port}{names.PATH_STATUS}?watch=1"
        async with self._session.get(url, raise_for_status=True) as response:
            connected = False
            try:
                async for line in lines(response.content, limit_bytes=MAX_LINE_BYTES):
                    self._read(stream, line)
                    if not connected:
                        connected = True
                        self._connected.inc()
            finally:
                if connected:
                    self._connected.dec()

    def _read(self, stream: _Stream[S], line: bytes) -> None:
        self._heard.inc()
        was_silent, has_spoken = stream.alarm is None, stream.status is not None
        if line != stream.line:
            status = self._speech.decode(line)
            if not self._speech.is_of(status, stream.pod):
                raise msgspec.ValidationError(f"{stream.pod.status.pod_ip} belongs to another pod by now")
            decisive, former = self._speech.decisive, stream.status
            wakes = was_silent or former is None or decisive(status) != decisive(former)
            stream.line, stream.status = line, status
            if self._tells:
                self._reader(stream.pod, status)
        else:
            wakes = was_silent
        stream.heard = time.monotonic()
        if was_silent:
            stream.returned, stream.is_gone = stream.heard if has_spoken else None, False
            self._look_out(stream)
        if stream.doubt is None and stream.search is None:
            self._await_heartbeat(stream)
        if wakes:
            self._wake(stream)

    def _look_out(self, stream: _Stream[S]) -> None:
        """Wake the listener once the pod has been silent for too long.

        A timer of its own, not a delayed key: the queue keeps the earlier of two times, and a pass that comes before
        the silence is long enough would have used the key up.
        """
        now, limit = time.monotonic(), self._speech.silent_seconds
        left = stream.heard + limit - now
        stood_still = stream.alarm is not None and stream.alarm.stood_still
        if left <= 0 and stood_still and now - stream.heard < 2 * limit:
            left = CATCH_UP_SECONDS
        if left > 0:
            stream.alarm = _Timer(left, self._look_out, stream)
        else:
            stream.alarm = None
            self._wake(stream)

    def _await_heartbeat(self, stream: _Stream[S]) -> None:
        """Ask for the pod's machine once it misses a heartbeat, and again as long as it says nothing."""
        rung, stream.doubt = stream.doubt, None
        if self._speech.is_there is None or stream.is_gone:
            return
        now = time.monotonic()
        left = stream.heard + DOUBT_SECONDS - now
        if left <= 0 and rung is not None and rung.stood_still and now - stream.heard < 2 * DOUBT_SECONDS:
            # What was said meanwhile is not read yet, and to ask for thousands would keep this process from it.
            left = CATCH_UP_SECONDS
        node = stream.pod.spec.node_name
        if left <= 0 and node in self._asked:
            # One answers for the machine of all; were it gone, all of the node would be asked for.
            left = DOUBT_SECONDS
        if left > 0:
            stream.doubt = _Timer(left, self._await_heartbeat, stream)
        else:
            self._asked.add(node)
            asyncio.get_running_loop().call_later(DOUBT_SECONDS, self._asked.discard, node)
            self._search(stream)

    def _search(self, stream: _Stream[S]) -> None:
        if stream.search is None and stream.status is not None and not stream.is_gone:
            stream.search = asyncio.create_task(self._find(stream), name=f"search {_name(stream.pod)}")

    async def _find(self, stream: _Stream[S]) -> None:
        """Ask whether the pod's machine is there; where it is not, the pod was silent for long enough."""
        assert self._speech.is_there is not None
        heard, pod = stream.heard, stream.pod
        found = await self._speech.is_there(pod.status.pod_ip, self._speech.port)
        stream.search = None
        if found or stream.heard > heard:
            stream.doubt = _Timer(DOUBT_SECONDS, self._await_heartbeat, stream)
            return
        logger.warning("%s on %s can't be reached any more", _name(pod), pod.spec.node_name)
        stream.is_gone = True
        if stream.alarm is not None:
            stream.alarm.cancel()
            stream.alarm = None
            self._wake(stream)
        for other in self._streams.values():
            if other.pod.spec.node_name == pod.spec.node_name:
                self._search(other)

    def _wake(self, stream: _Stream[S]) -> None:
        self._progress.set()
        if self._tells:
            self._listener(stream.pod)


class Streams(StatusStreams[RunnerStatus]):
    """The status streams of all runners."""

    def __init__(
        self,
        listener: Listener,
        metrics: Metrics,
        reader: Reader[RunnerStatus] = nobody,
        is_there: Callable[[str, int], Awaitable[bool]] = reachability.is_there,
    ) -> None:
        speech = Speech(
            port=names.STATUS_PORT,
            silent_seconds=SILENT_SECONDS,
            decode=runner_status.decode,
            is_of=lambda status, pod: status.pod_uid == pod.metadata.uid,
            decisive=_decisive,
            is_there=is_there,
        )
        super().__init__(listener, speech, metrics.streams, metrics.status_lines, reader)


def _decisive(status: RunnerStatus) -> RunnerStatus:
    """Return the status without what moves all the time and changes no decision: load, and memory in use."""
    engines = tuple(
        msgspec.structs.replace(engine, running=0, waiting=0, requests=0, memory_bytes=0) for engine in status.engines
    )
    return msgspec.structs.replace(status, memory_bytes=0, engines=engines)


def _name(pod: Pod) -> str:
    return f"{pod.metadata.namespace}/{pod.metadata.name}"
