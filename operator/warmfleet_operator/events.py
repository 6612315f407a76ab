"""Events for people (`events.k8s.io/v1`), as series: what repeats is counted, not written again.

Emitting never waits and never fails a reconcile: events go through a queue of their own, bounded, and what has no
room there is dropped and counted. The API server keeps events for an hour; nothing may depend on them.
"""

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Never

from warmfleet_api import names
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import AlreadyExists, KubeError, NotFound
from warmfleet_kube.objects import Metadata, Object, Resource
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)


class EventRecord(Object, frozen=True, kw_only=True):
    """The Event object; only its metadata is read."""


EVENTS = Resource("events.k8s.io", "v1", "events", "Event", EventRecord)

MANAGER = "warmfleet-events"
SERIES_SECONDS = 600.0
"""An event that repeats within this time is counted in its series, later it starts a new one."""
SERIES_WRITE_SECONDS = 15.0
"""A series is written at most this often."""
MAX_SERIES = 2000
ATTEMPTS = 4
MAX_NOTE_LENGTH = 1024


@dataclass(frozen=True, slots=True)
class Note:
    """One event's identity: what is said of which object."""

    kind: str
    api_version: str
    namespace: str
    name: str
    uid: str
    type: Literal["Normal", "Warning"]
    reason: str
    text: str


@dataclass(slots=True)
class _Series:
    name: str
    first: str
    last: str
    seen: float
    count: int = 1
    written: int = 0
    attempts: int = 0


class Recorder:
    """Writes events in the background."""

    def __init__(self, client: KubeClient, instance: str, metrics: Metrics) -> None:
        self._client = client
        self._instance = instance[:128]
        self._metrics = metrics
        self._series: dict[Note, _Series] = {}
        self._queue: WorkQueue[Note] = WorkQueue()

    def emit(self, note: Note) -> None:
        """Say this, soon; returns at once."""
        now = time.monotonic()
        series = self._series.get(note)
        if series is None or now - series.seen > SERIES_SECONDS:
            self._expire(now)
            if len(self._series) >= MAX_SERIES:
                self._metrics.events_dropped.inc()
                return
            stamp = _now()
            self._series[note] = _Series(_event_name(note, stamp), stamp, stamp, now)
            self._queue.add(note)
        else:
            series.count, series.last, series.seen = series.count + 1, _now(), now
            self._queue.add(note, SERIES_WRITE_SECONDS)

    async def run(self) -> Never:
        """Write until cancelled."""
        while True:
            note, _ = await self._queue.get()
            try:
                await self._write(note)
            finally:
                self._queue.done(note)

    async def _write(self, note: Note) -> None:
        series = self._series.get(note)
        if series is None or series.written == series.count:
            return
        count = series.count
        try:
            if series.written == 0:
                await self._client.create(EVENTS, self._body(note, series), MANAGER)
            else:
                value = {"count": count, "lastObservedTime": series.last}
                patch = [{"op": "add", "path": "/series", "value": value}]
                await self._client.patch(EVENTS, _home(note), series.name, patch, MANAGER)
        except AlreadyExists:
            # An earlier try came through although its answer did not.
            series.written = 1
        except NotFound:
            # The namespace is going, or the event aged out; its series starts anew with the next one.
            del self._series[note]
        except KubeError as error:
            series.attempts += 1
            if series.attempts >= ATTEMPTS:
                logger.warning("event %s on %s/%s given up: %s", note.reason, note.namespace, note.name, error)
                self._metrics.events_dropped.inc()
                del self._series[note]
            else:
                self._queue.retry(note)
        else:
            series.written, series.attempts = count, 0
            self._queue.forget(note)

    def _expire(self, now: float) -> None:
        for note in [note for note, series in self._series.items() if now - series.seen > SERIES_SECONDS]:
            del self._series[note]

    def _body(self, note: Note, series: _Series) -> Mapping[str, Any]:
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"namespace": _home(note), "name": series.name},
            "eventTime": series.first,
            "reportingController": names.EVENT_CONTROLLER,
            "reportingInstance": self._instance,
            "action": "Reconcile",
            "reason": note.reason,
            "type": note.type,
            "note": note.text[:MAX_NOTE_LENGTH],
            "regarding": {
                "apiVersion": note.api_version,
                "kind": note.kind,
                "name": note.name,
                "uid": note.uid,
            }
            | ({"namespace": note.namespace} if note.namespace else {}),
        }


def regarding_model(metadata: Metadata, type_: Literal["Normal", "Warning"], reason: str, text: str) -> Note:
    """Return a note on a ModelDeployment."""
    return Note(
        kind=names.MODEL_DEPLOYMENT_KIND,
        api_version=names.API_VERSION,
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        type=type_,
        reason=reason,
        text=text,
    )


def regarding_cache(metadata: Metadata, type_: Literal["Normal", "Warning"], reason: str, text: str) -> Note:
    """Return a note on a WeightCache."""
    return Note(
        kind=names.WEIGHT_CACHE_KIND,
        api_version=names.API_VERSION,
        namespace="",
        name=metadata.name,
        uid=metadata.uid,
        type=type_,
        reason=reason,
        text=text,
    )


def _home(note: Note) -> str:
    """Return the namespace of an event; of what is in none it is `default`, where kubectl looks for it."""
    return note.namespace or "default"


def _event_name(note: Note, stamp: str) -> str:
    digest = hashlib.blake2b(f"{note}{stamp}".encode(), digest_size=8).hexdigest()
    return f"{note.name}.{digest}"


def _now() -> str:
    """Return the time as Kubernetes' MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
