"""Folders and files below a store, reached by descriptors: no path is resolved twice, and no link is followed."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class IntruderError(OSError):
    """Something lies in the store that the store did not make."""


@contextmanager
def opened(name: str, inside: int | None = None) -> Iterator[int]:
    """Open a folder.

    Raises:
        IntruderError: a link or something else has its name.
        FileNotFoundError: there is none.
    """
    try:
        descriptor = os.open(name, _DIRECTORY, dir_fd=inside)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise IntruderError(error.errno, f"{name} is no folder of the store; remove it on the node") from None
        raise
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def walked(path: str, inside: int, *, create: bool = False) -> Iterator[tuple[int, str]]:
    """Open the folder of a relative path and give its descriptor with the last name.

    Raises:
        IntruderError: a part of the path is no folder.
    """
    *folders, name = path.split("/")
    current = os.dup(inside)
    try:
        for folder in folders:
            if create:
                make(folder, current)
            with opened(folder, current) as found:
                os.dup2(found, current, inheritable=False)
        yield current, name
    finally:
        os.close(current)


def make(name: str, inside: int) -> None:
    """Make a folder unless there is one."""
    try:
        os.mkdir(name, 0o755, dir_fd=inside)
    except FileExistsError:
        return


def create_file(path: str, inside: int, mode: int = 0o600) -> int:
    """Create a file that must not exist, folders included, and return its descriptor.

    Raises:
        IntruderError: something has its name already.
    """
    with walked(path, inside, create=True) as (folder, name):
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
        except FileExistsError:
            raise IntruderError(errno.EEXIST, f"{path} exists already in the store; remove it on the node") from None


def open_file(path: str, inside: int, *, to_write: bool = False) -> int:
    """Open a regular file; a FIFO or device is not waited for.

    Raises:
        IntruderError: it is something else.
    """
    flags = (os.O_RDWR if to_write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with walked(path, inside) as (folder, name):
        try:
            descriptor = os.open(name, flags, dir_fd=folder)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO}:
                raise IntruderError(error.errno, f"{path} is a link or no file; remove it on the node") from None
            raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IntruderError(errno.EINVAL, f"{path} is no regular file; remove it on the node")
    return descriptor


def names(inside: int) -> list[str]:
    """Return what is in a folder, sorted."""
    return sorted(os.listdir(inside))


def files(inside: int, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder that is no folder itself, with its status; nothing is opened or followed."""
    for name in names(inside):
        status = os.stat(name, dir_fd=inside, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            with opened(name, inside) as folder:
                yield from files(folder, f"{prefix}{name}/")
        else:
            yield prefix + name, status


def remove(name: str, inside: int) -> None:
    """Remove whatever has a name, a folder with everything in it; a link goes, not what it points to."""
    try:
        status = os.stat(name, dir_fd=inside, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=inside)
        return
    with opened(name, inside) as folder:
        for each in names(folder):
            remove(each, folder)
    os.rmdir(name, dir_fd=inside)
