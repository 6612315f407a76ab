"""The end of a request's work: its client left, or what it waits for does not come."""

import asyncio

import pytest
from starlette.types import Message

from warmfleet_runtime.front.replies import ClientGoneError
from warmfleet_runtime.front.watch import Wait, Watch


class LateError(Exception):
    pass


NEVER = Wait(30, LateError)
SOON = Wait(0.02, LateError)


async def stay() -> Message:
    return await asyncio.Future()


async def leave() -> Message:
    return {"type": "http.disconnect"}


async def test_a_client_that_leaves_ends_the_work_wherever_it_waits() -> None:
    with pytest.raises(ClientGoneError):
        async with Watch(leave) as watch:
            watch.wait(NEVER)
            await asyncio.Future()
    await asyncio.sleep(0)  # and the task that was watched goes on


async def test_a_wait_that_is_over_time_ends_the_work_with_its_own_error() -> None:
    with pytest.raises(LateError):
        async with Watch(stay) as watch:
            watch.wait(NEVER)
            watch.wait(SOON)
            await asyncio.Future()


async def test_each_wait_begins_anew_and_rest_has_no_end() -> None:
    async with Watch(stay) as watch:
        for _ in range(5):
            watch.wait(Wait(0.5, LateError))
            await asyncio.sleep(0.001)
        watch.wait(SOON)
        watch.rest()
        await asyncio.sleep(0.05)
        watch.wait(NEVER)


async def test_the_watched_works_own_errors_pass_and_nothing_is_left_running() -> None:
    before = asyncio.all_tasks()
    with pytest.raises(ValueError, match="own"):
        async with Watch(stay) as watch:
            watch.wait(NEVER)
            raise ValueError("own")
    assert asyncio.all_tasks() == before


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def work() -> None:
        async with Watch(stay) as watch:
            watch.wait(NEVER)
            await asyncio.Future()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
