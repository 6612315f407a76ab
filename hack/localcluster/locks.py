"""File locks between commands that run at the same time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from localcluster.progress import Say


@contextmanager
def locked(path: Path, say: Say, waiting_for: str) -> Iterator[None]:
    """Hold the lock file `path`; the kernel frees it when the process ends, however it ends.

    The holder may delete the file: whoever waited for it then locks its successor.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path, say, waiting_for)
    try:
        yield
    finally:
        os.close(descriptor)


def _acquire(path: Path, say: Say, waiting_for: str) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for {waiting_for}")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
