"""Ends the work of a request when its client leaves, or when what it waits for does not come in time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from starlette.types import Receive

from warmfleet_runtime.front.replies import WRITE_SECONDS, ClientGoneError


@dataclass(frozen=True, slots=True)
class Wait:
    """What a request waits for, and how long at most."""

    seconds: float
    error: Callable[[], Exception]
    """What the request ends with otherwise."""


CLIENT = Wait(WRITE_SECONDS, ClientGoneError)
"""A client that is to take what was sent."""


class Watch:
    """Watches over the task that enters it; what ends the task is raised where it leaves.

    A stream waits for two things per token, so a wait costs two assignments and no timer: there is one per request,
    which looks at the present wait when it fires.

    Raises:
        ClientGoneError: the client left.
        Exception: that of the wait that took too long.
    """

    __slots__ = ("_client", "_due", "_error", "_loop", "_receive", "_task", "_timer", "_timer_at", "_wait")

    def __init__(self, receive: Receive | None = None) -> None:
        """Watch the client behind `receive`, whose body must have been read; None: the work has no client."""
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._client: asyncio.Task[None] | None = None
        self._wait: Wait | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._error: Exception | None = None

    def wait(self, wait: Wait) -> None:
        """From now on the task waits for this; each call begins anew."""
        self._wait = wait
        due = self._due = self._loop.time() + wait.seconds
        if self._timer is None or due < self._timer_at:
            self._arm(due)

    def rest(self) -> None:
        """What the task waits for now is bounded elsewhere."""
        self._wait = None

    async def __aenter__(self) -> "Watch":
        """Begin."""
        self._task = asyncio.current_task()
        if self._receive:
            self._client = asyncio.create_task(self._until_client_leaves(self._receive), name="client")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching; turn our own cancellation into its reason."""
        if self._timer:
            self._timer.cancel()
        if self._client:
            self._client.cancel()
            await asyncio.gather(self._client, return_exceptions=True)
        if self._error and self._task and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._error from None

    async def _until_client_leaves(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            continue
        self._end(ClientGoneError())

    def _arm(self, due: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._wait is None:
            return
        if self._loop.time() < self._due:
            self._arm(self._due)
        else:
            self._end(self._wait.error())

    def _end(self, error: Exception) -> None:
        if self._error is None and self._task:
            self._error = error
            self._task.cancel()
