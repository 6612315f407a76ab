"""Compile caches as entries of the weight store: their key, and the pack that is their only file.

A compile cache holds code (graphs as Python, kernels, shared objects). Its key is made of everything that such code
depends on; another key is a miss, never a wrong load, and the engine checks its own factors again. The first part of
the key, its name, says what was compiled and is known to the runner; the second says where, and is the operator's. A
pack is one file, as a store with huge pages would give each of hundreds of small ones 2 MiB:

    MAGIC | length of the index: 8 bytes, little-endian | index: JSON | contents, in the order of the index
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from warmfleet_api.assignment import EngineSpec

PACK_FILE = "compile-cache.pack"
"""The file of the entry."""
OUTBOX = "outbox"
"""Folder of a runner's cache volume from which the node's agent takes packs, named `<name>.pack`."""
RUNNER_SCHEME = "runner"
"""`runner://<namespace>/<uid of the pod>/<name>`: in the outbox of a runner of the node."""
AGENT_SCHEME = "agent"
"""`agent://<host>:<port>/<key>`: at the agent of another node."""
ROOTS = ("inductor", "triton", "vllm/torch_compile_cache")
"""Folders of an engine's cache that are packed; nothing else is ever written by unpacking."""
MAGIC = b"WARMFLEET-PACK-1\n"
PREFIX_BYTES = len(MAGIC) + 8
MAX_FILES = 20_000
MAX_INDEX_BYTES = 8 * 1024**2
MAX_BYTES = 4 * 1024**3
"""Of a whole pack."""
MAX_PATH_LENGTH = 512
MAX_DEPTH = 16
_PREFIX = "compile--"
_HASH_DIGITS = 20
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=,@-]*")
_OUTER = frozenset({"--api-key", "--chat-template", "--host", "--port", "--root-path", "--served-model-name", "--uds"})
"""Options, with their values, that reach no compiled code."""


class PackError(Exception):
    """A pack is not what it should be, or can't be made; nothing of it was used."""


class PackedFile(msgspec.Struct, frozen=True):
    """One file of a pack."""

    path: str
    """Relative, with `/`, below one of `ROOTS`."""
    bytes: int


class Index(msgspec.Struct, frozen=True):
    """What a pack holds."""

    name: str
    files: tuple[PackedFile, ...]

    @property
    def bytes(self) -> int:
        """Size of the contents together."""
        return sum(file.bytes for file in self.files)


@lru_cache(maxsize=16384)
def cache_name(engine: EngineSpec) -> str:
    """Name what an engine compiles: of two engines with one name each can use what the other compiled.

    It is made of all of the spec that may reach compiled code, the model's key and so its revision included. Where it
    was compiled is not in it: see `entry_key`.
    """
    factors = {
        "type": engine.type,
        "model": engine.folder,
        "maxModelLen": engine.max_model_len,
        "parallelism": engine.parallelism,
        "quantization": engine.quantization,
        "draft": (engine.speculative.folder, engine.speculative.tokens) if engine.speculative else None,
        "adapters": len(engine.adapters),
        "args": _compiled(engine.args),
        "env": sorted((each.name, each.value) for each in engine.env),
    }
    return f"{_PREFIX}{_digest(factors)}"


def entry_key(name: str, *, namespace: str, image: str, device: str) -> str:
    """Return the key of a compile cache in the weight stores.

    Args:
        name: see `cache_name`.
        namespace: that of the runners that may write and read it.
        image: the runtime image, so the engine's version and everything it is built with.
        device: what code is compiled for; see `device_of`.
    """
    return f"{name}-{_digest({'namespace': namespace, 'image': image, 'device': device})}"


def name_in(key: str) -> str:
    """Return the name in the key of a compile cache; empty: the key is of something else.

    The key of weights never has two dashes in a row.
    """
    return key.rpartition("-")[0] if key.startswith(_PREFIX) else ""


def _digest(factors: Mapping[str, object]) -> str:
    encoded = msgspec.json.encode(factors, order="deterministic")
    return hashlib.sha256(encoded).hexdigest()[:_HASH_DIGITS]


def _compiled(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments without those that reach no compiled code."""
    kept: list[str] = []
    is_outer = False
    for argument in arguments:
        if argument.startswith("-"):
            is_outer = argument.partition("=")[0] in _OUTER
        if not is_outer:
            kept.append(argument)
    return tuple(kept)


def device_of(accelerator: str, cpu_info: str) -> str:
    """Return what code is compiled for: the accelerator's name, and the CPU's instructions.

    Kernels for CPUs are compiled for exactly the CPU they are compiled on (`-march=native`): run on a lesser one they
    end the engine with SIGILL. Hosts of GPUs run such code as well.

    Args:
        accelerator: e.g. `NVIDIA H100 80GB HBM3`; empty: none.
        cpu_info: content of /proc/cpuinfo; the first processor counts.
    """
    lines = {
        name.strip(): value.strip()
        for name, _, value in (line.partition(":") for line in cpu_info.split("\n\n", 1)[0].splitlines())
    }
    names = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU architecture", "CPU part")
    flags = sorted((lines.get("flags") or lines.get("Features") or "").split())
    cpu = "\n".join([*(lines.get(name, "") for name in names), *flags])
    return f"{accelerator[:100] or 'cpu'} {hashlib.sha256(cpu.encode()).hexdigest()[:16]}"


def check_path(path: str) -> None:
    """Accept the path of a packed file: plain names below one of `ROOTS`.

    That leaves no `..`, no absolute path, no NUL or newline, and nothing hidden.

    Raises:
        PackError: anything else.
    """
    parts = path.split("/")
    is_plain = len(path) <= MAX_PATH_LENGTH and len(parts) <= MAX_DEPTH and all(map(_PART.fullmatch, parts))
    if not is_plain or not path.startswith(tuple(f"{root}/" for root in ROOTS)):
        raise PackError(f"{path[:80]!r} is no path of a compile cache")


def encode_index(index: Index) -> bytes:
    """Return the head of a pack: everything before the contents.

    Raises:
        PackError: it would be out of bounds.
    """
    check_index(index)
    encoded = msgspec.json.encode(index)
    if len(encoded) > MAX_INDEX_BYTES:
        raise PackError(f"an index of {len(encoded)} bytes is too long, {MAX_INDEX_BYTES} is the most")
    return MAGIC + len(encoded).to_bytes(8, "little") + encoded


def index_bytes(prefix: bytes) -> int:
    """Return how long the index is that follows the first `PREFIX_BYTES`.

    Raises:
        PackError: this is no pack.
    """
    if len(prefix) != PREFIX_BYTES or not prefix.startswith(MAGIC):
        raise PackError("this is no compile cache: it does not begin as one")
    length = int.from_bytes(prefix[len(MAGIC) :], "little")
    if length > MAX_INDEX_BYTES:
        raise PackError(f"an index of {length} bytes is too long, {MAX_INDEX_BYTES} is the most")
    return length


def decode_index(encoded: bytes, name: str, pack_bytes: int) -> Index:
    """Read an index.

    Args:
        encoded: the bytes of the index alone.
        name: of the compile cache that the pack should hold.
        pack_bytes: size of the whole pack.

    Raises:
        PackError: it is none, is of another cache, or does not describe a pack of that size.
    """
    try:
        index = msgspec.json.decode(encoded, type=Index)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise PackError(f"the index of the compile cache can't be read: {error}") from None
    if index.name != name:
        raise PackError(f"the compile cache is {index.name[:80]!r}, not {name}")
    check_index(index)
    described = PREFIX_BYTES + len(encoded) + index.bytes
    if described != pack_bytes:
        raise PackError(f"the compile cache has {pack_bytes} bytes, its index describes {described}")
    return index


def check_index(index: Index) -> None:
    """Accept files that can lie side by side, within bounds.

    Raises:
        PackError: anything else.
    """
    if len(index.files) > MAX_FILES:
        raise PackError(f"{len(index.files)} files are too many for a compile cache, {MAX_FILES} is the most")
    paths: set[str] = set()
    folders: set[str] = set()
    for file in index.files:
        check_path(file.path)
        if file.bytes < 0:
            raise PackError(f"{file.path} has {file.bytes} bytes")
        if file.path in paths:
            raise PackError(f"{file.path} is in the compile cache twice")
        paths.add(file.path)
        parts = file.path.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    if both := sorted(paths & folders):
        raise PackError(f"{both[0]} is a file and a folder")
    if index.bytes > MAX_BYTES:
        raise PackError(f"{index.bytes} bytes are too many for a compile cache, {MAX_BYTES} is the most")
