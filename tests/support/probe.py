"""A client that asks one short question after the other, and tells for how long nobody answered."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from support.waiting import wait_for

PAUSE_SECONDS = 0.05
REQUEST_SECONDS = 1.0
"""A runner that lost power never says so; the next question is not to wait for it."""
_open = build_opener(ProxyHandler({})).open


@dataclass(slots=True)
class Probe:
    """When questions were answered, in monotonic seconds."""

    answered: list[float] = field(default_factory=list)

    def longest_silence(self, since: float) -> tuple[float, float]:
        """Return begin and end of the longest time without an answer that ended after `since`.

        Raises:
            ValueError: nothing was answered after `since`.
        """
        before = [each for each in self.answered if each <= since]
        times = [*before[-1:], *(each for each in self.answered if each > since)]
        return max(pairwise(times), key=lambda each: each[1] - each[0])

    def wait_steady(self, seconds: float, within: float) -> None:
        """Wait until every question of the last `seconds` was answered."""

        def steady() -> bool:
            now = time.monotonic()
            times = [now - seconds, *(each for each in list(self.answered) if each > now - seconds), now]
            return max(later - former for former, later in pairwise(times)) < REQUEST_SECONDS / 2

        wait_for(f"answers for {seconds:g} s on end", steady, within)


@contextmanager
def probing(url: str, model: str) -> Iterator[Probe]:
    """Ask for one token all the time, each question on its own connection, while the context is open."""
    probe, stop = Probe(), threading.Event()
    body = json.dumps({"model": model, "prompt": "hello", "max_tokens": 1}).encode()

    def ask() -> None:
        while not stop.wait(PAUSE_SECONDS):
            headers = {"Content-Type": "application/json", "Connection": "close"}
            try:
                with _open(Request(f"{url}/completions", body, headers), timeout=REQUEST_SECONDS) as answer:
                    answer.read()
            except (URLError, OSError):
                continue
            probe.answered.append(time.monotonic())

    thread = threading.Thread(target=ask, name=f"probe of {model}")
    thread.start()
    try:
        wait_for("a first answer", lambda: probe.answered, 30.0)
        yield probe
    finally:
        stop.set()
        thread.join()
