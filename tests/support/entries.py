"""Entries of a weight store as a runner sees them, made without an agent."""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from warmfleet_api import names
from warmfleet_api.weights import Manifest, Piece

WEIGHTS = (2).to_bytes(8, "little") + b"{}"
"""A safetensors file without a tensor."""
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}


def show(view: Path, key: str, files: Mapping[str, bytes] = FILES, *, sizes: Mapping[str, int] | None = None) -> Path:
    """Put an entry into a view as an agent does: its files, and the manifest as a link, last. Return the manifest.

    `sizes` are what the manifest says where that is not so.
    """
    folder = view / key
    folder.mkdir()
    for path, content in files.items():
        (folder / path).write_bytes(content)
    pieces = tuple(
        Piece(path=path, bytes=(sizes or {}).get(path, len(content)), blake3="0" * 64)
        for path, content in files.items()
    )
    written = view.parent / f"{key}.manifest"
    written.write_bytes(msgspec.json.encode(Manifest(key=key, uri="hf://a/b", files=pieces)))
    os.link(written, folder / names.MANIFEST_FILE)
    return folder / names.MANIFEST_FILE
