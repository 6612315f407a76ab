"""Sleep and wake: asks engines on their own sockets for what the supervisor's table says, once for each attempt.

Both are vLLM's `POST /sleep` and `POST /wake_up`. An engine that does not do as asked is reported, and left to the
supervisor.
"""

import asyncio

import aiohttp
import msgspec

from warmfleet_api.vocabulary import WakePolicy
from warmfleet_runtime.front.board import Board, Nap
from warmfleet_runtime.front.upstream import Upstream
from warmfleet_runtime.link import Route

SLEEP_SECONDS = 60.0
"""How long an engine may take to fall asleep, the last requests' ends included."""
_RESUME_SECONDS = 5.0
_DETAIL_CHARACTERS = 300


class SleepError(Exception):
    """An engine did not fall asleep or wake up. The message says which request failed, and how."""


class Sleeper:
    """One task per engine that is to fall asleep or to wake; what came of it stands on the board."""

    def __init__(self, board: Board, upstream: Upstream) -> None:
        self._board = board
        self._upstream = upstream
        self._tasks: dict[tuple[str, int, bool], asyncio.Task[None]] = {}

    def follow(self) -> None:
        """Start what the table asks for, end what it does not ask for any more."""
        wanted = {
            (key, route.attempt, route.wakes): route
            for key, route in self._board.table.routes.items()
            if route.sleeps or route.wakes
        }
        for gone in set(self._tasks) - set(wanted):
            self._tasks.pop(gone).cancel()
        for task, route in wanted.items():
            if task not in self._tasks:
                key, attempt, wakes = task
                # At once: a wake that has not begun yet must not be taken for done.
                self._board.naps[key] = nap = Nap(attempt, asleep=wakes)
                change = self._wake(route, nap) if wakes else self._put_to_sleep(route, nap)
                self._tasks[task] = asyncio.create_task(change, name=f"{'wake' if wakes else 'sleep'} {key}")

    async def close(self) -> None:
        """End all."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _put_to_sleep(self, route: Route, nap: Nap) -> None:
        # An order has drained the engine for as long as it could: what is left is cut off. An engine that sleeps
        # because nobody asks finishes what came in the last moment; what comes later waits in it until it wakes.
        mode = "wait" if route.engine.wake is WakePolicy.ON_REQUEST else "abort"
        try:
            await self._post(route, f"/sleep?level=1&mode={mode}", SLEEP_SECONDS)
            nap.asleep = True
        except SleepError as error:
            nap.error = str(error)
            await self._let_it_go_on(route)
        self._board.changed.set()

    async def _wake(self, route: Route, nap: Nap) -> None:
        try:
            await self._post(route, "/wake_up", route.engine.start_budget_seconds)
            nap.asleep = False
        except SleepError as error:
            nap.error = str(error)
        self._board.changed.set()

    async def _let_it_go_on(self, route: Route) -> None:
        """Undo the half of a sleep: vLLM has stopped to schedule requests before its memory refused to be freed."""
        try:
            await self._post(route, "/wake_up", _RESUME_SECONDS)
        except SleepError:
            # It hangs; the supervisor hears that it can't sleep, and stops it.
            return

    async def _post(self, route: Route, path: str, seconds: float) -> None:
        session = self._upstream.session(route.socket, route.attempt)
        what = path.partition("?")[0]
        try:
            async with session.post(path, timeout=aiohttp.ClientTimeout(total=seconds)) as response:
                body = await response.read()
        except TimeoutError:
            raise SleepError(f"{what}: no answer within {seconds:.0f} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise SleepError(f"{what}: {error!r}") from error
        if response.status != 200:
            raise SleepError(f"{what} gave {response.status}: {_detail(body)}")


class _Error(msgspec.Struct):
    message: str


class _Failure(msgspec.Struct):
    error: _Error


def _detail(body: bytes) -> str:
    """Return the message of an OpenAI error, else the text itself."""
    try:
        text = msgspec.json.decode(body, type=_Failure).error.message
    except (msgspec.MsgspecError, UnicodeDecodeError):
        text = body.decode(errors="replace")
    return text[:_DETAIL_CHARACTERS]
