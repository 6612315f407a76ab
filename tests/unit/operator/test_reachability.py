"""Whether a machine still answers: what counts as an answer, and what does not."""

import socket
from collections.abc import Iterator
from contextlib import closing

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


async def test_connections_that_get_no_answer_at_all_are_none(listener: socket.socket) -> None:
    listener.listen(0)
    # A queue that is full drops what comes, as a machine without power does.
    with closing(socket.create_connection(listener.getsockname())):
        assert not await is_there(HOST, listener.getsockname()[1])
