"""What a node's agent says of itself, one JSON line each: `GET /v1/status` of its port (`?watch=1` for a stream).

A line is sent at each change, at most every `PROGRESS_SECONDS`, and at least every `HEARTBEAT_SECONDS`.
"""

import msgspec

from warmfleet_api.assignment import Wire
from warmfleet_api.vocabulary import EntryState, Tier

VERSION = 1
HEARTBEAT_SECONDS = 5.0
PROGRESS_SECONDS = 0.5


class Transfer(Wire, frozen=True, kw_only=True):
    """An entry on its way from one tier to the next."""

    key: str
    source: Tier
    target: Tier
    state: EntryState
    bytes: int = 0
    """Size of the entry; 0: not known yet."""
    done_bytes: int = 0
    bytes_per_second: int = 0
    """Over the last seconds."""
    seconds_left: int | None = None


class AgentStatus(Wire, frozen=True, kw_only=True):
    """The agent of one node."""

    version: int = VERSION
    node: str
    boot_id: str = ""
    error: str = ""
    """Why the agent can't do its work."""
    transfers: tuple[Transfer, ...] = ()
    in_memory: tuple[str, ...] = ()
    """Keys of the entries in memory."""


decode = msgspec.json.Decoder(AgentStatus).decode
"""Read one line; raises msgspec.MsgspecError if it is none."""


def encode(status: AgentStatus) -> bytes:
    """Return the status as one line, without the newline."""
    return msgspec.json.encode(status)
