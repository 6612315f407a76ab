"""What PID 1 and the front tell each other: JSON lines over a socket pair the front inherits.

Both send whole states, never changes, so that a restarted front knows everything from the first line.
"""

import asyncio
import socket
from collections.abc import Callable

import msgspec

from warmfleet_api.assignment import EngineAssignment, Wire
from warmfleet_api.runner_status import RunnerStatus, StartRecord
from warmfleet_runtime.machine.state import Engine, Phase, State
from warmfleet_runtime.machine.view import can_take_engines, is_startup_over, wakes_on_request

DESCRIPTOR = 3
"""Where the front finds its end."""
MAX_LINE_BYTES = 1024 * 1024
BEAT_SECONDS = 1.0


class Route(Wire, frozen=True, kw_only=True):
    """How the front reaches one engine."""

    attempt: int
    """Counts starts and wakes: a process that was woken is told of under a new one."""
    socket: str
    engine: EngineAssignment
    accepts: bool
    """Ready: new requests go to it."""
    warms_up: bool
    """Starting, or awake again: probe it, and warm it up once it answers."""
    drains: bool
    """Let its requests finish; it sleeps or stops then."""
    max_sequences: int = 0
    """What the engine runs at once; 0: not known."""
    sleeps: bool = False
    """Put it to sleep, and report it `asleep`. Requests it still has outlasted their drain."""
    wakes: bool = False
    """Wake it, and report it no longer `asleep`; then it `warms_up`."""
    wakes_on_request: bool = False
    """It is asleep, or on the way there or back: hold requests for it, and report the wish."""


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


def table_of(
    state: State,
    status: RunnerStatus,
    socket_of: Callable[[str], str],
    now: float,
    *,
    max_sequences: Callable[[EngineAssignment], int],
) -> Table:
    """Return the table of a runner's present state.

    `socket_of` gives the socket of an engine's id, `max_sequences` what an engine runs at once, 0 if not known.
    """
    return Table(
        status=status,
        routes={
            key: _route_of(engine, socket_of(key), max_sequences(engine.content))
            for key, engine in state.engines.items()
        },
        startup_over=is_startup_over(state, now),
        can_take_engines=can_take_engines(state),
        starts=state.starts,
        trusted_keys=state.trusted_keys,
    )


def _route_of(engine: Engine, socket: str, max_sequences: int) -> Route:
    phase = engine.phase
    return Route(
        attempt=engine.attempt,
        socket=socket,
        engine=engine.content,
        accepts=phase is Phase.READY,
        warms_up=phase is Phase.STARTING or (phase is Phase.WAKING and engine.is_woken),
        drains=phase is Phase.DRAINING,
        max_sequences=max_sequences,
        sleeps=phase is Phase.FALLING_ASLEEP,
        wakes=phase is Phase.WAKING and not engine.is_woken,
        wakes_on_request=wakes_on_request(engine),
    )


async def open_link(end: socket.socket) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return streams over one end of the socket pair."""
    end.setblocking(False)
    return await asyncio.open_unix_connection(sock=end, limit=MAX_LINE_BYTES)


def encode(message: Table | Report) -> bytes:
    """Return a message as one line."""
    return msgspec.json.encode(message) + b"\n"


decode_table = msgspec.json.Decoder(Table).decode
decode_report = msgspec.json.Decoder(Report).decode
