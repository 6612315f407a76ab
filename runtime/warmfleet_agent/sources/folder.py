"""file:// - a folder of the node, below a root that an administrator named.

What lies below a root may belong to others (a shared file system), so nothing is followed: each part of a path is
opened by its descriptor and must be a folder, each file a regular one.
"""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from warmfleet_agent.sources import formats
from warmfleet_agent.sources.contract import Listing, RemoteFile, SourceError, SourceRules
from warmfleet_agent.sources.web import ChangedError
from warmfleet_agent.store import folders
from warmfleet_agent.store.manifest import MAX_DEPTH
from warmfleet_api.vocabulary import WeightsProblem

_EDGE_BYTES = 4096
"""Of both ends of each file, that go into the revision: the header of safetensors is at the start."""
_MAX_NAMES = 100_000
_UNSEEN_ROOT_RETRY_SECONDS = 5.0
_BLOCK_BYTES = 4 * 1024 * 1024


class FolderSource:
    """A folder of the node."""

    def __init__(self, uri: str, revision: str | None, rules: SourceRules) -> None:
        """Raise SourceError: it is not below a root."""
        self._uri = uri
        self._revision = revision
        self._root, self._inside = _below_a_root(uri, rules)
        self._listing: Listing | None = None
        self._seen: dict[str, tuple[int, ...]] = {}

    async def list(self) -> Listing:
        """See `Source.list`. The revision is a hash of names, sizes and both ends of each file."""
        return await asyncio.to_thread(self._list)

    async def read(self, path: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """See `Source.read`."""
        descriptor = await asyncio.to_thread(self.open, path)
        try:
            while length:
                block = await asyncio.to_thread(os.pread, descriptor, min(length, _BLOCK_BYTES), offset)
                if not block:
                    raise ChangedError(f"{self._uri}/{path}", "is shorter than listed")
                yield block
                offset, length = offset + len(block), length - len(block)
            self.verify(path, descriptor)
        finally:
            os.close(descriptor)

    def open(self, path: str) -> int:
        """See `LocalSource.open`."""
        if self._listing is None:
            self._list()
        with _translated(self._uri), _opened(self._root, self._inside) as folder:
            descriptor = folders.open_file(path, folder)
        try:
            self.verify(path, descriptor)
        except SourceError:
            os.close(descriptor)
            raise
        return descriptor

    def verify(self, path: str, descriptor: int) -> None:
        """See `LocalSource.verify`."""
        if _identity(os.fstat(descriptor)) != self._seen.get(path):
            raise ChangedError(f"{self._uri}/{path}", "is another file by now")

    def _list(self) -> Listing:
        with _translated(self._uri), _opened(self._root, self._inside) as folder:
            found = []
            for path, status in _walk(folder):
                if not formats.is_wanted(path):
                    found.append(RemoteFile(path, 0, None))
                    continue
                if not stat.S_ISREG(status.st_mode):
                    raise SourceError(
                        WeightsProblem.FORBIDDEN_SOURCE,
                        f"{self._uri}: {path[:80]!r} is a link or no file, which is not followed. Copy the model with"
                        " `cp -rL`, which copies what links point to",
                    )
                self._seen[path] = _identity(status)
                found.append(RemoteFile(path, status.st_size, None))
            files = formats.choose(self._uri, found)
            revision = self._revision_of(files, folder)
        if self._revision not in {None, "", revision}:
            raise SourceError(
                WeightsProblem.MODEL_NOT_FOUND,
                f"{self._uri} is at {revision} by now, not at {self._revision}. Put the former files back, or set the"
                " revision to the new one",
            )
        self._listing = Listing(self._uri, revision, files)
        return self._listing

    def _revision_of(self, files: tuple[RemoteFile, ...], folder: int) -> str:
        digest = hashlib.sha256()
        for file in files:
            descriptor = folders.open_file(file.path, folder)
            try:
                first = os.pread(descriptor, _EDGE_BYTES, 0)
                last = os.pread(descriptor, _EDGE_BYTES, max(0, file.bytes - _EDGE_BYTES))
            finally:
                os.close(descriptor)
            edges = hashlib.sha256(first).hexdigest() + hashlib.sha256(last).hexdigest()
            digest.update(f"{file.path} {file.bytes} {edges}\n".encode())
        return "sha256:" + digest.hexdigest()


@contextmanager
def _opened(root: Path, inside: tuple[str, ...]) -> Iterator[int]:
    """Open the root, then each folder below it."""
    with ExitStack() as stack:
        try:
            current = stack.enter_context(folders.opened(str(root)))
        except FileNotFoundError:
            raise SourceError(
                WeightsProblem.SOURCE_UNREACHABLE,
                f"this node's agent does not see {root} of spec.fileRoots yet. It is replaced by one that does; if that"
                " lasts, see `kubectl -n warmfleet-agents get pods -o wide`",
                retry_after_seconds=_UNSEEN_ROOT_RETRY_SECONDS,
            ) from None
        for name in inside:
            current = stack.enter_context(folders.opened(name, current))
        yield current


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    """Turn errors of the file system into words."""
    path = uri.removeprefix("file://")
    try:
        yield
    except FileNotFoundError:
        raise SourceError(
            WeightsProblem.MODEL_NOT_FOUND, f"{uri} is not on this node. Put it there, see `ls {path}`"
        ) from None
    except folders.IntruderError:
        raise SourceError(
            WeightsProblem.FORBIDDEN_SOURCE,
            f"{uri}: a part of it is a link or no folder, which is not followed. Name the folder itself, see"
            f" `readlink -f {path}`",
        ) from None
    except PermissionError:
        raise SourceError(
            WeightsProblem.ACCESS_DENIED,
            f"{uri} may not be read by the agent. Try `chmod -R a+rX {path}` on the node",
        ) from None
    except OSError as error:
        raise SourceError(
            WeightsProblem.SOURCE_UNREACHABLE,
            f"{uri} can't be read: {error.strerror}. See `ls -l {path}` on the node",
            retry_after_seconds=60.0,
        ) from error


def _below_a_root(uri: str, rules: SourceRules) -> tuple[Path, tuple[str, ...]]:
    written = unquote(uri.removeprefix("file://"))
    formats.refuse_hostile_name(uri, written.lstrip("/"))
    path = PurePosixPath(written)
    if not path.is_absolute():
        raise SourceError(
            WeightsProblem.FORBIDDEN_SOURCE, f"{uri} names a host or no absolute path. Write file:///folder/model"
        )
    for root in rules.file_roots:
        if path.is_relative_to(root):
            return root, path.relative_to(root).parts
    allowed = ", ".join(str(root) for root in rules.file_roots) or "none"
    raise SourceError(
        WeightsProblem.FORBIDDEN_SOURCE,
        f"{uri} is not below a folder that an administrator named (now: {allowed}). Add its folder to spec.fileRoots"
        " with `kubectl edit weightcache`",
    )


def _walk(folder: int, prefix: str = "", depth: int = 1) -> Iterator[tuple[str, os.stat_result]]:
    """Yield what lies below a folder and is no folder; links are yielded, not followed, hidden names left out."""
    names = [name for name in folders.names(folder) if not name.startswith(".")]
    if len(names) > _MAX_NAMES:
        raise SourceError(WeightsProblem.FORBIDDEN_SOURCE, f"the folder holds {len(names)} names; name one model's")
    for name in names:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISDIR(status.st_mode):
            yield prefix + name, status
        elif depth < MAX_DEPTH:
            with folders.opened(name, folder) as inner:
                yield from _walk(inner, f"{prefix}{name}/", depth + 1)


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
