"""Warm-up: an engine that starts or wakes answers us before it answers anybody else.

    it answers at all → short requests → [Full: the prompts] → connections → one more request, timed → Ready
    behind that: [Progressive: longer and longer contexts] → [Progressive, or after a wake: the prompts]

What comes after Ready goes through the engine's queue like any request, at the lowest class.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

from warmfleet_api.vocabulary import Priority, WarmupMode
from warmfleet_http.errors import NotConnectedError
from warmfleet_runtime.admission import Request
from warmfleet_runtime.front.admission import Admission, NotReadyError, RefusedError
from warmfleet_runtime.front.board import Board, WarmUp
from warmfleet_runtime.front.prober import ANSWER_TOKENS, Facts, ProbeError, Prober, prompt_of
from warmfleet_runtime.front.upstream import CONNECT_SECONDS, Upstream, origin_of
from warmfleet_runtime.link import Route

POLL_SECONDS = 0.02
TENANT = "warm-up"
"""Whose requests ours are in the engine's queue."""
SHORT_TOKENS = 32
FIRST_WARM_TOKENS = 256
"""What Progressive warms before Ready; each step behind it is `_GROWTH` times longer."""
_GROWTH = 4
_TRIES = 3
_AGAIN_SECONDS = 1.0
CONNECTIONS = 8
"""Open before Ready, or fewer where the engine runs fewer sequences at once."""
_log = logging.getLogger("front.warmup")


class WarmUps:
    """One task per engine process that starts, or wakes. It may go on for a while after the engine is Ready."""

    def __init__(self, board: Board, upstream: Upstream, admission: Admission) -> None:
        self._board = board
        self._upstream = upstream
        self._admission = admission
        self._tasks: dict[tuple[str, int], asyncio.Task[Any]] = {}
        self._waking: set[tuple[str, int]] = set()

    def follow(self) -> None:
        """Start what the table asks for, end what it does not ask for any more."""
        routes = {(key, route.attempt): route for key, route in self._board.table.routes.items()}
        for process in set(self._tasks) - {each for each, route in routes.items() if not _is_ending(route)}:
            self._tasks.pop(process).cancel()
        for process, route in routes.items():
            if route.wakes and process not in self._waking:
                self._begin(process, route, wakes=True)
            elif route.warms_up and process not in self._tasks:
                self._begin(process, route, wakes=False)
            elif route.accepts and process[0] not in self._board.warm_ups:
                # This front is younger than the engine: it only has to learn what the former one knew.
                self._learn(process, route)
        self._waking = {process for process, route in routes.items() if route.wakes}

    async def close(self) -> None:
        """End all."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _begin(self, process: tuple[str, int], route: Route, *, wakes: bool) -> None:
        key, attempt = process
        # At once: what was true before it slept must not be taken for what is to come.
        progress = self._board.warm_ups[key] = WarmUp(attempt)
        if task := self._tasks.get(process):
            task.cancel()
        work = self._wake(key, route, progress) if wakes else self._start(key, route, progress)
        self._tasks[process] = asyncio.create_task(self._run(work, key, progress), name=f"warm-up {key}")

    def _learn(self, process: tuple[str, int], route: Route) -> None:
        key, attempt = process
        progress = self._board.warm_ups[key] = WarmUp(attempt)
        self._tasks[process] = asyncio.create_task(self._learn_facts(route, progress), name=f"facts {key}")

    async def _run(self, work: Coroutine[None, None, None], key: str, progress: WarmUp) -> None:
        try:
            await work
        except Exception as error:
            if not isinstance(error, ProbeError):
                _log.exception("the warm-up of %s has a bug", key)
            if progress.first_request_milliseconds is None:
                progress.error = f"the engine answers, but its warm-up failed: {error or repr(error)}"
                self._board.changed.set()
            else:
                _log.warning("%s is Ready, and warming it further failed: %s", key, error)
        finally:
            # Whatever happened: nobody waits for what will not come.
            self._set_warm(key, None)

    # Before Ready ---------------------------------------------------------------------------------------------------

    async def _start(self, key: str, route: Route, progress: WarmUp) -> None:
        prober = self._prober(route)
        # The supervisor bounds this: it kills what does not progress, and the task ends with the process.
        while not await prober.is_up():  # noqa: ASYNC110 - another process sets no Event
            await asyncio.sleep(POLL_SECONDS)
        facts = await self._learn_facts(route, progress)
        seconds = route.engine.start_budget_seconds
        is_progressive = route.engine.warmup.mode is WarmupMode.PROGRESSIVE
        for number in range(route.engine.warmup.requests):
            await self._ask(prober, _short(facts, number), seconds)
        if is_progressive:
            longest = (progress.context_tokens or FIRST_WARM_TOKENS) - ANSWER_TOKENS
            await prober.generate(prompt_of(facts, min(FIRST_WARM_TOKENS, longest), FIRST_WARM_TOKENS), seconds)
            self._set_warm(key, FIRST_WARM_TOKENS)
        else:
            for number in range(len(route.engine.warmup.prompts)):
                await self._seed(prober, route, number)
        await self._be_ready(prober, route, facts, progress)
        if is_progressive:
            await self._warm_contexts(key, route, facts, progress)
            await self._seed_behind(key, route)

    async def _wake(self, key: str, route: Route, progress: WarmUp) -> None:
        # The sleeper wakes it; the supervisor bounds how long that takes.
        while self._is_asleep(key, route):  # noqa: ASYNC110 - nor does the sleeper
            await asyncio.sleep(POLL_SECONDS)
        prober, facts = self._prober(route), await self._learn_facts(route, progress)
        # Whatever compiles has compiled before it slept: one request is enough.
        await self._be_ready(prober, route, facts, progress)
        # Its prefix cache went with its memory.
        await self._seed_behind(key, route)

    async def _ask(self, prober: Prober, prompt: str | list[int], seconds: float) -> float:
        """Return the seconds of one request; an engine that has just come up may fail the first tries."""
        for is_last_try in (False,) * (_TRIES - 1) + (True,):
            try:
                return await prober.generate(prompt, seconds)
            except ProbeError:
                if is_last_try:
                    raise
                await asyncio.sleep(POLL_SECONDS)
        raise AssertionError("the last try returns or raises")

    async def _seed(self, prober: Prober, route: Route, number: int) -> None:
        """Send a prompt as the beginning of a text, and as that of a conversation, whose template comes before it."""
        prompt, seconds = route.engine.warmup.prompts[number], route.engine.start_budget_seconds
        try:
            await prober.generate(prompt, seconds)
        except ProbeError as error:
            raise ProbeError(f"warmup.prompts[{number}]: {error}", error.status) from None
        try:
            await prober.chat(prompt, seconds)
        except ProbeError as error:
            # Not every model has a template, and not every template a system message.
            if error.status not in {400, 404}:
                raise

    async def _be_ready(self, prober: Prober, route: Route, facts: Facts, progress: WarmUp) -> None:
        connections = min(CONNECTIONS, route.max_sequences or CONNECTIONS)
        try:
            await self._upstream.pool.open(origin_of(route), connections, CONNECT_SECONDS)
        except NotConnectedError as error:
            raise ProbeError(f"it takes no more connections: {error}") from None
        prompt = _short(facts, route.engine.warmup.requests)
        first_seconds = await self._ask(prober, prompt, route.engine.start_budget_seconds)
        progress.first_request_milliseconds = round(first_seconds * 1000)
        self._board.changed.set()

    # Behind it ------------------------------------------------------------------------------------------------------

    async def _warm_contexts(self, key: str, route: Route, facts: Facts, progress: WarmUp) -> None:
        prober = self._prober(route)
        for tokens in _steps(progress.context_tokens):
            async with self._turn(key, route):
                await prober.generate(prompt_of(facts, tokens, tokens), route.engine.start_budget_seconds)
            self._set_warm(key, tokens)
        self._set_warm(key, None)

    async def _seed_behind(self, key: str, route: Route) -> None:
        prober = self._prober(route)
        for number in range(len(route.engine.warmup.prompts)):
            async with self._turn(key, route):
                await self._seed(prober, route, number)

    @asynccontextmanager
    async def _turn(self, key: str, route: Route) -> AsyncIterator[None]:
        """Wait for a place at the engine, as long as the process is there, and hold it."""
        while True:
            asked = Request(
                id=self._admission.next_id(),
                tenant=TENANT,
                priority=Priority.LOW,
                arrived=time.monotonic(),
                # However long it really is: it must not wait for itself.
                prompt_tokens=SHORT_TOKENS,
                answer_tokens=ANSWER_TOKENS,
            )
            try:
                with self._admission.open_queue(key).enter(asked) as place:
                    await place.turn()
                    with self._board.request(key, route.attempt):
                        yield
                    place.saw(ANSWER_TOKENS)
                return
            except (RefusedError, NotReadyError):
                await asyncio.sleep(_AGAIN_SECONDS)

    # What it knows ---------------------------------------------------------------------------------------------------

    def _prober(self, route: Route) -> Prober:
        return Prober(self._upstream.session(route.socket, route.attempt), route.engine.engine.served_names[0])

    async def _learn_facts(self, route: Route, progress: WarmUp) -> Facts:
        prober = self._prober(route)
        facts = await prober.facts()
        progress.missing_paths = await prober.missing_paths()
        progress.context_tokens = facts.context_tokens or route.engine.engine.max_model_len
        progress.bytes_per_token = facts.bytes_per_token
        return facts

    def _is_asleep(self, key: str, route: Route) -> bool:
        nap = self._board.naps.get(key)
        return nap is None or nap.attempt != route.attempt or nap.asleep

    def _set_warm(self, key: str, tokens: int | None) -> None:
        if progress := self._board.warm_ups.get(key):
            progress.warm_tokens = tokens
        if queue := self._admission.queues.get(key):
            queue.warm(tokens)


def _is_ending(route: Route) -> bool:
    return route.drains or route.sleeps


def _short(facts: Facts, number: int) -> str | list[int]:
    return prompt_of(facts, min(SHORT_TOKENS, (facts.context_tokens or 2 * SHORT_TOKENS) // 2), number)


def _steps(context_tokens: int | None) -> Iterator[int]:
    """Yield the lengths of prompts that are warmed behind Ready, up to the longest the model takes."""
    longest = (context_tokens or 0) - ANSWER_TOKENS
    tokens = FIRST_WARM_TOKENS
    while tokens < longest:
        tokens = min(tokens * _GROWTH, longest)
        yield tokens
