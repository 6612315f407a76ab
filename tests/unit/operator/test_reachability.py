"""Whether a machine still answers: what counts as an answer, and what does not."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from warmfleet_operator.reachability import is_there

HOST = "127.93.7.1"


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.socket()) as made:
        made.bind((HOST, 0))
        yield made


async def test_a_process_that_accepts_nothing_is_there_as_long_as_its_kernel_is(listener: socket.socket) -> None:
    listener.listen(8)
    assert await is_there(HOST, listener.getsockname()[1])


async def test_a_refusal_is_an_answer(listener: socket.socket) -> None:
    assert await is_there(HOST, listener.getsockname()[1])


@pytest.mark.parametrize("accepts", [True, False], ids=["taken", "refused"])
async def test_an_answer_that_this_process_was_too_slow_to_look_at_is_one(
    listener: socket.socket, accepts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if accepts:
        listener.listen(8)
    loop = asyncio.get_running_loop()

    async def never_tells(probe: socket.socket, address: tuple[str, int]) -> None:
        with suppress(BlockingIOError, ConnectionRefusedError):
            probe.connect(address)
        await loop.create_future()

    monkeypatch.setattr(loop, "sock_connect", never_tells)
    assert await is_there(HOST, listener.getsockname()[1])


async def test_connections_that_get_no_answer_at_all_are_none(listener: socket.socket) -> None:
    listener.listen(0)
    # A queue that is full drops what comes, as a machine without power does.
    with closing(socket.create_connection(listener.getsockname())):
        assert not await is_there(HOST, listener.getsockname()[1])
