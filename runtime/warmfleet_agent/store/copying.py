"""Copies and hashes large files on two cores: one thread moves bytes, a second hashes what was moved just before."""

import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from blake3 import blake3

BLOCK_BYTES = 4 * 1024 * 1024
"""Fits the caches of a core, so that what was just copied is hashed from there."""
_BLOCKS = 4

Watch = Callable[[memoryview], None]
"""Looks at each block in order, on the second core."""


class ShortSourceError(OSError):
    """The source ended before the size that was reserved for it."""


class _Hasher:
    """Hashes blocks in order in its own thread."""

    def __init__(self, watch: Watch | None) -> None:
        self._watch = watch
        self._hash = blake3()
        self._error: BaseException | None = None
        self._full: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(_BLOCKS):
            self._free.put(bytearray(BLOCK_BYTES))
        self._thread = threading.Thread(target=self._run, name="store-hash", daemon=True)
        self._thread.start()

    def block(self) -> bytearray:
        """Return a free block to fill; waits for the hash if it lags."""
        return self._free.get()

    def put(self, block: bytearray, size: int) -> None:
        """Hash the first `size` bytes of a block that `block` gave."""
        self._full.put((block, size))

    def finish(self) -> str:
        """Return the hash of everything, as hex digits. Called once, also after an error.

        Raises:
            whatever `watch` raised.
        """
        self._full.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._hash.hexdigest()

    def _run(self) -> None:
        while (item := self._full.get()) is not None:
            block, size = item
            # After an error blocks still go round: the other thread must not wait for ever.
            if self._error is None:
                self._take(memoryview(block)[:size])
            self._free.put(block)

    def _take(self, content: memoryview) -> None:
        try:
            self._hash.update(content)
            if self._watch is not None:
                self._watch(content)
        except BaseException as error:
            self._error = error


def copy(source: int, target: int, size: int, on_progress: Callable[[int], None] | None = None) -> str:
    """Copy `size` bytes from one descriptor to the start of another, and return their blake3.

    Args:
        source: where to read.
        target: where to write; nothing else writes there meanwhile.
        size: bytes.
        on_progress: called with the bytes of each step.

    Raises:
        ShortSourceError: the source is shorter.
        OSError: reading or writing failed.
    """

    def moved(block: bytearray, offset: int, wanted: int) -> int:
        read = _read(source, block, offset, wanted)
        write(target, memoryview(block)[:read], offset)
        if on_progress is not None:
            on_progress(read)
        return read

    return _hashed(moved, size, None)


def digest(source: int, size: int, watch: Watch | None = None) -> str:
    """Return the blake3 of the first `size` bytes; `watch` sees them in order.

    Raises:
        ShortSourceError: the source is shorter.
        OSError: reading failed.
    """
    return _hashed(lambda block, offset, wanted: _read(source, block, offset, wanted), size, watch)


def write(target: int, content: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `content` at `offset`.

    Raises:
        OSError: no space, or a broken disk.
    """
    view, written = memoryview(content), 0
    while written < len(view):
        written += os.pwrite(target, view[written:], offset + written)


def _hashed(move: Callable[[bytearray, int, int], int], size: int, watch: Watch | None) -> str:
    hasher, offset = _Hasher(watch), 0
    try:
        while offset < size:
            block = hasher.block()
            moved = move(block, offset, min(BLOCK_BYTES, size - offset))
            hasher.put(block, moved)
            offset += moved
    except BaseException:
        _settle(hasher)
        raise
    return hasher.finish()


def _settle(hasher: _Hasher) -> None:
    """End the thread; the error that is under way says more than one of the hash."""
    with suppress(Exception):
        hasher.finish()


def _read(source: int, block: bytearray, offset: int, wanted: int) -> int:
    read = os.preadv(source, [memoryview(block)[:wanted]], offset)
    if not read:
        raise ShortSourceError(f"the source has {offset} bytes instead of {offset + wanted} or more")
    return read
