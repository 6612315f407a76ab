"""What can be said about a model's folder before an engine spends a minute on finding it out."""

import os
from pathlib import Path

from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Reason

UNSAFE_SUFFIXES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
"""Formats that unpickle, so that loading them can execute code."""


class RefusedError(Exception):
    """The folder can't be served; `error` says why and what to change."""

    def __init__(self, error: EngineError) -> None:
        super().__init__(error.message)
        self.error = error


def weigh(folder: Path, uri: str) -> int:
    """Return the bytes of the safetensors files in `folder`, the mount of what `uri` names.

    Raises:
        RefusedError: nothing there, nothing readable, or nothing that is safe to load.
    """
    try:
        entries = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise _refused(Reason.MODEL_NOT_FOUND, f"{uri} is no folder on this node; correct model.uri") from None
    except PermissionError:
        raise _unreadable(uri, folder) from None
    if not entries:
        # What containers see of a host path that does not exist.
        raise _refused(Reason.MODEL_NOT_FOUND, f"{uri} is missing or empty on this node; correct model.uri")
    weights = [entry for entry in entries if entry.suffix == ".safetensors"]
    if folder / "config.json" not in entries:
        message = f"{uri} has no config.json; model.uri has to name the folder with config.json and *.safetensors"
        raise _refused(Reason.MODEL_NOT_FOUND, message)
    if not weights:
        raise _no_weights(uri, entries)
    for entry in (folder / "config.json", *weights):
        if not os.access(entry, os.R_OK):
            raise _unreadable(uri, entry)
    return sum(entry.stat().st_size for entry in weights)


def _no_weights(uri: str, entries: list[Path]) -> RefusedError:
    unsafe = [entry.name for entry in entries if entry.suffix in UNSAFE_SUFFIXES]
    if unsafe:
        message = (
            f"{uri} has its weights only as {unsafe[0]}, a format that can execute code when it is loaded; "
            "convert them to *.safetensors"
        )
        return _refused(Reason.UNSAFE_FORMAT, message)
    return _refused(Reason.MODEL_NOT_FOUND, f"{uri} has no *.safetensors; put the weights into that folder")


def _unreadable(uri: str, path: Path) -> RefusedError:
    message = (
        f"{path.name or path} of {uri} can't be read by user {os.getuid()}; make it readable for all (chmod -R a+rX)"
    )
    return _refused(Reason.ACCESS_DENIED, message)


def _refused(reason: Reason, message: str) -> RefusedError:
    return RefusedError(EngineError(reason=reason, message=message))
