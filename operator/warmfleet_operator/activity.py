"""For how long each engine has been awake, and for how long without a request, as the runners' status lines tell.

A new leader begins to count anew: an engine then only stays awake for longer than it had to.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState


@dataclass(slots=True)
class _Awake:
    """One engine that is Ready, or was and drains."""

    attempt: int
    """Which start or wake of it: another begins another residency."""
    since: float
    requests: int
    idle_since: float | None
    is_ready: bool = True


@dataclass(slots=True)
class Activity:
    """Awake engines, by the uid of the runner's pod and by engine id."""

    clock: Callable[[], float] = time.monotonic
    """Seconds that only grow."""
    _runners: dict[str, dict[str, _Awake]] = field(default_factory=dict)

    def heard(self, status: RunnerStatus) -> list[EngineStatus]:
        """Take a status line; return the engines that were idle and had a request since the line before."""
        now, before = self.clock(), self._runners.get(status.pod_uid, {})
        after: dict[str, _Awake] = {}
        woken: list[EngineStatus] = []
        for engine in status.engines:
            known = before.get(engine.id)
            if engine.state is EngineState.READY:
                seen = after[engine.id] = _seen(known, engine, now)
                was_idle = known is not None and known.idle_since is not None
                if was_idle and known is not None and (seen.idle_since is None or seen.requests != known.requests):
                    woken.append(engine)
            elif engine.state is EngineState.DRAINING and known is not None:
                # One that is busy does not fall asleep after all, and then was awake all the time.
                after[engine.id] = known
                known.is_ready = False
        self._runners[status.pod_uid] = after
        return woken

    def idle_seconds(self, uid: str) -> Mapping[str, float]:
        """Return for how long each Ready engine of a runner has been without requests; busy ones are left out."""
        now = self.clock()
        return {
            key: now - each.idle_since
            for key, each in self._runners.get(uid, {}).items()
            if each.is_ready and each.idle_since is not None
        }

    def awake_seconds(self, uid: str) -> Mapping[str, float]:
        """Return for how long each Ready engine of a runner has been that."""
        now = self.clock()
        return {key: now - each.since for key, each in self._runners.get(uid, {}).items() if each.is_ready}

    def forget(self, uid: str) -> None:
        """Drop what was seen of a pod that is gone."""
        self._runners.pop(uid, None)


def _seen(known: _Awake | None, engine: EngineStatus, now: float) -> _Awake:
    is_busy = engine.running > 0 or engine.waiting > 0
    if known is None or known.attempt != engine.starts:
        return _Awake(engine.starts, now, engine.requests, None if is_busy else now)
    had_requests = engine.requests != known.requests
    idle_since = known.idle_since if known.idle_since is not None and not had_requests else now
    return _Awake(engine.starts, known.since, engine.requests, None if is_busy else idle_since)
