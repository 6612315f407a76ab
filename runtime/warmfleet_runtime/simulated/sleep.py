"""Sleep of a Simulated engine, as vLLM sleeps: it stops to answer first, and what comes meanwhile waits."""

import asyncio
import mmap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from warmfleet_api.assignment import SimulatedEngine

Hold = Callable[[int], None]
"""Hold so many bytes from now on."""


class FailedSleepError(Exception):
    """The engine shows the fault FailSleep."""


class CutOffError(Exception):
    """The engine fell asleep over an answer."""


class Sleep:
    """Whether the engine is asleep, and the way there and back."""

    def __init__(self, behaviour: SimulatedEngine, hold: Hold) -> None:
        self.is_asleep = False
        self._accepts = asyncio.Event()
        self._accepts.set()
        self._behaviour = behaviour
        self._hold = hold
        self._answers: set[asyncio.Task[Any]] = set()
        self._cut_off: set[asyncio.Task[Any]] = set()
        self._turn = asyncio.Lock()
        hold(behaviour.memory)

    async def begin(self, *, abort: bool) -> None:
        """Fall asleep once no request is left; `abort` cuts off those that are.

        Raises:
            FailedSleepError: the engine can't sleep. It does not answer until `end`, like vLLM.
        """
        self._accepts.clear()
        async with self._turn:
            if abort:
                self._cut_off |= self._answers
                for answer in self._answers:
                    answer.cancel()
            if self._answers:
                await asyncio.wait(self._answers)
            if self._is_faulty("FailSleep"):
                raise FailedSleepError("simulated fault: FailSleep")
            if not self.is_asleep:
                await asyncio.sleep(self._behaviour.sleep_milliseconds / 1000)
                self._hold(self._behaviour.asleep_memory)
                self.is_asleep = True

    async def end(self) -> None:
        """Wake up, and answer what came meanwhile."""
        async with self._turn:
            if self.is_asleep:
                if self._is_faulty("HangAtWake"):
                    await asyncio.Event().wait()
                await asyncio.sleep(self._behaviour.wake_milliseconds / 1000)
                self._hold(self._behaviour.memory)
                self.is_asleep = False
            self._accepts.set()

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Answer within, once the engine is awake; sleep waits for the end of it.

        Raises:
            CutOffError: it was not to be waited for.
        """
        await self._accepts.wait()
        task = asyncio.current_task()
        assert task is not None
        self._answers.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task not in self._cut_off:
                raise
            raise CutOffError from None
        finally:
            self._answers.discard(task)
            self._cut_off.discard(task)

    def _is_faulty(self, kind: str) -> bool:
        return self._behaviour.fault is not None and self._behaviour.fault.kind == kind


class HeldMemory:
    """Memory that a process holds for nothing but its size."""

    def __init__(self) -> None:
        self._held: mmap.mmap | None = None

    def hold(self, size: int) -> None:
        """Hold `size` bytes instead of what was held before."""
        if self._held is not None:
            self._held.close()
            self._held = None
        if size > 0:
            self._held = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            # A page exists once it was written to.
            pages = len(range(0, size, mmap.PAGESIZE))
            self._held[:: mmap.PAGESIZE] = b"\1" * pages


def say_only(size: int) -> None:
    """Hold nothing."""
    del size
