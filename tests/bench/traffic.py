"""Requests that come at their own times, whatever becomes of those before: for benchmarks that count what clients lose.

`load.keep_asking` keeps so many requests under way and expects each to be answered. Here they come when they are due,
and what a client meets is told apart: an answer, a refusal, nothing at all, or an answer that broke off.

`Requests` sends from the event loop it is made in; `traffic` from a thread of its own, so that a benchmark may break
things in a cluster meanwhile.
"""

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

import uvloop

from bench import load
from bench.load import Answer, Target, percentile
from support.waiting import wait_for

TRIES = 3
"""OpenAI's SDK sends a request again twice."""
FIRST_PAUSE_SECONDS = 0.5
"""And waits so long before, then twice as long, less up to a quarter."""
END_SECONDS = load.REQUEST_SECONDS + 10
"""Longer than the client waits for any answer."""
BEHIND_SECONDS = 0.05
"""What is sent later than this after its time shows that the client can't keep up."""
WHY_CHARACTERS = 120
LOOK_SECONDS = 1.0


class Outcome(StrEnum):
    """What a client met."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """With a status of 400 or more."""
    LOST = "lost"
    """No byte of an answer came: an error before the first byte."""
    BROKEN = "broken"
    """Its body began, and did not end as it should."""


@dataclass(slots=True)
class Seen(Answer):
    """One request as its client saw it; of several tries the last one, but sent when the first one was."""

    stream: bool = False
    due_at: float = 0.0
    """When it was to be sent."""
    outcome: Outcome = Outcome.LOST
    why: str = ""
    """It was not answered: in words."""
    tries: int = 0

    @property
    def trouble(self) -> str:
        """What it met that is no answer, to be counted; empty if it is one."""
        if self.outcome is Outcome.ANSWERED:
            return ""
        return f"{self.status or self.outcome.value} {self.why[:WHY_CHARACTERS]}"


async def ask(target: Target, request: bytes, *, stream: bool, tries: int = 1) -> Seen:
    """Send a request; again, as SDKs do, while nobody answered it. A stream that began is never sent again."""
    seen = Seen(time.monotonic(), stream=stream)
    while True:
        seen.tries += 1
        await _try(target, request, seen)
        may_try = seen.outcome is Outcome.LOST or (seen.outcome is Outcome.BROKEN and not stream)
        if not may_try or seen.tries >= tries:
            return seen
        pause = FIRST_PAUSE_SECONDS * 2 ** (seen.tries - 1)
        await asyncio.sleep(pause * (1 - target.chance.random() / 4))


async def _try(target: Target, request: bytes, seen: Seen) -> None:
    seen.status, seen.first_at, seen.events, seen.is_done, seen.tail = 0, 0.0, 0, False, b""
    try:
        await target.ask(request, seen)
    except (OSError, TimeoutError) as error:
        seen.outcome = Outcome.BROKEN if seen.first_at else Outcome.LOST
        seen.why = "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        seen.ended_at = time.monotonic()
        return
    if seen.status >= 400:
        seen.outcome, seen.why = Outcome.REFUSED, (seen.body or seen.tail).decode(errors="replace")
    elif seen.stream and not seen.is_done:
        seen.outcome, seen.why = Outcome.BROKEN, f"a stream without its end{_error_in(seen.tail)}"
    else:
        seen.outcome, seen.why = Outcome.ANSWERED, ""


def _error_in(tail: bytes) -> str:
    """Return the error event a stream ended with, if any; its tokens differ in each, so they could not be counted."""
    at = tail.rfind(b'{"error"')
    return "" if at < 0 else f": {tail[at:].decode(errors='replace')}"


Send = Callable[[], Awaitable[Seen]]


class Requests:
    """Sends requests when they are due, by the seconds after the beginning; `ended` has all that ended."""

    def __init__(self, planned: Iterable[tuple[float, Send]], ended: list[Seen] | None = None) -> None:
        self.ended: list[Seen] = [] if ended is None else ended
        self.sent = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._sending = asyncio.create_task(self._send(planned), name="requests")

    async def wait_sent(self, seconds: float) -> bool:
        """Wait at most so long until there are no more to send; return whether there are none."""
        await asyncio.wait({self._sending}, timeout=seconds)
        return self._sending.done()

    async def stop(self) -> list[Seen]:
        """Send no more; return what became of all of them."""
        self._sending.cancel()
        await asyncio.wait({self._sending})
        await asyncio.gather(*self._under_way)
        if not self._sending.cancelled():
            self._sending.result()
        return self.ended

    async def _send(self, planned: Iterable[tuple[float, Send]]) -> None:
        begun = time.monotonic()
        for offset, send in planned:
            if (wait := begun + offset - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self.sent += 1
            task = asyncio.create_task(self._one(begun + offset, send))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _one(self, due_at: float, send: Send) -> None:
        seen = await send()
        seen.due_at = due_at
        self.ended.append(seen)


class SteadyRequests(Requests):
    """Requests at a rate, until it is told to stop; `send` gets the number of each."""

    def __init__(self, send: Callable[[int], Awaitable[Seen]], per_second: float) -> None:
        self.per_second = per_second
        """May be changed at any time."""
        super().__init__(self._plan(send))

    def _plan(self, send: Callable[[int], Awaitable[Seen]]) -> Iterator[tuple[float, Send]]:
        due = 0.0
        for number in itertools.count():
            yield due, partial(send, number)
            due += 1 / self.per_second


# Beside what is done to a cluster -------------------------------------------------------------------------------------


class Arrival(NamedTuple):
    """A request, and the seconds after the beginning at which it is sent."""

    at_seconds: float
    request: bytes
    stream: bool


@dataclass
class Traffic:
    """What became of the requests until now."""

    ended: list[Seen] = field(default_factory=list)
    sent: int = 0
    _ending: threading.Event = field(default_factory=threading.Event)

    def end(self) -> None:
        """Send no more."""
        self._ending.set()

    @property
    def is_ending(self) -> bool:
        """Whether no more are sent."""
        return self._ending.is_set()

    def since(self, moment: float, until: float = float("inf")) -> "Summary":
        """Sum up those that were due in a span of monotonic seconds."""
        return summary(each for each in list(self.ended) if moment <= each.due_at < until)


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of some requests; a first byte counts from when its request was due."""

    requests: int
    lost: int
    """All that were not answered whole."""
    troubles: dict[str, int]
    first_byte_p50_seconds: float
    first_byte_p95_seconds: float
    first_byte_p99_seconds: float
    sent_late: int
    """How many the client itself sent over 50 ms late."""

    @property
    def success(self) -> float:
        """Share of the requests that were answered whole."""
        return 1.0 - self.lost / self.requests if self.requests else 0.0

    def figures(self) -> dict[str, Any]:
        """Return them as they are written."""
        return {
            "requests": self.requests,
            "lost": self.lost,
            "success_fraction": round(self.success, 6),
            "first_byte_p50_ms": round(self.first_byte_p50_seconds * 1000, 1),
            "first_byte_p95_ms": round(self.first_byte_p95_seconds * 1000, 1),
            "first_byte_p99_ms": round(self.first_byte_p99_seconds * 1000, 1),
            "sent_late": self.sent_late,
            "troubles": self.troubles,
        }


def summary(seen: Iterable[Seen]) -> Summary:
    """Sum up what became of requests."""
    seen = list(seen)
    good = [each.first_at - each.due_at for each in seen if not each.trouble] or [0.0]
    troubles = Counter(each.trouble for each in seen if each.trouble)
    return Summary(
        requests=len(seen),
        lost=sum(troubles.values()),
        troubles=dict(troubles.most_common(8)),
        first_byte_p50_seconds=percentile(good, 0.50),
        first_byte_p95_seconds=percentile(good, 0.95),
        first_byte_p99_seconds=percentile(good, 0.99),
        sent_late=sum(each.sent_at - each.due_at > BEHIND_SECONDS for each in seen),
    )


def mixed(model: str, rate: float, *, tokens: int = 16) -> Iterator[Arrival]:
    """Yield requests for ever, so many a second: of each four three are streams, short, middling and long."""
    kinds = [
        (completion(model, length, stream=stream, ignore_eos=True), stream)
        for length, stream in ((tokens // 4, True), (tokens, True), (tokens * 4, True), (tokens, False))
    ]
    for number, kind in enumerate(itertools.cycle(kinds)):
        yield Arrival(number / rate, *kind)


@contextmanager
def traffic(
    host: str, port: int, arrivals: Iterable[Arrival], show: Callable[[Traffic], None] = lambda _: None
) -> Iterator[Traffic]:
    """Send requests while the context is open, or until there are no more; at its end all are answered or lost.

    `show` is called once a second from the thread of the traffic.
    """
    seen = Traffic()
    with ThreadPoolExecutor(1, "traffic") as threads:
        sending = threads.submit(lambda: uvloop.run(_send_all(seen, Target((host, port)), arrivals, show)))
        try:
            yield seen
        finally:
            seen.end()
        sending.result(END_SECONDS)


def wait_answered(seen: Traffic, requests: int, within: float) -> None:
    """Wait until so many requests have ended."""
    wait_for(f"{requests} requests ended", lambda: len(seen.ended) >= requests, within)


async def _send_all(
    seen: Traffic, target: Target, arrivals: Iterable[Arrival], show: Callable[[Traffic], None]
) -> None:
    planned = ((at, partial(ask, target, request, stream=stream)) for at, request, stream in arrivals)
    requests = Requests(planned, seen.ended)
    try:
        while not seen.is_ending and not await requests.wait_sent(LOOK_SECONDS):
            seen.sent = requests.sent
            show(seen)
    finally:
        await requests.stop()
        seen.sent = requests.sent
        target.close()
        show(seen)


# Requests and counts --------------------------------------------------------------------------------------------------


def completion(model: str, tokens: int, *, stream: bool, headers: dict[str, str] | None = None, **more: Any) -> bytes:
    """Return a request for an answer of so many tokens."""
    return load.request({"model": model, "prompt": "hi", "max_tokens": tokens, "stream": stream, **more}, headers)


def outcomes(seen: Iterable[Seen]) -> Counter[Outcome]:
    """Count what clients met."""
    return Counter(each.outcome for each in seen)
