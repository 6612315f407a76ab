"""Blocking calls beside the event loop: each is awaited to its end, also by who was cancelled meanwhile.

A thread can't be cancelled. What runs in one holds descriptors and drafts of a store, so nobody may go on, or free
them, before it has ended; long calls look at a flag in between.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
QUICK_THREADS = 4
LONG_THREADS = 96
"""More than transfers can be at once: `spec.parallel` and those of High and Critical class on top."""


class Threads:
    """Two pools, so that a look at a store never waits for a copy of a model."""

    def __init__(self) -> None:
        self._quick = ThreadPoolExecutor(QUICK_THREADS, "quick")
        self._long = ThreadPoolExecutor(LONG_THREADS, "long")

    async def quick(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what takes milliseconds."""
        return await _to_the_end(self._quick, lambda: call(*args, **kwargs))

    async def long(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what may take minutes."""
        return await _to_the_end(self._long, lambda: call(*args, **kwargs))

    @asynccontextmanager
    async def entered(self, manager: AbstractContextManager[T]) -> AsyncIterator[T]:
        """Enter and leave a blocking context manager in threads; it is left whatever happens."""
        entering = asyncio.ensure_future(self.long(manager.__enter__))
        try:
            value = await asyncio.shield(entering)
        except asyncio.CancelledError:
            await asyncio.wait([entering])
            if entering.exception() is None:
                await self.long(manager.__exit__, None, None, None)
            raise
        try:
            yield value
        except BaseException as error:
            if not await self.long(manager.__exit__, type(error), error, error.__traceback__):
                raise
        else:
            await self.long(manager.__exit__, None, None, None)

    def close(self) -> None:
        """Start nothing more; what runs is not waited for."""
        self._quick.shutdown(wait=False, cancel_futures=True)
        self._long.shutdown(wait=False, cancel_futures=True)


async def _to_the_end(pool: ThreadPoolExecutor, call: Callable[[], T]) -> T:
    future = asyncio.get_running_loop().run_in_executor(pool, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        # Its own failure is of no interest to who was cancelled, but has to be looked at.
        if not future.cancelled():
            future.exception()
        raise
