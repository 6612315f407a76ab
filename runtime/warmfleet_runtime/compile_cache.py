"""Packs an engine's compile cache for others, and unpacks one before an engine's first start.

    python -m warmfleet_runtime.compile_cache CACHE TARGET      packs; the cache folder has the cache's name

Both work by descriptors below one folder, follow no link, and write only plain files below `artifacts.ROOTS`. The same
folder gives the same bytes.
"""

import os
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from warmfleet_api import artifacts
from warmfleet_api.artifacts import Index, PackedFile, PackError
from warmfleet_runtime.processes import die_with_parent

PACK_TRIES = 3
PACK_PAUSE_SECONDS = 2.0
"""Between two tries: an engine may still write when it is Ready."""
PACK_NICENESS = 10
_BLOCK_BYTES = 1024**2
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_PASSING = (".lock", ".tmp")
"""Ends of names of what processes keep while they work."""


def pack(cache: Path, target: Path, name: str) -> int:
    """Write the compile cache of an engine to a new file, and return its size in bytes.

    What is no regular file or has a strange name is left out: the engine makes it anew. `target` appears whole or not
    at all.

    Raises:
        PackError: there is nothing to pack, too much, or it changed meanwhile.
        OSError: it can't be read or written.
    """
    with ExitStack() as stack:
        folder = os.open(cache, _FOLDER)
        stack.callback(os.close, folder)
        files = sorted(_files("", folder), key=lambda file: file.path)
        if not files:
            raise PackError("the engine left no compile cache")
        head = artifacts.encode_index(Index(name, tuple(files)))
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = target.with_name(f".{secrets.token_hex(8)}")
        stack.callback(staged.unlink, missing_ok=True)
        with staged.open("xb") as output:
            output.write(head)
            for file in files:
                _append(file, folder, output)
        staged.chmod(0o444)
        staged.rename(target)
        return len(head) + sum(file.bytes for file in files)


def unpack(source: Path, cache: Path, name: str) -> int:
    """Write a pack's files to an engine's cache that does not exist yet, and return how many there are.

    `cache` appears whole or not at all.

    Raises:
        PackError: the pack is not what it should be.
        FileExistsError: there is a cache already.
        OSError: it can't be read or written.
    """
    if cache.exists():
        raise FileExistsError(f"{cache} is there already")
    staged = cache.with_name(f".{secrets.token_hex(8)}")
    with ExitStack() as stack:
        pack_file = stack.enter_context(os.fdopen(os.open(source, _FILE), "rb"))
        status = os.fstat(pack_file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PackError(f"{source} is no file")
        index_bytes = artifacts.index_bytes(pack_file.read(artifacts.PREFIX_BYTES))
        index = artifacts.decode_index(pack_file.read(index_bytes), name, status.st_size)
        staged.mkdir(mode=0o700, parents=True)
        stack.callback(shutil.rmtree, staged, ignore_errors=True)
        for file in index.files:
            path = staged / file.path
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("xb") as output:
                left = file.bytes
                while left:
                    block = pack_file.read(min(left, _BLOCK_BYTES))
                    if not block:
                        raise PackError(f"the pack ends within {file.path}")
                    output.write(block)
                    left -= len(block)
        staged.rename(cache)
        return len(index.files)


def _files(prefix: str, folder: int, depth: int = 0) -> Iterator[PackedFile]:
    """Yield the files below a folder that a pack may hold."""
    for name in os.listdir(folder):
        path = f"{prefix}{name}"
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) and depth < artifacts.MAX_DEPTH and _leads_to_root(path):
            inside = os.open(name, _FOLDER, dir_fd=folder)
            try:
                yield from _files(f"{path}/", inside, depth + 1)
            finally:
                os.close(inside)
        elif stat.S_ISREG(status.st_mode) and not name.endswith(_PASSING) and _may_be_packed(path):
            yield PackedFile(path, status.st_size)


def _leads_to_root(path: str) -> bool:
    return any(f"{root}/".startswith(f"{path}/") or path.startswith(f"{root}/") for root in artifacts.ROOTS)


def _may_be_packed(path: str) -> bool:
    try:
        artifacts.check_path(path)
    except PackError:
        return False
    return True


def _append(file: PackedFile, folder: int, output: BinaryIO) -> None:
    """Copy a file's content; each part of its path is opened anew, and none may be a link by now."""
    *parts, name = file.path.split("/")
    with ExitStack() as stack:
        for part in parts:
            folder = os.open(part, _FOLDER, dir_fd=folder)
            stack.callback(os.close, folder)
        source = stack.enter_context(os.fdopen(os.open(name, _FILE, dir_fd=folder), "rb"))
        if os.fstat(source.fileno()).st_size != file.bytes:
            raise PackError(f"{file.path} changed while it was packed")
        left = file.bytes
        while left:
            block = source.read(min(left, _BLOCK_BYTES))
            if not block:
                raise PackError(f"{file.path} changed while it was packed")
            output.write(block)
            left -= len(block)


def main(cache: Path, target: Path) -> int:
    """Pack, beside an engine that has better things to do; return the exit code."""
    die_with_parent()
    os.nice(PACK_NICENESS)
    for left in reversed(range(PACK_TRIES)):
        try:
            pack(cache, target, cache.name)
        except (PackError, OSError) as error:
            if left:
                time.sleep(PACK_PAUSE_SECONDS)
                continue
            sys.stderr.write(f"{cache} is not handed on: {error}\n")
            return 1
        break
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
