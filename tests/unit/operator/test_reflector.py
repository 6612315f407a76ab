"""The reflector: what becomes of the mirror when a watch ends, breaks, or is too old."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from support.scripted import Script, client_of, refuses, says, scripted, streams, until
from warmfleet_kube.mirror import Mirror
from warmfleet_kube.reflector import Reflector
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import Service
from warmfleet_operator.resources import SERVICES

Body = dict[str, object]


def service(version: int, name: str) -> Body:
    return {"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": str(version)}}


def listing(version: int, *items: Body) -> Body:
    return {"metadata": {"resourceVersion": str(version)}, "items": list(items)}


def added(version: int, name: str) -> Body:
    return {"type": "ADDED", "object": service(version, name)}


@asynccontextmanager
async def reflecting(script: Script) -> AsyncIterator[Reflector[Service]]:
    async with client_of(script) as client:
        reflector = Reflector("services", client, SERVICES, Mirror(), Metrics().kube, watch_seconds=30)
        task = asyncio.create_task(reflector.run())
        yield reflector
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def names_in(reflector: Reflector[Service]) -> list[str]:
    return sorted(each.metadata.name for each in reflector.mirror.values())


async def test_a_watch_that_is_cut_goes_on_from_where_it_was_without_a_new_list() -> None:
    async with scripted() as script:
        script.on("GET", says(listing(10, service(5, "a"))))
        script.on("WATCH", streams(added(11, "b")), streams(added(12, "c"), holds=True))
        async with reflecting(script) as reflector:
            await until(lambda: names_in(reflector) == ["a", "b", "c"])
    assert script.methods() == ["GET", "WATCH", "WATCH"]
    assert [each.query["resourceVersion"] for each in script.seen[1:]] == ["10", "11"]


async def test_a_bookmark_moves_the_place_from_which_the_watch_goes_on() -> None:
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "99"}}}
    async with scripted() as script:
        script.on("GET", says(listing(10)))
        script.on("WATCH", streams(bookmark), streams(holds=True))
        async with reflecting(script):
            await until(lambda: len(script.seen) == 3)
    assert script.seen[2].query["resourceVersion"] == "99"


async def test_a_version_that_is_too_old_leads_to_a_new_list_and_what_it_lacks_is_told_as_deleted() -> None:
    async with scripted() as script:
        script.on("GET", says(listing(10, service(5, "a"), service(6, "b"))), says(listing(20, service(6, "b"))))
        script.on("WATCH", refuses(410, "Expired"), streams(holds=True))
        gone: list[str] = []
        async with reflecting(script) as reflector:
            reflector.mirror.subscribe(
                lambda former, new: gone.append(former.metadata.name) if former and not new else None
            )
            await until(lambda: names_in(reflector) == ["b"])
    assert gone == ["a"]


async def test_a_list_from_before_what_the_watch_told_is_not_believed() -> None:
    async with scripted() as script:
        script.on("GET", says(listing(10)), says(listing(5)), says(listing(30, service(11, "a"))))
        script.on("WATCH", streams(added(11, "a")), refuses(410, "Expired"), streams(holds=True))
        async with reflecting(script) as reflector:
            await until(lambda: len(script.seen) == 4)
            assert names_in(reflector) == ["a"]
            await until(lambda: len(script.seen) == 6)
            assert names_in(reflector) == ["a"]


async def test_a_blind_reflector_says_since_when_and_why() -> None:
    async with scripted() as script:
        script.on("GET", says(listing(10)))
        script.on("WATCH", refuses(500))
        async with reflecting(script) as reflector:
            await until(lambda: "500 no" in reflector.trouble())
            assert reflector.synced.is_set()
            before = reflector.age_seconds()
            await asyncio.sleep(0.05)
            assert reflector.age_seconds() >= before + 0.04
