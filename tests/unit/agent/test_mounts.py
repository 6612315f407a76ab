"""The mount table, and what is refused before anything is mounted; mounting itself is tested in the e2e tier."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmfleet_agent import mounts

TABLE = r"""22 1 0:20 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/a
63 43 0:39 / /dev/shm/model_cache rw,nosuid,nodev,noexec shared:5 master:3 - tmpfs warmfleet rw,huge=always
64 43 0:39 /views/a\040b /mnt/with\011tab\012and\134more ro - tmpfs \043odd rw
"""


def test_a_table_is_read_with_its_escapes_and_any_number_of_optional_fields() -> None:
    first, memory, view = mounts.parse(TABLE)
    assert (first.id, first.parent, first.point) == (22, 1, "/")
    assert (memory.filesystem, memory.source, memory.device) == ("tmpfs", "warmfleet", "0:39")
    assert "huge=always" in memory.super_options
    assert (view.root, view.point, view.source) == ("/views/a b", "/mnt/with\ttab\nand\\more", "#odd")
    assert view.options == {"ro"}


def test_the_table_of_this_process_is_read() -> None:
    assert any(each.point == "/" for each in mounts.table())


@pytest.mark.parametrize("line", ["", "x", "1 2 3 4 5 6", "a b 0:1 / / rw - tmpfs none rw"])
def test_what_is_no_table_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"mount table|invalid literal"):
        mounts.parse(line + "\n\n" if line else "nothing")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60))
def test_every_name_survives_the_table(name: str) -> None:
    escaped = "".join(f"\\{ord(each):03o}" if each in " \t\n\\#" else each for each in name)
    (found,) = mounts.parse(f"1 0 0:1 /{escaped} /{escaped} rw - tmpfs none rw\n")
    assert (found.root, found.point) == (f"/{name}", f"/{name}")


def test_a_link_in_the_stores_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(mounts.MountError, match=r"is a link or no folder; remove it on the node: rm .*/cache"):
        mounts.memory(tmp_path / "cache", 1 << 26)


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_something_else_in_the_stores_place_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "cache"
    path.touch() if kind == "file" else os.mkfifo(path)
    with pytest.raises(mounts.MountError, match="remove it on the node"):
        mounts.memory(path, 1 << 26)


def test_a_folder_with_somebodys_files_is_not_hidden(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    (tmp_path / "cache" / "thesis.txt").write_text("mine")
    with pytest.raises(mounts.MountError, match="holds files that are not Warmfleet's"):
        mounts.memory(tmp_path / "cache", 1 << 26)


def test_a_folder_that_others_may_take_away_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(mounts.MountError, match="belongs to somebody else"):
        mounts.memory(tmp_path / "cache", 1 << 26)


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(mounts.MountError, match="make it on the node"):
        mounts.memory(tmp_path / "no" / "cache", 1 << 26)


def test_taking_away_what_is_not_mounted_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    inside = os.open(tmp_path, os.O_PATH)
    try:
        mounts.unmount("plain", inside)
        mounts.unmount("missing", inside)
    finally:
        os.close(inside)
    assert (tmp_path / "plain").is_dir()
