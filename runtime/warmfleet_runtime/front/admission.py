"""The admission queues at work: one per engine, asked by the requests themselves and woken by its own timer.

What a queue decides is in `warmfleet_runtime.admission`; here is what a decision does to a request. A request that
waits belongs to no process of its engine: one that is restarted, or wakes, finds it still in its place.
"""

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState
from warmfleet_http.answer import Answer
from warmfleet_http.messages import Header
from warmfleet_http.replies import DONE
from warmfleet_runtime.admission import Merged, Queue, Refused, Request
from warmfleet_runtime.front.board import Board
from warmfleet_runtime.front.sharing import Reader, Shared
from warmfleet_runtime.link import Route

PROGRESS_TOKENS = 8
"""How many tokens a generation makes between two words of it to the queue."""
_LOAD = names.HEADER_LOAD.lower().encode()


class RefusedError(Exception):
    """The queue does not serve a request."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


class NotReadyError(Exception):
    """The engine takes no request in its state."""


class Place:
    """A request's place: in the queue, then at the engine, until it is left."""

    __slots__ = ("_queue", "_tells_at", "_turn", "arrived_at", "first_token_at", "id", "tokens", "waited_seconds")

    def __init__(self, queue: "EngineQueue", request_id: int) -> None:
        self._queue = queue
        self._turn: asyncio.Future[Route | Refused | None] = asyncio.get_running_loop().create_future()
        self._tells_at = 0
        self.id = request_id
        self.tokens = 0
        """Generated so far, all sequences together."""
        self.arrived_at = time.monotonic()
        self.first_token_at: float | None = None
        """Monotonic seconds."""
        self.waited_seconds = 0.0

    async def turn(self) -> Route:
        """Wait until the request may go to the engine; return where to.

        Raises:
            RefusedError: it may not.
            NotReadyError: the engine is being stopped or put to sleep.
        """
        # What is raised is made here: an exception kept in a future holds its frames, and they the future. Thousands of
        # such circles are what makes a collector stop the process for long enough to be seen.
        outcome = await self._turn
        if outcome is None:
            raise NotReadyError
        if isinstance(outcome, Refused):
            raise RefusedError(outcome)
        return outcome

    def saw(self, tokens: int) -> None:
        """The engine generated more."""
        self.tokens = seen = self.tokens + tokens
        if seen >= self._tells_at:
            self._tells_at = seen + PROGRESS_TOKENS
            if self.first_token_at is None:
                self._queue.began(self)
            else:
                self._queue.progressed(self)

    def saw_of_stream(self, data: bytes) -> None:
        """The engine sent a piece of a stream.

        An event ends with an empty line, and JSON has no line ends of its own: events can be counted unread. The end of
        a stream is an event, and no token: of short answers it would make a third more than they cost.
        """
        self.saw(data.count(b"\n\n") - data.endswith(DONE))

    def give_turn(self, route: Route, waited_seconds: float) -> None:
        """Let it go to the engine."""
        self.waited_seconds = waited_seconds
        if not self._turn.done():
            self._turn.set_result(route)

    def refuse(self, refused: Refused | None) -> None:
        """End its waiting; None: the engine takes no more."""
        if not self._turn.done():
            self._turn.set_result(refused)


Generate = Callable[[Place, Answer], Coroutine[None, None, None]]
"""Brings one generation from its place in the queue to its end, whoever reads it."""


@dataclass(slots=True)
class _Generation:
    """One that several requests may read. The queue knows it by the first's id."""

    place: Place
    shared: Shared
    task: asyncio.Task[None] | None = None
    members: set[int] = field(default_factory=set)


class EngineQueue:
    """The queue of one engine. Nothing here waits but `Place.turn` and `Reader.read`."""

    def __init__(self, board: Board, key: str, route: Route, *, reserves: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._board = board
        self._key = key
        self._route = route
        self._configured = (route.engine.serving, route.max_sequences, reserves)
        self.queue = Queue(*self._configured)
        """The decisions, and their statistics."""
        self._waiting: dict[int, Place] = {}
        self._running: dict[int, Place] = {}
        self._generations: dict[int, _Generation] = {}
        self._readers: dict[int, Reader] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    @property
    def model(self) -> str:
        """Name of the ModelDeployment."""
        return self._route.engine.model

    @property
    def running_sequences(self) -> int:
        """Sequences at the engine now."""
        return self.queue.running_sequences

    @property
    def load(self) -> Header:
        """How busy the engine is, as answers tell it to routers."""
        queue = self.queue
        words = (queue.running_sequences, len(self._waiting), queue.window, self._route.engine.serving.max_requests)
        return _LOAD, b"running=%d;waiting=%d;window=%d;queue=%d" % words

    def follow(self, route: Route, state: EngineState, *, reserves: bool) -> None:
        """Take the engine as the table has it now."""
        wanted = (route.engine.serving, route.max_sequences, reserves)
        if wanted != self._configured:
            self._configured = wanted
            self.queue.configure(route.engine.serving, route.max_sequences, time.monotonic(), reserves=reserves)
        self._route = route
        if not _keeps_waiting(route, state):
            self.turn_away()
        self.look()

    def warm(self, prompt_tokens: int | None) -> None:
        """Let prompts up to this length go to the engine; longer ones wait. None: all may go."""
        self.queue.warm(prompt_tokens, time.monotonic())
        self.look()

    def turn_away(self) -> None:
        """Refuse all that wait: their senders find another engine, or come again."""
        for place in list(self._waiting.values()):
            place.refuse(None)

    @contextmanager
    def enter(self, request: Request) -> Iterator[Place]:
        """Give a request its place for as long as it takes.

        Raises:
            RefusedError: there is none for it.
        """
        place = self._offer(request)
        if isinstance(place, Merged):
            raise ValueError("a request with a merge key may share a generation: use `share`")
        self._note_arrival()
        self.look()
        is_done = False
        try:
            yield place
            is_done = True
        finally:
            self._leave(place, is_done=is_done)

    @contextmanager
    def share(self, request: Request, answer: Answer, generate: Generate) -> Iterator[Reader]:
        """Let a request read the generation of an identical one, or begin one that others may read too.

        Raises:
            RefusedError: there is no place for it.
        """
        generation = self._generation(request, generate)
        generation.members.add(request.id)
        reader = self._readers[request.id] = generation.shared.join(answer)
        self._note_arrival()
        self.look()
        try:
            yield reader
        finally:
            del self._readers[request.id]
            generation.members.discard(request.id)
            self.queue.cancel(request.id, time.monotonic())
            reader.left()
            self.look()

    def began(self, place: Place) -> None:
        """The first token of a generation came."""
        now = place.first_token_at = time.monotonic()
        self._board.activity(self._key).began(now, now - place.arrived_at)
        self.queue.first_token(place.id, now)
        self.look()

    def progressed(self, place: Place) -> None:
        """A generation goes on."""
        self.queue.progress(place.id, place.tokens, time.monotonic())

    def look(self) -> None:
        """Do what the queue decides now, and be here again when time alone changes that."""
        now = time.monotonic()
        for request_id, refused in self.queue.expire(now):
            self._refuse(request_id, refused)
        if self._route.accepts:
            for dispatch in self.queue.take(now):
                place = self._running[dispatch.id] = self._waiting.pop(dispatch.id)
                place.give_turn(self._route, dispatch.waited_seconds)
        activity = self._board.activity(self._key)
        activity.waiting, activity.window = len(self._waiting), self.queue.window
        if self._waiting and (due := self.queue.next_time(now)) is not None:
            self._arm(max(0.0, due - now))

    async def close(self) -> None:
        """End all generations."""
        if self._timer:
            self._timer.cancel()
        tasks = [each.task for each in self._generations.values() if each.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _offer(self, request: Request) -> Place | Merged:
        answer = self.queue.offer(request, time.monotonic())
        if isinstance(answer, Refused):
            raise RefusedError(answer)
        if isinstance(answer, Merged):
            return answer
        place = self._waiting[request.id] = Place(self, request.id)
        return place

    def _leave(self, place: Place, *, is_done: bool) -> None:
        now = time.monotonic()
        if is_done:
            self.queue.finish(place.id, place.tokens, now)
        else:
            self.queue.cancel(place.id, now)
        self._waiting.pop(place.id, None)
        self._running.pop(place.id, None)
        self.look()

    # Shared generations ---------------------------------------------------------------------------------------------

    def _generation(self, request: Request, generate: Generate) -> _Generation:
        place = self._offer(request)
        if isinstance(place, Merged):
            generation = self._generations.get(place.leader_id)
            if generation and generation.shared.can_join:
                return generation
            # Its beginning is no longer there to be read.
            self.queue.cancel(request.id, time.monotonic())
            place = self._offer(dataclasses.replace(request, merge_key=None))
            assert isinstance(place, Place)
        generation = _Generation(place, Shared(lambda: self._abandon(request.id)))
        self._generations[place.id] = generation
        generation.task = asyncio.create_task(self._generate(generation, generate), name=f"generation {place.id}")
        window_seconds = self._route.engine.serving.merge_window_milliseconds / 1000
        self._loop.call_later(window_seconds, generation.shared.close_to_newcomers)
        return generation

    async def _generate(self, generation: _Generation, generate: Generate) -> None:
        place, shared = generation.place, generation.shared
        is_done = False
        try:
            await generate(place, shared)
            is_done = True
        except Exception as error:
            shared.fail(error)
        except asyncio.CancelledError:
            shared.fail(NotReadyError())
            raise
        finally:
            del self._generations[place.id]
            if not is_done:
                for member in generation.members:
                    self.queue.cancel(member, time.monotonic())
            self._leave(place, is_done=is_done)

    def _abandon(self, request_id: int) -> None:
        """Nobody reads it any more."""
        generation = self._generations.get(request_id)
        if generation and generation.task:
            generation.task.cancel()

    # Decisions carried out ------------------------------------------------------------------------------------------

    def _refuse(self, request_id: int, refused: Refused) -> None:
        """End one that waits: a reader alone, as others may still have time; a place that is only its own."""
        if reader := self._readers.get(request_id):
            reader.end(RefusedError(refused))
        elif place := self._waiting.get(request_id):
            place.refuse(refused)

    def _note_arrival(self) -> None:
        """Let PID 1 hear at once of what it would act on: an engine that is wanted, awake, or idle no more."""
        activity = self._board.activity(self._key)
        now = time.monotonic()
        if self._route.wakes_on_request or now - activity.last_at > self._route.engine.idle_seconds:
            self._board.changed.set()
        activity.last_at = now

    def _arm(self, seconds: float) -> None:
        """Be here again in time; a timer that is already due earlier looks and arms anew."""
        at = self._loop.time() + seconds
        if self._timer and self._timer_at <= at:
            return
        if self._timer:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.look()


class Admission:
    """The queues of all engines of a runner."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.queues: dict[str, EngineQueue] = {}
        """By engine id."""
        self._ids = itertools.count(1)

    def next_id(self) -> int:
        """Return an id for a request."""
        return next(self._ids)

    def follow(self, *, reserves: bool) -> None:
        """Take the board's table: queues of new engines are opened, those of engines that are gone are ended.

        `reserves`: room is kept for the higher classes, as somebody may name them.
        """
        table = self._board.table
        states = {engine.id: engine.state for engine in table.status.engines}
        for key in set(self.queues) - set(table.routes):
            self.queues.pop(key).turn_away()
        for key, route in table.routes.items():
            if key not in self.queues:
                self.queues[key] = EngineQueue(self._board, key, route, reserves=reserves)
            self.queues[key].follow(route, states.get(key, EngineState.STARTING), reserves=reserves)

    def open_queue(self, key: str) -> EngineQueue:
        """Return the queue of an engine that takes requests.

        Raises:
            NotReadyError: it does not now.
        """
        route = self._board.table.routes.get(key)
        if route is None or not (route.accepts or route.wakes_on_request):
            raise NotReadyError
        return self.queues[key]

    async def close(self) -> None:
        """End what is under way."""
        for queue in self.queues.values():
            await queue.close()


def _keeps_waiting(route: Route, state: EngineState) -> bool:
    """Whether what waits for an engine may go on: it takes requests, wakes for them, or is being started again."""
    if route.drains:
        return False
    return route.accepts or route.wakes_on_request or state is EngineState.STARTING
