"""The store of one folder: begin, fill, commit, link, evict. One process owns it; the package says what lies where."""

import fcntl
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

from warmfleet_agent.store import adoption, folders, journal, manifest, reservation, views
from warmfleet_agent.store.accounts import Accounts, Usage
from warmfleet_agent.store.adoption import Kept
from warmfleet_agent.store.draft import Draft
from warmfleet_agent.store.errors import DamagedError, LockedError, NoSpaceError, PresentError
from warmfleet_agent.store.folders import IntruderError
from warmfleet_agent.store.reservation import STAGED
from warmfleet_api.weights import Manifest

_ENTRIES, _DRAFTS, _VIEWS = "entries", "drafts", "views"
_OWN = frozenset({journal.FILE_NAME, STAGED})
_MAX_STRANGERS = 16


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
        self._is_durable = is_durable
        self._lock = threading.RLock()
        self._entries: dict[str, Manifest] = {}
        self._drafts: dict[str, Kept] = {}
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
            is_alone = not is_durable and os.fstat(self._root).st_dev != os.stat("..", dir_fd=self._root).st_dev
            self._accounts = Accounts(self._root, capacity_bytes, is_alone=is_alone)
            self._deleted = tuple(self._recover())
            self._page_bytes = reservation.unit_bytes(self._inside[_DRAFTS])
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> Self:
        """Return the store, which is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Let go of the folder; everything in it stays."""
        self._open.close()

    @property
    def entries(self) -> Mapping[str, Manifest]:
        """The whole entries by key."""
        with self._lock:
            return dict(self._entries)

    @property
    def idle_drafts(self) -> Mapping[str, int]:
        """What each draft that waits to be gone on with takes of the capacity, in bytes by key."""
        with self._lock:
            return {key: self._accounts.draft_bytes(key) for key in self._drafts}

    @property
    def deleted(self) -> tuple[str, ...]:
        """What was deleted when the store was opened, and why, in words."""
        return self._deleted

    # Coming to be ---------------------------------------------------------------------------------------------------

    @property
    def page_bytes(self) -> int:
        """What a file's size is rounded up to: 2 MiB where the file system has huge pages."""
        return self._page_bytes

    def footprint_bytes(self, sizes: Mapping[str, int]) -> int:
        """Return what an entry with files of these sizes takes of the capacity: whole pages, manifest included."""
        return reservation.rounded_bytes(sizes, self._page_bytes)

    @contextmanager
    def begin(self, key: str, sizes: Mapping[str, int], uri: str = "") -> Iterator[Draft]:
        """Reserve the space of an entry's files (bytes by path) and give the draft to fill.

        In memory nothing is left of a draft that was not committed inside the block. On disk it is kept, unless it is
        damaged, and gone on with by the next call for the same key, sizes and uri, in this process or a later one;
        `discard` drops it.

        Raises:
            BadNameError: a key, a path or a size that is none.
            PresentError: there is such an entry, or it is being filled.
            NoSpaceError: the files do not fit.
            IntruderError: something strange lies in the store.
        """
        manifest.check_key(key)
        manifest.check_sizes(sizes)
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
        except (DamagedError, IntruderError):
            # Gone on with, it would end the same way again.
            self._drop(key)
            raise
        except OSError as error:
            if error.errno not in reservation.FULL:
                raise
            raise NoSpaceError(f"{key} does not fit into the file system of {self._path}: {error.strerror}") from None
        finally:
            self._settle(key)
            with self._lock:
                self._active.discard(key)

    def discard(self, key: str) -> None:
        """Drop a draft that waits to be gone on with.

        Raises:
            PresentError: it is being filled.
        """
        manifest.check_key(key)
        with self._lock:
            if key in self._active:
                raise PresentError(f"{key} is being filled; end that first")
            self._active.add(key)
            self._drafts.pop(key, None)
        try:
            self._drop(key)
        finally:
            with self._lock:
                self._active.discard(key)

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
            self._accounts.promise(key, self.footprint_bytes(sizes))
            folders.make(key, drafts)
        with folders.opened(key, drafts) as folder:
            if kept is None:
                reservation.reserve(sizes, folder)
                self._accounts.reserved(key, folders.allocated_bytes(folder))
            yield folder

    def _settle(self, key: str) -> None:
        """Keep or drop what is left of a draft."""
        with self._lock:
            if key in self._entries:
                return
            if self._is_durable:
                with suppress(DamagedError):
                    self._drafts[key] = kept = adoption.read_draft(key, self._inside[_DRAFTS])
                    self._accounts.kept(key, kept.allocated_bytes)
                    return
        self._drop(key)

    def _drop(self, key: str) -> None:
        try:
            folders.remove(key, self._inside[_DRAFTS])
        finally:
            self._accounts.dropped(key)

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
            self._accounts.committed(entry.key, allocated_bytes)

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
        with self._manifest_of(key) as descriptor:
            return os.fstat(descriptor).st_mtime

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

    def open_view(self, view: str) -> int:
        """Return a descriptor of a view's folder, which is made unless it is there; the caller closes it.

        Raises:
            BadNameError: `view` is no pod's uid.
            IntruderError: something else has its name.
        """
        with self._lock:
            self.make_view(view)
            with folders.opened(view, self._inside[_VIEWS]) as folder:
                return os.dup(folder)

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
        if key is not None:
            manifest.check_key(key)
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
            except DamagedError as error:
                try:
                    self._remove(key)
                except OSError as hindrance:
                    raise DamagedError(f"{error}; it can't be removed: {hindrance.strerror}") from None
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
        entries, drafts, removed = self._inside[_ENTRIES], self._inside[_DRAFTS], list[str]()
        with self._lock:
            del self._entries[key]
            self._accounts.evicted(key)
            # First what makes it an entry: a crash from here on leaves rubbish, never a part of a model.
            with suppress(FileNotFoundError, IntruderError), folders.opened(key, entries) as folder:
                folders.remove(manifest.FILE_NAME, folder)
            for view in self.views:
                views.unlink(self._inside[_VIEWS], view, key)
            # Aside, so that giving back many pages does not hold others up, and the key is free at once.
            with suppress(FileNotFoundError):
                aside = f".{key}.{os.stat(key, dir_fd=entries, follow_symlinks=False).st_ino}"
                os.rename(key, aside, src_dir_fd=entries, dst_dir_fd=drafts)
                removed.append(aside)
        for aside in removed:
            folders.remove(aside, drafts)

    @contextmanager
    def _exclusively(self, key: str) -> Iterator[None]:
        with ExitStack() as held:
            # Whoever took the manifest away took its lock with it.
            with suppress(FileNotFoundError, IntruderError):
                descriptor = held.enter_context(self._manifest_of(key))
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise LockedError(f"{key} is being read") from None
            yield

    @contextmanager
    def _manifest_of(self, key: str) -> Iterator[int]:
        if key not in self._entries:
            raise KeyError(key)
        with folders.opened(key, self._inside[_ENTRIES]) as folder:
            descriptor = folders.open_file(manifest.FILE_NAME, folder)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    # Accounts -------------------------------------------------------------------------------------------------------

    def resize(self, capacity_bytes: int) -> None:
        """Take another capacity; nothing is evicted by that. The file system is not changed."""
        self._accounts.resize(capacity_bytes)

    def usage(self) -> Usage:
        """Count bytes as the file system does."""
        return self._accounts.usage()

    def strangers(self) -> tuple[str, ...]:
        """Return in words what lies here that the store did not make, and what to do; a few at most."""
        entries, drafts = self._inside[_ENTRIES], self._inside[_DRAFTS]
        with self._lock:
            known = self._entries.keys() | self._drafts.keys() | self._active
            found = [
                *((name, self._root, self._path) for name in folders.names(self._root) if name not in self._inside),
                *((name, entries, self._path / _ENTRIES) for name in folders.names(entries) if name not in known),
                *((name, drafts, self._path / _DRAFTS) for name in folders.names(drafts) if name not in known),
            ]
        return tuple(adoption.stranger(*each) for each in found[:_MAX_STRANGERS])

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
                self._accounts.kept(name, kept.allocated_bytes)
            except DamagedError as error:
                yield folders.cleared(name, drafts, str(error))
        for name in folders.names(entries):
            try:
                self._entries[name], allocated_bytes = adoption.read_entry(name, entries)
                self._accounts.committed(name, allocated_bytes)
            except DamagedError as error:
                yield folders.cleared(name, entries, str(error))
        yield from views.recover(self._inside[_VIEWS], self._entries.keys())
