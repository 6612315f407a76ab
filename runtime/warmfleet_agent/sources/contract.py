"""What every source of weights is: a list of files at one revision, and their bytes by ranges."""

import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from warmfleet_api.vocabulary import WeightsProblem


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a source."""

    path: str
    """Relative, with `/`; `warmfleet_agent.store.manifest.check_path` accepts it."""
    bytes: int
    sha256: str | None
    """64 hex digits; None: the source names no hash."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a source holds at one revision, as far as it is fetched: safetensors, tokenizer and configuration."""

    uri: str
    revision: str
    """Commit, digest or hash: it names these contents and no others."""
    files: tuple[RemoteFile, ...]
    """Sorted by path."""

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(file.bytes for file in self.files)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by path, as a store's `begin` takes them."""
        return {file.path: file.bytes for file in self.files}


class SourceError(Exception):
    """Weights can't be had. The message says what happened and the next command to type."""

    def __init__(self, reason: WeightsProblem, message: str, *, retry_after_seconds: float | None = None) -> None:
        """`retry_after_seconds`: when it may be tried again; None: only a person can mend it."""
        super().__init__(message)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class SourceRules:
    """What an administrator allows."""

    file_roots: tuple[Path, ...] = ()
    """Folders below which file:// may lie; none: file:// is refused."""
    allow_private: bool = False
    """Whether every source may be at a private address. Endpoints that `environment` names always may."""
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    """Of the agent: HF_ENDPOINT, AWS_ENDPOINT_URL, WARMFLEET_ENDPOINTS (`endpoints.py`)."""


class Source(Protocol):
    """One uri at one revision, open."""

    async def list(self) -> Listing:
        """Resolve the revision and return the files of it.

        Raises:
            SourceError: they can't be had.
        """

    def read(self, path: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """Yield exactly `length` bytes of a file from `offset` on, of the revision that `list` gave.

        Raises:
            SourceError: they can't be had, or are not what was listed.
        """


@runtime_checkable
class LocalSource(Source, Protocol):
    """A source whose files this process can open."""

    def open(self, path: str) -> int:
        """Open a file of the listing and return its descriptor, which is the caller's to close. Blocks.

        Raises:
            SourceError: it changed since, or can't be read.
        """

    def verify(self, path: str, descriptor: int) -> None:
        """Accept a file that is still what was listed.

        Raises:
            SourceError: it changed since.
        """
