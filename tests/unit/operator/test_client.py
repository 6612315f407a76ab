"""The client: what it does when the transport fails."""

import asyncio
from pathlib import Path

import pytest

from support.scripted import client_of, hangs, refuses, says, scripted, streams
from warmfleet_kube.client import VERSION, WatchEvent
from warmfleet_kube.credentials import Credentials
from warmfleet_kube.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    Gone,
    KubeError,
    NotFound,
    ServerError,
    TooManyRequests,
    Unreachable,
    UnreadableAnswer,
)
from warmfleet_operator.records import Service
from warmfleet_operator.resources import BUDGETS, PODS, SERVICES


def service(version: int = 1, name: str = "a", **spec: object) -> dict[str, object]:
    return {
        "kind": "Service",
        "metadata": {"name": name, "namespace": "n", "uid": "u", "resourceVersion": str(version)},
        "spec": spec,
    }


def test_paths_are_those_of_core_and_grouped_kinds() -> None:
    assert PODS.path() == "/api/v1/pods"
    assert BUDGETS.path("n", "x", "status") == "/apis/policy/v1/namespaces/n/poddisruptionbudgets/x/status"


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (403, "Forbidden", Forbidden),
        (404, "NotFound", NotFound),
        (409, "Conflict", Conflict),
        (409, "AlreadyExists", AlreadyExists),
        (410, "Expired", Gone),
        (500, "", ServerError),
    ],
)
async def test_each_status_code_has_its_error_with_the_words_of_the_server(
    code: int, reason: str, kind: type[KubeError]
) -> None:
    async with scripted() as script, client_of(script) as client:
        script.on("GET", refuses(code, reason))
        with pytest.raises(kind, match=f"GET .*/services/a: {code} no"):
            await client.get(SERVICES, "n", "a")


async def test_a_busy_server_is_asked_again_when_it_says_even_for_a_creation() -> None:
    async with scripted() as script, client_of(script) as client:
        script.on("POST", refuses(429, Retry_After="0"), says(service()))
        created = await client.create(SERVICES, service(), "test")
    assert created.metadata.name == "a"
    assert script.methods() == ["POST", "POST"]


async def test_a_server_that_stays_busy_is_left_alone_after_three_tries() -> None:
    async with scripted() as script, client_of(script) as client:
        script.on("GET", refuses(429, Retry_After="0"))
        with pytest.raises(TooManyRequests) as caught:
            await client.get(SERVICES, "n", "a")
    assert caught.value.retry_after_seconds == 0
    assert len(script.seen) == 3


async def test_a_failing_server_is_asked_again_only_where_twice_is_the_same_as_once() -> None:
    async with scripted() as script, client_of(script) as client:
        script.on("GET", refuses(503), says(service()))
        script.on("POST", refuses(503))
        script.on("PATCH", refuses(500))
        assert (await client.get(SERVICES, "n", "a")).metadata.uid == "u"
        with pytest.raises(ServerError):
            await client.create(SERVICES, service(), "test")
        with pytest.raises(ServerError):
            await client.patch(SERVICES, "n", "a", [], "test")
    assert script.methods() == ["GET", "GET", "POST", "PATCH"]


async def test_a_request_without_an_answer_ends_in_time() -> None:
    async with scripted() as script, client_of(script, request_seconds=0.1) as client:
        script.on("POST", hangs())
        with pytest.raises(Unreachable, match="POST /api/v1/namespaces/n/services"):
            async with asyncio.timeout(5):
                await client.create(SERVICES, service(), "test")


async def test_an_answer_that_is_no_json_is_said_to_be_unreadable() -> None:
    async with scripted() as script, client_of(script) as client:
        script.on("GET", says("surprise"))
        with pytest.raises(UnreadableAnswer, match="Service"):
            await client.get(SERVICES, "n", "a")


async def test_a_list_is_read_in_chunks_to_its_end() -> None:
    async with scripted() as script, client_of(script) as client:
        script.on(
            "GET",
            says({"metadata": {"resourceVersion": "7", "continue": "next"}, "items": [service(1, "a")]}),
            says({"metadata": {"resourceVersion": "7"}, "items": [service(2, "b")]}),
        )
        listing = await client.list(SERVICES)
    assert [item.metadata.name for item in listing.items] == ["a", "b"]
    assert listing.resource_version == 7
    assert script.seen[1].query["continue"] == "next"
    assert "resourceVersion" not in script.seen[0].query, "a list at version 0 may be stale"


async def test_a_watch_tells_changes_bookmarks_and_objects_of_any_size() -> None:
    large = service(3, "large", text="x" * 1_000_000)
    async with scripted() as script, client_of(script) as client:
        script.on(
            "WATCH",
            streams(
                {"type": "ADDED", "object": large},
                {"type": "BOOKMARK", "object": {"kind": "Service", "metadata": {"resourceVersion": "9"}}},
                {"type": "DELETED", "object": service(12)},
            ),
        )
        events: list[WatchEvent[Service]] = [event async for event in client.watch(SERVICES, 2, 30)]
    assert [(event.deleted, event.resource_version) for event in events] == [(False, 3), (False, 9), (True, 12)]
    assert events[1].item is None
    query = script.seen[0].query
    assert (query["resourceVersion"], query["timeoutSeconds"], query["allowWatchBookmarks"]) == ("2", "30", "true")


async def test_a_version_that_is_too_old_is_gone_whether_the_answer_or_an_event_says_so() -> None:
    async with scripted() as script, client_of(script) as client:
        too_old = {
            "type": "ERROR",
            "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"},
        }
        script.on("WATCH", refuses(410, "Expired"), streams(too_old))
        for _ in range(2):
            with pytest.raises(Gone):
                async for _event in client.watch(SERVICES, 2, 30):
                    raise AssertionError("no change was sent")


async def test_a_watch_that_falls_silent_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("warmfleet_kube.client.WATCH_GRACE_SECONDS", 0.05)
    async with scripted() as script, client_of(script) as client:
        script.on("WATCH", streams({"type": "ADDED", "object": service()}, holds=True))
        seen = []
        with pytest.raises(Unreachable):
            async with asyncio.timeout(5):
                async for event in client.watch(SERVICES, 0, 0.05):
                    seen.append(event)  # noqa: PERF401 - the loop ends by an error
    assert len(seen) == 1


async def test_a_deletion_carries_its_preconditions_and_tells_whether_the_object_lives_on() -> None:
    async with scripted() as script, client_of(script) as client:
        script.on("DELETE", says(service()), says({"kind": "Status", "status": "Success"}))
        assert await client.delete(SERVICES, "n", "a", uid="u", resource_version="1") is not None
        assert await client.delete(SERVICES, "n", "a", uid="u") is None
    assert script.seen[0].body["preconditions"] == {"uid": "u", "resourceVersion": "1"}
    assert script.seen[1].body["preconditions"] == {"uid": "u"}


async def test_traffic_says_who_it_is_from_and_the_lease_can_be_told_apart() -> None:
    async with scripted() as script, client_of(script) as client:
        script.on("GET", says(service()))
        await client.get(SERVICES, "n", "a")
        await client.as_role("lease", request_seconds=1).get(SERVICES, "n", "a")
    agents = [each.headers["User-Agent"] for each in script.seen]
    agent = f"warmfleet-operator/{VERSION}"
    assert agents == [agent, f"{agent} lease"]


async def test_a_token_that_expired_is_read_again_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("old")
    async with scripted() as script, client_of(script) as client:
        client._credentials = Credentials(server=script.url, token_file=file)

        async def checks(request: object) -> object:
            accepted = script.seen[-1].headers["Authorization"] == "Bearer new"
            file.write_text("new")
            return await (says(service()) if accepted else refuses(401))(request)  # type: ignore[arg-type]

        script.on("GET", checks)  # type: ignore[arg-type]
        assert (await client.get(SERVICES, "n", "a")).metadata.name == "a"
    assert len(script.seen) == 2
