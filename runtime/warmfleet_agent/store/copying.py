"""Copies a file into reserved space and hashes it in the same pass, on two cores: one copies, one hashes."""

import os
import queue
import threading
from collections.abc import Callable

from blake3 import blake3

BLOCK_BYTES = 4 * 1024 * 1024
"""Fits the caches of a core, so that what was just copied is hashed from there."""
_BLOCKS = 4


class ShortSourceError(OSError):
    """The source ended before the size that was reserved for it."""


class HashingWriter:
    """Writes blocks to a descriptor in order; a second thread hashes them meanwhile."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._offset = 0
        self._hash = blake3()
        self._full: queue.SimpleQueue[tuple[bytearray, int] | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(_BLOCKS):
            self._free.put(bytearray(BLOCK_BYTES))
        self._thread = threading.Thread(target=self._hash_blocks, name="hash", daemon=True)
        self._thread.start()

    @property
    def offset(self) -> int:
        """Bytes written so far."""
        return self._offset

    def block(self) -> bytearray:
        """Return a free block to fill; waits for the hash if it lags."""
        return self._free.get()

    def write(self, block: bytearray, size: int) -> None:
        """Write the first `size` bytes of a block that `block` gave.

        Raises:
            OSError: no space, or a broken disk.
        """
        view, written = memoryview(block)[:size], 0
        while written < size:
            written += os.pwrite(self._descriptor, view[written:], self._offset + written)
        self._offset += size
        self._full.put((block, size))

    def finish(self) -> str:
        """Return the hash of everything written, as hex digits. Called once, also after an error."""
        self._full.put(None)
        self._thread.join()
        return self._hash.hexdigest()

    def _hash_blocks(self) -> None:
        while (item := self._full.get()) is not None:
            block, size = item
            self._hash.update(memoryview(block)[:size])
            self._free.put(block)


def copy(source: int, target: int, size: int, on_progress: Callable[[int], None] = lambda _: None) -> str:
    """Copy `size` bytes from one descriptor to the start of another, and return their hash.

    Raises:
        ShortSourceError: the source is shorter.
        OSError: reading or writing failed.
    """
    writer = HashingWriter(target)
    try:
        while writer.offset < size:
            block = writer.block()
            wanted = min(BLOCK_BYTES, size - writer.offset)
            read = os.preadv(source, [memoryview(block)[:wanted]], writer.offset)
            if not read:
                raise ShortSourceError(f"the source has {writer.offset} bytes instead of {size}")
            writer.write(block, read)
            on_progress(read)
    finally:
        digest = writer.finish()
    return digest
