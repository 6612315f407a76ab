"""What may be in an entry, and the file that makes a folder one; see `warmfleet_api.weights`."""

import re
from collections.abc import Mapping, Set

import msgspec

from warmfleet_api import names
from warmfleet_api.weights import MANIFEST_VERSION, Manifest, decode_manifest

FILE_NAME = names.MANIFEST_FILE
MAX_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000
MAX_DEPTH = 8
_KEY = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]{0,254}")
_HASH = re.compile(r"[0-9a-f]{64}")


class BadNameError(ValueError):
    """A key or a file's path that the store takes from nobody."""


def check_key(key: str) -> None:
    """Accept what names an entry or a view: lower-case letters, digits and dashes.

    Raises:
        BadNameError: anything else.
    """
    if not _KEY.fullmatch(key):
        raise BadNameError(f"{key[:80]!r} names no entry; keys have 1 to 63 lower-case letters, digits and dashes")


def check_path(path: str) -> None:
    """Accept a relative path of at most `MAX_DEPTH` plain names, none of which starts with a dot or a dash.

    That leaves no `..`, no absolute path, no NUL, no newline, nothing hidden, and nothing a shell reads as an option.

    Raises:
        BadNameError: anything else.
    """
    parts = path.split("/")
    if len(parts) > MAX_DEPTH or not all(_PART.fullmatch(part) for part in parts):
        raise BadNameError(f"{path[:80]!r} is no name of a model's file; rename it in the source")
    if path == FILE_NAME:
        raise BadNameError(f"{FILE_NAME} is the store's own file; rename it in the source")


def check_files(paths: Set[str]) -> None:
    """Accept paths that can lie side by side.

    Raises:
        BadNameError: one is no path, there are more than `MAX_FILES` or none, or one is a folder of another.
    """
    if not 1 <= len(paths) <= MAX_FILES:
        raise BadNameError(f"a model has 1 to {MAX_FILES} files, this one has {len(paths)}; mend the source")
    for path in paths:
        check_path(path)
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in paths:
                raise BadNameError(f"{folder[:80]!r} is both a file and a folder; mend the source")


def check_sizes(sizes: Mapping[str, int]) -> None:
    """Accept files, bytes by path, that can lie side by side.

    Raises:
        BadNameError: see `check_files`; or a size is below 0.
    """
    check_files(sizes.keys())
    for path, size in sizes.items():
        if size < 0:
            raise BadNameError(f"{path[:80]!r} has {size} bytes; mend the source")


def encode(manifest: Manifest) -> bytes:
    """Return the file's content."""
    return msgspec.json.encode(manifest)


def decode(content: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ValueError: it is none, is of another version, or names what no entry may hold.
    """
    manifest = decode_manifest(content)
    check_key(manifest.key)
    if manifest.version != MANIFEST_VERSION:
        raise ValueError(f"the manifest of {manifest.key} has version {manifest.version}, not {MANIFEST_VERSION}")
    sizes = {piece.path: piece.bytes for piece in manifest.files}
    check_sizes(sizes)
    if len(sizes) != len(manifest.files):
        raise ValueError(f"the manifest of {manifest.key} lists a file twice")
    for piece in manifest.files:
        if not _HASH.fullmatch(piece.blake3):
            raise ValueError(f"the manifest of {manifest.key} gives {piece.path} no hash")
    return manifest
