"""Warm-up: probes a starting engine until it answers, then sends it one real request before anybody else does."""

import asyncio
import time

import aiohttp
import msgspec

from warmfleet_runtime.front.board import Board, WarmUp
from warmfleet_runtime.front.upstream import Upstream
from warmfleet_runtime.link import Route

PROBE_SECONDS = 0.05
_TRIES = 3
_DETAIL_CHARACTERS = 300
_JSON = {"content-type": "application/json"}


class WarmUps:
    """One task per engine process that is starting."""

    def __init__(self, board: Board, upstream: Upstream) -> None:
        self._board = board
        self._upstream = upstream
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}

    def follow(self) -> None:
        """Start what the table asks for, end what it does not ask for any more."""
        starting = {(key, route.attempt): route for key, route in self._board.table.routes.items() if route.warms_up}
        for gone in set(self._tasks) - set(starting):
            self._tasks.pop(gone).cancel()
        for (key, attempt), route in starting.items():
            if (key, attempt) not in self._tasks:
                task = asyncio.create_task(self._warm_up(key, route), name=f"warm-up {key}")
                self._tasks[key, attempt] = task

    async def close(self) -> None:
        """End all."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _warm_up(self, key: str, route: Route) -> None:
        progress = WarmUp(route.attempt)
        self._board.warm_ups[key] = progress
        session = self._upstream.session(route.socket, route.attempt)
        # The supervisor bounds this: it kills what does not progress, and the task ends with the process.
        while not await _answers(session):  # noqa: ASYNC110 - another process sets no Event
            await asyncio.sleep(PROBE_SECONDS)
        for last_try in (False,) * (_TRIES - 1) + (True,):
            started = time.monotonic()
            error = await _first_token(session, route.engine.engine.served_names[0])
            if error is None:
                progress.first_request_milliseconds = round((time.monotonic() - started) * 1000)
                break
            if last_try:
                progress.error = f"the engine answers, but its first request failed: {error}"
            await asyncio.sleep(PROBE_SECONDS)
        self._board.changed.set()


async def _answers(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/health", timeout=aiohttp.ClientTimeout(total=5.0)) as response:
            return response.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False


async def _first_token(session: aiohttp.ClientSession, model: str) -> str | None:
    """Ask for one token; return what went wrong. A model that can't generate is asked for an embedding."""
    error: str | None = None
    for path, body in (
        ("/v1/completions", {"model": model, "prompt": "Hello", "max_tokens": 1, "stream": True}),
        ("/v1/embeddings", {"model": model, "input": "Hello"}),
    ):
        try:
            async with session.post(path, data=msgspec.json.encode(body), headers=_JSON) as response:
                if response.status == 200:
                    await response.content.readany()
                    return None
                detail = (await response.read())[:_DETAIL_CHARACTERS].decode(errors="replace")
                error = error or f"{path} gave {response.status}: {detail}"
                if response.status not in {400, 404}:
                    return error
        except (aiohttp.ClientError, TimeoutError, OSError) as broken:
            return f"{path}: {broken!r}"
    return error
