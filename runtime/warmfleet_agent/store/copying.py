"""Copies and hashes large files on two cores: one thread moves bytes, a second hashes what was moved just before.

Moving a block (read and write) takes 0.08 ns a byte, hashing it 0.12: alone, the second thread would set the pace. So
it hashes with two threads, whose second one gets the first core as often as the mover waits for a block.
"""

import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress

from blake3 import blake3

BLOCK_BYTES = 4 * 1024 * 1024
"""Whole huge pages, which then need not be zeroed before they are written."""
_BLOCKS = 2
"""One is moved while one is hashed. More of them would have left the cores' caches when their turn comes again."""
_HASH_THREADS = 2
"""Hashing takes longer than moving: the core that moves takes half of a hash when it has no block to fill."""

Watch = Callable[[memoryview], None]
"""Looks at each block in order, while the other core hashes it."""


class ShortSourceError(OSError):
    """The source ended before the size that was reserved for it."""


class _Hasher:
    """Hashes blocks in order in its own thread."""

    def __init__(self) -> None:
        self._hash = blake3(max_threads=_HASH_THREADS)
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
        """Return the hash of everything, as hex digits. Called once, also after an error."""
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
                try:
                    self._hash.update(memoryview(block)[:size])
                except BaseException as error:
                    self._error = error
            self._free.put(block)


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
    if size <= BLOCK_BYTES:
        # Threads would take longer to start than this takes.
        return _hashed_alone(move, size, watch)
    hasher, offset = _Hasher(), 0
    try:
        while offset < size:
            block = hasher.block()
            moved = move(block, offset, min(BLOCK_BYTES, size - offset))
            hasher.put(block, moved)
            if watch is not None:
                # It has no other owner: only the next `block` gives it away.
                watch(memoryview(block)[:moved])
            offset += moved
    except BaseException:
        _settle(hasher)
        raise
    return hasher.finish()


def _hashed_alone(move: Callable[[bytearray, int, int], int], size: int, watch: Watch | None) -> str:
    found, block, offset = blake3(), bytearray(size), 0
    while offset < size:
        moved = move(block, offset, size - offset)
        content = memoryview(block)[:moved]
        found.update(content)
        if watch is not None:
            watch(content)
        offset += moved
    return found.hexdigest()


def _settle(hasher: _Hasher) -> None:
    """End the thread; the error that is under way says more than one of the hash."""
    with suppress(Exception):
        hasher.finish()


def _read(source: int, block: bytearray, offset: int, wanted: int) -> int:
    read = os.preadv(source, [memoryview(block)[:wanted]], offset)
    if not read:
        raise ShortSourceError(f"the source has {offset} bytes instead of {offset + wanted} or more")
    return read
