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


IMAGES = tuple(Image(name) for name in ("warmfleet", "warmfleet-runtime"))


def build_with_docker(image: Image) -> None:
    """Build the image with the Docker engine of this machine.

    Raises:
        BuildError: It failed; the engine's own output says why.
    """
    _run(["docker", "build", "--file", str(image.recipe / "Dockerfile"), "--tag", image.reference, str(REPOSITORY)])


def build_without_engine(image: Image, output: Path, say: Say) -> tuple[Layer, ...]:
    """Build the image as directories below `output` and describe it in `output/NAME/image.json`; returns its layers.

    The three layers are those of the Dockerfile's last stage, made by the same scripts. The description is
    `{"name", "config": the OCI image configuration, "layers": [{"directory", "diffID", "bytes"}]}`, bottom layer first.

    Raises:
        BuildError: A tool is missing or failed.
    """
    _check_machine()
    store = LayerStore(output / "layers", say)
    recipe = image.recipe
    requirements = recipe / "requirements.lock"
    install = [RECIPES / "install-environment", RECIPES / "name_vllm.py", RECIPES / "compile"]
    code = [RECIPES / "install-code", RECIPES / "compile"]
    sources = [REPOSITORY / name for name in ("pyproject.toml", "README.md", "operator", "runtime")]
    layers = (
        store.obtain(
            f"{image.name}-base",
            _key(recipe / "packages.txt", RECIPES / "finish-base"),
            lambda tree: _install_debian(recipe / "packages.txt", tree),
        ),
        store.obtain(
            f"{image.name}-environment",
            _key(requirements, *install),
            lambda tree: _run([str(RECIPES / "install-environment"), str(tree), str(requirements)]),
        ),
        store.obtain(
            "code",
            _key(*sources, *code),
            lambda tree: _run([str(RECIPES / "install-code"), str(tree)]),
        ),
    )
    description = describe(image, layers)
    directory = output / image.name
    directory.mkdir(exist_ok=True)
    written = directory / ".image.json"
    written.write_text(json.dumps(description, indent=1) + "\n")
    written.replace(directory / "image.json")
    return layers


def describe(image: Image, layers: Sequence[Layer]) -> dict[str, object]:
    """What `hack/cluster load` needs to know of a built image."""
    config = {
        "architecture": _ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": settings(image.recipe / "Dockerfile"),
        "rootfs": {"type": "layers", "diff_ids": [layer.digest.diff_id for layer in layers]},
    }
    return {
        "name": image.reference,
        "config": config,
        "layers": [
            {
                "directory": str(layer.directory),
                "diffID": layer.digest.diff_id,
                "bytes": layer.digest.size_bytes,
            }
            for layer in layers
        ],
    }


def docker_answers() -> bool:
    """Whether a Docker engine runs here; the command alone is not enough."""
    if shutil.which("docker") is None:
        return False
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _install_debian(packages: Path, tree: Path) -> None:
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NOT_INSTALLED]
    include = f"--include={','.join(packages.read_text().split())}"
    command = ["mmdebstrap", "--quiet", "--variant=minbase", include, *excluded, _SUITE, str(tree)]
    _run(command, {"SOURCE_DATE_EPOCH": str(TIMESTAMP)})
    _run([str(RECIPES / "finish-base"), str(tree)])


def _key(*inputs: Path) -> str:
    return hash_files(*inputs, below=REPOSITORY)


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise BuildError("building an image without a container engine needs root; run it with `sudo -E`")
    if platform.machine() not in _ARCHITECTURES:
        raise BuildError(f"images are built for {', '.join(_ARCHITECTURES)}, and this machine is {platform.machine()}")
    for tool in ("mmdebstrap", "uv", "/usr/bin/python3.11"):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is missing, and images are built with it; run `hack/setup`")


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    result = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, **(environment or {})}, umask=0o022, check=False
    )
    if result.returncode != 0:
        raise BuildError(f"`{' '.join(command)}` ended with status {result.returncode}; its output is above")
