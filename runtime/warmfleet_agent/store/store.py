"""The store of one folder: begin, fill, commit, link, evict. One process owns it; the package says what lies where."""

import fcntl
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from warmfleet_agent.store import adoption, folders, journal, manifest, reservation, views
from warmfleet_agent.store.adoption import Kept
from warmfleet_agent.store.draft import Draft
from warmfleet_agent.store.errors import DamagedError, LockedError, NoSpaceError, PresentError
from warmfleet_agent.store.folders import IntruderError
from warmfleet_agent.store.reservation import STAGED
from warmfleet_api.weights import Manifest

_ENTRIES, _DRAFTS, _VIEWS = "entries", "drafts", "views"
_OWN = frozenset({journal.FILE_NAME, STAGED})
_MAX_STRANGERS = 16


@dataclass(frozen=True, slots=True)
class Usage:
    """Where a store's bytes are, as blocks of its file system."""

    capacity_bytes: int
    entry_bytes: int
    draft_bytes: int
    """Reserved for entries that are not whole yet."""
    unlinked_bytes: int
    """Evicted, but still mapped by a reader; or not of this store at all."""
    free_bytes: int
    """What may still be reserved: below the capacity, and there. Below 0 after the store was made smaller."""


class Store:
    """An open store. Its methods block; any thread may call them, one at a time per key."""

    def __init__(self, root: Path, capacity_bytes: int, *, is_durable: bool = False) -> None:
        """Open the store in a folder that exists.

        Args:
            root: the folder, best a file system of its own.
            capacity_bytes: how much it may hold.
            is_durable: entries and drafts survive a loss of power (disks); memory does not need it.

        Raises:
            LockedError: another process owns it.
            IntruderError: one of its folders is not the agent's own.
        """
        self._path = root
        self._capacity_bytes = capacity_bytes
        self._is_durable = is_durable
        self._lock = threading.RLock()
        self._entries: dict[str, Manifest] = {}
        self._entry_bytes: dict[str, int] = {}
        self._drafts: dict[str, Kept] = {}
        self._draft_bytes: dict[str, int] = {}
        self._active: set[str] = set()
        self._open = ExitStack()
        try:
            self._root = self._open.enter_context(folders.opened(str(root)))
            # Two agents on one folder would delete each other's drafts.
            try:
                fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LockedError(f"another agent owns {root}; wait until it has ended") from None
            self._inside = {
                name: self._open.enter_context(self._own_folder(name)) for name in (_ENTRIES, _DRAFTS, _VIEWS)
            }
            # A tmpfs that is mounted here is the store's alone; elsewhere others have files of which nothing is known.
            self._is_alone = not is_durable and os.fstat(self._root).st_dev != os.stat("..", dir_fd=self._root).st_dev
            self._deleted = tuple(self._recover())
            self._unit_bytes = reservation.unit_bytes(self._inside[_DRAFTS])
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """Let go of the folder; everything in it stays."""
        self._open.close()

    @property
    def entries(self) -> Mapping[str, Manifest]:
        """The whole entries by key."""
        with self._lock:
            return dict(self._entries)

    @property
    def drafts(self) -> Mapping[str, int]:
        """Bytes that are there already of each draft that waits to be gone on with, by key."""
        with self._lock:
            return {key: sum(each.bytes for each in kept.ranges.values()) for key, kept in self._drafts.items()}

    @property
    def idle_drafts(self) -> Mapping[str, int]:
        """Bytes that each of these drafts holds of the capacity, by key: what `discard` would give back."""
        with self._lock:
            return {key: self._draft_bytes[key] for key in self._drafts}

    @property
    def page_bytes(self) -> int:
        """What the size of each file is rounded up to."""
        return self._unit_bytes

    @property
    def deleted(self) -> tuple[str, ...]:
        """What was deleted when the store was opened, and why, in words."""
        return self._deleted

    # Coming to be ---------------------------------------------------------------------------------------------------

    def footprint_bytes(self, sizes: Mapping[str, int]) -> int:
        """Return what an entry with files of these sizes takes of the capacity: whole pages, manifest included."""
        return reservation.rounded_bytes(sizes, self._unit_bytes)

    @contextmanager
    def begin(self, key: str, sizes: Mapping[str, int], uri: str = "") -> Iterator[Draft]:
        """Reserve the space of an entry's files (bytes by path) and give the draft to fill.

        In memory nothing is left of a draft that was not committed inside the block. On disk it is kept, and gone on
        with by the next call for the same key, sizes and uri, in this process or a later one; `discard` drops it.

        Raises:
            BadNameError: a key or path that is none.
            PresentError: there is such an entry, or it is being filled.
            NoSpaceError: the files do not fit.
            IntruderError: something strange lies in the store.
        """
        manifest.check_key(key)
        manifest.check_files(set(sizes))
        with self._lock:
            if key in self._entries or key in self._active:
                raise PresentError(f"{key} is in the store already, or being filled")
            self._active.add(key)
            kept = self._drafts.pop(key, None)
        try:
            if kept is not None and (kept.head.sizes != dict(sizes) or kept.head.uri != uri):
                self._drop(key)
                kept = None
            with self._folder_of(key, sizes, kept) as folder:
                yield from self._fill(key, sizes, uri, folder, kept)
        finally:
            self._settle(key)
            with self._lock:
                self._active.discard(key)

    def discard(self, key: str) -> None:
        """Drop a draft that waits to be gone on with.

        Raises:
            PresentError: it is being filled.
        """
        with self._lock:
            if key in self._active:
                raise PresentError(f"{key} is being filled; end that first")
            self._drafts.pop(key, None)
            self._drop(key)

    def _fill(self, key: str, sizes: Mapping[str, int], uri: str, folder: int, kept: Kept | None) -> Iterator[Draft]:
        draft = Draft(self._commit, key, sizes, folder, kept.ranges if kept else None)
        if self._is_durable:
            head = journal.Head(key=key, uri=uri, sizes=dict(sizes))
            draft.keep(journal.reopen(folder) if kept else journal.create(folder, head))
        try:
            yield draft
        finally:
            draft.close()

    @contextmanager
    def _folder_of(self, key: str, sizes: Mapping[str, int], kept: Kept | None) -> Iterator[int]:
        drafts = self._inside[_DRAFTS]
        if kept is None:
            folders.remove(key, drafts)
            self._promise(key, sizes)
            folders.make(key, drafts)
        with folders.opened(key, drafts) as folder:
            if kept is None:
                reservation.reserve(sizes, folder)
                # Blocks can be larger than was thought: counted anew now that they are there.
                with self._lock:
                    self._draft_bytes[key] = folders.allocated_bytes(folder)
                    if self.usage().free_bytes < 0:
                        raise self._no_space(
                            key, self._draft_bytes[key], self.usage().free_bytes + self._draft_bytes[key]
                        )
            yield folder

    def _promise(self, key: str, sizes: Mapping[str, int]) -> None:
        """Count a draft's space before it is taken, so that two at once don't get the same."""
        with self._lock:
            needed, free = self.footprint_bytes(sizes), self.usage().free_bytes
            if needed > free:
                raise self._no_space(key, needed, free)
            self._draft_bytes[key] = needed

    def _no_space(self, key: str, needed: int, free: int) -> NoSpaceError:
        usage = self.usage()
        others = (
            f", {usage.unlinked_bytes} are mapped after eviction or not the store's" if usage.unlinked_bytes else ""
        )
        return NoSpaceError(f"{key} needs {needed} bytes, {free} of {usage.capacity_bytes} are free{others}")

    def _settle(self, key: str) -> None:
        """Keep or drop what is left of a draft."""
        with self._lock:
            if key in self._entries:
                self._draft_bytes.pop(key, None)
                return
            if self._is_durable:
                with suppress(DamagedError):
                    self._drafts[key] = adoption.read_draft(key, self._inside[_DRAFTS])
                    return
            self._drop(key)

    def _drop(self, key: str) -> None:
        try:
            folders.remove(key, self._inside[_DRAFTS])
        finally:
            with self._lock:
                self._draft_bytes.pop(key, None)

    def _commit(self, entry: Manifest, folder: int) -> None:
        adoption.check_files(folder, {piece.path: piece.bytes for piece in entry.files}, _OWN)
        for piece in entry.files:
            descriptor = folders.open_file(piece.path, folder, to_write=True)
            try:
                os.fchmod(descriptor, 0o444)
                if self._is_durable:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if self._is_durable:
            folders.sync(folder)
        entries = self._inside[_ENTRIES]
        folders.remove(entry.key, entries)
        os.rename(entry.key, entry.key, src_dir_fd=self._inside[_DRAFTS], dst_dir_fd=entries)
        try:
            if not os.path.samestat(os.stat(entry.key, dir_fd=entries, follow_symlinks=False), os.fstat(folder)):
                raise IntruderError(f"somebody exchanged the draft of {entry.key}; it is fetched again")
            self._write_manifest(entry, folder)
            allocated_bytes = folders.allocated_bytes(folder)
        except BaseException:
            folders.remove(entry.key, entries)
            raise
        with self._lock:
            self._entries[entry.key] = entry
            self._entry_bytes[entry.key] = allocated_bytes
            self._draft_bytes.pop(entry.key, None)

    def _write_manifest(self, entry: Manifest, folder: int) -> None:
        folders.remove(journal.FILE_NAME, folder)
        descriptor = folders.open_file(STAGED, folder, to_write=True)
        try:
            content = manifest.encode(entry)
            written = 0
            while written < len(content):
                written += os.pwrite(descriptor, content[written:], written)
            os.ftruncate(descriptor, len(content))
            os.fchmod(descriptor, 0o444)
            if self._is_durable:
                os.fsync(descriptor)
        except OSError as error:
            if error.errno in reservation.FULL:
                raise NoSpaceError(f"the manifest of {entry.key} does not fit into the file system") from None
            raise
        finally:
            os.close(descriptor)
        os.rename(STAGED, manifest.FILE_NAME, src_dir_fd=folder, dst_dir_fd=folder)
        if self._is_durable:
            os.fsync(folder)
            os.fsync(self._inside[_ENTRIES])
            os.fsync(self._inside[_DRAFTS])

    # Being read -----------------------------------------------------------------------------------------------------

    def open_entry_file(self, key: str, path: str) -> int:
        """Return a descriptor that reads a file of an entry; the caller closes it.

        Raises:
            KeyError: no such entry.
            OSError: no such file.
        """
        if key not in self._entries:
            raise KeyError(key)
        manifest.check_path(path)
        with folders.opened(key, self._inside[_ENTRIES]) as folder:
            return folders.open_file(path, folder)

    def arrived(self, key: str) -> float:
        """Return when an entry became whole, in unix seconds.

        Raises:
            KeyError: no such entry.
            OSError: somebody took it away.
        """
        if key not in self._entries:
            raise KeyError(key)
        with folders.opened(key, self._inside[_ENTRIES]) as folder:
            return os.stat(manifest.FILE_NAME, dir_fd=folder, follow_symlinks=False).st_mtime

    def make_view(self, view: str) -> Path:
        """Return the folder of what one runner sees, and make it unless it is there.

        Raises:
            BadNameError: `view` is no pod's uid.
            IntruderError: something else has its name.
        """
        manifest.check_key(view)
        with self._lock:
            folders.make(view, self._inside[_VIEWS])
            with folders.opened(view, self._inside[_VIEWS]):
                return self._path / _VIEWS / view

    def remove_view(self, view: str) -> None:
        """Remove a view with what it shows. One that is not there changes nothing."""
        manifest.check_key(view)
        with self._lock:
            folders.remove(view, self._inside[_VIEWS])

    def link(self, view: str, key: str) -> None:
        """Show an entry to a runner: hard links in its view, which is made if need be. Again changes nothing.

        Raises:
            KeyError: no such entry.
            DamagedError: somebody changed the entry; it is none any more.
        """
        with self._lock:
            self.make_view(view)
            self.verify(key)
            entry = self._entries[key]
            with folders.opened(key, self._inside[_ENTRIES]) as source:
                views.link(self._inside[_VIEWS], view, key, entry, source)

    def unlink(self, view: str, key: str | None = None) -> None:
        """Take an entry, or everything, out of a view; the view itself stays."""
        manifest.check_key(view)
        with self._lock:
            views.unlink(self._inside[_VIEWS], view, key)

    @property
    def views(self) -> Mapping[str, frozenset[str]]:
        """The keys shown in each view; a view can be empty."""
        with self._lock:
            return views.read(self._inside[_VIEWS])

    def is_locked(self, key: str) -> bool:
        """Whether a reader holds the entry.

        Raises:
            KeyError: no such entry.
        """
        try:
            with self._exclusively(key):
                return False
        except LockedError:
            return True

    def verify(self, key: str) -> None:
        """Compare an entry with its manifest, by sizes and owners; contents can't change.

        Raises:
            KeyError: no such entry.
            DamagedError: somebody changed it. It is none any more, and is removed; readers keep what they map.
        """
        with self._lock:
            entry = self._entries[key]
            try:
                found, _ = adoption.read_entry(key, self._inside[_ENTRIES])
                if found != entry:
                    raise DamagedError(f"somebody exchanged the manifest of {key}")
            except DamagedError:
                self._remove(key)
                raise

    # Going ----------------------------------------------------------------------------------------------------------

    def evict(self, key: str) -> None:
        """Remove an entry, from all views as well. Readers that map its files keep what they map.

        Raises:
            KeyError: no such entry.
            LockedError: a reader holds it.
        """
        with self._exclusively(key):
            self._remove(key)

    def _remove(self, key: str) -> None:
        entries, drafts = self._inside[_ENTRIES], self._inside[_DRAFTS]
        with self._lock:
            del self._entries[key]
            del self._entry_bytes[key]
            # First what makes it an entry: a crash from here on leaves rubbish, never a part of a model.
            with suppress(FileNotFoundError, IntruderError), folders.opened(key, entries) as folder:
                folders.remove(manifest.FILE_NAME, folder)
            for view in self.views:
                views.unlink(self._inside[_VIEWS], view, key)
            # Aside, so that giving back many pages does not hold others up, and the key is free at once.
            aside = f".{key}.{os.stat(key, dir_fd=entries, follow_symlinks=False).st_ino}"
            os.rename(key, aside, src_dir_fd=entries, dst_dir_fd=drafts)
        folders.remove(aside, drafts)

    @contextmanager
    def _exclusively(self, key: str) -> Iterator[None]:
        if key not in self._entries:
            raise KeyError(key)
        with folders.opened(key, self._inside[_ENTRIES]) as folder:
            descriptor = folders.open_file(manifest.FILE_NAME, folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise LockedError(f"{key} is being read") from None
        try:
            yield
        finally:
            os.close(descriptor)

    # Accounts -------------------------------------------------------------------------------------------------------

    def resize(self, capacity_bytes: int) -> None:
        """Take another capacity; nothing is evicted by that. The file system is not changed."""
        with self._lock:
            self._capacity_bytes = capacity_bytes

    def usage(self) -> Usage:
        """Count bytes as the file system does."""
        with self._lock:
            entry_bytes, draft_bytes = sum(self._entry_bytes.values()), sum(self._draft_bytes.values())
            system = os.fstatvfs(self._root)
            used = (system.f_blocks - system.f_bfree) * system.f_frsize
            unlinked = max(0, used - entry_bytes - draft_bytes) if self._is_alone else 0
            return Usage(
                capacity_bytes=self._capacity_bytes,
                entry_bytes=entry_bytes,
                draft_bytes=draft_bytes,
                unlinked_bytes=unlinked,
                free_bytes=min(
                    self._capacity_bytes - entry_bytes - draft_bytes - unlinked, system.f_bavail * system.f_frsize
                ),
            )

    def strangers(self) -> tuple[str, ...]:
        """Return in words what lies here that the store did not make, and what to do; a few at most."""
        entries = self._inside[_ENTRIES]
        with self._lock:
            known = self._entries.keys() | self._active
            found = [
                *((name, self._root, self._path) for name in folders.names(self._root) if name not in self._inside),
                *((name, entries, self._path / _ENTRIES) for name in folders.names(entries) if name not in known),
            ]
        return tuple(self._stranger(*each) for each in found[:_MAX_STRANGERS])

    def _stranger(self, name: str, inside: int, path: Path) -> str:
        try:
            status = os.stat(name, dir_fd=inside, follow_symlinks=False)
        except FileNotFoundError:
            return f"{folders.shown(name)} in {path} came and went"
        return (
            f"{folders.shown(name)} in {path} is not the store's: user {status.st_uid} put it there and it takes"
            f" {status.st_blocks * 512} bytes or more; look with: ls -lab {path}"
        )

    # After a crash --------------------------------------------------------------------------------------------------

    @contextmanager
    def _own_folder(self, name: str) -> Iterator[int]:
        folders.make(name, self._root)
        with folders.opened(name, self._root) as folder:
            adoption.check_owner(os.fstat(folder))
            yield folder

    def _recover(self) -> Iterator[str]:
        """Adopt what is whole, delete everything else and say why."""
        drafts, entries = self._inside[_DRAFTS], self._inside[_ENTRIES]
        for name in folders.names(drafts):
            try:
                if not self._is_durable:
                    raise DamagedError(f"draft {folders.shown(name)} was not finished")
                self._drafts[name] = kept = adoption.read_draft(name, drafts)
                self._draft_bytes[name] = kept.allocated_bytes
            except DamagedError as error:
                folders.remove(name, drafts)
                yield str(error)
        for name in folders.names(entries):
            try:
                self._entries[name], self._entry_bytes[name] = adoption.read_entry(name, entries)
            except DamagedError as error:
                folders.remove(name, entries)
                yield str(error)
        yield from views.recover(self._inside[_VIEWS], self._entries.keys())
