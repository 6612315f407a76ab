"""What PID 1 and the zygote tell each other: JSON lines over the socket pair the zygote inherits.

The zygote speaks first, one `Announcement`, when its imports are done. Then each `Fork` gets one `Answer`, in order.
"""

import msgspec

from warmfleet_api.assignment import Wire

DESCRIPTOR = 3
"""Where the zygote finds its end."""
MAX_LINE_BYTES = 1024 * 1024
"""An assignment is far smaller, the environment included."""


class Announcement(Wire, frozen=True, kw_only=True):
    """What the imports came to."""

    problem: str = ""
    """Why this process must not be forked, and never will be; empty: it is ready."""
    import_milliseconds: int = 0


class Fork(Wire, frozen=True, kw_only=True):
    """An engine to become."""

    arguments: tuple[str, ...]
    """`FOLDER URI -- serve …`, as `launch_vllm` takes them."""
    environment: dict[str, str]
    """The whole environment, not a change of it."""
    log: str
    """File that standard output and error are appended to."""


class Answer(Wire, frozen=True, kw_only=True):
    """What became of a `Fork`."""

    pid: int = 0
    """The engine's leader, which leads a session and process group of its own; 0: there is none."""
    error: str = ""


def encode(message: Announcement | Fork | Answer) -> bytes:
    """Return a message as one line."""
    return msgspec.json.encode(message) + b"\n"


decode_announcement = msgspec.json.Decoder(Announcement).decode
decode_fork = msgspec.json.Decoder(Fork).decode
decode_answer = msgspec.json.Decoder(Answer).decode
