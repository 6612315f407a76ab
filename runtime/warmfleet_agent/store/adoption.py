"""Reads what lies in a store that was opened: what is whole is adopted, and why the rest is not."""

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from warmfleet_agent.store import folders, journal, manifest
from warmfleet_agent.store.errors import DamagedError
from warmfleet_agent.store.folders import IntruderError
from warmfleet_agent.store.journal import Head
from warmfleet_agent.store.ranges import Ranges
from warmfleet_agent.store.reservation import STAGED
from warmfleet_api.weights import Manifest


@dataclass(frozen=True, slots=True)
class Kept:
    """A draft that a durable store kept."""

    head: Head
    ranges: Mapping[str, Ranges]
    allocated_bytes: int


def read_entry(key: str, entries: int) -> tuple[Manifest, int]:
    """Read an entry and what it takes of the file system.

    Sizes and owners are compared; contents were hashed when they were written, and nobody may write them.

    Raises:
        DamagedError: it is not whole, or not the store's.
    """
    try:
        manifest.check_key(key)
        with folders.opened(key, entries) as folder:
            check_owner(os.fstat(folder))
            with os.fdopen(folders.open_file(manifest.FILE_NAME, folder), "rb") as file:
                entry = manifest.decode(file.read(manifest.MAX_BYTES))
            found, allocated_bytes = _sizes(folder, is_final=True)
    except FileNotFoundError:
        raise DamagedError(f"entry {folders.shown(key)} has no manifest") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"entry {folders.shown(key)}: {_words(error)}") from None
    found.pop(manifest.FILE_NAME, None)
    if entry.key != key or found != {piece.path: piece.bytes for piece in entry.files}:
        raise DamagedError(f"entry {key} holds other files or sizes than its manifest says")
    return entry, allocated_bytes


def read_draft(key: str, drafts: int) -> Kept:
    """Read a draft that may be gone on with.

    Raises:
        DamagedError: it is not.
    """
    try:
        manifest.check_key(key)
        with folders.opened(key, drafts) as folder:
            check_owner(os.fstat(folder))
            head, ranges = journal.read(folder)
            manifest.check_sizes(head.sizes)
            found, allocated_bytes = _sizes(folder, is_final=False)
    except FileNotFoundError:
        raise DamagedError(f"draft {folders.shown(key)} has no journal") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"draft {folders.shown(key)}: {_words(error)}") from None
    for name in (journal.FILE_NAME, STAGED):
        found.pop(name, None)
    if head.key != key or found != head.sizes:
        raise DamagedError(f"draft {key} holds other files or sizes than its journal says")
    return Kept(head, ranges, allocated_bytes)


def check_files(folder: int, sizes: Mapping[str, int], own: frozenset[str]) -> None:
    """Accept a folder that holds just these files, besides the store's `own`.

    Raises:
        IntruderError: it holds others.
    """
    found, _ = _sizes(folder, is_final=False)
    if {path: size for path, size in found.items() if path not in own} != sizes:
        raise IntruderError(errno.EEXIST, "somebody added, removed or changed files of a draft; it is fetched again")


def stranger(name: str, inside: int, path: Path) -> str:
    """Return in words what lies in an open folder of the store without being the store's; `path`: the folder's."""
    try:
        status = os.stat(name, dir_fd=inside, follow_symlinks=False)
    except FileNotFoundError:
        return f"{folders.shown(name)} in {path} came and went"
    return (
        f"{folders.shown(name)} in {path} is not the store's: user {status.st_uid} owns it and it takes"
        f" {status.st_blocks * 512} bytes or more; look with: ls -lab {path}"
    )


def check_owner(status: os.stat_result) -> None:
    """Accept what is the agent's own and nobody else can write.

    Raises:
        IntruderError: anything else.
    """
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise IntruderError(
            errno.EPERM,
            f"user {status.st_uid} owns it with mode {stat.S_IMODE(status.st_mode):o}, not the agent alone",
        )


def _sizes(folder: int, *, is_final: bool) -> tuple[dict[str, int], int]:
    """Return the size of each file and what all take together; final files can't be written.

    Raises:
        IntruderError: something is no file, or not the agent's alone.
    """
    found, blocks = {}, {}
    for path, status in folders.walk(folder):
        is_folder = stat.S_ISDIR(status.st_mode)
        if not is_folder and not stat.S_ISREG(status.st_mode):
            raise IntruderError(errno.EINVAL, f"{folders.shown(path)} is a link or no file")
        check_owner(status)
        if is_final and not is_folder and status.st_mode & 0o222:
            raise IntruderError(errno.EPERM, f"{folders.shown(path)} can be written")
        # An entry's files have more names in views; nobody writes through them.
        if not is_final and not is_folder and status.st_nlink != 1:
            raise IntruderError(errno.EMLINK, f"{folders.shown(path)} has a second name")
        blocks[status.st_ino] = status.st_blocks * 512
        if not is_folder:
            found[path] = status.st_size
    return found, sum(blocks.values())


def _words(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
