"""The store of one folder: begin, fill, commit, link, evict. One process owns it; the package says what lies where."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from warmfleet_agent.store import copying, folders, manifest
from warmfleet_agent.store.folders import IntruderError
from warmfleet_agent.store.manifest import Manifest, Piece

_ENTRIES, _DRAFTS, _VIEWS = "entries", "drafts", "views"
_STAGED = ".manifest"
"""The manifest while it is written; no file of a model starts with a dot."""


class NoSpaceError(Exception):
    """The entry does not fit; nothing was changed."""


class DamagedError(Exception):
    """What was filled in is not what was announced; the entry does not come to be."""


class LockedError(Exception):
    """A reader holds the entry."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Where a store's bytes are, as blocks of its file system."""

    capacity_bytes: int
    entry_bytes: int
    draft_bytes: int
    unlinked_bytes: int
    """Evicted, but still mapped or linked by a reader; or not of this store at all."""
    free_bytes: int
    """What may still be reserved: below the capacity, and there."""


class Store:
    """An open store. Its methods block, and are called from one thread at a time per key."""

    def __init__(self, root: Path, capacity_bytes: int, *, is_durable: bool = False) -> None:
        """`is_durable`: entries survive a loss of power (disks); memory does not need it."""
        self._capacity_bytes = capacity_bytes
        self._is_durable = is_durable
        self._entries: dict[str, Manifest] = {}
        self._open = ExitStack()
        self._root = self._open.enter_context(folders.opened(str(root)))
        # Two agents on one folder would delete each other's drafts.
        try:
            fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._open.close()
            raise LockedError(f"another agent owns {root}; wait until it has ended") from None
        for name in (_ENTRIES, _DRAFTS, _VIEWS):
            folders.make(name, self._root)
        self._inside = {
            name: self._open.enter_context(folders.opened(name, self._root)) for name in (_ENTRIES, _DRAFTS, _VIEWS)
        }
        self._recover()

    def close(self) -> None:
        """Let go of the folder; everything in it stays."""
        self._open.close()

    @property
    def entries(self) -> Mapping[str, Manifest]:
        """The whole entries by key."""
        return dict(self._entries)

    # Coming to be ---------------------------------------------------------------------------------------------------

    @contextmanager
    def begin(self, key: str, sizes: Mapping[str, int]) -> Iterator["Draft"]:
        """Reserve the space of an entry's files (bytes by path) and give the draft to fill.

        Unless the draft was committed inside the block, nothing of it is left after it.

        Raises:
            BadNameError: a key or path that is none.
            NoSpaceError: they do not fit.
            IntruderError: something strange lies in the store.
        """
        manifest.check_key(key)
        for path in sizes:
            manifest.check_path(path)
        drafts = self._inside[_DRAFTS]
        folders.remove(key, drafts)
        needed, free = sum(sizes.values()), self.usage().free_bytes
        if needed > free:
            raise NoSpaceError(f"{key} needs {needed} bytes, {free} of {self._capacity_bytes} are free")
        folders.make(key, drafts)
        try:
            with folders.opened(key, drafts) as folder:
                for path, size in sizes.items():
                    _reserve(path, size, folder)
                # Blocks are larger than files: huge pages round up by as much as 2 MiB each.
                if self.usage().free_bytes < 0:
                    raise NoSpaceError(
                        f"{key} with its {len(sizes)} files takes more than the {free} bytes that are free"
                    )
                yield Draft(self._commit, key, sizes, folder)
        finally:
            folders.remove(key, drafts)

    def _commit(self, entry: Manifest, folder: int) -> None:
        for piece in entry.files:
            descriptor = folders.open_file(piece.path, folder)
            try:
                os.fchmod(descriptor, 0o444)
                if self._is_durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        entries = self._inside[_ENTRIES]
        folders.remove(entry.key, entries)
        os.rename(entry.key, entry.key, src_dir_fd=self._inside[_DRAFTS], dst_dir_fd=entries)
        descriptor = folders.create_file(_STAGED, folder, 0o444)
        try:
            os.write(descriptor, manifest.encode(entry))
            if self._is_durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(_STAGED, manifest.FILE_NAME, src_dir_fd=folder, dst_dir_fd=folder)
        if self._is_durable:
            os.fsync(folder)
            os.fsync(entries)
        self._entries[entry.key] = entry

    # Being read -----------------------------------------------------------------------------------------------------

    def link(self, view: str, key: str) -> None:
        """Show an entry to a runner: hard links in its view. The same again changes nothing.

        Raises:
            KeyError: no such entry.
        """
        manifest.check_key(view)
        entry = self._entries[key]
        folders.make(view, self._inside[_VIEWS])
        with (
            folders.opened(view, self._inside[_VIEWS]) as target,
            folders.opened(key, self._inside[_ENTRIES]) as source,
        ):
            folders.make(key, target)
            with folders.opened(key, target) as shown:
                # The manifest last here too: a runner waits for it.
                for path in (*(piece.path for piece in entry.files), manifest.FILE_NAME):
                    _link(path, source, shown)

    def unlink(self, view: str, key: str | None = None) -> None:
        """Take an entry, or everything, out of a view."""
        views = self._inside[_VIEWS]
        if key is None:
            folders.remove(view, views)
            return
        try:
            with folders.opened(view, views) as folder:
                folders.remove(key, folder)
        except FileNotFoundError:
            return

    @property
    def views(self) -> Mapping[str, frozenset[str]]:
        """The keys shown in each view."""
        found = {}
        for name in folders.names(self._inside[_VIEWS]):
            with folders.opened(name, self._inside[_VIEWS]) as folder:
                found[name] = frozenset(folders.names(folder))
        return found

    def is_locked(self, key: str) -> bool:
        """Whether a reader holds the entry."""
        try:
            with self._exclusively(key):
                return False
        except LockedError:
            return True

    # Going ----------------------------------------------------------------------------------------------------------

    def evict(self, key: str) -> None:
        """Remove an entry, from all views as well. Readers that map its files keep what they map.

        Raises:
            KeyError: no such entry.
            LockedError: a reader holds it.
        """
        with self._exclusively(key):
            del self._entries[key]
            with folders.opened(key, self._inside[_ENTRIES]) as folder:
                # First what makes it an entry: a crash from here on leaves rubbish, never a part of a model.
                os.unlink(manifest.FILE_NAME, dir_fd=folder)
            for view in self.views:
                self.unlink(view, key)
            folders.remove(key, self._inside[_ENTRIES])

    @contextmanager
    def _exclusively(self, key: str) -> Iterator[None]:
        if key not in self._entries:
            raise KeyError(key)
        with folders.opened(key, self._inside[_ENTRIES]) as folder:
            descriptor = folders.open_file(manifest.FILE_NAME, folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise LockedError(f"{key} is being read") from None
        finally:
            os.close(descriptor)

    # Accounts -------------------------------------------------------------------------------------------------------

    def usage(self) -> Usage:
        """Count bytes as the file system does."""
        inodes: dict[int, int] = {}
        entry_bytes = _block_bytes(self._inside[_ENTRIES], inodes)
        draft_bytes = _block_bytes(self._inside[_DRAFTS], inodes)
        view_only_bytes = _block_bytes(self._inside[_VIEWS], inodes)
        system = os.fstatvfs(self._root)
        used = (system.f_blocks - system.f_bfree) * system.f_frsize
        # A tmpfs is the store's alone; on a disk others have files too, of which nothing can be said.
        unlinked = view_only_bytes if self._is_durable else max(0, used - entry_bytes - draft_bytes)
        return Usage(
            capacity_bytes=self._capacity_bytes,
            entry_bytes=entry_bytes,
            draft_bytes=draft_bytes,
            unlinked_bytes=unlinked,
            free_bytes=min(
                self._capacity_bytes - entry_bytes - draft_bytes - unlinked, system.f_bavail * system.f_frsize
            ),
        )

    # After a crash --------------------------------------------------------------------------------------------------

    def _recover(self) -> None:
        """Adopt whole entries, delete everything else."""
        for name in folders.names(self._inside[_DRAFTS]):
            folders.remove(name, self._inside[_DRAFTS])
        for name in folders.names(self._inside[_ENTRIES]):
            try:
                self._entries[name] = self._read_entry(name)
            except (OSError, ValueError):
                folders.remove(name, self._inside[_ENTRIES])
        for name in folders.names(self._inside[_VIEWS]):
            try:
                with folders.opened(name, self._inside[_VIEWS]) as view:
                    for key in folders.names(view):
                        if key not in self._entries:
                            folders.remove(key, view)
            except IntruderError:
                folders.remove(name, self._inside[_VIEWS])

    def _read_entry(self, key: str) -> Manifest:
        """Read an entry and compare sizes; contents were hashed when they were written, and nobody may write them.

        Raises:
            ValueError: it is not whole.
            OSError: it is not whole, or not the store's.
        """
        with folders.opened(key, self._inside[_ENTRIES]) as folder:
            descriptor = folders.open_file(manifest.FILE_NAME, folder)
            with os.fdopen(descriptor, "rb") as file:
                entry = manifest.decode(file.read(manifest.MAX_BYTES))
            found = {path: status.st_size for path, status in folders.files(folder)}
        found.pop(manifest.FILE_NAME)
        if entry.key != key or found != {piece.path: piece.bytes for piece in entry.files}:
            raise ValueError(f"entry {key} is not what its manifest says")
        return entry


class Draft:
    """An entry while it is filled."""

    def __init__(
        self, commit: Callable[[Manifest, int], None], key: str, sizes: Mapping[str, int], folder: int
    ) -> None:
        self._commit = commit
        self._key = key
        self._sizes = sizes
        self._folder = folder
        self._hashes: dict[str, str] = {}

    def fill(self, path: str, source: int) -> str:
        """Copy one file from a descriptor, and return its hash.

        Raises:
            ShortSourceError: the source is shorter than announced.
            OSError: it can't be read.
        """
        with self._writable(path) as target:
            self._hashes[path] = copying.copy(source, target, self._sizes[path])
        return self._hashes[path]

    def commit(self, uri: str, revision: str = "", expected: Sequence[Piece] = ()) -> Manifest:
        """Make the draft an entry; `expected` are hashes that are known beforehand.

        Raises:
            DamagedError: a file is missing, or is not what was expected.
        """
        if missing := sorted(self._sizes.keys() - self._hashes.keys()):
            raise DamagedError(f"{self._key} lacks {', '.join(missing[:3])}")
        for piece in expected:
            if self._hashes.get(piece.path) != piece.blake3:
                raise DamagedError(f"{piece.path} of {self._key} was damaged on its way; it is fetched again")
        pieces = tuple(
            Piece(path=path, bytes=size, blake3=self._hashes[path]) for path, size in sorted(self._sizes.items())
        )
        entry = Manifest(key=self._key, uri=uri, revision=revision, files=pieces)
        self._commit(entry, self._folder)
        return entry

    @contextmanager
    def _writable(self, path: str) -> Iterator[int]:
        descriptor = folders.open_file(path, self._folder, to_write=True)
        try:
            if os.fstat(descriptor).st_nlink != 1:
                raise IntruderError(errno.EMLINK, f"{path} has a second name in the store; remove it on the node")
            yield descriptor
        finally:
            os.close(descriptor)


def _reserve(path: str, size: int, folder: int) -> None:
    descriptor = folders.create_file(path, folder)
    try:
        if size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}:
            raise NoSpaceError(f"{path} needs {size} bytes, which the file system does not have") from None
        raise
    finally:
        os.close(descriptor)


def _link(path: str, source: int, target: int) -> None:
    """Link a file under the same path; one that is there already and is the same stays."""
    with folders.walked(path, source) as (here, name), folders.walked(path, target, create=True) as (there, _):
        try:
            os.link(name, name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)
        except FileExistsError:
            found = os.stat(name, dir_fd=there, follow_symlinks=False)
            if found.st_ino != os.stat(name, dir_fd=here, follow_symlinks=False).st_ino:
                folders.remove(name, there)
                os.link(name, name, src_dir_fd=here, dst_dir_fd=there, follow_symlinks=False)


def _block_bytes(folder: int, counted: dict[int, int]) -> int:
    """Sum the blocks of files that were not counted before, each inode once."""
    total = 0
    for _, status in folders.files(folder):
        if status.st_ino not in counted:
            counted[status.st_ino] = status.st_blocks * 512
            total += counted[status.st_ino]
    return total
