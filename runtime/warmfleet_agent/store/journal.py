"""Which ranges of a draft are on disk for good, as lines of a file beside them.

The order makes it true: data, fdatasync of the data, line, fdatasync of the line. So a line that can be read speaks of
bytes that outlived whatever happened after it, a killed agent or a loss of power. A torn line ends the reading.
"""

import os
import zlib
from collections.abc import Mapping

import msgspec

from warmfleet_agent.store import folders
from warmfleet_agent.store.ranges import Ranges

FILE_NAME = ".journal"
"""No file of a model starts with a dot."""
_MAX_BYTES = 64 * 1024 * 1024


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What the draft is to become: the first line."""

    key: str
    uri: str
    sizes: dict[str, int]


class _Line(msgspec.Struct, frozen=True, array_like=True):
    path: str
    start: int
    end: int
    """0: the path is missing as a whole again."""


class Journal:
    """The open journal of one draft. Not thread-safe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def append(self, path: str, start: int, end: int) -> None:
        """Note that a range is durable; counts after `sync`.

        Raises:
            OSError: no space, or a broken disk.
        """
        _write(self._descriptor, _encode(_Line(path, start, end)))

    def forget(self, path: str) -> None:
        """Note that nothing of a file counts any more, for good when this returns."""
        self.append(path, 0, 0)
        self.sync()

    def sync(self) -> None:
        """Make what was appended durable."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


def create(folder: int, head: Head) -> Journal:
    """Start the journal of a draft whose files have their space.

    Raises:
        OSError: no space, or a broken disk.
    """
    descriptor = folders.create_file(FILE_NAME, folder)
    try:
        _write(descriptor, _encode(head))
        os.fsync(descriptor)
        folders.sync(folder)
    except BaseException:
        os.close(descriptor)
        raise
    return Journal(descriptor)


def read(folder: int) -> tuple[Head, Mapping[str, Ranges]]:
    """Read which ranges of which files are there, and cut off what was torn.

    Raises:
        ValueError: it is no journal.
        OSError: there is none, or it is not the store's.
    """
    descriptor = folders.open_file(FILE_NAME, folder, to_write=True)
    with os.fdopen(descriptor, "r+b") as file:
        if os.fstat(descriptor).st_size > _MAX_BYTES:
            raise ValueError("the journal is too large")
        good = file.readline()
        head = msgspec.json.decode(_decode(good), type=Head)
        ranges = {path: Ranges() for path in head.sizes}
        length = len(good)
        for raw in file:
            try:
                line = msgspec.json.decode(_decode(raw), type=_Line)
            except ValueError:
                break
            if line.path not in ranges or not 0 <= line.start <= line.end <= head.sizes[line.path]:
                break
            if line.end:
                ranges[line.path].add(line.start, line.end)
            else:
                ranges[line.path] = Ranges()
            length += len(raw)
        file.truncate(length)
    return head, ranges


def reopen(folder: int) -> Journal:
    """Open a journal that was read, to append."""
    descriptor = folders.open_file(FILE_NAME, folder, to_write=True)
    os.lseek(descriptor, 0, os.SEEK_END)
    return Journal(descriptor)


def _encode(item: Head | _Line) -> bytes:
    content = msgspec.json.encode(item)
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _decode(line: bytes) -> bytes:
    checksum, _, content = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(content):
        raise ValueError("a torn line")
    return content


def _write(descriptor: int, content: bytes) -> None:
    written = 0
    while written < len(content):
        written += os.write(descriptor, content[written:])
