"""Clients of the emulated fleet: requests that come, wait until their model is Ready, and are answered."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from warmfleet_emulator.clock import Clock


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    time: float
    model: str
    serve_seconds: float


@dataclass(slots=True)
class Clients:
    """Requests of all models, held while there is nobody to answer."""

    clock: Clock
    came: Callable[[str], None]
    """Called when a request for a model came."""
    idle: Callable[[str], None]
    """Called when the last request of a model was answered."""
    waits: list[float] = field(default_factory=list)
    held: defaultdict[str, list[Request]] = field(default_factory=lambda: defaultdict(list))
    running: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    last_end: dict[str, float] = field(default_factory=dict)

    def send(self, requests: list[Request]) -> None:
        """Let these requests come, each at its time."""
        ordered = sorted(requests, key=lambda each: each.time)
        self._next(ordered, 0)

    def _next(self, requests: list[Request], index: int) -> None:
        if index < len(requests):
            self.clock.at(requests[index].time, lambda: self._come(requests, index))

    def _come(self, requests: list[Request], index: int) -> None:
        request = requests[index]
        self.held[request.model].append(request)
        self._next(requests, index + 1)
        self.came(request.model)

    def answer(self, model: str) -> None:
        """Answer what is held for a model: it is Ready."""
        for request in self.held.pop(model, ()):
            self.waits.append(self.clock.now - request.time)
            self.running[model] += 1
            self.clock.later(request.serve_seconds, lambda: self._end(model))

    def put_back(self, model: str) -> None:
        """A model has no engine any more that could answer: what ran there ends with an error."""
        self.running[model] = 0

    def is_busy(self, model: str) -> bool:
        """Whether requests of it are being answered."""
        return self.running[model] > 0

    def _end(self, model: str) -> None:
        if not self.running[model]:
            return
        self.running[model] -= 1
        if not self.running[model]:
            self.last_end[model] = self.clock.now
            self.idle(model)
