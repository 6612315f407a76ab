"""The lease: who leads when requests fail. Two real processes on a real API server are in the cluster tier."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from support.scripted import Answer, Script, client_of, hangs, refuses, says, scripted, until
from warmfleet_api import names
from warmfleet_operator.errors import LeaseLost, NotInstalled
from warmfleet_operator.lease import LONGEST_PAUSE, Lease
from warmfleet_operator.metrics import Metrics

SECONDS = 1


def lease_of(holder: str, version: int = 1) -> dict[str, dict[str, object]]:
    return {
        "metadata": {"name": "l", "namespace": "n", "uid": "u", "resourceVersion": str(version)},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": SECONDS, "leaseTransitions": 3},
    }


def echoes() -> Answer:
    """Store what was sent: answer with it, at the next version."""

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        body["metadata"]["resourceVersion"] = str(int(body["metadata"].get("resourceVersion", 0)) + 1)
        return web.json_response(body)

    return answer


@asynccontextmanager
async def lease(script: Script) -> AsyncIterator[Lease]:
    async with client_of(script, request_seconds=0.2) as client:
        yield Lease(client, "n", SECONDS, Metrics())


async def test_a_lease_that_is_not_there_is_made_and_one_that_was_released_is_taken_at_once() -> None:
    for answer, transitions in ((refuses(404), 0), (says(lease_of("")), 4)):
        async with scripted() as script, lease(script) as ours:
            script.on("GET", answer)
            script.on("POST", echoes())
            script.on("PUT", echoes())
            async with asyncio.timeout(5):
                await ours.acquire()
            assert ours.is_held
            assert script.seen[-1].body["spec"]["leaseTransitions"] == transitions


async def test_a_lease_is_taken_over_only_after_nobody_renewed_it_for_its_time() -> None:
    async with scripted() as script, lease(script) as ours:
        script.on("GET", says(lease_of("other", 1)), says(lease_of("other", 2)))
        script.on("PUT", echoes())
        started = asyncio.get_running_loop().time()
        async with asyncio.timeout(10):
            await ours.acquire()
        assert asyncio.get_running_loop().time() - started >= SECONDS


async def test_a_missing_namespace_is_said_with_the_command_that_makes_it() -> None:
    async with scripted() as script, lease(script) as ours:
        script.on("GET", refuses(404))
        script.on("POST", refuses(404))
        with pytest.raises(NotInstalled, match="kubectl create namespace n"):
            await ours.acquire()


@asynccontextmanager
async def held(script: Script) -> AsyncIterator[Lease]:
    """Acquire; what follows in the script is for the renewals."""
    async with lease(script) as ours:
        script.on("GET", refuses(404))
        script.on("POST", echoes())
        await ours.acquire()
        script.answers.clear()
        yield ours


async def test_a_holder_that_reaches_nobody_pauses_before_anybody_can_take_over_and_ends_later() -> None:
    async with scripted() as script, held(script) as ours:
        script.on("PUT", hangs())
        loop = asyncio.get_running_loop()
        started = loop.time()
        holding = asyncio.create_task(ours.hold())
        await until(lambda: not ours.is_held)
        assert loop.time() - started < SECONDS
        assert not holding.done()
        with pytest.raises(LeaseLost, match="could not be renewed"):
            async with asyncio.timeout(10):
                await holding
        assert loop.time() - started >= SECONDS * LONGEST_PAUSE


async def test_a_holder_whose_renewal_comes_through_late_goes_on_where_nobody_else_led() -> None:
    async with scripted() as script, held(script) as ours:
        script.on("PUT", hangs())
        holding = asyncio.create_task(ours.hold())
        await until(lambda: not ours.is_held)
        waiting = asyncio.create_task(ours.confirmed())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        script.answers.clear()
        script.on("PUT", echoes())
        async with asyncio.timeout(5):
            await waiting
        assert ours.is_held
        assert not holding.done()
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def test_the_former_process_of_a_place_is_followed_at_once_and_others_are_waited_for() -> None:
    here, elsewhere = "10.0.0.8:8082", "10.0.0.9:8082"
    host = socket.gethostname()
    for holder, address, is_awaited in (
        (f"{host}_1_00000000", here, False),
        (f"{host}_1_00000000", elsewhere, True),
        ("another_1_00000000", here, True),
        (f"{host}_1_00000000", "", True),
    ):
        async with scripted() as script, client_of(script, request_seconds=0.2) as client:
            ours = Lease(client, "n", SECONDS, Metrics(), lambda: here)
            former = lease_of(holder)
            former["metadata"] = {**former["metadata"], "annotations": {names.ANNOTATION_ADDRESS: address}}
            script.on("GET", says(former))
            script.on("PUT", echoes())
            started = asyncio.get_running_loop().time()
            async with asyncio.timeout(10):
                await ours.acquire()
            assert (asyncio.get_running_loop().time() - started >= SECONDS) == is_awaited


async def test_a_holder_that_was_replaced_stops() -> None:
    async with scripted() as script, held(script) as ours:
        script.on("PUT", refuses(409, "Conflict"))
        script.on("GET", says(lease_of("other")))
        with pytest.raises(LeaseLost, match="held by other"):
            async with asyncio.timeout(10):
                await ours.hold()


async def test_a_deleted_lease_is_made_anew_by_its_holder() -> None:
    async with scripted() as script, held(script) as ours:
        script.on("PUT", refuses(404), echoes())
        script.on("GET", refuses(404))
        script.on("POST", echoes())
        holding = asyncio.create_task(ours.hold())
        await until(lambda: script.methods()[2:6] == ["PUT", "GET", "POST", "PUT"])
        assert not holding.done()
        assert ours.is_held
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def test_a_renewal_whose_answer_got_lost_is_still_ours() -> None:
    async with scripted() as script, held(script) as ours:
        script.on("PUT", refuses(409, "Conflict"), echoes())
        script.on("GET", says(lease_of(ours.identity, 9)))
        holding = asyncio.create_task(ours.hold())
        await until(lambda: script.methods()[2:5] == ["PUT", "GET", "PUT"])
        assert not holding.done()
        assert ours.is_held
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        renewal = script.seen[4]
        assert renewal.body["metadata"]["resourceVersion"] == "9"


async def test_releasing_names_nobody_so_that_the_next_one_need_not_wait() -> None:
    async with scripted() as script, held(script) as ours:
        script.on("PUT", echoes())
        await ours.release()
        assert script.seen[-1].body["spec"]["holderIdentity"] == ""
        assert not ours.is_held
        await ours.release()
        assert script.methods().count("PUT") == 1


async def test_a_follower_reads_from_the_lease_where_the_leader_answers() -> None:
    async with scripted() as script, client_of(script, request_seconds=0.2) as client:
        follower = Lease(client, "n", SECONDS, Metrics())
        led = lease_of("other")
        led["metadata"] = {**led["metadata"], "annotations": {names.ANNOTATION_ADDRESS: "10.0.0.7:8082"}}
        script.on("GET", says(led))
        acquiring = asyncio.create_task(follower.acquire())
        await until(lambda: follower.leader_address == "10.0.0.7:8082")
        acquiring.cancel()
        await asyncio.gather(acquiring, return_exceptions=True)
    async with scripted() as script, client_of(script, request_seconds=0.2) as client:
        leader = Lease(client, "n", SECONDS, Metrics(), lambda: "10.0.0.8:8082")
        script.on("GET", refuses(404))
        script.on("POST", echoes())
        await leader.acquire()
        assert script.seen[-1].body["metadata"]["annotations"] == {names.ANNOTATION_ADDRESS: "10.0.0.8:8082"}
