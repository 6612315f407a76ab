"""Checks the header of a safetensors file, before the rest is fetched and before an engine maps it.

The format: 8 bytes with the length of a JSON object, the object, then the tensors' bytes. The rules are those of the
reference implementation (huggingface/safetensors, `SafeTensors::deserialize`): tensors lie end to end, fill the file,
and are as long as their shape says.
"""

import struct
from typing import Annotated, Any

import msgspec

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound."""
_MAX_VALUES = 2_000_000
"""Values of a header; counted before they are parsed, so that a hostile one can't fill memory with small objects."""
_MAX_DIMENSIONS = 32
_MAX_TENSOR_BITS = 2**66

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip

_Size = Annotated[int, msgspec.Meta(ge=0)]


class BadHeaderError(ValueError):
    """The file is no sound safetensors file; says why."""


class _Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    dtype: str
    shape: list[_Size]
    data_offsets: tuple[_Size, _Size]


_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_tensor = msgspec.json.Decoder(_Tensor).decode
_decode_metadata = msgspec.json.Decoder(dict[str, str]).decode


def header_length(first: bytes, file_bytes: int) -> int:
    """Return the length of the JSON object from the file's first 8 bytes.

    Raises:
        BadHeaderError: it can't be.
    """
    if len(first) < LENGTH_BYTES:
        raise BadHeaderError(f"it has {file_bytes} bytes, less than any safetensors file")
    (length,) = struct.unpack("<Q", first[:LENGTH_BYTES])
    if length > MAX_HEADER_BYTES:
        raise BadHeaderError(f"its header claims {length} bytes, {MAX_HEADER_BYTES} are allowed")
    if LENGTH_BYTES + length > file_bytes:
        raise BadHeaderError(f"its header claims {length} bytes, the file has {file_bytes}")
    return int(length)


def check_header(header: bytes, file_bytes: int) -> None:
    """Check the JSON object of a file of so many bytes.

    Raises:
        BadHeaderError: tensors overlap, leave holes, leave the file, or contradict their shape.
    """
    if not header.startswith(b"{"):
        raise BadHeaderError("its header is no JSON object")
    if sum(header.count(mark) for mark in (b",", b":", b"[", b"{")) > _MAX_VALUES:
        raise BadHeaderError(f"its header has more than {_MAX_VALUES} values")
    try:
        entries: dict[str, Any] = _decode(header.rstrip(b" "))
        _decode_metadata(entries.pop("__metadata__", b"{}"))
        tensors = sorted(((_decode_tensor(raw), name) for name, raw in entries.items()), key=_by_offset)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise BadHeaderError(f"its header is damaged: {str(error)[:120]}") from None
    end = 0
    for tensor, name in tensors:
        start, stop = tensor.data_offsets
        if start != end:
            word = "overlaps the tensor before it" if start < end else "leaves a hole before it"
            raise BadHeaderError(f"tensor {name[:80]!r} {word}")
        if stop < start or (stop - start) * 8 != _bits(tensor, name):
            raise BadHeaderError(f"tensor {name[:80]!r} is not as long as its shape says")
        end = stop
    if LENGTH_BYTES + len(header) + end != file_bytes:
        raise BadHeaderError(f"its tensors end at byte {LENGTH_BYTES + len(header) + end}, the file has {file_bytes}")


def _by_offset(item: tuple[_Tensor, str]) -> tuple[int, int]:
    return item[0].data_offsets


def _bits(tensor: _Tensor, name: str) -> int:
    if (bits := _BITS.get(tensor.dtype)) is None:
        raise BadHeaderError(f"tensor {name[:80]!r} has the unknown type {tensor.dtype[:20]!r}")
    if len(tensor.shape) > _MAX_DIMENSIONS:
        raise BadHeaderError(f"tensor {name[:80]!r} has {len(tensor.shape)} dimensions")
    for size in tensor.shape:
        bits *= size
        if bits > _MAX_TENSOR_BITS:
            raise BadHeaderError(f"tensor {name[:80]!r} is larger than any file")
    return bits
