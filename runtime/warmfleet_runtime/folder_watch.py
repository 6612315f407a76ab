"""Tells when something appears in a folder, by the kernel's inotify. Linux only.

It only hastens what would be looked for anyway: where the kernel has no watch left to give, nothing is told.
"""

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable
from pathlib import Path

_CREATE_MOVED_TO = 0x100 | 0x80
_ONLY_FOLDERS = 0x01000000
_BUFFER_BYTES = 64 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


class FolderWatch:
    """Watches folders until it is closed. Belongs to the running event loop."""

    def __init__(self, on_news: Callable[[], None]) -> None:
        self._on_news = on_news
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor >= 0:
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)

    def add(self, folder: Path) -> bool:
        """Watch a folder, if it is there; return whether it is watched now. The same again changes nothing."""
        if self._descriptor < 0:
            return False
        added: int = _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _CREATE_MOVED_TO | _ONLY_FOLDERS)
        return added >= 0

    def close(self) -> None:
        """Watch nothing any more."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        # What it was does not matter: whoever listens looks anyway.
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, _BUFFER_BYTES)
        self._on_news()
