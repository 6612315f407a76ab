"""What the images are made of, and what makes each part out of date."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuild.commands import run_visibly
from imagebuild.dockerfile import settings
from imagebuild.errors import BuildError
from imagebuild.layers import Layer, LayerStore
from imagebuild.tree import TIMESTAMP, hash_files
from localcluster.progress import Say

REPOSITORY = Path(__file__).resolve().parents[2]
RECIPES = REPOSITORY / "hack" / "images"
TAG = "dev"
_SUITE = "bookworm"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_NOT_INSTALLED = ("doc", "info", "locale", "man")
"""Directories of /usr/share that dpkg leaves out, as in Debian's own slim images."""


@dataclass(frozen=True)
class Image:
    """One image: the directory of its recipe has its name."""

    name: str

    @property
    def reference(self) -> str:
        """The name a pod asks for."""
        return f"ghcr.io/warmfleet/{self.name}:{TAG}"

    @property
    def recipe(self) -> Path:
        """Dockerfile, packages of Debian and locked requirements."""
        return RECIPES / self.name


OPERATOR = Image("warmfleet")
RUNTIME = Image("warmfleet-runtime")
IMAGES = (OPERATOR, RUNTIME)


def build_with_docker(image: Image, output: Path, say: Say) -> None:
    """Build the image with Docker and name it in `output/NAME/image.json`: `{"name", "docker": the image's id}`.

    Raises:
        BuildError: It failed; the engine's own output says why.
    """
    dockerfile = str(image.recipe / "Dockerfile")
    run_visibly(say, ["docker", "build", "--file", dockerfile, "--tag", image.reference, "."], REPOSITORY)
    inspect = ["docker", "image", "inspect", "--format", "{{.Id}}", image.reference]
    identity = subprocess.run(inspect, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    _write_description(output / image.name, {"name": image.reference, "docker": identity})


def build_without_engine(image: Image, output: Path, say: Say) -> tuple[Layer, ...]:
    """Build the image as directories below `output` and describe it in `output/NAME/image.json`; returns its layers.

    The three layers are those of the Dockerfile's last stage, made by the same scripts. For the file see `describe`.

    Raises:
        BuildError: A tool is missing or failed.
    """
    _check_machine()
    store = LayerStore(output / "layers", say)
    packages, requirements = image.recipe / "packages.txt", image.recipe / "requirements.lock"
    finish, compiler = RECIPES / "finish-base", RECIPES / "compile"
    install_environment, install_code = RECIPES / "install-environment", RECIPES / "install-code"
    sources = [REPOSITORY / name for name in ("pyproject.toml", "README.md", "operator", "runtime")]

    def fill_base(tree: Path) -> None:
        _install_debian(packages.read_text().split(), tree, say)
        run_visibly(say, [str(finish), str(tree)], REPOSITORY)

    def fill_environment(tree: Path) -> None:
        run_visibly(say, [str(install_environment), str(tree), str(requirements)], REPOSITORY)

    def fill_code(tree: Path) -> None:
        run_visibly(say, [str(install_code), str(tree)], REPOSITORY)

    base_key = _key(packages, finish)
    environment_key = _key(requirements, install_environment, RECIPES / "name_vllm.py", compiler)
    code_key = _key(*sources, install_code, compiler)
    layers = (
        store.obtain(f"{image.name}-base", base_key, fill_base),
        store.obtain(f"{image.name}-environment", environment_key, fill_environment),
        store.obtain("code", code_key, fill_code),
    )
    _write_description(output / image.name, describe(image, layers, output / image.name))
    return layers


def describe(image: Image, layers: Sequence[Layer], start: Path) -> dict[str, object]:
    """What `hack/cluster load` needs to know of an image that is directories.

    `{"name", "config": the OCI image configuration, "layers": [{"directory", "diffID", "bytes"}]}`: the bottom layer
    first, directories relative to `start`.
    """
    return {
        "name": image.reference,
        "config": {
            "architecture": _ARCHITECTURES[platform.machine()],
            "os": "linux",
            "config": settings(image.recipe / "Dockerfile"),
            "rootfs": {"type": "layers", "diff_ids": [layer.digest.diff_id for layer in layers]},
        },
        "layers": [
            {
                "directory": os.path.relpath(layer.directory, start),
                "diffID": layer.digest.diff_id,
                "bytes": layer.digest.size_bytes,
            }
            for layer in layers
        ],
    }


def _write_description(directory: Path, description: Mapping[str, object]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    unfinished = directory / ".image.json"
    unfinished.write_text(json.dumps(description, indent=1) + "\n")
    unfinished.replace(directory / "image.json")


def _install_debian(packages: Sequence[str], tree: Path, say: Say) -> None:
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NOT_INSTALLED]
    include = f"--include={','.join(packages)}"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", include, *excluded, _SUITE, str(tree)]
    # It mounts /proc, /sys and /dev below the tree: in a namespace of its own they never outlive it, however it ends.
    run_visibly(say, ["unshare", "--mount", *command], REPOSITORY, {"SOURCE_DATE_EPOCH": str(TIMESTAMP)})


def _key(*inputs: Path) -> str:
    return hash_files(*inputs, below=REPOSITORY)


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise BuildError("building an image without a container engine needs root; run it with `sudo -E`")
    if platform.machine() not in _ARCHITECTURES:
        raise BuildError(f"images are built for {', '.join(_ARCHITECTURES)}, and this machine is {platform.machine()}")
    for tool in ("unshare", "mmdebstrap", "uv", "/usr/bin/python3.11"):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is missing, and images are built with it; run `hack/setup`")
