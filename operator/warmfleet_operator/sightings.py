"""When this leader saw something of a pool's runner that no object has a time for.

A former leader's sightings are lost; what rests on them is only less exact, or waits a little longer, then.
"""

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from warmfleet_api import names
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import EngineState
from warmfleet_operator.decide.fleet import PoolKey, StartTimes
from warmfleet_operator.decide.runners import owner_of
from warmfleet_operator.records import Pod


class Sightings:
    """Times of sightings, by the uid of the runner's pod."""

    def __init__(self) -> None:
        self._starts: dict[str, dict[str, StartTimes]] = {}
        self._unserved: dict[str, Mapping[str, float]] = {}

    def assigned(self, pod: Pod, former: Iterable[str], new: Iterable[str]) -> None:
        """Note that the ids of a runner's engines changed just now."""
        if isinstance(owner_of(pod), PoolKey):
            known, now = self._starts.get(pod.metadata.uid, {}), datetime.now(UTC)
            before = set(former)
            self._starts[pod.metadata.uid] = {
                id_: known.get(id_, StartTimes()) if id_ in before else StartTimes(assigned=now) for id_ in new
            }

    def start_times(self, pod: Pod, status: RunnerStatus | None) -> Mapping[str, StartTimes]:
        """Return when the starts of a runner's engines were decided and done, as far as it was seen."""
        times = self._starts.get(pod.metadata.uid, {})
        for engine in status.engines if status is not None else ():
            seen = times.get(engine.id)
            if seen is not None and seen.ready is None and engine.state is EngineState.READY:
                times[engine.id] = StartTimes(assigned=seen.assigned, ready=datetime.now(UTC))
        return dict(times)

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
