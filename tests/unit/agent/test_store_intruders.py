"""What strangers put into a store: refused or deleted, said in words; nothing outside or beside it is touched."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.store_folders import MIB, memory_folder, put
from warmfleet_agent.store import BadNameError, DamagedError, IntruderError, NoSpaceError, Store, folders

CONTENT = os.urandom(MIB + 17)
PRECIOUS = b"precious"
STRANGER = 12345
"""User id of nobody here."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder in memory: `store` is the store's, `outside` holds files that must stay as they are."""
    with memory_folder() as folder:
        (folder / "store").mkdir()
        (folder / "outside").mkdir()
        (folder / "outside/file").write_bytes(PRECIOUS)
        (folder / "source").write_bytes(CONTENT)
        yield folder
        assert [path.name for path in sorted((folder / "outside").iterdir())] == ["file"]
        assert (folder / "outside/file").read_bytes() == PRECIOUS


@pytest.fixture
def root(place: Path) -> Path:
    """Folder of a store with the entries `victim` and `other`, closed."""
    store = Store(place / "store", 60 * MIB)
    for key in ("victim", "other"):
        put(store, key, place / "source", "sub/model.safetensors")
        store.link("pod-1", key)
    store.close()
    return place / "store"


def replace(path: Path) -> Path:
    """Take a file or an empty folder away and return its path."""
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    return path


def cut_short(entry: Path) -> None:
    (entry / "sub/model.safetensors").chmod(0o600)
    os.truncate(entry / "sub/model.safetensors", 100)
    (entry / "sub/model.safetensors").chmod(0o444)


def manifest_of(content: bytes) -> Callable[[Path], None]:
    def write(entry: Path) -> None:
        replace(entry / "manifest.json").write_bytes(content)
        (entry / "manifest.json").chmod(0o444)

    return write


def edited(old: bytes, new: bytes) -> Callable[[Path], None]:
    def edit(entry: Path) -> None:
        manifest_of((entry / "manifest.json").read_bytes().replace(old, new))(entry)

    return edit


def nested(entry: Path) -> None:
    """Folders deeper than any path may be long, and than a recursion goes."""
    descriptor = os.open(entry, os.O_DIRECTORY)
    for _ in range(3000):
        os.mkdir("d" * 8, dir_fd=descriptor)
        below = os.open("d" * 8, os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def file_instead(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.write_bytes(b"x")


def link_instead(entry: Path) -> None:
    shutil.rmtree(entry)
    entry.symlink_to("other")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no manifest": lambda entry: (entry / "manifest.json").unlink(),
    "empty manifest": manifest_of(b""),
    "manifest of zeros": manifest_of(bytes(400)),
    "manifest of another kind": manifest_of(b"[1, 2]"),
    "manifest nested without end": manifest_of(b'{"x":' + b"[" * 200_000),
    "manifest too large": manifest_of(b" " * 5 * MIB),
    "manifest without files": manifest_of(b'{"key": "victim", "uri": "x", "files": []}'),
    "manifest of another version": edited(b'"version":1', b'"version":2'),
    "manifest with another key": edited(b'"key":"victim"', b'"key":"other"'),
    "manifest with a size of 2^63": edited(str(len(CONTENT)).encode(), str(2**63).encode()),
    "manifest with a size below 0": edited(str(len(CONTENT)).encode(), b"-1"),
    "manifest with a short hash": edited(b'"blake3":"', b'"blake3":"" , "x":"'),
    "manifest with ..": edited(b"sub/model.safetensors", b"../../../outside/file"),
    "manifest with an absolute path": edited(b"sub/model.safetensors", b"/etc/passwd"),
    "manifest with NUL": edited(b"sub/model", b"sub\\u0000model"),
    "manifest with a newline": edited(b"sub/model", b"sub\\nmodel"),
    "manifest with 4 kB of name": edited(b"sub/model", b"x" * 4096),
    "manifest that is a link": lambda entry: replace(entry / "manifest.json").symlink_to("../other/manifest.json"),
    "manifest that is a FIFO": lambda entry: os.mkfifo(replace(entry / "manifest.json")),
    "manifest that is a folder": lambda entry: replace(entry / "manifest.json").mkdir(),
    "file cut short": cut_short,
    "file away": lambda entry: (entry / "sub/model.safetensors").unlink(),
    "file too many": lambda entry: (entry / "sub/x").write_bytes(b"x"),
    "file that can be written": lambda entry: (entry / "sub/model.safetensors").chmod(0o644),
    "file of another user": lambda entry: os.chown(entry / "sub/model.safetensors", STRANGER, STRANGER),
    "folder of another user": lambda entry: os.chown(entry / "sub", STRANGER, STRANGER),
    "folder anybody writes into": lambda entry: (entry / "sub").chmod(0o777),
    "entry of another user": lambda entry: os.chown(entry, STRANGER, STRANGER),
    "entry away": shutil.rmtree,
    "entry that is a file": file_instead,
    "entry that is a link": link_instead,
    "link to outside": lambda entry: replace(entry / "sub/model.safetensors").symlink_to("../../../../outside/file"),
    "hard link to outside": lambda entry: os.link(
        entry.parents[2] / "outside/file", replace(entry / "sub/model.safetensors")
    ),
    "FIFO": lambda entry: os.mkfifo(replace(entry / "sub/model.safetensors")),
    "link to a folder outside": lambda entry: (entry / "more").symlink_to("../../../outside"),
    "names of bytes": lambda entry: (entry / os.fsdecode(b"\xff\n\x1b[31m")).write_bytes(b""),
    "a long name": lambda entry: (entry / ("n" * 255)).write_bytes(b""),
    "folders nested without end": nested,
}


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
DAMAGES = [pytest.param(name, marks=as_root if "another user" in name else ()) for name in DAMAGE]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("when", ["before it opens", "while it is open"])
def test_a_changed_entry_is_none_any_more_and_the_other_is(root: Path, damage: str, when: str) -> None:
    store = None
    if when == "while it is open":
        store = Store(root, 60 * MIB)
    DAMAGE[damage](root / "entries/victim")
    if store is None:
        store = Store(root, 60 * MIB)
        (why,) = store.deleted or ("entry victim is not there at all",)
    else:
        with pytest.raises(DamagedError) as caught:
            store.link("pod-2", "victim")
        why = str(caught.value)
    assert "entry 'victim'" in why or "entry victim" in why
    assert len(why) < 300
    assert why.isprintable()
    assert set(store.entries) == {"other"}
    assert not (root / "entries/victim").exists()
    assert store.views["pod-1"] == {"other"}
    assert (root / "views/pod-1/other/sub/model.safetensors").read_bytes() == CONTENT
    assert store.usage().draft_bytes == 0
    put(store, "victim", root.parent / "source")
    store.link("pod-1", "victim")
    store.close()


def test_a_changed_entry_can_be_evicted(root: Path) -> None:
    store = Store(root, 60 * MIB)
    (root / "entries/victim/manifest.json").unlink()
    shutil.rmtree(root / "entries/other")
    for key in ("victim", "other"):
        assert not store.is_locked(key)
        store.evict(key)
    assert store.entries == {}
    assert not list((root / "entries").iterdir())
    assert not list((root / "drafts").iterdir())


def test_the_corpus_shows_something_as_an_untouched_entry_stays(root: Path) -> None:
    store = Store(root, 60 * MIB)
    assert store.deleted == ()
    assert set(store.entries) == {"victim", "other"}


HOSTILE_NAMES = [
    "../x",
    "..",
    ".",
    "/tmp/warmfleet-nobodys-file",
    "a/../../x",
    "a\0b",
    "a\nb",
    "x" * 4096,
    "x/" * 2048 + "x",
    "",
    ".hidden",
    "-rf",
    "a//b",
    "a/",
    "/",
    "é",
    "a b",
    "~root",
    "$(reboot)",
    "a\\b",
    "a\u202eb",
    "\udcff",
    "a/b/c/d/e/f/g/h/i",
]


@pytest.mark.parametrize("name", [*HOSTILE_NAMES, "manifest.json"], ids=lambda name: repr(name[:20]))
def test_hostile_names_are_refused_before_anything_is_made(root: Path, name: str) -> None:
    store = Store(root, 60 * MIB)
    before = sorted(map(str, root.rglob("*")))
    with pytest.raises(BadNameError) as caught, store.begin("a", {name: 1}):
        pytest.fail("a draft was made")
    assert len(str(caught.value)) < 300
    with pytest.raises(BadNameError), store.begin(name, {"x": 1}):
        pytest.fail("a draft was made")
    for call in (store.make_view, store.open_view, store.remove_view, store.unlink):
        with pytest.raises(BadNameError):
            call(name)
    with pytest.raises(BadNameError):
        store.unlink("pod-1", name)
    with pytest.raises(BadNameError):
        store.discard(name)
    assert sorted(map(str, root.rglob("*"))) == before


@pytest.mark.parametrize(
    "paths", [[], ["a", "a/b"], ["a/b", "a/b/c/d"], [f"f{number}" for number in range(10_001)]], ids=len
)
def test_files_that_can_not_lie_side_by_side_are_refused(root: Path, paths: list[str]) -> None:
    with pytest.raises(BadNameError), Store(root, 60 * MIB).begin("a", dict.fromkeys(paths, 1)):
        pytest.fail("a draft was made")


def test_sizes_that_none_can_have_are_refused(root: Path) -> None:
    store = Store(root, 60 * MIB)
    with pytest.raises(BadNameError), store.begin("a", {"x": -1}):
        pytest.fail("a draft was made")
    for size in (2**63, 2**80):
        with pytest.raises(NoSpaceError), store.begin("a", {"x": size}):
            pytest.fail("a draft was made")
    assert store.usage().draft_bytes == 0


def second_name(draft: Path) -> None:
    os.link(draft / "y", replace(draft / "x"))


def folder_of_links(draft: Path) -> None:
    (draft / "sub/w").unlink()
    replace(draft / "sub").symlink_to(draft.parents[2] / "outside")


IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "link": lambda draft: replace(draft / "x").symlink_to(draft.parents[2] / "outside/file"),
    "link to a device": lambda draft: replace(draft / "x").symlink_to("/dev/zero"),
    "FIFO": lambda draft: os.mkfifo(replace(draft / "x")),
    "hard link to outside": lambda draft: os.link(draft.parents[2] / "outside/file", replace(draft / "x")),
    "second name": second_name,
    "folder": lambda draft: replace(draft / "x").mkdir(),
    "file of another user": lambda draft: os.chown(draft / "x", STRANGER, STRANGER),
    "nothing": lambda draft: replace(draft / "x"),
    "other size": lambda draft: os.truncate(draft / "x", 1),
    "one more": lambda draft: (draft / "z").write_bytes(b"z"),
    "link for a folder": folder_of_links,
    "link for the manifest": lambda draft: replace(draft / ".manifest").symlink_to(draft.parents[2] / "outside/file"),
    "manifest beforehand": lambda draft: (draft / "manifest.json").write_bytes(b"{}"),
}


@pytest.mark.parametrize(
    "trick", [pytest.param(name, marks=as_root if "another user" in name else ()) for name in IN_THE_WAY]
)
@pytest.mark.parametrize("is_durable", [False, True])
def test_what_is_put_in_the_way_of_a_draft_ends_it_alone(root: Path, trick: str, *, is_durable: bool) -> None:
    store = Store(root, 60 * MIB, is_durable=is_durable)
    sizes = {"x": 8, "y": 8, "sub/w": 8}
    with (
        pytest.raises((IntruderError, DamagedError, FileNotFoundError)) as caught,
        (root.parent / "source").open("rb") as file,
        store.begin("a", sizes) as draft,
    ):
        IN_THE_WAY[trick](root / "drafts/a")
        for path in sizes:
            draft.fill(path, file.fileno())
        draft.commit("file:///source")
    assert str(caught.value).isprintable()
    assert set(store.entries) == {"victim", "other"}
    assert not (root / "entries/a").exists()
    # Whatever was left, the next try is a clean one.
    with (root.parent / "source").open("rb") as file, store.begin("a", sizes) as draft:
        for path in sizes:
            draft.fill(path, file.fileno())
        draft.commit("file:///source")
    assert sorted(path.name for path in (root / "entries/a").iterdir()) == ["manifest.json", "sub", "x", "y"]


def test_a_draft_that_was_exchanged_is_not_committed(root: Path) -> None:
    store = Store(root, 60 * MIB)
    with pytest.raises(IntruderError, match="exchanged"), store.begin("a", {"x": 8}) as draft:
        with (root.parent / "source").open("rb") as file:
            draft.fill("x", file.fileno())
        (root / "drafts/a").rename(root / "drafts/away")
        (root / "drafts/a").mkdir()
        (root / "drafts/a/x").write_bytes(b"evil eight bytes"[:8])
        draft.commit("file:///source")
    assert "a" not in store.entries
    assert not (root / "entries/a").exists()


@pytest.mark.parametrize("name", ["entries", "drafts", "views"])
@pytest.mark.parametrize("kind", ["link", "file", pytest.param("other user", marks=as_root)])
def test_a_store_whose_own_folders_are_not_its_own_does_not_open(place: Path, name: str, kind: str) -> None:
    folder = place / "store" / name
    if kind == "link":
        folder.symlink_to(place / "outside")
    elif kind == "file":
        folder.write_bytes(b"")
    else:
        folder.mkdir()
        os.chown(folder, STRANGER, STRANGER)
    with pytest.raises(IntruderError):
        Store(place / "store", 60 * MIB)


@as_root
def test_what_lies_beside_the_store_is_said_in_words_with_its_owner_and_size(root: Path) -> None:
    store = Store(root, 60 * MIB)
    (root / os.fsdecode(b"big\n\xff")).write_bytes(bytes(MIB))
    (root / "entries/odd one").mkdir()
    os.chown(root / "entries/odd one", STRANGER, STRANGER)
    first, second = store.strangers()
    assert r"'big\n\udcff'" in first
    assert "takes 1048576 bytes" in first
    assert f"user {STRANGER}" in second
    assert f"ls -lab {root}/entries" in second
    assert first.isprintable()
    for number in range(50):
        (root / f"more-{number}").touch()
    assert len(store.strangers()) < 20
    assert set(store.entries) == {"victim", "other"}


def test_views_hold_what_strangers_put_there_no_longer_than_until_the_store_opens(root: Path) -> None:
    views = root / "views"
    folder = (views / "pod-1").stat().st_ino
    (views / "pod-1/gone").mkdir()
    (views / "pod-1/gone/x").symlink_to(root.parent / "outside/file")
    (views / "pod-1/fifo").touch()
    (views / "Not A View").mkdir()
    (views / "link").symlink_to(root.parent / "outside")
    store = Store(root, 60 * MIB)
    assert store.views == {"pod-1": {"victim", "other"}}
    assert (views / "pod-1").stat().st_ino == folder
    assert len(store.deleted) == 2
    (views / "file").touch()
    assert set(store.views) == {"pod-1"}


def test_a_view_with_another_file_in_the_way_is_mended_by_linking(root: Path) -> None:
    store = Store(root, 60 * MIB)
    seen = root / "views/pod-1/victim/sub/model.safetensors"
    for trick in (lambda: replace(seen).symlink_to("/etc/passwd"), lambda: replace(seen).write_bytes(b"evil")):
        trick()
        store.link("pod-1", "victim")
        assert not seen.is_symlink()
        assert seen.read_bytes() == CONTENT


def test_memory_stays_flat_and_descriptors_too_whatever_is_tried(root: Path) -> None:
    def used() -> tuple[int, int]:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(list(Path("/proc/self/fd").iterdir()))

    store = Store(root, 60 * MIB)
    for number in range(60):
        if number == 10:
            memory_kib, descriptors = used()
        with pytest.raises(BadNameError), store.begin("a", {"x" * MIB: 1}):
            pytest.fail("a draft was made")
        with pytest.raises(IntruderError), store.begin("a", {"x": MIB, "y": 8}) as draft:
            IN_THE_WAY["second name"](root / "drafts/a")
            draft.write("y", 0, b"01234567")
    assert used()[1] <= descriptors
    assert used()[0] < memory_kib + 20 * 1024


@as_root
def test_another_process_finds_nothing_it_may_write(root: Path) -> None:
    """As the runners' user: neither the store nor what is shown can be changed."""
    script = """
import os, sys
os.setgid(65534); os.setuid(65534)
root, failures = sys.argv[1], 0
def attempt(call, *args):
    global failures
    try:
        call(*args)
    except PermissionError:
        failures += 1
    else:
        print("possible:", call, args)
seen = root + "/views/pod-1/victim/sub/model.safetensors"
assert len(open(seen, "rb").read())
attempt(os.open, seen, os.O_RDWR)
attempt(os.truncate, seen, 1)
attempt(os.unlink, seen)
attempt(os.chmod, seen, 0o666)
attempt(os.rename, seen, seen + "x")
for folder in ("", "/entries", "/drafts", "/views", "/views/pod-1", "/entries/victim"):
    attempt(os.mkdir, root + folder + "/new")
print(failures)
"""
    Store(root, 60 * MIB).close()
    root.parent.chmod(0o755)
    found = subprocess.run(
        ["/usr/bin/env", "python3", "-c", script, str(root)], capture_output=True, text=True, timeout=30, check=True
    )
    assert found.stdout == "11\n"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../victim", "/tmp/warmfleet-nobodys-file"])
def test_even_a_name_that_nobody_checked_reaches_nothing_outside_its_folder(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "victim"
    outside.mkdir()
    (tmp_path / "inside" / "a").mkdir(parents=True)
    (tmp_path / "inside" / "a" / "b").touch()
    with folders.opened(str(tmp_path / "inside")) as inside:
        for use in (folders.remove, folders.make, lambda name, at: folders.opened(name, at).__enter__()):
            with pytest.raises(IntruderError):
                use(name, inside)
    assert outside.exists() and (tmp_path / "inside" / "a" / "b").exists()
