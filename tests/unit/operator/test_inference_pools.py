"""InferencePools: made where their kind is, put right, removed, and never taken over."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from support import make
from support.scripted import Script, client_of, refuses, says, scripted
from warmfleet_operator.build.inference_pool import inference_pool
from warmfleet_operator.decide.fleet import Model, ModelKey
from warmfleet_operator.inference_pools import InferencePools

BLOCK = {"inferencePool": {"endpointPickerRef": {"name": "picker"}}}
WANTED = make.model("llama", serving=BLOCK)
WITHOUT = make.model("llama")


def as_served(of: Model = WANTED, *, version: int = 7, uid: str = "uid-p", **spec: Any) -> dict[str, Any]:
    body = inference_pool(of)
    assert body is not None
    metadata = body["metadata"] | {"uid": uid, "resourceVersion": str(version)}
    return body | {"metadata": metadata, "spec": body["spec"] | {"appProtocol": "http"} | spec}


def listing(*items: dict[str, Any], version: int = 9) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


@dataclass
class World:
    script: Script
    pools: InferencePools
    changed: list[ModelKey]

    def writes(self) -> list[str]:
        return [each for each in self.script.methods() if each != "GET"]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    changed: list[ModelKey] = []
    async with scripted() as script, client_of(script) as client:
        yield World(script, InferencePools(client, lambda: [WANTED.key], changed.append), changed)


def test_a_pool_selects_what_the_service_selects_and_names_the_picker_of_the_spec() -> None:
    body = inference_pool(WANTED)
    assert body is not None
    assert body["spec"] == {
        "selector": {"matchLabels": {"serve.warmfleet.dev/llama": "Ready"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {
            "kind": "Service",
            "name": "picker",
            "port": {"number": 9002},
            "failureMode": "FailClose",
        },
    }
    assert inference_pool(WITHOUT) is None


async def test_without_the_kind_nothing_is_written_and_nothing_fails(world: World) -> None:
    world.script.on("GET", refuses(404, "NotFound"))
    await world.pools.look()
    assert await world.pools.bring_in_order(WANTED) is None
    assert (world.writes(), world.changed) == ([], [])


async def test_a_kind_that_is_installed_later_is_picked_up(world: World) -> None:
    world.script.on("GET", refuses(404, "NotFound"), says(listing()))
    world.script.on("POST", says(as_served(version=10)))
    await world.pools.look()
    await world.pools.look()
    assert world.changed == [WANTED.key]
    assert await world.pools.bring_in_order(WANTED) is None
    assert await world.pools.bring_in_order(WANTED) is None
    assert world.writes() == ["POST"], "what is as wanted is not written again"


async def test_what_somebody_changed_is_put_right_with_the_next_list(world: World) -> None:
    drifted = as_served(targetPorts=[{"number": 1}])
    world.script.on("GET", says(listing(as_served())), says(listing(drifted | _version(drifted, 12), version=12)))
    world.script.on("PATCH", says(as_served(version=13)))
    await world.pools.look()
    assert await world.pools.bring_in_order(WANTED) is None
    assert world.writes() == []
    await world.pools.look()
    assert WANTED.key in world.changed
    assert await world.pools.bring_in_order(WANTED) is None
    assert world.writes() == ["PATCH"]
    assert world.script.seen[-1].body["metadata"]["uid"] == "uid-p"


async def test_a_pool_of_somebody_else_is_left_alone_and_returned(world: World) -> None:
    foreign = as_served()
    foreign["metadata"] = {"name": "llama", "namespace": "default", "uid": "uid-f", "resourceVersion": "3"}
    world.script.on("GET", says(listing()), says(foreign))
    world.script.on("POST", refuses(409, "AlreadyExists"))
    await world.pools.look()
    found = await world.pools.bring_in_order(WANTED)
    assert found is not None and found.metadata.uid == "uid-f"
    assert await world.pools.bring_in_order(WITHOUT) is None
    assert set(world.writes()) == {"POST"}


async def test_a_pool_goes_when_its_model_asks_for_none(world: World) -> None:
    world.script.on("GET", says(listing(as_served())))
    world.script.on("DELETE", says({"kind": "Status", "status": "Success"}))
    await world.pools.look()
    assert await world.pools.bring_in_order(WITHOUT) is None
    assert world.writes() == ["DELETE"]


async def test_a_kind_that_is_taken_away_is_no_error(world: World) -> None:
    world.script.on("GET", says(listing()), refuses(404, "NotFound"), says(listing()))
    world.script.on("POST", refuses(404, "NotFound"))
    await world.pools.look()
    assert await world.pools.bring_in_order(WANTED) is None
    assert await world.pools.bring_in_order(WANTED) is None
    assert world.writes() == ["POST"]
    await world.pools.look()
    await world.pools.look()
    assert world.changed == [WANTED.key, WANTED.key]


async def test_a_list_that_fails_changes_nothing(world: World) -> None:
    world.script.on("GET", says(listing(as_served())), refuses(403, "Forbidden"))
    await world.pools.look()
    await world.pools.look()
    assert await world.pools.bring_in_order(WANTED) is None
    assert world.writes() == []


def _version(body: dict[str, Any], version: int) -> dict[str, Any]:
    return {"metadata": body["metadata"] | {"resourceVersion": str(version)}}
