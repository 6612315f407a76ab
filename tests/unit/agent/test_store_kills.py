"""A process that fills a store is killed, at every 5 % and at every step: no partial entry, no byte besides."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.store_folders import MIB, allocated_bytes, memory_folder, put
from support.store_kills import CAPACITY_BYTES, KEY, PARTS, URI, finish, partial_entries, sizes
from warmfleet_agent.store import Store

TESTS = Path(__file__).parents[2]
CONTENT_BYTES = 4 * MIB + 123
STEPS_SECONDS = 120


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory with one for a store, and a source of weights."""
    with memory_folder() as folder:
        (folder / "store").mkdir()
        (folder / "source").write_bytes(os.urandom(CONTENT_BYTES))
        yield folder


def start(mode: str, place: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "support.store_kills", mode, str(place / "store"), str(place / "source")]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def killed_at(part: int, mode: str, place: Path) -> None:
    """Let a process go on until so many parts are there, and kill it."""
    with start(mode, place) as process:
        assert process.stdin
        assert process.stdout
        try:
            for line in process.stdout:
                if int(line) == part:
                    break
                process.stdin.write("\n")
                process.stdin.flush()
            else:
                pytest.fail(f"part {part} never came")
        finally:
            process.kill()


@pytest.mark.parametrize("part", range(PARTS + 2), ids=lambda part: f"{part * 100 // PARTS}%")
def test_a_load_into_memory_that_is_killed_leaves_nothing(place: Path, part: int) -> None:
    root = place / "store"
    with Store(root, CAPACITY_BYTES) as store:
        put(store, "kept", place / "source")
    killed_at(part, "stepwise", place)
    assert partial_entries(root) == []
    is_whole = part == PARTS + 1
    assert bool(list((root / "drafts").iterdir())) == (0 < part <= PARTS), "the kill came at another moment"
    with Store(root, CAPACITY_BYTES) as store:
        assert set(store.entries) == ({"kept", KEY} if is_whole else {"kept"})
        assert store.usage().draft_bytes == 0
        assert allocated_bytes(root) == store.usage().entry_bytes
        if not is_whole:
            assert finish(store, place / "source") == sum(sizes(place / "source").values())


@pytest.mark.parametrize("part", range(PARTS + 2), ids=lambda part: f"{part * 100 // PARTS}%")
def test_a_load_onto_disk_that_is_killed_goes_on_where_it_was(place: Path, part: int) -> None:
    root, total = place / "store", sum(sizes(place / "source").values())
    killed_at(part, "stepwise-disk", place)
    assert partial_entries(root) == []
    with Store(root, CAPACITY_BYTES, is_durable=True) as store:
        usage = store.usage()
        assert allocated_bytes(root) == usage.entry_bytes + usage.draft_bytes
        assert set(store.entries) == ({KEY} if part == PARTS + 1 else set())
        assert set(store.idle_drafts) == ({KEY} if 0 < part <= PARTS else set())
        if part <= PARTS:
            assert finish(store, place / "source") <= total - part * CONTENT_BYTES // PARTS
        assert store.entries[KEY].uri == URI
    assert partial_entries(root) == []


def test_the_harness_sees_the_partial_entry_of_a_loader_that_writes_the_manifest_first(place: Path) -> None:
    killed_at(PARTS // 2, "naive", place)
    assert partial_entries(place / "store") == [KEY]
    with Store(place / "store", CAPACITY_BYTES) as store:
        assert store.entries == {}


@pytest.mark.parametrize("mode", ["everywhere", "everywhere-disk"])
def test_a_kill_at_any_step_of_any_call_leaves_whole_entries_and_no_byte_besides(place: Path, mode: str) -> None:
    os.truncate(place / "source", 100_000)
    with start(mode, place) as process:
        out, _ = process.communicate(timeout=STEPS_SECONDS)
    assert process.returncode == 0
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) > 60
    for each in found:
        assert each["partial"] == each["partial_after"] == []
        assert each["accounted"] == each["allocated"]
        if mode == "everywhere":
            assert each["drafts"] == []
    moments = {(tuple(each["entries"]), tuple(each["drafts"])) for each in found}
    assert ((), ()) in moments
    assert ((KEY,), ()) in moments
    assert (((), (KEY,)) in moments) == (mode == "everywhere-disk")
