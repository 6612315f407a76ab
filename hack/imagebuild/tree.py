"""A layer's content: a directory tree in which nothing depends on when and where it was made."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import Buffer

TIMESTAMP = 1767225600
"""The time stamp of every file of every layer, in seconds since 1970 (2026-01-01)."""

_COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class Digest:
    """What a layer is known by."""

    diff_id: str
    """`sha256:…` of the tree as an uncompressed tar archive."""
    size_bytes: int
    """Of that archive."""


def seal(tree: Path) -> None:
    """Drop what the container runtime provides and give every file the same time stamp."""
    for provided in ("dev", "proc", "run/lock", "sys", "tmp"):
        if (tree / provided).is_dir():
            _empty(tree / provided)
    for mounted in ("etc/hostname", "etc/resolv.conf"):
        (tree / mounted).unlink(missing_ok=True)
    for path in (tree, *tree.rglob("*")):
        os.utime(path, (TIMESTAMP, TIMESTAMP), follow_symlinks=False)


def digest(tree: Path) -> Digest:
    """Hash a tree as an archive: entries in order of their names, owners by number."""
    hashing = _Hash()
    with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_COPY_BYTES) as archive:
        archive.add(tree, arcname=".", filter=_nameless)
    return Digest(diff_id=f"sha256:{hashing.sha256.hexdigest()}", size_bytes=hashing.size_bytes)


def hash_files(*files: Path, below: Path) -> str:
    """Hash names, modes and contents of files and of all files in directories: sha256 in hexadecimal."""
    sha256 = hashlib.sha256()
    for path in sorted(found for start in files for found in _files(start)):
        content = path.read_bytes()
        executable = bool(path.stat().st_mode & stat.S_IXUSR)
        sha256.update(f"{path.relative_to(below)} {executable} {len(content)}\n".encode())
        sha256.update(content)
    return sha256.hexdigest()


class _Hash(io.BufferedIOBase):
    """A file that keeps only the hash of what is written to it."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: Buffer, /) -> int:
        self.sha256.update(data)
        written = memoryview(data).nbytes
        self.size_bytes += written
        return written


def _nameless(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uname = entry.gname = ""
    return entry


def _files(start: Path) -> list[Path]:
    if start.is_file():
        return [start]
    return [path for path in start.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
