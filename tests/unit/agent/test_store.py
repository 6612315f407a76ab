"""The store in node memory: whole entries or none, shown, locked, evicted and accounted for."""

import fcntl
import json
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from support.store_folders import MIB, allocated_bytes, memory_folder, put
from warmfleet_agent.store import BadNameError, DamagedError, LockedError, NoSpaceError, PresentError, Store
from warmfleet_api.weights import Manifest, Piece


@pytest.fixture
def root() -> Iterator[Path]:
    """Folder of a store."""
    with memory_folder() as folder:
        yield folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of an odd size, larger than the blocks that are copied."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(5 * MIB + 17))
    return path


def is_clean(store: Store, root: Path) -> bool:
    return store.usage().draft_bytes == 0 and allocated_bytes(root) == store.usage().entry_bytes


def unread(root: Path) -> dict[Path, tuple[int, ...]]:
    """What is known of each file and does not change by reading it."""
    found = {path: path.lstat() for path in root.rglob("*") if path.is_file()}
    return {
        path: (each.st_ino, each.st_nlink, each.st_size, each.st_blocks, each.st_mtime_ns, each.st_ctime_ns)
        for path, each in found.items()
    }


def written_bytes() -> int:
    """What this thread has written to whatever, since it began."""
    lines = Path("/proc/thread-self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def test_an_entry_holds_what_its_source_held(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "llama", source)
    (piece,) = store.entries["llama"].files
    assert piece.blake3 == blake3(source.read_bytes()).hexdigest()
    file = root / "entries/llama/model.safetensors"
    assert file.read_bytes() == source.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o444
    manifest = json.loads((root / "entries/llama/manifest.json").read_bytes())
    assert manifest["files"][0]["blake3"] == piece.blake3
    assert manifest["uri"] == "file:///source"


def test_a_promoted_entry_is_the_same_and_needs_one_pass(root: Path, source: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    disk, memory = Store(tmp_path / "disk", 60 * MIB, is_durable=True), Store(root, 60 * MIB)
    put(disk, "a", source, "sub/model.safetensors")
    entry, seen = disk.entries["a"], list[int]()
    with memory.begin("a", {piece.path: piece.bytes for piece in entry.files}) as draft:
        for piece in entry.files:
            descriptor = disk.open_entry_file("a", piece.path)
            draft.fill(piece.path, descriptor, seen.append)
            os.close(descriptor)
        assert draft.commit(entry.uri, entry.revision, entry.digest) == entry
    assert sum(seen) == entry.bytes
    assert memory.entries == disk.entries


def test_a_store_opened_again_adopts_whole_entries_and_writes_nothing(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    for key in ("a", "b", "c"):
        put(store, key, source)
        store.link("pod-1", key)
    before = unread(root)
    arrived = store.arrived("a")
    store.close()
    written = written_bytes()
    again = Store(root, 60 * MIB)
    assert written_bytes() == written
    assert set(again.entries) == {"a", "b", "c"}
    assert again.views == {"pod-1": {"a", "b", "c"}}
    assert again.deleted == ()
    assert again.arrived("a") == arrived
    assert unread(root) == before
    assert is_clean(again, root)


def test_an_entry_over_the_budget_is_refused_with_numbers_and_leaves_nothing(root: Path, source: Path) -> None:
    store = Store(root, 4 * MIB)
    with pytest.raises(NoSpaceError, match=r"a needs \d+ bytes, \d+ of \d+ are free"):
        put(store, "a", source)
    assert is_clean(store, root)
    store.resize(60 * MIB)
    put(store, "a", source)


def test_a_store_made_smaller_keeps_its_entries_and_takes_no_more(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "a", source)
    store.resize(4 * MIB)
    assert store.usage().free_bytes < 0
    assert "a" in store.entries
    with pytest.raises(NoSpaceError):
        put(store, "b", source)


def test_two_drafts_at_once_never_get_the_same_space(root: Path, source: Path) -> None:
    size = source.stat().st_size
    store = Store(root, 3 * size)
    refused, begun, done = [], threading.Semaphore(0), threading.Event()

    def fill(key: str) -> None:
        try:
            with store.begin(key, {"x": size}):
                begun.release()
                done.wait(10)
        except NoSpaceError:
            refused.append(key)
            begun.release()

    threads = [threading.Thread(target=fill, args=(f"k{number}",)) for number in range(5)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=10)
    assert len(refused) == 3
    assert 0 <= store.usage().free_bytes < size
    done.set()
    for thread in threads:
        thread.join(10)
    assert is_clean(store, root)


def test_a_footprint_is_what_an_entry_takes_at_most(root: Path) -> None:
    store = Store(root, 60 * MIB)
    sizes = {"a": 1, "b": MIB + 1, "c/d": 0, **{f"e{number}": 100 for number in range(50)}}
    with Path("/dev/zero").open("rb") as zeros, store.begin("a", sizes) as draft:
        assert store.usage().draft_bytes <= store.footprint_bytes(sizes)
        for path in sizes:
            draft.fill(path, zeros.fileno())
        draft.commit("file:///source")
    assert 0 < store.usage().entry_bytes <= store.footprint_bytes(sizes)
    assert store.page_bytes in {4096, 2 * MIB}


def test_what_is_there_or_being_filled_is_not_begun_again(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    with store.begin("a", {"x": 1}):
        with pytest.raises(PresentError), store.begin("a", {"x": 1}):
            pytest.fail("a second draft")
        with pytest.raises(PresentError):
            store.discard("a")
    put(store, "b", source)
    with pytest.raises(PresentError), store.begin("b", {"x": 1}):
        pytest.fail("a draft of an entry")


@pytest.mark.parametrize("kind", ["piece", "digest"])
def test_what_was_not_announced_never_becomes_an_entry(root: Path, source: Path, kind: str) -> None:
    store, size = Store(root, 60 * MIB), source.stat().st_size
    wrong = [Piece(path="model.safetensors", bytes=size, blake3="0" * 64)]
    expected = wrong if kind == "piece" else Manifest(key="a", uri="file:///source", files=tuple(wrong)).digest
    with (
        pytest.raises(DamagedError, match="is not what was announced"),
        source.open("rb") as file,
        store.begin("a", {"model.safetensors": size}) as draft,
    ):
        draft.fill("model.safetensors", file.fileno())
        draft.commit("file:///source", expected=expected)
    assert not store.entries
    assert is_clean(store, root)


def test_a_short_source_never_becomes_an_entry(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    with (
        pytest.raises(OSError, match="instead of"),
        source.open("rb") as file,
        store.begin("a", {"model.safetensors": source.stat().st_size + 1}) as draft,
    ):
        draft.fill("model.safetensors", file.fileno())
    assert is_clean(store, root)


def test_a_copy_that_is_told_to_stop_stops_and_leaves_nothing(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)

    def stop(_: int) -> None:
        raise InterruptedError("no longer wanted")

    with (
        pytest.raises(InterruptedError),
        source.open("rb") as file,
        store.begin("a", {"model.safetensors": source.stat().st_size}) as draft,
    ):
        draft.fill("model.safetensors", file.fileno(), stop)
    assert is_clean(store, root)
    assert not [thread for thread in threading.enumerate() if thread.name == "store-hash"]


def test_what_a_reader_locks_is_not_evicted_until_it_lets_go(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "a", source)
    store.link("pod-1", "a")
    with (root / "views/pod-1/a/manifest.json").open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        assert store.is_locked("a")
        with pytest.raises(LockedError):
            store.evict("a")
    assert not store.is_locked("a")
    store.evict("a")
    assert not store.entries
    assert not list((root / "views/pod-1").iterdir())
    assert is_clean(store, root)


def test_what_is_mapped_can_be_read_to_its_end_after_eviction(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "a", source)
    with (root / "entries/a/model.safetensors").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    store.evict("a")
    put(store, "a", source)
    store.close()
    Store(root, 60 * MIB).evict("a")
    assert mapped[:] == source.read_bytes()
    mapped.close()


def test_a_view_shares_the_entry_s_pages_and_linking_again_changes_nothing(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "a", source, "sub/model.safetensors")
    for _ in range(2):
        store.link("pod-1", "a")
    seen = (root / "views/pod-1/a/sub/model.safetensors").stat()
    assert seen.st_ino == (root / "entries/a/sub/model.safetensors").stat().st_ino
    assert store.views == {"pod-1": {"a"}}
    assert is_clean(store, root)
    store.unlink("pod-1", "a")
    assert store.views == {"pod-1": frozenset()}
    assert "a" in store.entries


def test_a_view_is_there_before_anything_is_in_it_and_stays_the_same_folder(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    view = store.make_view("5f1c9a2e-0000-4000-8000-000000000001")
    assert store.make_view(view.name) == view
    folder = view.stat().st_ino
    descriptor = store.open_view(view.name)
    assert os.fstat(descriptor).st_ino == folder
    os.close(descriptor)
    put(store, "a", source)
    store.link(view.name, "a")
    store.unlink(view.name)
    store.close()
    again = Store(root, 60 * MIB)
    assert again.views == {view.name: frozenset()}
    again.link(view.name, "a")
    assert view.stat().st_ino == folder
    assert (view / "a/model.safetensors").read_bytes() == source.read_bytes()
    again.remove_view(view.name)
    again.remove_view(view.name)
    assert again.views == {}
    assert "a" in again.entries


def test_one_folder_has_one_owner(root: Path) -> None:
    first = Store(root, 60 * MIB)
    with pytest.raises(LockedError):
        Store(root, 60 * MIB)
    first.close()
    Store(root, 60 * MIB).close()


def test_entries_that_are_not_there_are_said_so(root: Path, source: Path) -> None:
    store = Store(root, 60 * MIB)
    put(store, "a", source)
    for call in (store.evict, store.is_locked, store.verify, store.arrived):
        with pytest.raises(KeyError):
            call("b")
    with pytest.raises(KeyError):
        store.link("pod-1", "b")
    with pytest.raises(FileNotFoundError):
        store.open_entry_file("a", "other")
    with pytest.raises(BadNameError):
        store.open_entry_file("a", "../b/x")
