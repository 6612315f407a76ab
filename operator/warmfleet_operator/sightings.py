"""When this leader first saw something of a pool's runner that no object has a time for.

A former leader's sightings are lost; what rests on them is only less exact, or waits a little longer, then.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from warmfleet_api import names
from warmfleet_api.assignment import Assignment
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.decide.fleet import PoolKey, StartTimes
from warmfleet_operator.decide.runners import owner_of
from warmfleet_operator.records import Pod


class Sightings:
    """First sightings, by the uid of the runner's pod."""

    def __init__(self) -> None:
        self._starts: dict[str, Mapping[str, StartTimes]] = {}
        self._unserved: dict[str, Mapping[str, float]] = {}

    def start_times(
        self, pod: Pod, assignment: Assignment | None, status: RunnerStatus | None
    ) -> Mapping[str, StartTimes]:
        """Return when the starts of the engines in a pool's runner were decided and done, as far as it was seen."""
        if assignment is None or not isinstance(owner_of(pod), PoolKey):
            return {}
        now = datetime.now(UTC)
        told = {each.id: each for each in status.engines} if status is not None else {}
        known = self._starts.get(pod.metadata.uid, {})
        times: dict[str, StartTimes] = {}
        for engine in assignment.engines:
            engine_told = told.get(engine.id)
            seen = known.get(engine.id)
            if seen is None:
                # One that the runner knows already was decided before this leader looked.
                seen = StartTimes(assigned=now if engine_told is None else None)
            if seen.ready is None and engine_told is not None and engine_told.state is EngineState.READY:
                seen = replace(seen, ready=now)
            times[engine.id] = seen
        self._starts[pod.metadata.uid] = times
        return times

    def unserved_seconds(self, pod: Pod) -> Mapping[str, float]:
        """Return for how long the serve label of each model has said Draining."""
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
