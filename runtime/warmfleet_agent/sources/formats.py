"""Which files of a source are fetched: weights as safetensors, and what engines read beside them.

An allow-list. Files that run code when they are read (pickle, Python) are never fetched; files that nobody needs
(pictures, other formats of the same weights) are left where they are.
"""

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

import msgspec

from warmfleet_agent.sources.contract import RemoteFile, SourceError
from warmfleet_agent.store.manifest import FILE_NAME, BadNameError, check_files
from warmfleet_api.vocabulary import WeightsProblem

WEIGHTS = ".safetensors"
INDEX = ".safetensors.index.json"
_SIDE_SUFFIXES = frozenset({".json", ".jinja", ".model", ".tiktoken"})
"""Configuration, chat templates and tokenizers (sentencepiece's `.model` is a protobuf message)."""
_SIDE_NAMES = frozenset({"merges.txt", "vocab.txt", "bpe.codes", "added_tokens.txt"})
_UNSAFE = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz", ".h5", ".keras"})
"""Pickled, or of libraries that unpickle."""
_OTHER_WEIGHTS = frozenset({".gguf", ".ggml", ".onnx", ".msgpack", ".tflite", ".mlpackage"})
_SKIPPED_FOLDERS = frozenset({"original", "metal", "onnx", "openvino"})
"""The same weights once more for other engines: vLLM skips them too."""
_MAX_SIDE_BYTES = 256 * 1024**2
_MAX_NAME_LENGTH = 1024
_HOSTILE = re.compile(r"[\x00-\x1f\x7f\\]")


class Index(msgspec.Struct, frozen=True):
    """The file that says which tensor is in which file."""

    weight_map: dict[str, str]


decode_index = msgspec.json.Decoder(Index).decode
"""Raises msgspec.MsgspecError or RecursionError."""


def choose(uri: str, found: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
    """Return the files to fetch, sorted by path.

    Raises:
        SourceError: no weights, only unsafe ones, or names that no store may hold.
    """
    chosen: dict[str, RemoteFile] = {}
    unsafe: list[str] = []
    other: list[str] = []
    for file in found:
        refuse_hostile_name(uri, file.path)
        suffix = PurePosixPath(file.path).suffix.lower()
        if suffix in _UNSAFE:
            unsafe.append(file.path)
        elif suffix in _OTHER_WEIGHTS:
            other.append(file.path)
        elif is_wanted(file.path):
            _check_size(uri, file)
            if file.path in chosen:
                raise _refused(uri, file.path, "stands there twice")
            chosen[file.path] = file
    if not any(path.endswith(WEIGHTS) for path in chosen):
        raise _no_weights(uri, unsafe, other)
    try:
        check_files(chosen.keys())
    except BadNameError as error:
        raise SourceError(WeightsProblem.FORBIDDEN_SOURCE, f"{uri}: {error}") from None
    return tuple(chosen[path] for path in sorted(_without_second_copy(chosen)))


def is_wanted(path: str) -> bool:
    """Whether a file of this name is fetched, if its name is one that a store may hold."""
    *folders, name = path.split("/")
    if any(part.startswith(".") for part in (*folders, name)) or (folders and folders[0] in _SKIPPED_FOLDERS):
        return False
    if path == FILE_NAME:
        return False
    return name.endswith(WEIGHTS) or PurePosixPath(name).suffix in _SIDE_SUFFIXES or name in _SIDE_NAMES


def refuse_hostile_name(uri: str, path: str) -> None:
    """Refuse what only someone who wants to write elsewhere calls a file.

    Raises:
        SourceError: absolute, with `..`, a control character, a backslash, or too long.
    """
    if len(path) > _MAX_NAME_LENGTH or _HOSTILE.search(path) or path.startswith("/") or ".." in path.split("/"):
        raise _refused(uri, path, "is no name of a model's file")


def _check_size(uri: str, file: RemoteFile) -> None:
    if file.bytes < 0 or (file.bytes > _MAX_SIDE_BYTES and not file.path.endswith(WEIGHTS)):
        raise _refused(uri, file.path, f"is said to have {file.bytes} bytes, which no such file has")


def _without_second_copy(paths: Iterable[str]) -> list[str]:
    """Leave out Mistral's `consolidated*.safetensors` where the same weights are there as `model*.safetensors`."""
    paths = list(paths)
    if not any("/" not in path and path.startswith("model") and path.endswith(WEIGHTS) for path in paths):
        return paths
    return [path for path in paths if not (path.startswith("consolidated") and path.endswith((WEIGHTS, INDEX)))]


def _no_weights(uri: str, unsafe: list[str], other: list[str]) -> SourceError:
    if unsafe:
        return SourceError(
            WeightsProblem.UNSAFE_FORMAT,
            f"{uri} has its weights only as {PurePosixPath(unsafe[0]).name[:60]!r}, a format that can run code when"
            " it is read. Name a repository with .safetensors files, or convert it:"
            " https://huggingface.co/spaces/safetensors/convert",
        )
    if other:
        return SourceError(
            WeightsProblem.UNSAFE_FORMAT,
            f"{uri} has its weights only as {PurePosixPath(other[0]).name[:60]!r}. Name a repository with .safetensors"
            " files: no other format is fetched",
        )
    return SourceError(
        WeightsProblem.MODEL_NOT_FOUND, f"{uri} has no .safetensors file. Check the uri; it names the model's folder"
    )


def _refused(uri: str, path: str, why: str) -> SourceError:
    return SourceError(WeightsProblem.FORBIDDEN_SOURCE, f"{uri}: {path[:80]!r} {why}. Rename it in the source")
