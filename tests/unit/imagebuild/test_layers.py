import os
import time
from pathlib import Path

import pytest

from imagebuild.layers import LayerStore
from localcluster.progress import quiet


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    return LayerStore(tmp_path / "layers", quiet)


def fill(tree: Path) -> None:
    (tree / "file").write_text("content")


def never(tree: Path) -> None:
    raise AssertionError(f"built {tree} again")


def places(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "layers").iterdir())


def test_a_layer_is_built_once_for_each_key(store: LayerStore) -> None:
    built = store.obtain("code", "a" * 64, fill)
    assert (built.directory / "file").read_text() == "content"
    assert store.obtain("code", "a" * 64, never) == built
    assert store.obtain("code", "b" * 64, fill).directory != built.directory


def test_a_failed_build_leaves_nothing_and_is_tried_again(store: LayerStore, tmp_path: Path) -> None:
    def fail(tree: Path) -> None:
        fill(tree)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.obtain("code", "a" * 64, fail)
    assert places(tmp_path) == []
    assert store.obtain("code", "a" * 64, fill).directory.is_dir()


def test_pruning_keeps_what_is_used_or_new(store: LayerStore, tmp_path: Path) -> None:
    used, unused, new = (store.obtain("code", letter * 64, fill) for letter in "abc")
    long_ago = time.time() - 7200
    for layer in (used, unused):
        os.utime(layer.directory.parent, (long_ago, long_ago))
    store.prune({used.directory})
    assert used.directory.is_dir()
    assert new.directory.is_dir()
    assert not unused.directory.parent.exists()
