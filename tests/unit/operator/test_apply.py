"""Carrying out decisions about runners: what is tested before a write, in which order, and what the mirror learns."""

import asyncio

import msgspec
import pytest
from aiohttp import web

from support import make
from support.scripted import Answer, client_of, refuses, says, scripted, until
from warmfleet_api import assignment, names
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import AlreadyExists, Conflict
from warmfleet_kube.mirror import Mirror
from warmfleet_operator.apply import RunnerWriter, patch_operations
from warmfleet_operator.decide.actions import CreateRunner, DeleteRunner, PatchRunner
from warmfleet_operator.decide.assign import assignment_of
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import Pod

LLAMA = make.model("llama")
RUNNER = make.runner(LLAMA, "n1")
ANNOTATION = "/metadata/annotations/warmfleet.dev~1assignment"


def writer(client: KubeClient, mirror: Mirror[Pod]) -> RunnerWriter:
    async def confirmed() -> None:
        return

    return RunnerWriter(client, mirror, make.LIMITS, Metrics(), confirmed=confirmed)


def body(pod: Pod, version: int) -> object:
    made = msgspec.to_builtins(pod)
    made["metadata"]["resourceVersion"] = str(version)
    return made


def creation() -> CreateRunner:
    return CreateRunner(LLAMA, 0, 1, "n1", assignment_of(LLAMA, 1), 60, "replica 1 of 1")


def test_a_patch_tests_who_the_runner_is_and_what_it_was_told_before_it_tells_anything_new() -> None:
    new = assignment_of(LLAMA, 2)
    labels = {"it/lacks-this": None, names.LABEL_PROTECTED: "true", names.LABEL_SLOT: None}
    operations = patch_operations(PatchRunner(RUNNER.pod, new, labels, "why"))
    assert operations == [
        {"op": "test", "path": "/metadata/uid", "value": RUNNER.pod.metadata.uid},
        {"op": "test", "path": ANNOTATION, "value": RUNNER.pod.metadata.annotations[names.ANNOTATION_ASSIGNMENT]},
        {"op": "add", "path": ANNOTATION, "value": assignment.encode(new)},
        {"op": "add", "path": "/metadata/labels/warmfleet.dev~1protected", "value": "true"},
        {"op": "remove", "path": "/metadata/labels/warmfleet.dev~1slot"},
    ]


def test_a_runner_whose_assignment_was_removed_is_patched_only_at_the_version_it_was_seen_at() -> None:
    metadata = msgspec.structs.replace(RUNNER.pod.metadata, annotations={})
    bare = msgspec.structs.replace(RUNNER.pod, metadata=metadata)
    operations = patch_operations(PatchRunner(bare, assignment_of(LLAMA, 2), {}, "why"))
    assert [each["path"] for each in operations[1:3]] == ["/metadata/resourceVersion", "/metadata/annotations"]


async def test_what_was_written_is_in_the_mirror_before_the_watch_tells() -> None:
    mirror: Mirror[Pod] = Mirror()
    async with scripted() as script, client_of(script) as client:
        script.on("POST", says(body(RUNNER.pod, 5)))
        script.on("DELETE", says(body(make.terminating(RUNNER).pod, 6)), says({"kind": "Status"}))
        assert await writer(client, mirror).carry_out([creation()]) == ()
        known = mirror.get("default", "llama-0-1")
        assert known is not None
        assert await writer(client, mirror).carry_out([DeleteRunner(known, "gone")]) == ()
        known = mirror.get("default", "llama-0-1")
        assert known is not None
        assert known.metadata.deletion_timestamp is not None
        assert await writer(client, mirror).carry_out([DeleteRunner(known, "gone")]) == ()
    assert len(mirror) == 0
    assert script.seen[1].body["preconditions"] == {"uid": RUNNER.pod.metadata.uid, "resourceVersion": "5"}


async def test_a_runner_that_another_writer_made_is_read_and_not_made_twice() -> None:
    mirror: Mirror[Pod] = Mirror()
    async with scripted() as script, client_of(script) as client:
        script.on("POST", refuses(409, "AlreadyExists"))
        script.on("GET", says(body(RUNNER.pod, 5)))
        (failure,) = await writer(client, mirror).carry_out([creation()])
    assert isinstance(failure.error, AlreadyExists)
    assert mirror.get("default", "llama-0-1") is not None


@pytest.mark.parametrize("refusal", [refuses(422, "Invalid"), refuses(409, "Conflict")])
async def test_a_lost_race_leaves_the_runner_alone_and_brings_the_mirror_up_to_date(refusal: Answer) -> None:
    mirror: Mirror[Pod] = Mirror()
    mirror.saw(RUNNER.pod)
    async with scripted() as script, client_of(script) as client:
        script.on("PATCH", refusal)
        script.on("GET", says(body(make.with_labels(RUNNER, {"x": "y"}).pod, 9)))
        (failure,) = await writer(client, mirror).carry_out([PatchRunner(RUNNER.pod, None, {}, "why")])
    assert failure.error.__class__.__name__ in {"Invalid", "Conflict"}
    known = mirror.get("default", "llama-0-1")
    assert known is not None
    assert known.metadata.labels["x"] == "y"


async def test_a_deletion_that_came_too_late_lets_the_runner_go_from_the_mirror() -> None:
    mirror: Mirror[Pod] = Mirror()
    mirror.saw(RUNNER.pod)
    async with scripted() as script, client_of(script) as client:
        script.on("DELETE", refuses(409, "Conflict"))
        script.on("GET", refuses(404))
        (failure,) = await writer(client, mirror).carry_out([DeleteRunner(RUNNER.pod, "why")])
    assert isinstance(failure.error, Conflict)
    assert len(mirror) == 0


async def test_a_label_that_protects_stands_before_another_runner_loses_its_own() -> None:
    protects = PatchRunner(RUNNER.pod, None, {names.LABEL_PROTECTED: "true"}, "takes over")
    other = make.runner(LLAMA, "n2", slot=1).pod
    unprotects = PatchRunner(other, None, {names.LABEL_PROTECTED: None}, "gives way")
    async with scripted() as script, client_of(script) as client:
        script.on("PATCH", says(body(RUNNER.pod, 5)))
        script.on("DELETE", says({"kind": "Status"}))
        await writer(client, Mirror()).carry_out([protects, unprotects, DeleteRunner(other, "gone")])
    assert [each.path.rsplit("/", 1)[1] for each in script.seen] == ["llama-0-1", "llama-1-1", "llama-1-1"]
    assert script.methods() == ["PATCH", "PATCH", "DELETE"]


async def test_a_higher_class_is_given_its_place_before_a_lower_one_is_told() -> None:
    order: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        name = (await request.json())["metadata"]["name"].partition("-")[0]
        order.append(f"{name} asked")
        await asyncio.sleep(0.05)
        order.append(f"{name} given")
        return web.json_response({}, status=500)

    models = [make.model(name, priority=priority) for name, priority in (("low", "Low"), ("high", "High"))]
    starts = [CreateRunner(model, 0, 1, "n1", assignment_of(model, 1), 60, "starts") for model in models]
    async with scripted() as script, client_of(script) as client:
        script.on("POST", answer)
        assert len(await writer(client, Mirror()).carry_out(starts)) == 2
    assert order == ["high asked", "high given", "low asked", "low given"]


async def test_a_process_whose_lease_ran_out_while_it_decided_writes_once_that_is_renewed() -> None:
    renewed = asyncio.Event()

    async def confirmed() -> None:
        await renewed.wait()

    async with scripted() as script, client_of(script) as client:
        script.on("POST", says(body(RUNNER.pod, 5)))
        late = RunnerWriter(client, Mirror(), make.LIMITS, Metrics(), confirmed=confirmed)
        writing = asyncio.create_task(late.carry_out([creation()]))
        await asyncio.sleep(0.05)
        assert not script.seen
        renewed.set()
        assert await writing == ()
    assert script.methods() == ["POST"]


async def test_a_lease_that_runs_out_in_the_middle_of_a_round_holds_up_the_rest_of_it_and_loses_none() -> None:
    renewed = asyncio.Event()
    renewed.set()

    async def confirmed() -> None:
        await renewed.wait()

    async def answer(_: web.Request) -> web.StreamResponse:
        renewed.clear()
        return web.json_response(body(RUNNER.pod, 5))

    models = [make.model(name, priority=priority) for name, priority in (("low", "Low"), ("high", "High"))]
    starts = [CreateRunner(model, 0, 1, "n1", assignment_of(model, 1), 60, "starts") for model in models]
    async with scripted() as script, client_of(script) as client:
        script.on("POST", answer)
        writing = asyncio.create_task(
            RunnerWriter(client, Mirror(), make.LIMITS, Metrics(), confirmed=confirmed).carry_out(starts)
        )
        await until(lambda: len(script.seen) == 1)
        await asyncio.sleep(0.05)
        assert len(script.seen) == 1
        renewed.set()
        assert await writing == ()
    assert script.methods() == ["POST", "POST"]


async def test_a_pod_of_somebody_else_that_has_the_name_is_not_taken_for_a_runner() -> None:
    stranger = make.stranger("llama-0-1", "n1")
    mirror: Mirror[Pod] = Mirror()
    async with scripted() as script, client_of(script) as client:
        script.on("POST", refuses(409, "AlreadyExists"))
        script.on("GET", says(body(stranger, 5)))
        await writer(client, mirror).carry_out([creation()])
    assert len(mirror) == 0
