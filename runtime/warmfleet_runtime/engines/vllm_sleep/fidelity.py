"""Whether a model is the same after waking: its files by their stamps, its weights by fingerprints."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from warmfleet_runtime.engines.vllm_sleep.packed import packed_layers

Fingerprint = dict[str, str]
_SUFFIXES = (".safetensors", ".json")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model's folder, with what changes when one is replaced."""

    folder: Path
    stamps: dict[str, tuple[int, int, int, int]]

    @classmethod
    def of(cls, folder: str) -> "ModelFiles":
        """Look at a folder now.

        Raises:
            OSError: it can't be read.
        """
        files = {path.name: path.stat() for path in Path(folder).iterdir() if path.suffix in _SUFFIXES}
        stamps = {name: (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for name, each in files.items()}
        return cls(Path(folder), stamps)

    def are_unchanged(self) -> bool:
        """Whether the folder holds the same files still."""
        try:
            return ModelFiles.of(str(self.folder)).stamps == self.stamps
        except OSError:
            return False


@torch.no_grad()  # type: ignore[untyped-decorator]
def fingerprint(model: torch.nn.Module) -> Fingerprint:
    """Return digests of all weights: by their bytes, and of packed ones by what they make of one input.

    It costs about the arithmetic of one token.
    """
    digests = {name: _digest(each) for name, each in (*model.named_parameters(), *model.named_buffers())}
    names = {id(module): name for name, module in model.named_modules()}
    for each in packed_layers(model):
        probe = torch.linspace(-1, 1, each.handle.k, dtype=_dtype(each.layer)).unsqueeze(0)
        digests[f"{names[id(each.layer)]} packed"] = _digest(each.function(probe, None, None))
    return digests


def _dtype(layer: Any) -> torch.dtype:
    dtype: torch.dtype = layer.weight.dtype
    return dtype


def _digest(tensor: torch.Tensor) -> str:
    data = tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(data, digest_size=16).hexdigest()
