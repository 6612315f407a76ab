"""The generated files."""

from pathlib import Path
from typing import Any

import pytest
import yaml

import crdgen.__main__ as command
from crdgen import engine_table
from crdgen.definition import definitions, model_deployment_crd

COLUMNS = ["READY", "STATUS", "DESIRED", "SERVING", "PRIORITY", "PENDING", "LAST-START", "AGE"]
WIDE_COLUMNS = ["MODEL", "CANARY", "GPUS", "NODE", "READY-AT", "BLOCKER", "ENDPOINT"]


@pytest.fixture(autouse=True)
def no_runtime_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a runtime image was built on this machine must not decide a unit test."""
    monkeypatch.setenv("WARMFLEET_CACHE", str(tmp_path / "cache"))


def test_generated_files_are_up_to_date() -> None:
    assert list(command.differences(command.generated_files())) == []


def test_generating_twice_gives_the_same_bytes() -> None:
    assert command.generated_files() == command.generated_files()


def test_the_yaml_says_what_the_definition_says() -> None:
    files = {path.name: text for path, text in command.generated_files().items()}
    for crd in definitions():
        assert yaml.safe_load(files[f"warmfleet.dev_{crd['spec']['names']['plural']}.yaml"]) == crd


def test_a_difference_is_shown_with_the_command_that_fixes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["verify"])
    assert command.main() == 1
    output = capsys.readouterr()
    assert "crds/kustomization.yaml" in output.out
    assert "hack/verify --write" in output.err
    assert not list(tmp_path.iterdir())


def test_the_table_of_options_is_of_the_version_that_the_image_holds() -> None:
    text = (command.ROOT / engine_table.TABLE).read_text()
    assert engine_table.table_version(text) == engine_table.pinned_version()


def test_what_was_not_compared_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["verify"])
    assert command.main() == 0
    assert "vllm_arguments.json is not compared" in capsys.readouterr().out


def test_writing_makes_the_check_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["verify", "--write"])
    assert command.main() == 0
    monkeypatch.setattr("sys.argv", ["verify"])
    assert command.main() == 0


def test_columns_are_those_that_people_know() -> None:
    version = model_deployment_crd()["spec"]["versions"][0]
    columns = version["additionalPrinterColumns"]
    assert [each["name"].upper() for each in columns if "priority" not in each] == COLUMNS
    assert [each["name"].upper() for each in columns if each.get("priority") == 1] == WIDE_COLUMNS


@pytest.mark.parametrize("crd", definitions(), ids=lambda crd: crd["spec"]["names"]["kind"])
def test_kstatus_sees_a_new_object_as_not_yet_observed(crd: dict[str, Any]) -> None:
    version = crd["spec"]["versions"][0]
    status = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    assert status["default"]["observedGeneration"] == -1
    assert status["properties"]["observedGeneration"]["default"] == -1
