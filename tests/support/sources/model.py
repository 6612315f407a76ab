"""Models small enough to fetch in a test: sound safetensors of any size, an index, a tokenizer."""

import hashlib
import json
import random
import struct
from collections.abc import Mapping
from pathlib import Path


def safetensors(tensors: Mapping[str, tuple[str, list[int], bytes]], padding: int = 0) -> bytes:
    """Return a file that holds tensors: type, shape and bytes by name."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data, offset = b"", 0
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(content)]}
        offset += len(content)
        data += content
    encoded = json.dumps(header).encode() + b" " * padding
    return struct.pack("<Q", len(encoded)) + encoded + data


def weights(size_bytes: int, seed: int = 0) -> bytes:
    """Return a sound file with one tensor of so many bytes."""
    return safetensors({"weight": ("U8", [size_bytes], random.Random(seed).randbytes(size_bytes))})


def write_model(folder: Path, shards: int = 2, shard_bytes: int = 3_000_000, seed: int = 0) -> dict[str, bytes]:
    """Write a model with what often lies beside it, and return the files that are to be fetched."""
    names = [f"model-{index + 1:05}-of-{shards:05}.safetensors" for index in range(shards)]
    wanted = {name: weights(shard_bytes, seed + index) for index, name in enumerate(names)}
    wanted |= {
        "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
        "tokenizer.json": b"{}",
        "model.safetensors.index.json": json.dumps(
            {"weight_map": {f"{index}.weight": name for index, name in enumerate(names)}}
        ).encode(),
    }
    left = {"README.md": b"# A model", "pytorch_model.bin": b"\x80\x04.", "modeling_custom.py": b"raise SystemExit"}
    for path, content in {**wanted, **left}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return wanted


def sha256(content: bytes) -> str:
    """Return the hash as sources name it."""
    return hashlib.sha256(content).hexdigest()
