import json
import tarfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from localcluster.errors import ClusterError
from localcluster.images import SeededImage, chain_ids, docker_image
from localcluster.oci import Layer, write_archive

A, B, C = ("sha256:" + letter * 64 for letter in "abc")


def chained(parent: str, layer: str) -> str:
    return "sha256:" + sha256(f"{parent} {layer}".encode()).hexdigest()


def test_chain_ids_follow_the_image_specification() -> None:
    assert chain_ids([A, B, C]) == [A, chained(A, B), chained(chained(A, B), C)]
    assert chain_ids([]) == []


def seeded(directory: Path, **changes: Any) -> Path:
    (directory / "tree").mkdir()
    image = {"name": "ghcr.io/x/y:dev", "config": {"Cmd": ["sh"]}, "layers": [{"directory": "tree", "diffID": A}]}
    path = directory / "image.json"
    path.write_text(json.dumps(image | changes))
    return path


def test_layers_of_a_seeded_image_may_be_relative_to_it(tmp_path: Path) -> None:
    image = SeededImage.load(seeded(tmp_path))
    assert [layer.directory for layer in image.layers] == [tmp_path / "tree"]
    config = json.loads(image.config_blob)
    assert config["config"] == {"Cmd": ["sh"]}
    assert config["rootfs"]["diff_ids"] == [A]


def test_another_layer_or_config_is_another_image(tmp_path: Path) -> None:
    path = seeded(tmp_path)
    first = SeededImage.load(path).digest
    assert SeededImage.load(path).digest == first
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"layers": [{"directory": "tree", "diffID": B}]}))
    second = SeededImage.load(path).digest
    path.write_text(json.dumps(content | {"config": {"Cmd": ["ls"]}}))
    assert len({first, second, SeededImage.load(path).digest}) == 3


def test_a_missing_layer_is_named(tmp_path: Path) -> None:
    path = seeded(tmp_path, layers=[{"directory": "gone", "diffID": A}])
    with pytest.raises(ClusterError, match=r"gone.*missing; build it again"):
        SeededImage.load(path)


def test_a_file_that_is_no_seeded_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.json"
    path.write_text('{"name": "x"}')
    with pytest.raises(ClusterError, match="is not a seeded image"):
        SeededImage.load(path)


def test_an_archive_carries_its_layers_by_content(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "hello").write_text("world")
    target = tmp_path / "image.tar"
    write_archive("ghcr.io/x/y:dev", {"Cmd": ["/hello"]}, [Layer(tree)], target)
    with tarfile.open(target) as archive:

        def blob(name: str) -> bytes:
            stream = archive.extractfile(name)
            assert stream is not None
            return stream.read()

        def by_digest(digest: str) -> bytes:
            content = blob("blobs/sha256/" + digest.removeprefix("sha256:"))
            assert digest == "sha256:" + sha256(content).hexdigest()
            return content

        (entry,) = json.loads(blob("index.json"))["manifests"]
        assert entry["annotations"]["io.containerd.image.name"] == "ghcr.io/x/y:dev"
        manifest = json.loads(by_digest(entry["digest"]))
        config = json.loads(by_digest(manifest["config"]["digest"]))
        (layer,) = manifest["layers"]
        assert config["rootfs"]["diff_ids"] == [layer["digest"]]
        assert len(by_digest(layer["digest"])) == layer["size"]


def test_an_image_that_docker_keeps_is_known_by_name_and_refused_as_directories(tmp_path: Path) -> None:
    path = tmp_path / "image.json"
    path.write_text(json.dumps({"name": "ghcr.io/x/y:dev", "docker": A}))
    assert docker_image(path) == "ghcr.io/x/y:dev"
    with pytest.raises(ClusterError, match="--engine none"):
        SeededImage.load(path)


def test_a_seeded_image_is_not_in_docker(tmp_path: Path) -> None:
    assert docker_image(seeded(tmp_path)) is None
