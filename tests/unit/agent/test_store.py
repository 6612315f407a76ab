"""The store against a real tmpfs of its own: whole entries or none, whatever happens."""

import fcntl
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from warmfleet_agent.store.folders import IntruderError
from warmfleet_agent.store.manifest import BadNameError
from warmfleet_agent.store.store import DamagedError, LockedError, NoSpaceError, Store
from warmfleet_api.weights import Piece

MIB = 1024 * 1024


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "store"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "warmfleet", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(os.urandom(5 * MIB + 17))
    return path


def put(store: Store, key: str, source: Path, path: str = "model.safetensors") -> None:
    with source.open("rb") as file, store.begin(key, {path: source.stat().st_size}) as draft:
        draft.fill(path, file.fileno())
        draft.commit("file:///source")


def is_clean(store: Store) -> bool:
    usage = store.usage()
    return usage.draft_bytes == 0 and usage.unlinked_bytes < MIB


def test_an_entry_holds_what_its_source_held(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "llama", source)
    (piece,) = store.entries["llama"].files
    assert piece.blake3 == blake3(source.read_bytes()).hexdigest()
    assert (root / "entries/llama/model.safetensors").read_bytes() == source.read_bytes()
    assert (root / "entries/llama/model.safetensors").stat().st_mode & 0o777 == 0o444


def test_a_store_opened_again_adopts_whole_entries_and_writes_nothing(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    for key in ("a", "b", "c"):
        put(store, key, source)
    inodes = {path: path.stat().st_ino for path in root.rglob("*.safetensors")}
    store.close()
    again = Store(root, 60 * MIB)
    assert set(again.entries) == {"a", "b", "c"}
    assert {path: path.stat().st_ino for path in root.rglob("*.safetensors")} == inodes


def test_an_entry_without_a_manifest_is_deleted_when_the_store_opens(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "whole", source)
    put(store, "part", source)
    store.close()
    (root / "entries/part/manifest.json").unlink()
    assert set(Store(root, 60 * MIB).entries) == {"whole"}
    assert not (root / "entries/part").exists()


def test_a_file_cut_short_makes_its_entry_none(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "a", source)
    store.close()
    (root / "entries/a/model.safetensors").chmod(0o600)
    os.truncate(root / "entries/a/model.safetensors", 100)
    assert not Store(root, 60 * MIB).entries


def test_an_entry_over_the_budget_is_refused_with_numbers_and_leaves_nothing(root: Path, source: Path) -> None:
    store = Store(root, 4 * MIB)
    with pytest.raises(NoSpaceError, match=r"needs \d+ bytes, \d+ of \d+ are free"):
        put(store, "a", source)
    assert is_clean(store)


def test_a_full_file_system_refuses_the_reservation_and_leaves_nothing(root: Path, source: Path) -> None:
    store = Store(root, 1024 * MIB)
    (root / "stranger").write_bytes(bytes(60 * MIB))
    with pytest.raises(NoSpaceError):
        put(store, "a", source)
    assert not list((root / "drafts").iterdir())
    (root / "stranger").unlink()
    put(store, "a", source)


def test_bytes_of_a_stranger_in_the_file_system_count_as_used(root: Path) -> None:
    store = Store(root, 60 * MIB)
    (root / "stranger").write_bytes(bytes(10 * MIB))
    assert store.usage().unlinked_bytes >= 10 * MIB
    assert store.usage().free_bytes <= 50 * MIB


def test_a_damaged_copy_never_becomes_an_entry(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    wrong = Piece(path="model.safetensors", bytes=0, blake3="0" * 64)
    with (
        pytest.raises(DamagedError),
        source.open("rb") as file,
        store.begin("a", {"model.safetensors": source.stat().st_size}) as draft,
    ):
        draft.fill("model.safetensors", file.fileno())
        draft.commit("file:///source", expected=[wrong])
    assert not store.entries
    assert is_clean(store)


def test_a_short_source_never_becomes_an_entry(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    with (
        pytest.raises(OSError, match="instead of"),
        source.open("rb") as file,
        store.begin("a", {"model.safetensors": source.stat().st_size + 1}) as draft,
    ):
        draft.fill("model.safetensors", file.fileno())
    assert is_clean(store)


def test_what_a_reader_locks_is_not_evicted_until_it_lets_go(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "a", source)
    store.link("pod-1", "a")
    with (root / "views/pod-1/a/manifest.json").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert store.is_locked("a")
        with pytest.raises(LockedError):
            store.evict("a")
    store.evict("a")
    assert not store.entries
    assert not list((root / "views/pod-1").iterdir())
    assert is_clean(store)


def test_bytes_that_are_mapped_after_eviction_count_until_they_are_gone(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "a", source)
    with (root / "entries/a/model.safetensors").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    store.evict("a")
    assert mapped[:100] == source.read_bytes()[:100]
    assert store.usage().unlinked_bytes >= 5 * MIB
    mapped.close()
    assert is_clean(store)


def test_a_view_shares_the_entry_s_pages_and_linking_again_changes_nothing(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "a", source, "sub/model.safetensors")
    store.link("pod-1", "a")
    store.link("pod-1", "a")
    seen = (root / "views/pod-1/a/sub/model.safetensors").stat()
    assert seen.st_ino == (root / "entries/a/sub/model.safetensors").stat().st_ino
    assert store.views == {"pod-1": {"a"}}
    assert store.usage().entry_bytes < 6 * MIB
    store.unlink("pod-1", "a")
    assert store.views == {"pod-1": frozenset()}
    store.remove_view("pod-1")
    assert store.views == {}
    assert "a" in store.entries


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a\0b",
        "a\nb",
        "x" * 4096,
        "",
        ".hidden",
        "-rf",
        "a//b",
        "a/",
        "manifest.json",
        "é",
        "a b",
        "~root",
        "a/b/c/d/e/f/g/h/i",
    ],
)
def test_hostile_names_are_refused_before_anything_is_made(root: Path, path: str) -> None:
    store = Store(root, 60 * MIB)
    with pytest.raises(BadNameError), store.begin("a", {path: 1}):
        pytest.fail("a draft was made")
    with pytest.raises(BadNameError), store.begin(path, {"x": 1}):
        pytest.fail("a draft was made")
    assert not list((root / "drafts").iterdir())


@pytest.mark.parametrize("kind", ["symlink", "fifo", "hardlink"])
def test_what_strangers_put_in_the_way_is_neither_followed_nor_waited_for(root: Path, source: Path, kind: str) -> None:
    outside = root.parent / "outside"
    outside.write_bytes(b"precious")
    store = Store(root, 60 * MIB)
    with pytest.raises(IntruderError), store.begin("a", {"x": 4, "y": 4}) as draft:
        (root / "drafts/a/x").unlink()
        if kind == "symlink":
            (root / "drafts/a/x").symlink_to(outside)
        elif kind == "fifo":
            os.mkfifo(root / "drafts/a/x")
        else:
            os.link(root / "drafts/a/y", root / "drafts/a/x")
        with source.open("rb") as file:
            draft.fill("y", file.fileno())
            draft.fill("x", file.fileno())
            draft.commit("file:///source")
    assert outside.read_bytes() == b"precious"


def test_a_folder_that_is_a_link_is_not_entered(root: Path) -> None:
    outside = root.parent / "elsewhere"
    outside.mkdir()
    (root / "entries").symlink_to(outside)
    with pytest.raises(IntruderError):
        Store(root, 60 * MIB)


def test_one_folder_has_one_owner(root: Path) -> None:
    first = Store(root, 60 * MIB)
    with pytest.raises(LockedError):
        Store(root, 60 * MIB)
    first.close()
    Store(root, 60 * MIB).close()


LOOP = """
import itertools, sys
from pathlib import Path
from warmfleet_agent.store.store import Store
root, source = Path(sys.argv[1]), Path(sys.argv[2])
store = Store(root, 60 << 20)
print("open", flush=True)
for round in itertools.count():
    for key in ("a", "b", "c"):
        if key in store.entries:
            store.unlink("pod-1", key); store.evict(key)
        sizes = {"m/x.safetensors": source.stat().st_size, "config.json": 10}
        with source.open("rb") as file, store.begin(key, sizes) as draft:
            for path in sizes:
                draft.fill(path, file.fileno())
            draft.commit("file:///s")
        store.link("pod-1", key)
"""


def test_a_kill_at_any_moment_leaves_whole_entries_and_no_byte_besides(root: Path, source: Path) -> None:
    kinds = set()
    for attempt in range(20):
        command = [sys.executable, "-c", LOOP, str(root), str(source)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(0.003 * attempt)
            process.send_signal(signal.SIGKILL)
        kinds.add((bool(list((root / "drafts").iterdir())), len(list((root / "entries").iterdir()))))
        store = Store(root, 60 * MIB)
        for key in store.entries:
            assert (root / "entries" / key / "m/x.safetensors").read_bytes() == source.read_bytes()
        assert is_clean(store)
        assert store.usage().entry_bytes < (len(store.entries) + 0.5) * 5.5 * MIB
        store.close()
    assert len(kinds) > 1, "every kill met the same moment: this shows nothing"
