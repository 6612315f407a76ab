"""The admission queue of one engine: which request goes to it next, and which are refused. Deterministic, no clock."""

import heapq
from dataclasses import dataclass

from warmfleet_api.assignment import Serving
from warmfleet_runtime.admission.requests import Accepted, Dispatch, Merged, Refused, Request


@dataclass(slots=True)
class _Held:
    request: Request
    deadline: float
    members: set[int]
    dispatched: float | None = None


class Queue:
    """Holds the requests of one engine, waiting and running.

    After each call that may change what can run (`offer`, `first_token`, `finish`, `cancel`, `configure`), and at
    `next_time`, the caller asks `take` and `expire`.
    """

    def __init__(self, serving: Serving, max_sequences: int, reserves: bool) -> None:
        self._serving = serving
        self._max_sequences = max_sequences or 256
        self._reserves = reserves
        self._held: dict[int, _Held] = {}
        self._leader: dict[int, int] = {}
        self._heap: list[tuple[float, int]] = []

    def configure(self, serving: Serving, max_sequences: int, now: float) -> None:
        """Take a changed assignment; what waits keeps its place."""
        self._serving = serving
        self._max_sequences = max_sequences or 256

    def offer(self, request: Request, now: float) -> Accepted | Merged | Refused:
        """Take a request in, or say why not. The caller's id must not be held already."""
        waiting = sum(held.dispatched is None for held in self._held.values())
        if waiting >= self._serving.max_requests:
            return Refused(429, "queue_full", f"{waiting} requests wait for this model; try again later", 1)
        deadline = min(request.deadline or request.arrived + 1e9, request.arrived + self._serving.timeout_seconds)
        self._held[request.id] = _Held(request, deadline, {request.id})
        self._leader[request.id] = request.id
        heapq.heappush(self._heap, (deadline, request.id))
        return Accepted()

    def take(self, now: float) -> tuple[Dispatch, ...]:
        """Return what has to go to the engine now, in this order."""
        running = sum(held.request.sequences for held in self._held.values() if held.dispatched is not None)
        result: list[Dispatch] = []
        while self._heap and running < self._max_sequences:
            _, key = heapq.heappop(self._heap)
            held = self._held.get(key)
            if held is None or held.dispatched is not None:
                continue
            held.dispatched = now
            running += held.request.sequences
            result.append(Dispatch(key, now - held.request.arrived))
        return tuple(result)

    def expire(self, now: float) -> tuple[tuple[int, Refused], ...]:
        """Return the waiting requests that ended without a start: too late, or shed for a higher class."""
        ended: list[tuple[int, Refused]] = []
        for key, held in list(self._held.items()):
            if held.dispatched is None and held.deadline <= now:
                refusal = Refused(429, "deadline_passed", "the request waited too long; try again later", 1)
                ended += [(member, refusal) for member in held.members]
                self._end(key)
        return tuple(ended)

    def first_token(self, key: int, now: float) -> None:
        """Hear that the engine began to answer a request it was sent."""

    def progress(self, key: int, tokens: int, now: float) -> None:
        """Hear how many tokens a request has generated so far, all its sequences together."""

    def finish(self, key: int, tokens: int, now: float) -> None:
        """Hear that the engine is done with a request, for better or worse; those merged into it end with it."""
        self._end(key)

    def cancel(self, key: int, now: float) -> bool:
        """Let one sender go. True: nobody is left to hear the answer, so a generation that runs has to be stopped.

        The generation keeps the id of its leader, even if others alone are left of it.
        """
        leader = self._leader.pop(key, None)
        if leader is None:
            return False
        held = self._held[leader]
        held.members.discard(key)
        if held.members:
            return False
        self._end(leader)
        return True

    def next_time(self, now: float) -> float | None:
        """When time alone changes something: ask `take` and `expire` then at latest."""
        return min((held.deadline for held in self._held.values() if held.dispatched is None), default=None)

    def _end(self, key: int) -> None:
        if held := self._held.pop(key, None):
            for member in held.members:
                self._leader.pop(member, None)
