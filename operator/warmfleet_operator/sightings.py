"""When this leader saw something of a runner that no object has a time for.

A former leader's sightings are lost; what rests on them is only less exact, or waits a little longer, then.
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from warmfleet_api import names
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import DesiredState, EngineState
from warmfleet_operator.decide.fleet import PoolKey, StartTimes
from warmfleet_operator.decide.runners import owner_of
from warmfleet_operator.records import Pod

SWITCH_SECONDS = 600.0
"""How long a switch counts."""


class Sightings:
    """Times of sightings, by the uid of the runner's pod."""

    def __init__(self) -> None:
        self._starts: dict[str, dict[str, StartTimes]] = {}
        self._unserved: dict[str, Mapping[str, float]] = {}
        self._switches: dict[str, list[float]] = {}

    def assigned(self, pod: Pod, former: Mapping[str, DesiredState], new: Mapping[str, DesiredState]) -> None:
        """Note that what a runner is told changed just now: its engines' ids, and the states wanted of them.

        An engine more in a pool's runner is a start, one that is to be awake again a wake in any runner. Other starts
        begin with their pod.
        """
        known, now = self._starts.get(pod.metadata.uid, {}), datetime.now(UTC)
        is_pooled = isinstance(owner_of(pod), PoolKey)
        times: dict[str, StartTimes] = {}
        for id_, state in new.items():
            before = former.get(id_)
            begins = is_pooled if before is None else (before, state) == (DesiredState.ASLEEP, DesiredState.READY)
            if begins:
                times[id_] = StartTimes(assigned=now)
            elif id_ in known or is_pooled:
                times[id_] = known.get(id_, StartTimes())
        self._starts[pod.metadata.uid] = times

    def start_times(self, pod: Pod, status: RunnerStatus | None) -> Mapping[str, StartTimes]:
        """Return when the starts of a runner's engines were decided and done, as far as it was seen."""
        times = self._starts.get(pod.metadata.uid, {})
        for engine in status.engines if status is not None else ():
            seen = times.get(engine.id)
            if seen is None:
                continue
            if seen.ready is None and engine.state is EngineState.READY:
                times[engine.id] = StartTimes(assigned=seen.assigned, ready=datetime.now(UTC))
            elif seen.ready is not None and engine.state is EngineState.ASLEEP:
                # A wake by the runner itself has no decision of ours.
                times[engine.id] = StartTimes()
        return dict(times)

    def switched(self, runner: str) -> None:
        """Note that an engine of a runner had to make room for others just now."""
        self._switches.setdefault(runner, []).append(time.monotonic())

    def switches(self) -> Mapping[str, tuple[float, ...]]:
        """Return how many seconds ago engines made room for others lately, by the name of the runner's pod."""
        now = time.monotonic()
        for runner, moments in list(self._switches.items()):
            moments[:] = [each for each in moments if now - each < SWITCH_SECONDS]
            if not moments:
                del self._switches[runner]
        return {runner: tuple(now - each for each in moments) for runner, moments in self._switches.items()}

    def unserved_seconds(self, pod: Pod) -> Mapping[str, float]:
        """Return for how long the serve label of each model of a pool's runner has said Draining."""
        if not isinstance(owner_of(pod), PoolKey):
            return {}
        now = time.monotonic()
        known = self._unserved.get(pod.metadata.uid, {})
        since = {
            model: known.get(model, now)
            for label, value in pod.metadata.labels.items()
            if value == EngineState.DRAINING and (model := label.removeprefix(names.SERVE_LABEL_PREFIX)) != label
        }
        self._unserved[pod.metadata.uid] = since
        return {model: now - begun for model, begun in since.items()}

    def forget(self, uid: str) -> None:
        """Drop what was seen of a pod that is gone."""
        self._starts.pop(uid, None)
        self._unserved.pop(uid, None)
