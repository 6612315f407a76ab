"""Events: what repeats is counted, and what can't be written disturbs nobody."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from support.scripted import Script, client_of, refuses, says, scripted, until
from warmfleet_kube.objects import Metadata
from warmfleet_operator import events
from warmfleet_operator.events import Recorder, regarding_model
from warmfleet_operator.metrics import Metrics

MODEL = Metadata(name="m", namespace="n", uid="u")
WRITTEN = {"metadata": {"name": "e", "namespace": "n"}}


@asynccontextmanager
async def recording(script: Script, metrics: Metrics) -> AsyncIterator[Recorder]:
    async with client_of(script) as client:
        recorder = Recorder(client, "test", metrics)
        task = asyncio.create_task(recorder.run())
        yield recorder
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_event_says_what_about_whom_and_its_repetitions_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "SERIES_WRITE_SECONDS", 0.05)
    note = regarding_model(MODEL, "Normal", "StartSucceeded", "2.9 s Cold on n1")
    async with scripted() as script, recording(script, Metrics()) as recorder:
        script.on("POST", says(WRITTEN))
        script.on("PATCH", says(WRITTEN))
        recorder.emit(note)
        await until(lambda: script.methods() == ["POST"])
        recorder.emit(note)
        recorder.emit(note)
        await until(lambda: script.methods() == ["POST", "PATCH"])
    event = script.seen[0].body
    assert event["regarding"] == {
        "apiVersion": "warmfleet.dev/v1alpha1",
        "kind": "ModelDeployment",
        "namespace": "n",
        "name": "m",
        "uid": "u",
    }
    assert (event["type"], event["reason"], event["note"]) == ("Normal", "StartSucceeded", "2.9 s Cold on n1")
    assert script.seen[1].body[0]["value"]["count"] == 3
    assert script.seen[1].path.endswith(event["metadata"]["name"])


async def test_an_event_that_can_not_be_written_is_tried_again_and_then_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("warmfleet_operator.workqueue.FIRST_RETRY_SECONDS", 0.01)
    metrics = Metrics()
    async with scripted() as script, recording(script, metrics) as recorder:
        script.on("POST", refuses(403))
        recorder.emit(regarding_model(MODEL, "Warning", "StartFailed", "no"))
        await until(lambda: metrics.registry.get_sample_value("warmfleet_events_dropped_total") == 1)
    assert script.methods() == ["POST"] * events.ATTEMPTS


async def test_a_flood_is_dropped_and_counted_instead_of_piling_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_SERIES", 2)
    metrics = Metrics()
    async with scripted() as script, client_of(script) as client:
        recorder = Recorder(client, "test", metrics)
        for number in range(5):
            recorder.emit(regarding_model(MODEL, "Normal", "StartQueued", str(number)))
    assert metrics.registry.get_sample_value("warmfleet_events_dropped_total") == 3
