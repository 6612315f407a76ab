"""What an entry holds, as the file that makes it one."""

import re

import msgspec

FILE_NAME = "manifest.json"
MAX_BYTES = 4 * 1024 * 1024
MAX_FILES = 10_000
_KEY = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]{0,254}")
MAX_DEPTH = 8


class BadNameError(ValueError):
    """A key or a file's path that the store takes from nobody."""


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an entry."""

    path: str
    """Relative, with `/`; see `check_path`."""
    bytes: int
    blake3: str
    """64 hex digits."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One entry."""

    version: int = 1
    key: str
    uri: str
    revision: str = ""
    files: tuple[Piece, ...]

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(piece.bytes for piece in self.files)


def check_key(key: str) -> None:
    """Accept what names an entry: lower-case letters, digits and dashes.

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


def encode(manifest: Manifest) -> bytes:
    """Return the file's content."""
    return msgspec.json.encode(manifest)


_decode = msgspec.json.Decoder(Manifest).decode


def decode(content: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        ValueError: it is none, or names what no entry may hold.
    """
    manifest = _decode(content)
    check_key(manifest.key)
    if len(manifest.files) > MAX_FILES or len({piece.path for piece in manifest.files}) != len(manifest.files):
        raise ValueError(f"the manifest of {manifest.key} lists too many files, or one of them twice")
    for piece in manifest.files:
        check_path(piece.path)
        if piece.bytes < 0:
            raise ValueError(f"the manifest of {manifest.key} gives {piece.path} a size below 0")
    return manifest
