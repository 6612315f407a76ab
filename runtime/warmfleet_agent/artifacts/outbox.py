"""Takes a pack out of a runner's cache volume, which the runner may change at any moment.

The volume is opened by descriptors below kubelet's folder: no link is followed, no FIFO waited for, nothing of another
file system entered. What is checked is the store's own copy, never the runner's file.
"""

import asyncio
import os
import re
import stat
from collections.abc import AsyncGenerator
from contextlib import ExitStack
from pathlib import Path

from warmfleet_agent.sources.contract import Listing, RemoteFile, SourceError
from warmfleet_agent.store.folders import IntruderError, open_file, opened
from warmfleet_api import artifacts
from warmfleet_api.vocabulary import WeightsProblem

CACHE_VOLUME = "cache"
"""Name of the runner's emptyDir with its compile caches."""
_UID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BLOCK_BYTES = 1024 * 1024


class OutboxSource:
    """The pack of one compile cache in the outbox of one runner of this node: a `LocalSource`."""

    def __init__(self, uri: str, kubelet: Path, uid: str, name: str) -> None:
        """`kubelet`: its folder; `uid`: of the runner's pod; `name`: of the compile cache.

        Raises:
            SourceError: this is no pod's uid.
        """
        if not _UID.fullmatch(uid):
            raise self._refused(f"{uid[:80]!r} is no uid of a pod")
        self._uri = uri
        self._uid = uid
        self._name = name
        self._volume = kubelet / "pods" / uid / "volumes" / "kubernetes.io~empty-dir" / CACHE_VOLUME
        self._bytes = -1

    async def list(self) -> Listing:
        """See `Source.list`."""
        os.close(await asyncio.to_thread(self.open, artifacts.PACK_FILE))
        return Listing(self._uri, "", (RemoteFile(artifacts.PACK_FILE, self._bytes, None),))

    async def read(self, path: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """See `Source.read`."""
        descriptor = await asyncio.to_thread(self.open, path)
        try:
            while length:
                block = await asyncio.to_thread(os.pread, descriptor, min(length, _BLOCK_BYTES), offset)
                if not block:
                    raise self._refused(f"the compile cache of runner {self._uid} shrank while it was read")
                yield block
                offset, length = offset + len(block), length - len(block)
        finally:
            os.close(descriptor)

    def open(self, path: str) -> int:
        """See `LocalSource.open`; the pack is the only file there is."""
        try:
            with ExitStack() as stack:
                inside = stack.enter_context(opened(str(self._volume)))
                outbox = stack.enter_context(opened(artifacts.OUTBOX, inside))
                descriptor = open_file(f"{self._name}.pack", outbox)
        except FileNotFoundError:
            raise SourceError(
                WeightsProblem.MODEL_NOT_FOUND, f"runner {self._uid} of this node has no compile cache {self._name}"
            ) from None
        except IntruderError as error:
            raise self._refused(f"the compile cache of runner {self._uid} is not taken: {error.strerror}") from None
        try:
            self._accept(os.fstat(descriptor))
        except SourceError:
            os.close(descriptor)
            raise
        return descriptor

    def verify(self, path: str, descriptor: int) -> None:
        """See `LocalSource.verify`. What came is checked in the store, whatever the runner did meanwhile."""
        self._accept(os.fstat(descriptor))

    def _accept(self, status: os.stat_result) -> None:
        if status.st_nlink != 1 or not stat.S_ISREG(status.st_mode):
            raise self._refused(f"the compile cache of runner {self._uid} has a second name; it is not taken")
        if not artifacts.PREFIX_BYTES < status.st_size <= artifacts.MAX_BYTES:
            raise self._refused(f"a compile cache of {status.st_size} bytes is not taken from runner {self._uid}")
        if self._bytes not in {-1, status.st_size}:
            raise self._refused(f"the compile cache of runner {self._uid} changed while it was taken")
        self._bytes = status.st_size

    @staticmethod
    def _refused(message: str) -> SourceError:
        return SourceError(WeightsProblem.FORBIDDEN_SOURCE, f"{message}; the next runner that compiles it offers it")
