"""Gives requests to endpoints: at once where one can take it, else after holding it while its model wakes.

    request ─▶ `choose` ─▶ endpoint                  the usual way: nothing is awaited
                  │ none, or others wait already
                  └▶ `wait` ─▶ held, in the order of deadlines ─▶ endpoint, or a refusal with the time to come back

What is held is given out as endpoints have room: each change of an endpoint, each end of a request and each load that
an answer tells calls `_give_out`. A request that its endpoint did not serve comes back and is held again until its
own deadline, so an engine that falls asleep, drains or dies in between costs time and no request.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from warmfleet_api.operator_api import ModelDemand, WakeAnswer
from warmfleet_router import refusals
from warmfleet_router.catalog import Model, ModelKey
from warmfleet_router.endpoints import Endpoint, Endpoints
from warmfleet_router.holding import Budget, FullError, Held, Holding
from warmfleet_router.pick import POLICIES, Asked, Shares, of_one_spec, pick
from warmfleet_router.refusals import Outlook, RefusedError

LOOK_SECONDS = 0.1
"""While requests are held endpoints are looked at so often without any news: pauses and loads end by themselves."""
ANSWER_SECONDS = 5.0
"""So long what the operator answered is newer than what it wrote into the object's status."""
FIRST_ROOM_SHARE = 2
"""An engine that has told nothing is given one part of so many of its queue at first: other routers give it theirs."""


class Wish(msgspec.Struct):
    """What a request needs of an endpoint."""

    model: Model
    name: str
    """Of the model, as the client wrote it."""
    deadline: float
    """Monotonic seconds: until then it waits for an endpoint."""
    size_bytes: int = 0
    session_key: int | None = None
    prefix_key: int | None = None
    avoid: frozenset[str] = frozenset()
    """Runners that did not serve it."""
    tries_canary: bool | None = None
    """Which of two specs it is for; None: not decided yet, or there is one spec."""
    held_seconds: float = 0.0

    @property
    def unknown_room(self) -> int:
        """How many requests an endpoint is taken to have room for that has not told."""
        return max(1, self.model.queue_requests // FIRST_ROOM_SHARE)

    def asked(self, now: float) -> Asked:
        """Return what the choice may depend on."""
        return Asked(now, self.session_key, self.prefix_key, self.unknown_room, self.avoid)


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is held."""

    bytes_per_model: int
    bytes_of_all: int


@dataclass(slots=True)
class _Waiter:
    wish: Wish
    given: asyncio.Future[Endpoint]


@dataclass(slots=True)
class _Told:
    """What the operator answered of a model."""

    answer: WakeAnswer
    at: float


Beat = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Dispatcher:
    """All requests of this router, as far as they look for an endpoint.

    `wanted` is called when the first request for a model is held; it asks the operator to wake it.
    """

    endpoints: Endpoints
    bounds: Bounds
    wanted: Callable[[ModelKey], None]
    now: Callable[[], float] = time.monotonic
    _holding: dict[ModelKey, Holding[_Waiter]] = field(default_factory=dict)
    _told: dict[ModelKey, _Told] = field(default_factory=dict)
    _shares: Shares = field(default_factory=Shares)
    _budget: Budget = field(init=False)
    _look: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self._budget = Budget(self.bounds.bytes_of_all)

    # At once --------------------------------------------------------------------------------------------------------

    def choose(self, wish: Wish) -> Endpoint | None:
        """Return an endpoint that takes the request now; the caller gives it back by `done`.

        None: there is none, or others wait for it already. An engine that is awake is given requests even where it
        seems full: its own queue refuses them better than we could.
        """
        if wish.model.key in self._holding:
            return None
        now = self.now()
        endpoint = self._pick(wish, self.endpoints.of(wish.model.key), now)
        if endpoint is None or (not endpoint.is_ready and endpoint.room(now, wish.unknown_room) <= 0):
            return None
        endpoint.begin(now)
        return endpoint

    def choose_another(self, wish: Wish) -> Endpoint | None:
        """Return an endpoint other than those that did not serve the request; None: there is none that is awake."""
        now = self.now()
        others = [
            each
            for each in self.endpoints.of(wish.model.key)
            if each.is_ready and each.runner.uid not in wish.avoid and each.breaker.allows(now)
        ]
        endpoint = self._pick(wish, others, now)
        if endpoint is not None:
            endpoint.begin(now)
        return endpoint

    def done(self, endpoint: Endpoint) -> None:
        """A request is at its endpoint no more."""
        endpoint.end()
        self.has_news(endpoint.model)

    def _pick(self, wish: Wish, endpoints: Sequence[Endpoint], now: float) -> Endpoint | None:
        split = wish.model.split
        if split is not None:
            if wish.tries_canary is None:
                wish.tries_canary = self._shares.tries_canary(wish.model.key, split, wish.session_key)
            endpoints = of_one_spec(endpoints, split, now, tries_canary=wish.tries_canary)
        return pick(POLICIES[wish.model.policy], endpoints, wish.asked(now))

    # Held -----------------------------------------------------------------------------------------------------------

    async def wait(self, wish: Wish, beat: Beat | None = None, beat_seconds: float = 0.0) -> Endpoint:
        """Hold a request until an endpoint takes it, and return that; the caller gives it back by `done`.

        Args:
            wish: the request.
            beat: called every `beat_seconds` meanwhile, to show the client that it is not forgotten.
            beat_seconds: how often.

        Raises:
            RefusedError: it can't be held, or its deadline passed.
        """
        began = self.now()
        self._refuse_what_never_comes(wish, began)
        key = wish.model.key
        holding = self._holding.get(key)
        is_first = holding is None
        if holding is None:
            holding = Holding(wish.model.hold_requests, self.bounds.bytes_per_model, self._budget)
        waiter = _Waiter(wish, asyncio.get_running_loop().create_future())
        try:
            held = holding.enter(wish.deadline, wish.size_bytes, waiter)
        except FullError as error:
            message = f"model {wish.name!r} does not answer yet, and {error}"
            raise refusals.waiting("hold_full", message, self.outlook(wish.model, began), status=429) from None
        self._holding[key] = holding
        if is_first:
            self.wanted(key)
        try:
            self._give_out(key)
            return await self._until_given(held, beat, beat_seconds)
        finally:
            wish.held_seconds += self.now() - began
            holding.leave(held)
            if not len(holding) and self._holding.get(key) is holding:
                del self._holding[key]

    async def _until_given(self, held: Held[_Waiter], beat: Beat | None, beat_seconds: float) -> Endpoint:
        wish, given, began = held.what.wish, held.what.given, self.now()
        next_beat = self.now() + beat_seconds if beat else float("inf")
        try:
            while True:
                await asyncio.wait({given}, timeout=max(0.0, min(held.deadline, next_beat) - self.now()))
                if given.done():
                    return given.result()
                if self.now() >= held.deadline:
                    seconds = wish.held_seconds + self.now() - began
                    message = f"model {wish.name!r} did not answer within {seconds:.0f} s, as long as it may be held"
                    raise refusals.waiting("hold_timeout", message, self.outlook(wish.model, self.now()))
                if beat and self.now() >= next_beat:
                    await beat()
                    next_beat = self.now() + beat_seconds
        except BaseException:
            if given.done() and not given.cancelled() and given.exception() is None:
                # It was given an endpoint in the moment in which its client left.
                given.result().breaker.abandoned()
                self.done(given.result())
            given.cancel()
            raise

    def _refuse_what_never_comes(self, wish: Wish, now: float) -> None:
        model = wish.model
        if model.is_stopped:
            raise refusals.stopped(wish.name, *model.key)
        if model.stalled:
            outlook = Outlook(state=model.state)
            raise refusals.waiting("model_stalled", f"model {wish.name!r} can't start: {model.stalled}", outlook)
        outlook = self.outlook(model, now)
        if outlook.ready_seconds is not None and now + outlook.ready_seconds > wish.deadline:
            raise self._too_late(wish, outlook, now)

    @staticmethod
    def _too_late(wish: Wish, outlook: Outlook, now: float) -> RefusedError:
        patience = max(0.0, wish.deadline - now)
        message = f"model {wish.name!r} will not answer within the {patience:.0f} s that the request may wait"
        return refusals.waiting("model_waking", message, outlook)

    # News -----------------------------------------------------------------------------------------------------------

    def has_news(self, key: ModelKey) -> None:
        """Something changed at an endpoint of a model."""
        if key in self._holding:
            self._give_out(key)

    def model_changed(self, model: Model) -> None:
        """A model has a new version; whoever waits for what never comes is told so."""
        holding = self._holding.get(model.key)
        if holding is None:
            return
        now = self.now()
        for held in holding.before(float("inf")):
            held.what.wish.model = model
            try:
                self._refuse_what_never_comes(held.what.wish, now)
            except RefusedError as error:
                self._refuse(holding, held, error)

    def model_gone(self, key: ModelKey) -> None:
        """A model is deleted."""
        self._told.pop(key, None)
        self._shares.forget(key)
        if (holding := self._holding.get(key)) is not None:
            for held in holding.before(float("inf")):
                self._refuse(holding, held, refusals.ModelGoneError(held.what.wish.name))

    def heard(self, answer: WakeAnswer) -> None:
        """The operator says how far a model is; whoever can't wait so long is told when to come back."""
        key, now = ModelKey(answer.namespace, answer.model), self.now()
        self._told[key] = _Told(answer, now)
        if (holding := self._holding.get(key)) is None or answer.ready_seconds is None:
            return
        for held in holding.before(now + answer.ready_seconds):
            wish = held.what.wish
            self._refuse(holding, held, self._too_late(wish, self.outlook(wish.model, now), now))

    def outlook(self, model: Model, now: float) -> Outlook:
        """Return what is known of a model's start: the operator's last answer, else what its status says."""
        told = self._told.get(model.key)
        if told is not None and now - told.at < ANSWER_SECONDS:
            answer = told.answer
            ready = None if answer.ready_seconds is None else max(0.0, answer.ready_seconds - (now - told.at))
            return Outlook(answer.state, answer.position, answer.of, ready, answer.blocker)
        pending = model.pending
        if pending is None:
            return Outlook(model.state)
        ready = None if pending.ready_at is None else max(0.0, pending.ready_at - time.time())
        return Outlook(model.state, pending.position, pending.of, ready, pending.blocker)

    def levels(self) -> Iterator[ModelDemand]:
        """Yield the demand for each model that has any."""
        now = self.now()
        at_runners: dict[ModelKey, int] = {}
        for endpoint in self.endpoints.all():
            if endpoint.in_flight:
                at_runners[endpoint.model] = at_runners.get(endpoint.model, 0) + endpoint.in_flight
        for key in sorted(set(at_runners) | set(self._holding)):
            holding = self._holding.get(key)
            first = holding.first() if holding else None
            yield ModelDemand(
                namespace=key.namespace,
                model=key.name,
                held=len(holding) if holding else 0,
                queued=at_runners.get(key, 0),
                deadline_seconds=None if first is None else max(-86_400.0, first.deadline - now),
            )

    def held(self, key: ModelKey) -> int:
        """Return how many requests are held for a model."""
        holding = self._holding.get(key)
        return len(holding) if holding else 0

    def all_held(self) -> int:
        """Return how many requests are held for all models."""
        return sum(map(len, self._holding.values()))

    def close(self) -> None:
        """Look no more."""
        if self._look is not None:
            self._look.cancel()

    def _give_out(self, key: ModelKey) -> None:
        """Give held requests to endpoints with room, the earliest deadline first."""
        holding, now = self._holding[key], self.now()
        while (held := holding.first()) is not None:
            wish = held.what.wish
            roomy = [each for each in self.endpoints.of(key) if each.room(now, wish.unknown_room) > 0]
            endpoint = self._pick(wish, roomy, now)
            if endpoint is None:
                break
            endpoint.begin(now)
            holding.leave(held)
            held.what.given.set_result(endpoint)
        if len(holding):
            self._look_soon()
        else:
            del self._holding[key]

    def _look_soon(self) -> None:
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        for key in list(self._holding):
            self._give_out(key)

    @staticmethod
    def _refuse(holding: Holding[_Waiter], held: Held[_Waiter], error: RefusedError) -> None:
        holding.leave(held)
        if not held.what.given.done():
            held.what.given.set_exception(error)
