"""The third tier: a folder, one file per answer. One thread does all of it, so that nothing else waits for a disk."""

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_TEMPORARY = ".tmp-"
_log = logging.getLogger(__name__)


class DiskTier:
    """Keeps answers in a folder that no other process uses, the one used least lately first out.

    A file is whole or not there: it is written under another name first. What became of it later the reader finds out
    by its hash. Times of files say across restarts which was used when.
    """

    name = "disk"

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._files: OrderedDict[str, int] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="cache on disk")
        self._is_open = False
        self.size_bytes = 0
        self.evicted = 0
        """How many gave way to others so far."""

    async def get(self, key: bytes) -> bytes | None:
        """Return what is kept; None: nothing."""
        return await self._run(lambda: self._get(key.hex()))

    async def put(self, key: bytes, data: bytes, ttl_seconds: float) -> None:
        """Keep something."""
        await self._run(lambda: self._put(key.hex(), data))

    async def drop(self, key: bytes) -> None:
        """Keep it no more."""
        await self._run(lambda: self._drop(key.hex()))

    async def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, what: Callable[[], T]) -> T:
        def opened() -> T:
            if not self._is_open:
                self._open()
            return what()

        return await asyncio.get_running_loop().run_in_executor(self._thread, opened)

    # In the thread --------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Find what is there from before, and remove what was being written."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = []
        for path in self._folder.glob("*"):
            if path.name.startswith(_TEMPORARY):
                path.unlink(missing_ok=True)
            elif path.is_dir():
                found += [(file.stat().st_mtime, file.name, file.stat().st_size) for file in path.iterdir()]
        for _, name, size in sorted(found):
            self._files[name] = size
            self.size_bytes += size
        self._is_open = True
        self._make_room()

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name

    def _get(self, name: str) -> bytes | None:
        if name not in self._files:
            return None
        try:
            data = self._path(name).read_bytes()
            os.utime(self._path(name))
        except FileNotFoundError:
            self._drop(name)
            return None
        self._files.move_to_end(name)
        return data

    def _put(self, name: str, data: bytes) -> None:
        if len(data) > self._max_bytes:
            return
        path, temporary = self._path(name), self._folder / (_TEMPORARY + name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        self.size_bytes += len(data) - self._files.pop(name, 0)
        self._files[name] = len(data)
        self._make_room()

    def _drop(self, name: str) -> None:
        self.size_bytes -= self._files.pop(name, 0)
        self._path(name).unlink(missing_ok=True)

    def _make_room(self) -> None:
        while self.size_bytes > self._max_bytes and self._files:
            self._drop(next(iter(self._files)))
            self.evicted += 1
