"""What can be said about the folders of models and adapters before an engine spends a minute on finding it out."""

import os
from pathlib import Path

import msgspec

from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Reason

UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
"""Formats that unpickle, so that loading them can execute code."""
SHARD_INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_HEADER_BYTES = 100 * 1024 * 1024
"""The format's own limit."""


class _Tensor(msgspec.Struct):
    """An entry of a safetensors header; `__metadata__` has no offsets."""

    data_offsets: tuple[int, int] = (0, 0)


class _Adapter(msgspec.Struct):
    """What of an adapter_config.json is looked at."""

    r: int
    peft_type: str = "LORA"
    rank_pattern: dict[str, int] = {}


class RefusedError(Exception):
    """The folder can't be served; `error` says why and what to change."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(error.message)
        self.error = error


def weigh(folder: Path, uri: str, field: str = "model.uri") -> int:
    """Return the bytes of the safetensors files in `folder`, the mount of what `uri` names; `field` is the uri's own.

    Raises:
        RefusedError: nothing there, nothing readable, nothing whole, or nothing that is safe to load.
    """
    entries = _list(folder, uri, field)
    weights = [entry for entry in entries if entry.suffix == ".safetensors"]
    if folder / "config.json" not in entries:
        message = f"{uri} has no config.json; {field} has to name the folder with config.json and *.safetensors"
        raise _refused(Reason.MODEL_NOT_FOUND, message)
    if not weights:
        raise _no_weights(uri, entries)
    _check_readable(uri, folder / "config.json", *weights)
    _check_json(uri, folder / "config.json")
    _check_shards(uri, folder, {entry.name for entry in weights})
    for entry in weights:
        _check_complete(uri, entry)
    return sum(entry.stat().st_size for entry in weights)


def weigh_adapter(folder: Path, uri: str) -> tuple[int, int]:
    """Return the bytes of a LoRA adapter's weights and its highest rank.

    Raises:
        RefusedError: it is not there, not whole, not safe to load, or no LoRA.
    """
    entries = _list(folder, uri, "model.adapters")
    config, weights = folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS
    if config not in entries:
        message = (
            f"{uri} has no {ADAPTER_CONFIG}; model.adapters has to name the folder of a LoRA adapter as PEFT saves it"
        )
        raise _refused(Reason.MODEL_NOT_FOUND, message)
    if weights not in entries:
        raise _no_weights(uri, entries, ADAPTER_WEIGHTS)
    _check_readable(uri, config, weights)
    described = _check_json(uri, config)
    try:
        adapter = msgspec.convert(described, _Adapter)
    except msgspec.ValidationError as error:
        raise _refused(Reason.INVALID_ARGS, f"{config.name} of {uri} is no LoRA adapter's: {error}") from None
    if adapter.peft_type != "LORA":
        message = (
            f"{uri} is an adapter of type {adapter.peft_type}, and vLLM serves LORA; remove it from model.adapters"
        )
        raise _refused(Reason.INVALID_ARGS, message)
    _check_complete(uri, weights)
    return weights.stat().st_size, max(adapter.r, *adapter.rank_pattern.values(), 1)


def _list(folder: Path, uri: str, field: str) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise _refused(Reason.MODEL_NOT_FOUND, f"{uri} is no folder on this node; correct {field}") from None
    except PermissionError:
        raise _unreadable(uri, folder) from None
    if not entries:
        # What containers see of a host path that does not exist.
        raise _refused(Reason.MODEL_NOT_FOUND, f"{uri} is missing or empty on this node; correct {field}")
    return entries


def _check_readable(uri: str, *files: Path) -> None:
    for file in files:
        if not os.access(file, os.R_OK):
            raise _unreadable(uri, file)


def _check_json(uri: str, path: Path) -> object:
    try:
        return msgspec.json.decode(path.read_bytes())
    except msgspec.DecodeError as error:
        message = f"{path.name} of {uri} is not valid JSON ({error}); copy it again"
        raise _refused(Reason.MODEL_NOT_FOUND, message) from None


def _check_shards(uri: str, folder: Path, present: set[str]) -> None:
    """Compare with the index of a model of several files, if it has one."""
    index = folder / SHARD_INDEX
    if not index.is_file():
        return
    listed = _check_json(uri, index)
    shards = set(listed.get("weight_map", {}).values()) if isinstance(listed, dict) else set()
    if missing := sorted(shards - present):
        message = (
            f"{uri} lacks {len(missing)} of {len(shards)} weight files, the first is {missing[0]}; copy them there"
        )
        raise _refused(Reason.MODEL_NOT_FOUND, message)


def _check_complete(uri: str, path: Path) -> None:
    """Compare the size with the header: 8 bytes of its length, JSON with the tensors' offsets, the tensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= min(size, MAX_HEADER_BYTES) else b""
    try:
        tensors = msgspec.json.decode(header, type=dict[str, _Tensor])
    except msgspec.MsgspecError:
        raise _refused(Reason.MODEL_NOT_FOUND, f"{path.name} of {uri} is no safetensors file; copy it again") from None
    expected = 8 + length + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if size != expected:
        message = f"{path.name} of {uri} has {size} bytes instead of {expected}; copy it again"
        raise _refused(Reason.MODEL_NOT_FOUND, message)


def _no_weights(uri: str, entries: list[Path], wanted: str = "*.safetensors") -> RefusedError:
    unsafe = [entry.name for entry in entries if entry.suffix in UNSAFE_SUFFIXES]
    if unsafe:
        message = (
            f"{uri} has its weights only as {unsafe[0]}, a format that can execute code when it is loaded; "
            f"convert them to {wanted}"
        )
        return _refused(Reason.UNSAFE_FORMAT, message)
    return _refused(Reason.MODEL_NOT_FOUND, f"{uri} has no {wanted}; put the weights into that folder")


def _unreadable(uri: str, path: Path) -> RefusedError:
    message = (
        f"{path.name or path} of {uri} can't be read by user {os.getuid()}; make it readable for all (chmod -R a+rX)"
    )
    return _refused(Reason.ACCESS_DENIED, message)


def _refused(reason: Reason, message: str) -> RefusedError:
    return RefusedError(EngineError(reason=reason, message=message))
