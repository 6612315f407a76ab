"""What is said about a model's folder before an engine starts."""

import json
import os
from pathlib import Path

import pytest

from warmfleet_api.vocabulary import Reason
from warmfleet_runtime.preflight import SHARD_INDEX, RefusedError, weigh

URI = "file:///models/m"


def safetensors(tensor_bytes: int) -> bytes:
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "w": {"dtype": "U8", "shape": [tensor_bytes], "data_offsets": [0, tensor_bytes]},
        }
    ).encode()
    return len(header).to_bytes(8, "little") + header + bytes(tensor_bytes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model of one file."""
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").write_bytes(safetensors(1000))
    return tmp_path


def refusal(folder: Path) -> tuple[Reason, str]:
    with pytest.raises(RefusedError) as refused:
        weigh(folder, URI)
    return refused.value.error.reason, refused.value.error.message


def test_a_whole_model_is_weighed(folder: Path) -> None:
    (folder / "extra.safetensors").write_bytes(safetensors(500))
    assert weigh(folder, URI) == len(safetensors(1000)) + len(safetensors(500))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == (Reason.MODEL_NOT_FOUND, f"{URI} is no folder on this node; correct model.uri")


def test_an_empty_folder_is_what_a_missing_one_looks_like_in_a_container(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (Reason.MODEL_NOT_FOUND, f"{URI} is missing or empty on this node; correct model.uri")


def test_a_folder_without_config_is_no_model(folder: Path) -> None:
    (folder / "config.json").unlink()
    reason, message = refusal(folder)
    assert (reason, "has no config.json" in message) == (Reason.MODEL_NOT_FOUND, True)


def test_weights_that_can_execute_code_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    reason, message = refusal(folder)
    assert reason is Reason.UNSAFE_FORMAT
    assert "pytorch_model.bin" in message and "convert them to *.safetensors" in message


def test_a_folder_without_any_weights_is_no_model(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(folder)[0] is Reason.MODEL_NOT_FOUND


def test_a_file_that_was_copied_in_part_is_named_with_both_sizes(folder: Path) -> None:
    whole = (folder / "model.safetensors").stat().st_size
    os.truncate(folder / "model.safetensors", whole - 10)
    assert refusal(folder)[1] == f"model.safetensors of {URI} has {whole - 10} bytes instead of {whole}; copy it again"


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"x" * 100, (5).to_bytes(8, "little") + b"nojsn"])
def test_what_is_no_safetensors_file_is_named(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    assert refusal(folder)[1] == f"model.safetensors of {URI} is no safetensors file; copy it again"


def test_missing_files_of_a_sharded_model_are_counted(folder: Path) -> None:
    (folder / SHARD_INDEX).write_text(json.dumps({"weight_map": {"a": "model.safetensors", "b": "b.safetensors"}}))
    assert "lacks 1 of 2 weight files, the first is b.safetensors" in refusal(folder)[1]


def test_a_broken_config_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "config.json of file:///models/m is not valid JSON" in refusal(folder)[1]


def test_an_unreadable_file_is_named_with_the_command_that_helps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Root reads everything, so ask as the kernel would answer another user.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "model.safetensors")
    reason, message = refusal(folder)
    assert reason is Reason.ACCESS_DENIED
    assert message.startswith("model.safetensors of") and "chmod -R a+rX" in message
