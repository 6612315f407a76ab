"""Puts images on nodes: seeded ones by hard links, archives by import.

A *seeded image* was built without an engine: an `image.json` names directories, each the whole tree of one layer. A
node's snapshot of such a layer is a tree of hard links, so five gigabytes cost each node some seconds and no disk. All
nodes share the inodes; overlayfs never writes to a lower directory.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from localcluster.errors import ClusterError
from localcluster.network import run
from localcluster.nodes import Nodes, node_name
from localcluster.oci import digest, image_config, image_manifest, layer_descriptor, write_layout
from localcluster.paths import ClusterFiles, images_directory
from localcluster.progress import Say

_LOAD_SECONDS = 600
_ROOT_LABEL = "containerd.io/gc.root"
_SNAPSHOT_LABEL = "containerd.io/gc.ref.snapshot.overlayfs"


@dataclass(frozen=True)
class SeededLayer:
    """The tree of one layer and the digest of its uncompressed archive."""

    directory: Path
    diff_id: str


@dataclass(frozen=True)
class SeededImage:
    """An image whose layers are directories."""

    name: str
    config: dict[str, Any]
    layers: tuple[SeededLayer, ...]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an `image.json`; its paths may be relative to it.

        Raises:
            ClusterError: it is not one, or a layer's directory is missing.
        """
        if name := docker_image(path):
            raise ClusterError(
                f"{name} is in Docker, which this cluster does not use; `hack/images/build --engine none`"
            )
        try:
            content = json.loads(path.read_text())
            layers = tuple(SeededLayer(path.parent / item["directory"], item["diffID"]) for item in content["layers"])
            image = cls(content["name"], content["config"], layers)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{path} is not a seeded image ({error!r}); build images with hack/images/build"
            ) from None
        for layer in layers:
            if not layer.directory.is_dir():
                raise ClusterError(f"layer {layer.directory} of {path} is missing; build it again")
        return image

    @property
    def config_blob(self) -> bytes:
        """The image configuration as it is stored."""
        return image_config(self.config, [layer.diff_id for layer in self.layers])

    @property
    def digest(self) -> str:
        """Digest of the manifest: the identity of the image."""
        return digest(image_manifest(self.config_blob, [layer_descriptor(layer.diff_id, 0) for layer in self.layers]))


def docker_image(path: Path) -> str | None:
    """The name of the image if this `image.json` describes one that Docker keeps."""
    try:
        content = json.loads(path.read_text())
        return str(content["name"]) if "docker" in content else None
    except (OSError, ValueError):
        return None


def chain_ids(diff_ids: Sequence[str]) -> list[str]:
    """Names of the stacked layers, as the image specification defines ChainID."""
    chain: list[str] = []
    for diff_id in diff_ids:
        chain.append("sha256:" + sha256(f"{chain[-1]} {diff_id}".encode()).hexdigest() if chain else diff_id)
    return chain


def all_images() -> list[Path]:
    """Every seeded image built on this machine."""
    return sorted(images_directory().glob("*/image.json"))


class Images:
    """Loads images on the nodes of one cluster."""

    def __init__(self, files: ClusterFiles, nodes: Nodes) -> None:
        self._files = files
        self._nodes = nodes

    def load(self, number: int, paths: Sequence[Path], say: Say) -> None:
        """Load seeded images (`*.json`) and OCI or Docker archives (`*.tar`) on node `number`.

        Raises:
            ClusterError: a file can't be loaded.
        """
        for path in paths:
            if path.suffix == ".json":
                image = SeededImage.load(path)
                if self._present(number, image):
                    say(f"{image.name} is on {node_name(number)}")
                else:
                    self._seed(number, image)
                    say(f"{image.name} seeded on {node_name(number)}")
            elif path.is_file():
                self._ctr(number, "images", "import", str(path))
                say(f"{path.name} imported on {node_name(number)}")
            else:
                raise ClusterError(f"{path} is neither an image.json nor an archive; see `hack/cluster load --help`")

    def _present(self, number: int, image: SeededImage) -> bool:
        listed = self._ctr(number, "images", "ls", f"name=={image.name}")
        return image.digest in listed

    def _seed(self, number: int, image: SeededImage) -> None:
        chain = chain_ids([layer.diff_id for layer in image.layers])
        existing = {line.split()[0] for line in self._ctr(number, "snapshots", "ls").splitlines() if line.strip()}
        parent = ""
        for name, layer in zip(chain, image.layers, strict=True):
            if name not in existing:
                self._seed_layer(number, name, parent, layer)
            parent = name
        config = image.config_blob
        with tempfile.NamedTemporaryFile(dir=self._files.node(number), suffix=".tar") as archive:
            blobs = [(layer_descriptor(layer.diff_id, 0), None) for layer in image.layers]
            write_layout(image.name, config, blobs, Path(archive.name))
            self._ctr(number, "images", "import", "--no-unpack", archive.name)
        # From here on the image holds its snapshots, as after an unpack: they go when it goes.
        self._ctr(number, "content", "label", digest(config), f"{_SNAPSHOT_LABEL}={chain[-1]}")
        for name in chain:
            self._ctr(number, "snapshots", "label", name, f"{_ROOT_LABEL}=")

    def _seed_layer(self, number: int, name: str, parent: str, layer: SeededLayer) -> None:
        active = f"seed-{name}"
        if active in self._ctr(number, "snapshots", "ls"):
            self._ctr(number, "snapshots", "rm", active)  # of a load that was interrupted
        parents = [parent] if parent else []
        mounts = json.loads(self._ctr(number, "snapshots", "prepare", "--mounts", active, *parents))
        inside = Path(_upper(mounts[0]))
        outside = self._files.node(number) / "containerd" / inside.relative_to("/var/lib/containerd")
        same_disk = outside.stat().st_dev == layer.directory.stat().st_dev
        links = ["--link"] if same_disk else []
        run("cp", "--archive", *links, f"{layer.directory}/.", str(outside), seconds=_LOAD_SECONDS)
        self._ctr(number, "snapshots", "commit", name, active)

    def _ctr(self, number: int, *arguments: str) -> str:
        inside = ["nsenter", f"--target={self._nodes.init(number).pid}", "--mount"]
        return run(*inside, "ctr", "--namespace", "k8s.io", *arguments, seconds=_LOAD_SECONDS)


def _upper(mount: dict[str, Any]) -> str:
    """The writable directory of a prepared snapshot: a bind's source for the first layer, else overlayfs' upper."""
    if mount["Type"] == "bind":
        return str(mount["Source"])
    options: list[str] = mount["Options"]
    return next(option.removeprefix("upperdir=") for option in options if option.startswith("upperdir="))
