"""Weights as all processes speak of them: keys of entries, and the manifest that makes a folder an entry.

An entry is what one uri holds at one revision. It is fetched, kept, shown to runners and evicted as a whole.
"""

import hashlib
import re

import msgspec

from warmfleet_api import names

_HASH_DIGITS = 20
_SLUG_LENGTH = 40
MANIFEST_VERSION = 1


def entry_key(uri: str, revision: str, scope: str = "") -> str:
    """Return the key of an entry: readable, a valid label value, and another for another revision.

    Args:
        uri: where it comes from.
        revision: as the source names it; empty: not resolved yet.
        scope: namespace that alone may read it; empty for what needs no credential.
    """
    digest = hashlib.sha256("\n".join((uri, revision, scope)).encode()).hexdigest()[:_HASH_DIGITS]
    slug = re.sub(r"[^a-z0-9]+", "-", uri.rstrip("/").rpartition("/")[2].lower())[:_SLUG_LENGTH].strip("-")
    return f"{slug}-{digest}" if slug else f"w-{digest}"


def folder_of(key: str) -> str:
    """Return where a runner finds an entry."""
    return f"{names.WEIGHTS_DIRECTORY}/{key}"


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One file of an entry."""

    path: str
    """Relative, with `/`."""
    bytes: int
    blake3: str
    """64 hex digits."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. Its file comes last, and a reader holds a shared lock (flock) on it as long as it uses the entry."""

    version: int = MANIFEST_VERSION
    key: str
    uri: str
    revision: str = ""
    files: tuple[Piece, ...]

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(piece.bytes for piece in self.files)

    @property
    def digest(self) -> str:
        """Hash of what the entry holds, whatever its key."""
        content = "\n".join(f"{piece.path} {piece.bytes} {piece.blake3}" for piece in self.files)
        return "sha256:" + hashlib.sha256(content.encode()).hexdigest()


decode_manifest = msgspec.json.Decoder(Manifest).decode
"""Read a manifest's file; raises msgspec.MsgspecError if it is none."""
