"""Clients that never stop asking: when somebody was answered, and which requests failed."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from support.waiting import wait_for

REQUEST_SECONDS = 90
"""A client waits for longer than any recovery takes: what fails, fails by an answer or a broken connection."""
PAUSE_SECONDS = 0.05
SHARED_PAUSE_SECONDS = 0.5
"""Of each client where several models are asked: without it their answers take the cores that recovery needs."""
_open = build_opener(ProxyHandler({})).open


@dataclass(slots=True)
class Crowd:
    """What became of the requests; times in monotonic seconds."""

    answered: list[tuple[float, float]] = field(default_factory=list)
    """When each request that was answered began, and when it was."""
    failures: list[str] = field(default_factory=list)

    def silence_from(self, since: float) -> float:
        """Return how many seconds passed from the last answer before the longest silence after `since` to the next.

        Raises:
            ValueError: nothing was answered after `since`.
        """
        times = sorted(ended for _, ended in self.answered)
        before = [each for each in times if each <= since]
        after = [each for each in times if each > since]
        return max(later - former for former, later in pairwise([*before[-1:], *after]))

    def answers_begun_after(self, moment: float) -> int:
        """Return how many requests were answered that began after a moment."""
        return sum(begun > moment for begun, _ in list(self.answered))


@contextmanager
def crowd(url: str, model: str, clients: int = 4, pause_seconds: float = PAUSE_SECONDS) -> Iterator[Crowd]:
    """Ask a model for one token all the time, each request on its own connection, while the context is open."""
    seen, stop = Crowd(), threading.Event()
    body = json.dumps({"model": model, "prompt": "hello", "max_tokens": 1}).encode()
    headers = {"Content-Type": "application/json", "Connection": "close"}

    def ask() -> None:
        while not stop.wait(pause_seconds):
            try:
                begun = time.monotonic()
                with _open(Request(f"{url}/completions", body, headers), timeout=REQUEST_SECONDS) as answer:
                    answer.read()
                seen.answered.append((begun, time.monotonic()))
            except HTTPError as error:
                seen.failures.append(
                    f"{time.strftime('%X')} {error.code} {error.read().decode(errors='replace')[:200]}"
                )
            except (URLError, OSError) as error:
                seen.failures.append(f"{time.strftime('%X')} {error}")

    threads = [threading.Thread(target=ask, name=f"client {each} of {model}") for each in range(clients)]
    for thread in threads:
        thread.start()
    try:
        wait_for("a first answer", lambda: seen.answered, REQUEST_SECONDS, lambda: "\n".join(seen.failures[-5:]))
        yield seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def crowds(url: str, models: list[str]) -> Iterator[dict[str, Crowd]]:
    """Ask several models at once, one client each, at most twice a second."""
    with ExitStack() as stack:
        yield {each: stack.enter_context(crowd(url, each, 1, SHARED_PAUSE_SECONDS)) for each in models}
