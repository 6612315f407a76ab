"""Takes the space of a draft before its first byte, so that no copy ends in the middle of a full file system."""

import errno
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from warmfleet_agent.store import folders
from warmfleet_agent.store.errors import NoSpaceError

STAGED = ".manifest"
"""The manifest while it is written; no file of a model starts with a dot."""
_PROBE = ".probe"
_MANIFEST_BYTES = 8192
_MANIFEST_BYTES_PER_FILE = 192
FULL = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})


def unit_bytes(inside: int) -> int:
    """Return what a file of one byte takes: a page, or 2 MiB where the file system has huge pages."""
    folders.remove(_PROBE, inside)
    descriptor = folders.create_file(_PROBE, inside)
    try:
        os.posix_fallocate(descriptor, 0, 1)
        return max(os.fstat(descriptor).st_blocks * 512, os.fstatvfs(descriptor).f_frsize)
    except OSError as error:
        if error.errno not in FULL:
            raise
        return os.fstatvfs(inside).f_frsize
    finally:
        os.close(descriptor)
        folders.remove(_PROBE, inside)


def rounded_bytes(sizes: Mapping[str, int], unit: int) -> int:
    """Return what files of these sizes take with their manifest, in whole units."""
    return sum(-(-size // unit) * unit for size in (*sizes.values(), _manifest_bytes(sizes)))


def reserve(sizes: Mapping[str, int], folder: int) -> None:
    """Make the files of a draft and its manifest to be, with all their space.

    Raises:
        NoSpaceError: the file system does not have it.
        IntruderError: something has one of their names already.
    """
    # Two at a time: finding pages is most of the work, and each file's own is done by one core.
    with ThreadPoolExecutor(2, thread_name_prefix="store-reserve") as pool:
        wanted = (*sizes.items(), (STAGED, _manifest_bytes(sizes)))
        for made in [pool.submit(_reserve_file, path, size, folder) for path, size in wanted]:
            made.result()


def _manifest_bytes(sizes: Mapping[str, int]) -> int:
    return _MANIFEST_BYTES + sum(_MANIFEST_BYTES_PER_FILE + len(path) for path in sizes)


def _reserve_file(path: str, size: int, folder: int) -> None:
    descriptor = folders.create_file(path, folder)
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in FULL:
            raise NoSpaceError(f"{path} needs {size} bytes, which the file system does not have") from None
        raise
    finally:
        os.close(descriptor)
