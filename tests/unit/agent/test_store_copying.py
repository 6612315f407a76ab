"""Copies and hashes are whole at every size around a block, and end in words and without threads when they can't be."""

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from warmfleet_agent.store import copying

BLOCK_BYTES = copying.BLOCK_BYTES
SIZES = (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES + 12_345)


@pytest.fixture(params=SIZES)
def content(request: pytest.FixtureRequest) -> bytes:
    return random.Random(request.param).randbytes(request.param)


@pytest.fixture
def source(content: bytes, tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").write_bytes(content)
    descriptor = os.open(tmp_path / "source", os.O_RDWR)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def hashing_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "store-hash"]


def test_a_copy_is_the_same_bytes_and_their_hash(source: int, target: int, content: bytes, tmp_path: Path) -> None:
    came: list[int] = []
    assert copying.copy(source, target, len(content), came.append) == blake3(content).hexdigest()
    assert (tmp_path / "target").read_bytes() == content
    assert sum(came) == len(content)
    assert not hashing_threads()


def test_a_watch_sees_every_byte_in_order_while_it_is_hashed(source: int, content: bytes) -> None:
    seen = bytearray()
    assert copying.digest(source, len(content), seen.extend) == blake3(content).hexdigest()
    assert seen == content


@pytest.mark.parametrize("content", [b"small", bytes(3 * BLOCK_BYTES)])
def test_a_source_that_is_cut_meanwhile_ends_the_copy(source: int, target: int, content: bytes) -> None:
    def cut(_: int) -> None:
        os.ftruncate(source, 0)

    with pytest.raises(copying.ShortSourceError, match="bytes instead of"):
        copying.copy(source, target, len(content) + 1, cut)
    assert not hashing_threads()


@pytest.mark.parametrize("content", [b"small", bytes(3 * BLOCK_BYTES)])
def test_what_a_watch_raises_comes_out(source: int, content: bytes) -> None:
    def watch(_: memoryview) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        copying.digest(source, len(content), watch)
    assert not hashing_threads()
