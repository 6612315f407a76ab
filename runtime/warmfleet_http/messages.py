"""A request as it was read: whole, bounded, and framed in exactly one way."""

from dataclasses import dataclass

import msgspec

Header = tuple[bytes, bytes]
"""Name in lower case, value without line ends."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what a client may send and how long it may take."""

    head_bytes: int = 64 * 1024
    """Request line and headers together."""
    headers: int = 256
    body_bytes: int = 8 * 1024 * 1024
    head_seconds: float = 30.0
    body_seconds: float = 60.0
    """From the end of the head."""
    idle_seconds: float = 75.0
    """How long a connection may stay open between two requests: longer than pools in front of it keep theirs."""
    write_seconds: float = 60.0
    """A client that takes nothing for so long is cut off."""
    buffered_bytes: int = 256 * 1024
    """What is written ahead of a client; beyond it whoever answers has to wait."""


class Request(msgspec.Struct):
    """One request of a client, its body included."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    target: bytes
    """Path and query as they came."""
    headers: list[Header]
    body: bytes
    arrived: float
    """When its last byte came, monotonic seconds."""
    is_old: bool = False
    """HTTP/1.0: its sender knows no chunks, and the end of the connection ends a body of unknown length."""

    def header(self, name: bytes) -> bytes | None:
        """Return the first value of a header, by its name in lower case."""
        return next((value for each, value in self.headers if each == name), None)
