"""Folders and files below a store, by descriptors: no path is resolved twice, no link or mount followed."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 32
"""Of folders that are walked; the store's own are far less deep."""


class IntruderError(OSError):
    """Something lies in the store that the store did not make."""


def shown(name: str) -> str:
    """Return a name as a person may read it: no line breaks, no more than a line."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _plain(name: str) -> str:
    """Return the name of one thing in a folder. Of a path the kernel would look elsewhere, of an absolute one anywhere.

    Callers check what they are given; this holds if one of them ever forgets.

    Raises:
        IntruderError: it is none.
    """
    if "/" in name or name in {"", ".", ".."}:
        raise IntruderError(errno.EINVAL, f"{shown(name)} is no name in the store")
    return name


@contextmanager
def opened(name: str, inside: int | None = None) -> Iterator[int]:
    """Open a folder.

    Raises:
        IntruderError: a link, a mount or something else has its name, or it is no name.
        FileNotFoundError: there is none.
    """
    try:
        descriptor = os.open(name if inside is None else _plain(name), _DIRECTORY, dir_fd=inside)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR, errno.ENAMETOOLONG}:
            raise IntruderError(
                error.errno, f"{shown(name)} is no folder of the store; remove it on the node"
            ) from None
        raise
    try:
        # What is mounted below the store belongs to others, and must not be emptied with it.
        if inside is not None and _mount_of(descriptor) != _mount_of(inside):
            raise IntruderError(
                errno.EXDEV, f"something is mounted at {shown(name)} in the store; umount it on the node"
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _mount_of(descriptor: int) -> str:
    with Path(f"/proc/self/fdinfo/{descriptor}").open() as lines:
        return next(line for line in lines if line.startswith("mnt_id:"))


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
        yield current, _plain(name)
    finally:
        os.close(current)


def make(name: str, inside: int) -> None:
    """Make a folder unless there is one."""
    try:
        os.mkdir(_plain(name), 0o755, dir_fd=inside)
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
        IntruderError: it is something else, or, to be written, it has a second name or another owner.
    """
    flags = (os.O_RDWR if to_write else os.O_RDONLY) | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with walked(path, inside) as (folder, name):
        try:
            descriptor = os.open(name, flags, dir_fd=folder)
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR}:
                raise IntruderError(error.errno, f"{path} is a link or no file; remove it on the node") from None
            raise
    status = os.fstat(descriptor)
    problem = None
    if not stat.S_ISREG(status.st_mode):
        problem = "is no regular file"
    elif to_write and status.st_nlink != 1:
        problem = "has a second name"
    elif to_write and status.st_uid != os.geteuid():
        problem = f"belongs to user {status.st_uid}"
    if problem:
        os.close(descriptor)
        raise IntruderError(errno.EINVAL, f"{path} {problem}, which the store did not do; remove it on the node")
    return descriptor


def names(inside: int) -> list[str]:
    """Return what is in a folder, sorted."""
    return sorted(os.listdir(inside))


def walk(inside: int, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below a folder, folders too and before what is in them; nothing is followed.

    Raises:
        IntruderError: folders are nested too deep, or a mount lies in between.
    """
    if depth > _MAX_DEPTH:
        raise IntruderError(
            errno.ELOOP, f"folders more than {_MAX_DEPTH} deep lie in the store; remove them on the node"
        )
    for name in names(inside):
        try:
            status = os.stat(name, dir_fd=inside, follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield prefix + name, status
        if stat.S_ISDIR(status.st_mode):
            with opened(name, inside) as folder:
                yield from walk(folder, f"{prefix}{name}/", depth + 1)


def remove(name: str, inside: int) -> None:
    """Remove whatever has a name, a folder with everything in it; a link goes, not what it points to.

    Raises:
        IntruderError: something is mounted in it.
    """
    deep: list[str] = []
    _remove(_plain(name), inside, inside, deep, 0)
    while deep:
        _remove(deep.pop(), inside, inside, deep, 0)


def cleared(name: str, inside: int, why: str) -> str:
    """Remove what is not the store's, and return why in words, and what hinders it."""
    try:
        remove(name, inside)
    except OSError as error:
        return f"{why}; it can't be removed: {error.strerror}"
    return why


def _remove(name: str, inside: int, top: int, deep: list[str], depth: int) -> None:
    try:
        status = os.stat(name, dir_fd=inside, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=inside)
        return
    if depth > _MAX_DEPTH:
        # Nested deeper than descriptors last: its turn comes from the top.
        hoisted = f".deep-{status.st_ino}"
        os.rename(name, hoisted, src_dir_fd=inside, dst_dir_fd=top)
        deep.append(hoisted)
        return
    with opened(name, inside) as folder:
        for each in names(folder):
            _remove(each, folder, top, deep, depth + 1)
    os.rmdir(name, dir_fd=inside)


def allocated_bytes(inside: int) -> int:
    """Return what everything below a folder takes of its file system; an inode counts once.

    Raises:
        IntruderError: see `walk`.
    """
    return sum({status.st_ino: status.st_blocks * 512 for _, status in walk(inside)}.values())


def sync(inside: int) -> None:
    """Make the names in a folder, and in the folders below it, outlive a loss of power."""
    for name in names(inside):
        if stat.S_ISDIR(os.stat(name, dir_fd=inside, follow_symlinks=False).st_mode):
            with opened(name, inside) as folder:
                sync(folder)
    os.fsync(inside)
