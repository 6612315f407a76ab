"""An entry while it is filled: ranges in any order from any thread, or whole files; then hashed, then committed."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from warmfleet_agent.store import copying, folders
from warmfleet_agent.store.errors import DamagedError
from warmfleet_agent.store.journal import Journal
from warmfleet_agent.store.ranges import Range, Ranges
from warmfleet_api.weights import Manifest, Piece

CHECKPOINT_BYTES = 256 * 1024 * 1024
CHECKPOINT_SECONDS = 2.0
"""After how much, or how long, a durable store makes what was written last: so much is fetched again after a kill."""


Commit = Callable[[Manifest, int], None]
"""Makes the files in an open folder an entry."""


class Draft:
    """The files of an entry to be. Its methods block, and any thread may call them."""

    def __init__(
        self,
        commit: Commit,
        key: str,
        sizes: Mapping[str, int],
        folder: int,
        ranges: Mapping[str, Ranges] | None = None,
    ) -> None:
        """`ranges`: what is there already. The store makes drafts; see `Store.begin`."""
        self._commit = commit
        self._key = key
        self._sizes = dict(sizes)
        self._folder = folder
        self._ranges = {path: Ranges() for path in sizes} | dict(ranges or {})
        self._hashes: dict[str, str] = {}
        self._users = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._journal: Journal | None = None
        self._checkpointing = threading.Lock()
        self._pending: dict[str, Ranges] = {}
        self._pending_bytes = 0
        self._checkpointed_at = time.monotonic()

    @property
    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file."""
        return dict(self._sizes)

    @property
    def written_bytes(self) -> int:
        """Bytes that are there, of all files."""
        with self._changed:
            return sum(ranges.bytes for ranges in self._ranges.values())

    # Filling --------------------------------------------------------------------------------------------------------

    def missing(self, path: str) -> tuple[Range, ...]:
        """Return the ranges of a file that are not written yet, half-open and in order.

        Raises:
            DamagedError: the draft has no such file.
        """
        with self._changed:
            return self._ranges[path].missing(self._size(path))

    def write(self, path: str, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write a range of a file.

        Raises:
            DamagedError: it is not inside the file, or the draft is closed.
            IntruderError: somebody changed the file.
            OSError: a broken disk.
        """
        end = offset + len(data)
        if offset < 0 or end > self._size(path):
            raise DamagedError(
                f"bytes {offset} to {end} of {path} are outside its {self._sizes[path]} bytes; the source changed"
            )
        with self._opened(path, to_write=True) as target:
            copying.write(target, data, offset)
            self._note(path, offset, end)

    def fill(self, path: str, source: int, on_progress: Callable[[int], None] | None = None) -> str:
        """Copy a whole file from a descriptor, hash it in the same pass, and return its blake3; then it is sealed.

        `on_progress` is called with the bytes of each step.

        Raises:
            ShortSourceError: the source is shorter than announced.
            DamagedError, IntruderError, OSError: as `write`.
        """
        size = self._size(path)
        with self._opened(path, to_write=True) as target:
            found = copying.copy(source, target, size, on_progress)
            self._note(path, 0, size)
        with self._changed:
            self._hashes[path] = found
        return found

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return what is written at some place; bytes that were never written are 0.

        Raises:
            DamagedError, IntruderError, OSError: as `write`.
        """
        with self._opened(path) as source:
            return os.pread(source, length, offset)

    def seal(self, path: str, watch: copying.Watch | None = None) -> str:
        """Hash a written file by reading it back, and return its blake3.

        `watch` sees every block in order in the same pass, e.g. to compute a hash that the source names; what it
        raises comes out of here. Writing to the file afterwards takes the seal away.

        Raises:
            DamagedError: some of it is missing, or the draft is closed.
            IntruderError: somebody changed the file.
            OSError: a broken disk.
        """
        if missing := self.missing(path):
            raise DamagedError(f"{path} lacks bytes {missing[0][0]} to {missing[0][1]}; it is fetched again")
        with self._opened(path) as source:
            found = copying.digest(source, self._sizes[path], watch)
        with self._changed:
            self._hashes[path] = found
        return found

    def forget(self, path: str) -> None:
        """Count nothing of a file as written: it turned out to be wrong. Nobody else may write it meanwhile.

        Raises:
            DamagedError: the draft has no such file.
            OSError: a broken disk.
        """
        self._size(path)
        with self._checkpointing:
            with self._changed:
                self._ranges[path] = Ranges()
                self._hashes.pop(path, None)
                self._pending.pop(path, None)
            if self._journal is not None:
                self._journal.forget(path)

    def commit(self, uri: str, revision: str = "", expected: str | Sequence[Piece] = "") -> Manifest:
        """Make the draft an entry.

        Args:
            uri: where it comes from.
            revision: what the source calls it.
            expected: what is known beforehand: the entry's digest, or pieces with their hashes.

        Raises:
            DamagedError: a file is not sealed, or is not what was expected.
            IntruderError: somebody changed the files.
            NoSpaceError: the file system is full.
            OSError: a broken disk.
        """
        with self._changed:
            hashes = dict(self._hashes)
        if missing := sorted(self._sizes.keys() - hashes.keys()):
            raise DamagedError(f"{self._key} lacks {', '.join(missing[:3])}; it is fetched again")
        pieces = tuple(Piece(path=path, bytes=size, blake3=hashes[path]) for path, size in sorted(self._sizes.items()))
        entry = Manifest(key=self._key, uri=uri, revision=revision, files=pieces)
        if isinstance(expected, str):
            wrong = [self._key] if expected and expected != entry.digest else []
        else:
            wrong = [piece.path for piece in expected if piece not in pieces]
        if wrong:
            raise DamagedError(f"{wrong[0]} of {self._key} is not what was announced; it is fetched again")
        with self._using():
            self._commit(entry, self._folder)
        with self._changed:
            # The commit has made everything last; the files are nobody's to write any more.
            self._pending.clear()
        return entry

    # Being kept -----------------------------------------------------------------------------------------------------

    def keep(self, journal: Journal) -> None:
        """Note what is written in a journal from now on."""
        self._journal = journal

    def checkpoint(self) -> None:
        """Make all that was written so far durable, where there is a journal.

        Raises:
            OSError: a broken disk.
        """
        with self._checkpointing:
            self._checkpoint()

    def close(self) -> None:
        """Take no more calls, and wait for those that are under way."""
        with self._changed:
            self._is_closed = True
            self._changed.wait_for(lambda: self._users == 0)
        if self._journal is not None:
            # Only less is kept if this fails; the error that matters is under way.
            with suppress(OSError):
                self.checkpoint()
            self._journal.close()

    def _note(self, path: str, start: int, end: int) -> None:
        with self._changed:
            self._ranges[path].add(start, end)
            self._hashes.pop(path, None)
            if self._journal is None:
                return
            self._pending.setdefault(path, Ranges()).add(start, end)
            self._pending_bytes += end - start
            waited_seconds = time.monotonic() - self._checkpointed_at
            if self._pending_bytes < CHECKPOINT_BYTES and waited_seconds < CHECKPOINT_SECONDS:
                return
        # Who comes while another one does it goes on: its ranges are for the next time.
        if self._checkpointing.acquire(blocking=False):
            try:
                self._checkpoint()
            finally:
                self._checkpointing.release()

    def _checkpoint(self) -> None:
        if self._journal is None:
            return
        with self._changed:
            pending, self._pending = self._pending, {}
            self._pending_bytes = 0
            self._checkpointed_at = time.monotonic()
        for path in pending:
            descriptor = folders.open_file(path, self._folder, to_write=True)
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        for path, ranges in pending.items():
            for start, end in ranges:
                self._journal.append(path, start, end)
        if pending:
            self._journal.sync()

    def _size(self, path: str) -> int:
        if path not in self._sizes:
            raise DamagedError(f"{self._key} has no {folders.shown(path)}; the source changed")
        return self._sizes[path]

    @contextmanager
    def _opened(self, path: str, *, to_write: bool = False) -> Iterator[int]:
        size = self._size(path)
        with self._using():
            descriptor = folders.open_file(path, self._folder, to_write=to_write)
            try:
                if os.fstat(descriptor).st_size != size:
                    raise DamagedError(f"somebody changed the size of {path} in the store; it is fetched again")
                yield descriptor
            finally:
                os.close(descriptor)

    @contextmanager
    def _using(self) -> Iterator[None]:
        """Keep the folder's descriptor open: a late thread must never write into what got its number next."""
        with self._changed:
            if self._is_closed:
                raise DamagedError(f"the draft of {self._key} was given up")
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()
