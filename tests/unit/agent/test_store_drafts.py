"""Drafts: filled in ranges from many threads, sealed, and on disk gone on with after a restart."""

import hashlib
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zlib import crc32

import pytest
from blake3 import blake3

from support.store_folders import MIB
from warmfleet_agent.store import DamagedError, NoSpaceError, Store
from warmfleet_agent.store import draft as drafts

CONTENT = random.Random(0).randbytes(3 * MIB + 5)
SIZES = {"model.safetensors": len(CONTENT), "config.json": 3}
URI = "hf://org/model"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folder of a store on disk."""
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def on_disk(root: Path) -> Store:
    return Store(root, 60 * MIB, is_durable=True)


def half_filled(root: Path) -> Store:
    """A store whose draft `a` has half of its model, and was left."""
    store = on_disk(root)
    with store.begin("a", SIZES, URI) as draft:
        draft.write("model.safetensors", MIB, CONTENT[MIB : 2 * MIB])
        draft.write("config.json", 0, b"{ }")
    return store


def finish(store: Store) -> list[tuple[int, int]]:
    """Fill what the draft `a` lacks, commit it, and return what its model lacked."""
    with store.begin("a", SIZES, URI) as draft:
        missing = list(draft.missing("model.safetensors"))
        for start, end in missing:
            draft.write("model.safetensors", start, CONTENT[start:end])
        for path, content in (("model.safetensors", CONTENT), ("config.json", b"{ }")):
            for start, end in draft.missing(path):
                draft.write(path, start, content[start:end])
            draft.seal(path)
        draft.commit(URI)
    return missing


def test_ranges_from_many_threads_in_any_order_make_the_file(root: Path) -> None:
    store = on_disk(root)
    step = 64 * 1024 + 1
    starts = list(range(0, len(CONTENT), step))
    random.Random(1).shuffle(starts)
    seen = hashlib.sha256()
    with store.begin("a", SIZES, URI) as draft, ThreadPoolExecutor(8) as pool:
        assert draft.missing("model.safetensors") == ((0, len(CONTENT)),)
        list(pool.map(lambda at: draft.write("model.safetensors", at, CONTENT[at : at + step]), starts))
        draft.write("config.json", 0, bytearray(b"{ }"))
        assert draft.written_bytes == sum(SIZES.values())
        assert draft.read("model.safetensors", 10, 20) == CONTENT[10:30]
        assert draft.seal("model.safetensors", seen.update) == blake3(CONTENT).hexdigest()
        draft.seal("config.json")
        draft.commit(URI)
    assert seen.hexdigest() == hashlib.sha256(CONTENT).hexdigest()
    assert (root / "entries/a/model.safetensors").read_bytes() == CONTENT
    assert sorted(path.name for path in (root / "entries/a").iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
    ]


def test_a_file_with_a_hole_is_neither_sealed_nor_committed(root: Path) -> None:
    with on_disk(root).begin("a", SIZES, URI) as draft:
        draft.write("model.safetensors", 1, CONTENT[1:])
        with pytest.raises(DamagedError, match="lacks bytes 0 to 1"):
            draft.seal("model.safetensors")
        draft.write("model.safetensors", 0, CONTENT[:1])
        draft.seal("model.safetensors")
        with pytest.raises(DamagedError, match=r"lacks config\.json"):
            draft.commit(URI)
        draft.write("config.json", 0, b"{ }")
        draft.seal("config.json")
        draft.write("model.safetensors", 0, CONTENT[:1])
        with pytest.raises(DamagedError, match=r"lacks model\.safetensors"):
            draft.commit(URI)


@pytest.mark.parametrize(("path", "offset"), [("config.json", 1), ("config.json", -1), ("other", 0), ("../x", 0)])
def test_what_was_not_announced_is_not_written(root: Path, path: str, offset: int) -> None:
    with on_disk(root).begin("a", SIZES, URI) as draft, pytest.raises(DamagedError, match="the source changed"):
        draft.write(path, offset, b"{ }")
    assert not list(root.rglob("x"))


def test_an_error_of_who_watches_a_seal_comes_out_of_it(root: Path) -> None:
    def watch(_: memoryview) -> None:
        raise ZeroDivisionError

    with on_disk(root).begin("a", SIZES, URI) as draft:
        draft.write("model.safetensors", 0, CONTENT)
        with pytest.raises(ZeroDivisionError):
            draft.seal("model.safetensors", watch)


def test_a_late_thread_writes_nowhere(root: Path) -> None:
    store = on_disk(root)
    with store.begin("a", SIZES, URI) as late:
        pass
    with store.begin("b", SIZES, URI) as draft:
        with pytest.raises(DamagedError, match="given up"):
            late.write("config.json", 0, b"bad")
        assert draft.read("config.json", 0, 3) == bytes(3)


def test_a_draft_on_disk_is_gone_on_with_in_the_same_process_and_the_next(root: Path) -> None:
    store = half_filled(root)
    assert store.idle_drafts == {"a": store.usage().draft_bytes}
    store.close()
    again = on_disk(root)
    assert again.deleted == ()
    assert again.usage().draft_bytes >= sum(SIZES.values())
    assert finish(again) == [(0, MIB), (2 * MIB, len(CONTENT))]
    assert (root / "entries/a/model.safetensors").read_bytes() == CONTENT
    assert again.idle_drafts == {}
    assert again.usage().draft_bytes == 0


@pytest.mark.parametrize("other", [({"model.safetensors": 5}, URI), (SIZES, "hf://org/other")])
def test_a_draft_of_something_else_is_begun_anew(root: Path, other: tuple[dict[str, int], str]) -> None:
    sizes, uri = other
    with half_filled(root).begin("a", sizes, uri) as draft:
        assert draft.written_bytes == 0
        assert draft.sizes == sizes


def test_a_discarded_draft_gives_its_space_back(root: Path) -> None:
    store = half_filled(root)
    store.discard("a")
    store.discard("never-there")
    assert store.usage().draft_bytes == 0
    assert store.idle_drafts == {}
    assert not list((root / "drafts").iterdir())


def test_a_draft_in_memory_is_deleted_when_the_store_opens(root: Path) -> None:
    half_filled(root).close()
    store = Store(root, 60 * MIB)
    assert store.deleted == ("draft 'a' was not finished",)
    assert not list((root / "drafts").iterdir())


def test_bytes_that_turned_out_wrong_are_missing_after_a_restart_too(root: Path) -> None:
    store = on_disk(root)
    with store.begin("a", SIZES, URI) as draft:
        draft.write("model.safetensors", 0, CONTENT[::-1])
        draft.checkpoint()
        draft.forget("model.safetensors")
        assert draft.missing("model.safetensors") == ((0, len(CONTENT)),)
    store.close()
    assert finish(on_disk(root)) == [(0, len(CONTENT))]


def test_ranges_count_after_their_bytes_are_durable_not_before(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be there after a loss of power: bytes that were synced, and what the journal says."""
    events: list[str] = []
    real, write = os.fdatasync, os.write

    def name(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    def synced(descriptor: int) -> None:
        events.append(f"sync {name(descriptor)}")
        real(descriptor)

    def written(descriptor: int, content: bytes) -> int:
        events.append(f"write {name(descriptor)}")
        return write(descriptor, content)

    with on_disk(root).begin("a", SIZES, URI) as draft:
        draft.write("model.safetensors", 0, CONTENT)
        monkeypatch.setattr(os, "fdatasync", synced)
        monkeypatch.setattr(os, "write", written)
        draft.checkpoint()
        monkeypatch.undo()
    assert events == ["sync model.safetensors", "write .journal", "sync .journal"]


def test_much_or_long_writing_is_made_durable_on_its_way(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafts, "CHECKPOINT_BYTES", MIB)
    with on_disk(root).begin("a", SIZES, URI) as draft:
        before = (root / "drafts/a/.journal").stat().st_size
        draft.write("model.safetensors", 0, CONTENT[: MIB // 2])
        assert (root / "drafts/a/.journal").stat().st_size == before
        draft.write("model.safetensors", MIB, CONTENT[MIB : 2 * MIB])
        assert (root / "drafts/a/.journal").stat().st_size > before
        monkeypatch.setattr(drafts, "CHECKPOINT_SECONDS", 0.0)
        after = (root / "drafts/a/.journal").stat().st_size
        draft.write("config.json", 0, b"{ }")
        assert (root / "drafts/a/.journal").stat().st_size > after


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_journal_counts_up_to_its_last_whole_line(root: Path, cut: int) -> None:
    half_filled(root).close()
    file = root / "drafts/a/.journal"
    whole = file.read_bytes()
    os.truncate(file, len(whole) - cut)
    store = on_disk(root)
    assert finish(store) in ([(0, MIB), (2 * MIB, len(CONTENT))], [(0, len(CONTENT))])
    assert (root / "entries/a/model.safetensors").read_bytes() == CONTENT


@pytest.mark.parametrize("junk", [b"", b"\0" * 100, b"00000000 {}\n", b"x" * 10_000, b"deadbeef\n" * 9, b"[" * 5000])
def test_a_journal_that_is_none_drops_its_draft(root: Path, junk: bytes) -> None:
    half_filled(root).close()
    (root / "drafts/a/.journal").write_bytes(junk)
    store = on_disk(root)
    assert len(store.deleted) == 1
    assert "draft 'a'" in store.deleted[0]
    assert store.usage().draft_bytes == 0
    assert finish(store) == [(0, len(CONTENT))]


def test_lines_that_speak_of_other_bytes_than_the_draft_has_end_the_reading(root: Path) -> None:
    half_filled(root).close()
    file = root / "drafts/a/.journal"
    content = file.read_bytes()
    first = content.splitlines(keepends=True)[0]
    for line in (b'["other",0,1]', b'["config.json",0,99999]', b'["config.json",-5,2]', b'["config.json",3,1]'):
        file.write_bytes(first + b"%08x %s\n" % (crc32(line), line) + content[len(first) :])
        store = on_disk(root)
        with store.begin("a", SIZES, URI) as draft:
            assert draft.written_bytes == 0
        store.close()


def test_kept_drafts_count_as_used(root: Path) -> None:
    store = half_filled(root)
    store.resize(store.usage().draft_bytes + MIB)
    with pytest.raises(NoSpaceError), store.begin("b", SIZES, URI):
        pytest.fail("it fits")
    store.discard("a")
    with store.begin("b", SIZES, URI):
        pass
