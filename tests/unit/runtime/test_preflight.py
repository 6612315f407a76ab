"""What is said about a model's folder before an engine starts."""

import json
import os
from pathlib import Path

import pytest

from warmfleet_api.vocabulary import Reason
from warmfleet_runtime.engines import launch_vllm
from warmfleet_runtime.engines.vllm_serve import ADAPTER, DRAFT, RANK
from warmfleet_runtime.preflight import SHARD_INDEX, RefusedError, weigh, weigh_adapter

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


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A whole LoRA adapter."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}')
    (folder / "adapter_model.safetensors").write_bytes(safetensors(100))
    return folder


def adapter_refusal(folder: Path) -> tuple[Reason, str]:
    with pytest.raises(RefusedError) as refused:
        weigh_adapter(folder, URI)
    return refused.value.error.reason, refused.value.error.message


def test_an_adapter_is_weighed_and_tells_its_highest_rank(adapter: Path) -> None:
    assert weigh_adapter(adapter, URI) == (len(safetensors(100)), 8)
    (adapter / "adapter_config.json").write_text('{"r": 8, "rank_pattern": {"q_proj": 32}}')
    assert weigh_adapter(adapter, URI)[1] == 32


def test_a_folder_without_an_adapter_is_named_by_its_field(adapter: Path, tmp_path: Path) -> None:
    assert adapter_refusal(tmp_path / "none") == (
        Reason.MODEL_NOT_FOUND,
        f"{URI} is no folder on this node; correct model.adapters",
    )
    (adapter / "adapter_config.json").unlink()
    assert "has no adapter_config.json; model.adapters has to name" in adapter_refusal(adapter)[1]


def test_an_adapter_that_can_execute_code_is_refused(adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    reason, message = adapter_refusal(adapter)
    assert reason is Reason.UNSAFE_FORMAT
    assert "adapter_model.bin" in message and "convert them to adapter_model.safetensors" in message


def test_an_adapter_of_another_kind_is_named(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text('{"peft_type": "IA3", "r": 1}')
    assert adapter_refusal(adapter) == (
        Reason.INVALID_ARGS,
        f"{URI} is an adapter of type IA3, and vLLM serves LORA; remove it from model.adapters",
    )
    (adapter / "adapter_config.json").write_text("{}")
    assert "is no LoRA adapter's: Object missing required field `r`" in adapter_refusal(adapter)[1]


def test_the_check_before_vllm_covers_all_it_reads_and_puts_in_the_rank(
    folder: Path, adapter: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(folder), URI, DRAFT, str(folder), URI, ADAPTER, str(adapter), URI]
    command = launch_vllm.check([*folders, "--", "serve", "--max-lora-rank", RANK, "--", "x"])
    assert command == ["serve", "--max-lora-rank", "8", "--", "x"]
    read = 2 * len(safetensors(1000)) + len(safetensors(100))
    assert capsys.readouterr().out == f"{launch_vllm.WEIGHT_BYTES_LINE}{read}\n"


def test_a_refused_draft_names_its_field(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch_vllm.check([str(folder), URI, DRAFT, str(tmp_path / "none"), "file:///models/draft", "--", "serve"])
    assert "file:///models/draft is no folder on this node; correct engine.speculative.uri" in capsys.readouterr().out
