"""What PID 1 sees of the weight store, and what it holds of it."""

import asyncio
import fcntl
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from support.entries import FILES, show
from support.machine import engine
from support.waiting import wait_for
from warmfleet_api import names
from warmfleet_runtime.machine.events import WeightsSeen
from warmfleet_runtime.machine.state import Engine
from warmfleet_runtime.weights_view import WeightsView


def reader(*keys: str) -> Engine:
    return Engine(engine("m"), engine("m"), entries=keys, missing=keys)


def is_locked(manifest: Path) -> bool:
    """Whether the agent would have to let the entry be."""
    with manifest.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Looker:
    """A view with everything it told."""

    def __init__(self, root: Path) -> None:
        self.told: list[WeightsSeen] = []
        self.news = asyncio.Event()
        self.view = WeightsView(root, self.told.append, self.news.set)
        self.open_before = open_descriptors()

    def look(self, *keys: str) -> WeightsSeen | None:
        """Keep one engine that knows of nothing, and return what is told to it."""
        self.told.clear()
        self.view.keep({"m": reader(*keys)})
        return self.told[-1] if self.told else None


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    view = tmp_path / "view"
    view.mkdir()
    return view


async def test_an_entry_is_locked_until_its_engine_is_gone(root: Path) -> None:
    manifest = show(root, "model-1")
    looker = Looker(root)
    found = looker.look("model-1")
    assert found is not None
    assert (found.missing, found.error, found.weight_bytes) == ((), None, sum(map(len, FILES.values())))
    assert is_locked(manifest)
    looker.view.keep({"m": replace(reader("model-1"), missing=())})
    assert is_locked(manifest)
    looker.view.keep({})
    assert not is_locked(manifest)
    assert open_descriptors() == looker.open_before


async def test_what_comes_is_told_at_once_and_what_is_missing_is_not_looked_for_all_the_time(root: Path) -> None:
    looker = Looker(root)
    assert looker.look("model-1", "lora-1") is None, "it knows that both are missing"
    show(root, "model-1")
    async with asyncio.timeout(1):
        await looker.news.wait()
    while (found := looker.look("model-1", "lora-1")) is None or found.missing != ("lora-1",):
        looker.news.clear()
        async with asyncio.timeout(1):
            await looker.news.wait()
    looker.view.close()
    assert open_descriptors() == looker.open_before


async def test_without_watches_of_the_kernel_it_is_found_all_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmfleet_runtime.folder_watch._libc.inotify_init1", lambda _: -1)
    looker = Looker(root)
    assert looker.look("model-1") is None
    show(root, "model-1")
    assert looker.look("model-1") is None, "it was looked for a moment ago"
    await asyncio.to_thread(wait_for, "a tenth of a second", lambda: looker.look("model-1") is not None, 2)
    assert not looker.news.is_set()
    looker.view.close()


async def test_an_entry_that_is_being_evicted_is_not_there(root: Path) -> None:
    manifest = show(root, "model-1")
    looker = Looker(root)
    with manifest.open("rb") as agent:
        fcntl.flock(agent, fcntl.LOCK_EX)
        assert looker.look("model-1") is None
        shutil.rmtree(manifest.parent)
    looker.view.close()


async def test_a_manifest_whose_files_are_gone_is_no_entry_yet(root: Path) -> None:
    manifest = show(root, "model-1")
    (manifest.parent / "config.json").unlink()
    looker = Looker(root)
    assert looker.look("model-1") is None
    assert not is_locked(manifest)
    looker.view.close()


@pytest.mark.parametrize("size", [0, 9, 11, 2**40])
async def test_a_file_of_another_size_than_its_manifest_says_is_refused_before_anything_maps_it(
    root: Path, size: int
) -> None:
    manifest = show(root, "model-1", sizes={"model.safetensors": size})
    looker = Looker(root)
    found = looker.look("model-1")
    assert found is not None and found.error is not None
    assert f"has 10 bytes instead of {size}" in found.error.message
    assert not is_locked(manifest)
    looker.view.close()
    assert open_descriptors() == looker.open_before


@pytest.mark.parametrize("content", [b"", b"{", b'{"key": "other", "uri": "", "files": []}', b"\x00" * 100])
async def test_what_is_no_manifest_is_refused_in_words(root: Path, content: bytes) -> None:
    (root / "model-1").mkdir()
    (root / "model-1" / names.MANIFEST_FILE).write_bytes(content)
    looker = Looker(root)
    found = looker.look("model-1")
    assert found is not None and found.error is not None
    assert str(root / "model-1") in found.error.message
    assert "kubectl get nodecache" in found.error.message
    looker.view.close()


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a\0b", "x" * 4096, "model.safetensors/config.json", ""])
async def test_a_manifest_that_names_strange_files_is_refused(root: Path, path: str) -> None:
    manifest = show(root, "model-1")
    manifest.write_bytes(manifest.read_bytes().replace(b'"config.json"', json.dumps(path).encode()))
    looker = Looker(root)
    found = looker.look("model-1")
    assert found is not None and found.error is not None
    assert path.replace("\0", r"\x00")[:100] in found.error.message
    looker.view.close()


@pytest.mark.parametrize("intruder", ["link", "pipe"])
@pytest.mark.parametrize("name", ["model.safetensors", names.MANIFEST_FILE])
async def test_what_is_no_plain_file_is_refused_and_never_waited_for(root: Path, name: str, intruder: str) -> None:
    manifest = show(root, "model-1")
    file = manifest.with_name(name)
    file.rename(root / "elsewhere")
    if intruder == "link":
        file.symlink_to(root / "elsewhere")
    else:
        os.mkfifo(file)
    looker = Looker(root)
    found = looker.look("model-1")
    assert found is not None and found.error is not None
    looker.view.close()


async def test_two_engines_of_one_entry_hold_a_lock_each(root: Path) -> None:
    manifest = show(root, "model-1")
    view = WeightsView(root, lambda _: None, lambda: None)
    both = {name: reader("model-1") for name in "ab"}
    view.keep(both)
    view.keep({"b": both["b"]})
    assert is_locked(manifest)
    view.close()
    assert not is_locked(manifest)
