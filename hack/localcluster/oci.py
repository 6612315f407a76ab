"""Writes OCI image archives from directories, without an engine.

Format: https://github.com/opencontainers/image-spec (image layout, manifest and config, version 1.1).
"""

import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MEDIA = "application/vnd.oci.image"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Layer:
    """A directory tree that becomes one layer."""

    directory: Path


@dataclass(frozen=True)
class Descriptor:
    """A blob by content."""

    media_type: str
    digest: str
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The descriptor as the image specification spells it."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size_bytes}


def digest(data: bytes) -> str:
    """`sha256:…` of a blob."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def image_config(config: Mapping[str, Any], diff_ids: Sequence[str]) -> bytes:
    """The image configuration blob; `config` is its `config` object or a whole configuration."""
    whole: dict[str, Any] = dict(config) if "architecture" in config else {"config": dict(config)}
    whole.setdefault("architecture", _ARCHITECTURES.get(platform.machine(), platform.machine()))
    whole.setdefault("os", "linux")
    whole["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
    return json.dumps(whole, sort_keys=True).encode()


def image_manifest(config: bytes, layers: Sequence[Descriptor]) -> bytes:
    """The manifest blob that joins a configuration and its layers."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": Descriptor(f"{_MEDIA}.config.v1+json", digest(config), len(config)).to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    return json.dumps(manifest, sort_keys=True).encode()


def layer_descriptor(diff_id: str, size_bytes: int) -> Descriptor:
    """An uncompressed layer: its blob digest is its diffID."""
    return Descriptor(f"{_MEDIA}.layer.v1.tar", diff_id, size_bytes)


def write_layout(name: str, config: bytes, layers: Sequence[tuple[Descriptor, Path | None]], target: Path) -> None:
    """Write the archive that `ctr images import` reads; a layer without a file is left out of it."""
    manifest = image_manifest(config, [descriptor for descriptor, _ in layers])
    entry = Descriptor(f"{_MEDIA}.manifest.v1+json", digest(manifest), len(manifest)).to_json()
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    index = {"schemaVersion": 2, "mediaType": f"{_MEDIA}.index.v1+json", "manifests": [entry]}
    with tarfile.open(target, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(archive, "index.json", json.dumps(index).encode())
        for blob in (config, manifest):
            _add(archive, _blob(digest(blob)), blob)
        for descriptor, path in layers:
            if path is not None:
                archive.add(path, arcname=_blob(descriptor.digest))


def write_archive(name: str, config: Mapping[str, Any], layers: Sequence[Layer], target: Path) -> None:
    """Write a complete image archive; each layer costs a temporary copy beside `target`."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        packed = []
        for number, layer in enumerate(layers):
            path = Path(scratch) / str(number)
            with tarfile.open(path, "w") as archive:
                archive.add(layer.directory, arcname=".", filter=_owned_by_root)
            with path.open("rb") as stream:
                diff_id = "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()
            packed.append((layer_descriptor(diff_id, path.stat().st_size), path))
        write_layout(name, image_config(config, [item.digest for item, _ in packed]), packed, target)


def _blob(blob_digest: str) -> str:
    return "blobs/sha256/" + blob_digest.removeprefix("sha256:")


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member
