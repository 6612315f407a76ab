"""Reads the API server's audit log: who asked for what, when, and what came of it.

The log is JSON lines, one per finished request. The API server rotates it: the old part gets a name with a time in it
and stays in the directory, so a position is the part's inode and an offset, and outlives the rotation.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

WRITE_VERBS = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True)
class Request:
    """One finished request."""

    time: datetime
    """When the API server received it, UTC."""
    verb: str
    resource: str
    """Plural resource name, empty for requests outside of resources such as `/healthz`."""
    subresource: str
    namespace: str
    name: str
    user: str
    user_agent: str
    code: int
    """HTTP status of the answer, 0 when there was none."""
    path: str
    """Path and query as they were asked."""
    body: bytes = b""
    """What was sent, JSON; kept of pods that are created or patched, empty for the rest."""

    @property
    def is_write(self) -> bool:
        """Whether it changed something, if it was allowed to."""
        return self.verb in WRITE_VERBS


@dataclass(frozen=True)
class Position:
    """A place in the log."""

    inode: int
    offset: int


class AuditLog:
    """The audit log whose newest part is `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def end(self) -> Position:
        """The place after the last line written so far."""
        status = self._path.stat()
        return Position(status.st_ino, status.st_size)

    def requests(self, since: Position | None = None) -> Iterator[Request]:
        """Every request logged after `since`, else all that are kept, oldest first.

        Raises:
            LookupError: the part that holds `since` was deleted meanwhile: some requests are lost.
        """
        parts = self._parts()
        offset = 0
        if since is not None:
            inodes = [part.stat().st_ino for part in parts]
            if since.inode not in inodes:
                raise LookupError(f"{self._path} was rotated away since; read it more often")
            parts, offset = parts[inodes.index(since.inode) :], since.offset
        for part in parts:
            yield from _read(part, offset)
            offset = 0

    def _parts(self) -> list[Path]:
        rotated = self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}")
        return [*sorted(rotated), self._path]


def writes(requests: Iterable[Request], *, user: str | None = None, user_agent: str | None = None) -> list[Request]:
    """The writes of one user (whole name), or of clients whose user agent starts with `user_agent`; both narrow."""
    return [
        request
        for request in requests
        if request.is_write
        and (user is None or request.user == user)
        and (user_agent is None or request.user_agent.startswith(user_agent))
    ]


class _User(msgspec.Struct):
    username: str = ""


class _Object(msgspec.Struct):
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class _Status(msgspec.Struct):
    code: int = 0


class _Event(msgspec.Struct, rename="camel"):
    verb: str
    request_received_timestamp: datetime
    user: _User
    request_uri: str = msgspec.field(name="requestURI")
    user_agent: str = ""
    object_ref: _Object = msgspec.field(default_factory=_Object)
    response_status: _Status = msgspec.field(default_factory=_Status)
    request_object: msgspec.Raw = msgspec.Raw(b"")


_decoder = msgspec.json.Decoder(_Event)


def _read(part: Path, offset: int) -> Iterator[Request]:
    with part.open("rb") as stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return  # being written; the next reader gets it whole
            event = _decoder.decode(line)
            yield Request(
                time=event.request_received_timestamp,
                verb=event.verb,
                resource=event.object_ref.resource,
                subresource=event.object_ref.subresource,
                namespace=event.object_ref.namespace,
                name=event.object_ref.name,
                user=event.user.username,
                user_agent=event.user_agent,
                code=event.response_status.code,
                path=event.request_uri,
                body=bytes(event.request_object),
            )
