"""Services and budgets: made, put right, never taken over, and left alone while they are as wanted."""

import msgspec

from support import make
from support.scripted import client_of, refuses, says, scripted
from warmfleet_kube.client import KubeClient
from warmfleet_kube.mirror import Mirror
from warmfleet_kube.objects import Metadata
from warmfleet_operator.build.budget import last_ready_budget
from warmfleet_operator.build.service import model_service
from warmfleet_operator.children import covers, ensure, remove
from warmfleet_operator.records import DaemonSet, PodDisruptionBudget, Service
from warmfleet_operator.resources import BUDGETS, SERVICES

LLAMA = make.model("llama")
WANTED = model_service(LLAMA)


def as_served(version: int = 1, **spec: object) -> dict[str, object]:
    """The Service as the API server has it, with its own additions."""
    ports = [{**port, "nodePort": 30000} for port in WANTED["spec"]["ports"]]
    return {
        **WANTED,
        "metadata": {**WANTED["metadata"], "uid": "uid-s", "resourceVersion": str(version)},
        "spec": {**WANTED["spec"], "ports": ports, "clusterIP": "10.0.0.1", **spec},
    }


def is_ours(service: Service) -> bool:
    return service.metadata.controller_uid == LLAMA.metadata.uid


async def ensured(client: KubeClient, mirror: Mirror[Service]) -> Service:
    return await ensure(client, SERVICES, mirror, WANTED, is_ours)


def test_what_the_server_adds_is_no_drift_and_what_somebody_changed_is() -> None:
    assert covers(msgspec.convert(as_served(), Service), WANTED)
    assert not covers(msgspec.convert(as_served(selector={}), Service), WANTED)
    assert not covers(msgspec.convert(as_served(ports=[]), Service), WANTED)


def test_amounts_are_compared_by_value_and_what_is_empty_may_be_missing() -> None:
    known = DaemonSet(metadata=Metadata(name="d"), spec={"requests": {"memory": "1Gi", "cpu": "1"}, "port": 80})
    metadata = {"name": "d"}
    assert covers(known, {"metadata": metadata, "spec": {"requests": {"memory": "1024Mi", "cpu": 1}, "taints": []}})
    assert not covers(known, {"metadata": metadata, "spec": {"requests": {"memory": "1025Mi"}}})
    assert not covers(known, {"metadata": metadata, "spec": {"taints": ["x"]}})


async def test_a_missing_child_is_made_once_and_seen_before_the_watch_tells() -> None:
    mirror: Mirror[Service] = Mirror()
    async with scripted() as script, client_of(script) as client:
        script.on("POST", says(as_served()))
        assert is_ours(await ensured(client, mirror))
        assert is_ours(await ensured(client, mirror))
    assert script.methods() == ["POST"]


async def test_a_child_that_drifted_is_put_right_on_condition_that_it_is_the_same() -> None:
    mirror: Mirror[Service] = Mirror()
    mirror.saw(msgspec.convert(as_served(selector={"app": "else"}), Service))
    async with scripted() as script, client_of(script) as client:
        script.on("PATCH", says(as_served(2)))
        await ensured(client, mirror)
        await ensured(client, mirror)
    assert script.methods() == ["PATCH"]
    assert script.seen[0].body["metadata"]["uid"] == "uid-s"
    assert script.seen[0].query == {"fieldManager": "warmfleet-children", "force": "true"}


async def test_a_service_of_somebody_else_is_returned_and_never_written() -> None:
    foreign = {**as_served(), "metadata": {"name": "llama", "namespace": "default", "uid": "x", "resourceVersion": "1"}}
    async with scripted() as script, client_of(script) as client:
        script.on("POST", refuses(409, "AlreadyExists"))
        script.on("GET", says(foreign))
        assert not is_ours(await ensured(client, Mirror()))
    assert script.methods() == ["POST", "GET"]


async def test_removing_what_is_gone_already_is_no_failure() -> None:
    mirror: Mirror[PodDisruptionBudget] = Mirror()
    wanted = last_ready_budget("n")
    wanted["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    known = msgspec.convert(wanted, PodDisruptionBudget)
    mirror.saw(known)
    async with scripted() as script, client_of(script) as client:
        script.on("DELETE", refuses(404))
        await remove(client, BUDGETS, mirror, known)
    assert len(mirror) == 0
