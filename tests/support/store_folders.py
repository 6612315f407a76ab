"""Stores for tests: in a folder of node memory, or in a tmpfs of their own, and what is in them."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from warmfleet_agent.store import Store

MIB = 1024 * 1024
MEMORY = Path("/dev/shm")


@contextmanager
def memory_folder() -> Iterator[Path]:
    """A folder in memory, which is gone afterwards; not a file system of its own."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, prefix="warmfleet-test-") as folder:
        yield Path(folder)


@contextmanager
def mounted(folder: Path, size_bytes: int, huge: str = "never") -> Iterator[Path]:
    """A tmpfs of its own at a folder that exists; needs root. It is gone afterwards, whoever still maps its files.

    `huge`: always or never, whether its pages are of 2 MiB.
    """
    options = f"size={size_bytes},mode=0755,nosuid,nodev,noexec,huge={huge}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "warmfleet", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def put(store: Store, key: str, source: Path, path: str = "model.safetensors") -> None:
    """Make an entry of one file."""
    with source.open("rb") as file, store.begin(key, {path: source.stat().st_size}) as draft:
        draft.fill(path, file.fileno())
        draft.commit("file:///source")


def allocated_bytes(folder: Path) -> int:
    """Return what all files below a folder take, each once, however many names it has."""
    found: dict[int, int] = {}
    for base, _, names in os.walk(folder):
        for name in names:
            status = Path(base, name).lstat()
            found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())
