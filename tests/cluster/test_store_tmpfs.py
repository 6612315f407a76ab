"""The store in a tmpfs of its own, which only root can mount: full, of huge pages, mapped after eviction."""

import itertools
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.store_folders import MIB, mounted, put
from warmfleet_agent.store import DamagedError, NoSpaceError, Store

pytestmark = pytest.mark.cluster

SIZE_BYTES = 64 * MIB
CAPACITY_BYTES = 60 * MIB
HUGE = 2 * MIB


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 4 KiB pages."""
    folder = tmp_path / "store"
    folder.mkdir()
    with mounted(folder, SIZE_BYTES):
        yield folder


@pytest.fixture
def huge(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 2 MiB pages."""
    folder = tmp_path / "huge"
    folder.mkdir()
    with mounted(folder, SIZE_BYTES, huge="always"):
        yield folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of an odd size."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(5 * MIB + 17))
    return path


def used_bytes(root: Path) -> int:
    system = os.statvfs(root)
    return (system.f_blocks - system.f_bfree) * system.f_frsize


def is_clean(store: Store, root: Path) -> bool:
    usage = store.usage()
    return usage.draft_bytes == usage.unlinked_bytes == 0 and usage.entry_bytes == used_bytes(root)


def test_a_full_file_system_refuses_the_reservation_and_leaves_nothing(root: Path, source: Path) -> None:
    with Store(root, 1024 * MIB) as store:
        put(store, "before", source)
        (root / "stranger").write_bytes(bytes(56 * MIB))
        before = used_bytes(root)
        with pytest.raises(NoSpaceError, match=r"\d+ are mapped after eviction or not the store's"):
            put(store, "a", source)
        assert used_bytes(root) == before
        (root / "stranger").unlink()
        put(store, "a", source)
        assert is_clean(store, root)


def test_a_stranger_that_fills_the_tmpfs_during_a_load_does_not_end_it(root: Path, source: Path) -> None:
    size = source.stat().st_size
    with Store(root, CAPACITY_BYTES) as store:
        with store.begin("a", {"x": size}) as draft, source.open("rb") as file:
            with pytest.raises(OSError, match="No space"):
                (root / "stranger").write_bytes(bytes(SIZE_BYTES))
            draft.fill("x", file.fileno())
            draft.commit("file:///source")
        assert (root / "entries/a/x").read_bytes() == source.read_bytes()
        assert store.usage().free_bytes <= 0
        (said,) = store.strangers()
        assert "'stranger'" in said
    with Store(root, CAPACITY_BYTES) as store:
        assert set(store.entries) == {"a"}
        assert store.deleted == ()


def test_a_stranger_that_takes_all_inodes_is_a_lack_of_space(root: Path, source: Path) -> None:
    with Store(root, CAPACITY_BYTES) as store:
        put(store, "a", source)
        subprocess.run(["mount", "-o", f"remount,nr_inodes={len(list(root.rglob('*'))) + 2}", str(root)], check=True)
        with pytest.raises(NoSpaceError, match="does not fit into the file system"):
            put(store, "b", source)
        assert set(store.entries) == {"a"}
        assert is_clean(store, root)


def test_bytes_of_a_stranger_count_as_used(root: Path, source: Path) -> None:
    with Store(root, CAPACITY_BYTES) as store:
        put(store, "a", source)
        (root / "stranger").write_bytes(bytes(10 * MIB))
        assert store.usage().unlinked_bytes == 10 * MIB
        assert store.usage().free_bytes == CAPACITY_BYTES - used_bytes(root)


def test_bytes_that_are_mapped_after_eviction_count_until_they_are_gone(root: Path, source: Path) -> None:
    with Store(root, CAPACITY_BYTES) as store:
        put(store, "a", source)
        with (root / "entries/a/model.safetensors").open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        store.evict("a")
        assert store.usage().unlinked_bytes >= 5 * MIB
        store.resize(6 * MIB)
        with pytest.raises(NoSpaceError, match="mapped after eviction"):
            put(store, "b", source)
        assert mapped[:] == source.read_bytes()
        mapped.close()
        assert is_clean(store, root)
        put(store, "b", source)


def test_huge_pages_are_accounted_for_as_whole_pages(huge: Path, source: Path) -> None:
    sizes = {"a": 1, "b": HUGE + 1, "c": 0}
    with Store(huge, CAPACITY_BYTES) as store, source.open("rb") as file:
        assert store.page_bytes == HUGE
        assert store.footprint_bytes(sizes) == HUGE * (1 + 2 + 0 + 1)
        with store.begin("small", sizes) as draft:
            assert store.usage().draft_bytes == used_bytes(huge) == store.footprint_bytes(sizes)
            for path in sizes:
                draft.fill(path, file.fileno())
            draft.commit("file:///source")
        assert is_clean(store, huge)
        many = {f"f{number}": 1 for number in range(40)}
        with pytest.raises(NoSpaceError), store.begin("many", many):
            pytest.fail("40 huge pages fit into 60 MiB")
        assert is_clean(store, huge)
    with Store(huge, CAPACITY_BYTES) as store:
        assert is_clean(store, huge)


def test_a_full_tmpfs_is_opened_and_its_entries_adopted(huge: Path, source: Path) -> None:
    with Store(huge, CAPACITY_BYTES) as store:
        put(store, "a", source)
    with (huge / "stranger").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        for _ in itertools.count():
            file.write(bytes(MIB))
    with Store(huge, CAPACITY_BYTES) as store:
        assert set(store.entries) == {"a"}
        store.link("pod-1", "a")
        store.evict("a")
        assert not store.entries


@pytest.mark.parametrize("when", ["before it opens", "while it is open"])
@pytest.mark.parametrize("is_same_system", [True, False])
def test_what_is_mounted_into_an_entry_is_not_emptied_with_it(
    root: Path, source: Path, when: str, *, is_same_system: bool
) -> None:
    outside = (root if is_same_system else root.parent) / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    store = Store(root, CAPACITY_BYTES)
    put(store, "victim", source)
    put(store, "other", source)
    inside = root / "entries/victim/more"
    inside.mkdir()
    subprocess.run(["mount", "--bind", str(outside), str(inside)], check=True)
    try:
        if when == "while it is open":
            with pytest.raises(DamagedError, match="mounted"):
                store.link("pod-1", "victim")
            (said,) = (line for line in store.strangers() if "victim" in line)
            assert "drafts" in said
            store.close()
        else:
            store.close()
            store = Store(root, CAPACITY_BYTES)
            (said,) = store.deleted
            assert "mounted" in said
            assert "umount" in said
        assert set(store.entries) == {"other"}
        assert (outside / "file").read_bytes() == b"precious"
    finally:
        store.close()
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        for place in [line.split()[1] for line in mounts if line.split()[1].startswith(f"{root}/")]:
            subprocess.run(["umount", place], check=True)
    with Store(root, CAPACITY_BYTES) as store:
        assert set(store.entries) == {"other"}
    shutil.rmtree(outside)


LOOP = """
import itertools, sys
from pathlib import Path
from warmfleet_agent.store import Store
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
    for attempt in range(30):
        command = [sys.executable, "-c", LOOP, str(root), str(source)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout
            process.stdout.readline()
            time.sleep(0.002 * attempt)
            process.send_signal(signal.SIGKILL)
        kinds.add((bool(list((root / "drafts").iterdir())), len(list((root / "entries").iterdir()))))
        with Store(root, CAPACITY_BYTES) as store:
            for key in store.entries:
                assert (root / "entries" / key / "m/x.safetensors").read_bytes() == source.read_bytes()
            assert is_clean(store, root)
    assert len(kinds) > 1, "every kill met the same moment: this shows nothing"
