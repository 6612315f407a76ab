"""The entries of the weight store as the node's agent shows them to this runner, and the locks on what engines read.

An entry is there once its manifest is. A shared lock (flock) on the manifest keeps the agent from evicting the entry:
PID 1 takes it before the engine has a process, and holds it until the last process of the engine is gone. The folders
are of a tmpfs, so that nothing here waits for a disk.
"""

import fcntl
import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from warmfleet_api import names
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Reason
from warmfleet_api.weights import Manifest, decode_manifest
from warmfleet_runtime.folder_watch import FolderWatch
from warmfleet_runtime.machine.events import WeightsSeen
from warmfleet_runtime.machine.state import Engine

LOOK_SECONDS = 0.1
"""Between two looks for what is missing, where the kernel does not tell of news."""
MAX_MANIFEST_BYTES = 64 * 1024 * 1024


class DamagedError(Exception):
    """An entry can't be served; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class _Lock:
    """One entry, locked for one engine."""

    descriptor: int
    bytes: int
    """Size of the entry."""


class WeightsView:
    """Looks for entries, and holds their locks, as the state machine's engines need them."""

    def __init__(self, root: Path, dispatch: Callable[[WeightsSeen], None], on_news: Callable[[], None]) -> None:
        """`on_news` is called when something may have changed and `keep` is to be called soon."""
        self._root = root
        self._dispatch = dispatch
        self._on_news = on_news
        self._locks: dict[str, dict[str, _Lock]] = {}
        """By engine and key."""
        self._watch: FolderWatch | None = None
        self._look_at = 0.0

    def keep(self, readers: Mapping[str, Engine]) -> None:
        """Lock what these engines read and is there, let go of everything else, and tell of what changed for them.

        To be called often: at least every `LOOK_SECONDS` while something is missing.
        """
        for key in list(self._locks):
            self._let_go(key, keep=readers[key].entries if key in readers else ())
        waiting = {key: engine for key, engine in readers.items() if engine.missing}
        if not waiting:
            self._stop_watching()
            return
        # An engine that was not looked for yet does not wait for the next look.
        is_new = any(key not in self._locks for key in waiting)
        if not is_new and time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        for key, engine in waiting.items():
            self._look_for(key, engine)

    def close(self) -> None:
        """Let go of everything."""
        self._stop_watching()
        for key in list(self._locks):
            self._let_go(key)

    def _look_for(self, key: str, engine: Engine) -> None:
        held = self._locks.setdefault(key, {})
        for entry in engine.entries:
            if entry in held:
                continue
            self._watch_for(entry)
            try:
                lock = _locked(self._root / entry)
            except DamagedError as damage:
                self._let_go(key)
                error = EngineError(reason=Reason.MODEL_NOT_FOUND, message=str(damage))
                self._dispatch(WeightsSeen(key, engine.entries, engine.entries, error=error))
                return
            if lock is not None:
                held[entry] = lock
        missing = tuple(entry for entry in engine.entries if entry not in held)
        if missing != engine.missing:
            size = 0 if missing else sum(lock.bytes for lock in held.values())
            self._dispatch(WeightsSeen(key, engine.entries, missing, size))

    def _let_go(self, key: str, keep: tuple[str, ...] = ()) -> None:
        held = self._locks[key]
        for entry in held.keys() - set(keep):
            os.close(held.pop(entry).descriptor)
        if not keep:
            del self._locks[key]

    # News -----------------------------------------------------------------------------------------------------------

    def _watch_for(self, entry: str) -> None:
        """Have the kernel tell when an entry comes: its folder first, the manifest in it last."""
        if self._watch is None:
            self._watch = FolderWatch(self._hasten)
        self._watch.add(self._root)
        self._watch.add(self._root / entry)

    def _hasten(self) -> None:
        self._look_at = 0.0
        self._on_news()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.close()
            self._watch = None


def _locked(folder: Path) -> _Lock | None:
    """Return an entry with a lock on it; None: it is not there.

    Raises:
        DamagedError: it is there, and is not what its manifest says.
    """
    path = folder / names.MANIFEST_FILE
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedError(f"{path} can't be opened: {error.strerror}. {_advice(folder)}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        # Evicted between open and lock: it has no name any more, or another entry has it.
        if os.fstat(descriptor).st_ino != path.stat().st_ino:
            raise FileNotFoundError
        return _Lock(descriptor, _checked(folder, _read(descriptor, folder)))
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise


def _read(descriptor: int, folder: Path) -> Manifest:
    try:
        size = os.fstat(descriptor).st_size
        if size > MAX_MANIFEST_BYTES:
            raise ValueError(f"it has {size} bytes")
        manifest = decode_manifest(os.pread(descriptor, size, 0))
    except (OSError, ValueError) as error:  # MsgspecError among them
        raise DamagedError(f"{folder / names.MANIFEST_FILE} is no manifest: {error}. {_advice(folder)}") from None
    if manifest.key != folder.name:
        raise DamagedError(f"{folder} is said to be the entry {manifest.key}. {_advice(folder)}")
    return manifest


def _checked(folder: Path, manifest: Manifest) -> int:
    """Return the bytes of an entry whose files are as long as the manifest says: to map a shorter one ends in SIGBUS.

    A manifest whose own files are gone is that of an entry which is being taken out.
    """
    for piece in manifest.files:
        path = PurePosixPath(piece.path)
        if path.is_absolute() or ".." in path.parts:
            raise DamagedError(f"the manifest of {folder} names {piece.path[:200]!r}. {_advice(folder)}")
        try:
            found = (folder / path).stat(follow_symlinks=False)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise DamagedError(f"{piece.path[:200]!r} in {folder}: {error}. {_advice(folder)}") from None
        if not stat.S_ISREG(found.st_mode) or found.st_size != piece.bytes:
            sizes = f"{found.st_size} bytes instead of {piece.bytes}"
            raise DamagedError(f"{folder / path} has {sizes}, so nothing reads it. {_advice(folder)}")
    return manifest.bytes


def _advice(folder: Path) -> str:
    return f"Look at `kubectl get nodecache` of this node, and restart its agent if {folder.name} stays so"
