"""What is said in two places for the images is said the same way."""

import re
import tomllib
from pathlib import Path

import pytest

from imagebuild.build import IMAGES, RECIPES, REPOSITORY, RUNTIME, Image, describe
from imagebuild.dockerfile import settings
from imagebuild.layers import Layer
from imagebuild.tree import Digest

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==([^\s;\\]+)", text, re.MULTILINE))


def locked(image: Image) -> dict[str, str]:
    return pins((image.recipe / "requirements.lock").read_text())


@pytest.mark.parametrize(("name", "extra"), [("warmfleet", "operator"), ("warmfleet-runtime", "runtime")])
def test_the_lock_of_an_image_has_the_versions_that_the_project_asks_for(name: str, extra: str) -> None:
    wanted = pins("\n".join(PROJECT["dependencies"] + PROJECT["optional-dependencies"][extra]))
    assert wanted.items() <= locked(Image(name)).items(), "run hack/images/lock"


def test_the_lock_of_the_runtime_has_the_wanted_engine() -> None:
    assert pins((RUNTIME.recipe / "vllm.in").read_text()).items() <= locked(RUNTIME).items(), "run hack/images/lock"


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_every_locked_requirement_has_a_hash(image: Image) -> None:
    for requirement in (image.recipe / "requirements.lock").read_text().replace("\\\n", " ").splitlines():
        assert requirement.startswith("#") or "--hash=sha256:" in requirement


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_the_dockerfile_installs_with_the_same_uv_as_this_machine(image: Image) -> None:
    version = pins((REPOSITORY / "hack/setup.d/uv.txt").read_text())["uv"]
    assert f"/uv:{version} " in (image.recipe / "Dockerfile").read_text()


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_the_dockerfile_runs_the_scripts_that_make_the_layers(image: Image) -> None:
    text = (image.recipe / "Dockerfile").read_text()
    for script in ("finish-base", "install-environment", "install-code"):
        assert f"images/{script} " in text
        assert (RECIPES / script).stat().st_mode & 0o100


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.name)
def test_an_image_never_runs_as_root_and_writes_only_to_its_volume(image: Image) -> None:
    found = settings(image.recipe / "Dockerfile")
    assert found["User"] == "65532:65532"
    environment = found["Env"]
    assert isinstance(environment, list)
    assert "HOME=/var/cache/warmfleet" in environment


def test_a_description_names_each_layer_relative_to_itself(tmp_path: Path) -> None:
    layer = Layer(tmp_path / "layers" / "code-1" / "tree", Digest("sha256:1", 10))
    description = describe(RUNTIME, [layer], tmp_path / "warmfleet-runtime")
    assert description["name"] == "ghcr.io/warmfleet/warmfleet-runtime:dev"
    assert description["layers"] == [{"directory": "../layers/code-1/tree", "diffID": "sha256:1", "bytes": 10}]
    config = description["config"]
    assert isinstance(config, dict)
    assert config["rootfs"] == {"type": "layers", "diff_ids": ["sha256:1"]}
    assert config["config"]["Entrypoint"] == ["python", "-m", "warmfleet_runtime"]
