"""Mounts that nobody else sees: a thread of its own leaves the mount namespace of the process, and takes what it does
and every thread it starts with it. Needs root."""

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any

_CLONE_NEWNS, _MS_REC, _MS_SHARED, _MS_PRIVATE = 0x20000, 1 << 14, 1 << 20, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)
JOIN_SECONDS = 60


def run_privately(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a coroutine where nothing that it mounts is seen by others; its errors are raised here."""
    errors: list[BaseException] = []

    def body() -> None:
        try:
            _check(_libc.unshare(_CLONE_NEWNS))
            # Nothing spreads to the machine; below it everything spreads, as on a node.
            _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
            _check(_libc.mount(b"none", b"/", None, ctypes.c_ulong(_MS_REC | _MS_SHARED), None))
            asyncio.run(test())
        except BaseException as error:  # handed on to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=body, name="private mounts")
    thread.start()
    thread.join(JOIN_SECONDS)
    assert not thread.is_alive(), f"still running after {JOIN_SECONDS} s"
    if errors:
        raise errors[0]


def mount_tmpfs(target: str, source: str) -> None:
    """Mount an ordinary tmpfs, as a stranger would."""
    _check(_libc.mount(source.encode(), target.encode(), b"tmpfs", ctypes.c_ulong(0), b"size=1m"))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
