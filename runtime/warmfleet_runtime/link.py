"""What PID 1 and the front tell each other: JSON lines over a socket pair the front inherits.

Both send whole states, never changes, so that a restarted front knows everything from the first line.
"""

import asyncio
import socket
from collections.abc import Callable

import msgspec

from warmfleet_api.assignment import EngineAssignment, Wire
from warmfleet_api.runner_status import RunnerStatus, StartRecord
from warmfleet_runtime.machine.state import Phase, State
from warmfleet_runtime.machine.view import is_startup_over

DESCRIPTOR = 3
"""Where the front finds its end."""
MAX_LINE_BYTES = 1024 * 1024
BEAT_SECONDS = 1.0


class Route(Wire, frozen=True, kw_only=True):
    """How the front reaches one engine."""

    attempt: int
    socket: str
    engine: EngineAssignment
    accepts: bool
    """Ready: new requests go to it."""
    warms_up: bool
    """Starting: probe it, and warm it up once it answers."""
    drains: bool
    max_sequences: int = 0
    """What the engine runs at once; 0: not known."""
    sleeps: bool = False
    """No request is left: put it to sleep."""
    wakes: bool = False
    """Wake it, and warm it up."""
    wakes_on_request: bool = False
    """It is asleep or waking: hold requests for it, and report the wish."""


class Table(Wire, frozen=True, kw_only=True):
    """Supervisor to front: everything, at each change and every `BEAT_SECONDS`."""

    status: RunnerStatus
    routes: dict[str, Route] = {}
    """By engine id; an engine without a process has one too, which takes nothing."""
    startup_over: bool = False
    """What `/startupz` says."""
    can_take_engines: bool = False
    """An assignment was read, and the zygote imports no more."""
    starts: tuple[StartRecord, ...] = ()
    """The last starts, oldest first."""
    trusted_keys: tuple[str, ...] = ()


class EngineReport(Wire, frozen=True, kw_only=True):
    """What the front saw of one engine's process."""

    attempt: int
    first_request_milliseconds: int | None = None
    """The warm-up request's time to first token, once it succeeded."""
    warm_up_error: str = ""
    drained: bool = False
    """No request is left, and none will come: the front knows that the engine drains."""
    busy: bool = True
    """It has requests, or had one within the assignment's `idle_seconds`."""
    asleep: bool = False
    """It was put to sleep and has not been woken since."""
    sleep_error: str = ""
    """Why it can't be put to sleep, or woken."""
    wake_requested: bool = False
    """A request waits for it to wake."""


class Report(Wire, frozen=True, kw_only=True):
    """Front to supervisor: everything, at each change and every `BEAT_SECONDS`."""

    engines: dict[str, EngineReport] = {}


def table_of(state: State, status: RunnerStatus, socket_of: Callable[[str], str], now: float) -> Table:
    """Return the table of a runner's present state; `socket_of` gives the socket of an engine's id."""
    routes = {
        key: Route(
            attempt=engine.attempt,
            socket=socket_of(key),
            engine=engine.content,
            accepts=engine.phase is Phase.READY,
            warms_up=engine.phase is Phase.STARTING,
            drains=engine.phase is Phase.DRAINING,
        )
        for key, engine in state.engines.items()
    }
    return Table(status=status, routes=routes, startup_over=is_startup_over(state, now))


async def open_link(end: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return streams over one end of the socket pair."""
    end.setblocking(False)
    return await asyncio.open_unix_connection(sock=end, limit=MAX_LINE_BYTES)


def encode(message: Table | Report) -> bytes:
    """Return a message as one line."""
    return msgspec.json.encode(message) + b"\n"


decode_table = msgspec.json.Decoder(Table).decode
decode_report = msgspec.json.Decoder(Report).decode
