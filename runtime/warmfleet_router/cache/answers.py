"""A request's way where its model keeps answers: given again, shared with an identical one, or asked for and kept."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from warmfleet_api import names
from warmfleet_http.errors import ClientGoneError
from warmfleet_http.messages import Header, Request
from warmfleet_http.replies import DONE
from warmfleet_router.access_log import Line
from warmfleet_router.cache import rules
from warmfleet_router.cache.entry import Entry
from warmfleet_router.cache.flight import End, Flight
from warmfleet_router.cache.kept import Kept
from warmfleet_router.cache.metrics import CacheMetrics
from warmfleet_router.cache.rules import Plan, Whose
from warmfleet_router.catalog import Model
from warmfleet_router.endpoints import Endpoints
from warmfleet_router.forward import Outgoing
from warmfleet_router.refusals import RefusedError

Serve = Callable[[], Awaitable[None]]
"""Brings an answer from an engine to `Outgoing.answer`."""

_SHOWN = names.HEADER_CACHE.lower().encode()
_HIT, _MISS, _BYPASS = ((_SHOWN, word) for word in (b"hit", b"miss", b"bypass"))
_FAILED = re.compile(rb'(?:^|\n)data: ?\{"error"|"finish_reason": ?"(?:abort|error)"')
"""An engine that fails within a stream says so in an event, and ends it with [DONE] all the same."""


@dataclass(slots=True)
class _Shared:
    """One answer under way."""

    flight: Flight
    outgoing: Outgoing
    task: asyncio.Task[None] | None = None


class Answers:
    """What is kept, and what is under way. Made inside the running loop."""

    def __init__(self, kept: Kept, endpoints: Endpoints, metrics: CacheMetrics) -> None:
        self._kept = kept
        self._endpoints = endpoints
        self._metrics = metrics
        self._under_way: dict[bytes, _Shared] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End what is under way, and the tiers."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._kept.close()

    def forget(self, model_uid: str) -> None:
        """A model is gone."""
        self._kept.forget(model_uid)

    async def serve(self, request: Request, model: Model, tenant: str, served_name: str, way: "Way") -> None:
        """Answer a request for a model that keeps answers.

        Raises:
            RefusedError: no engine answers it, or the client wants none asked and nothing is kept.
            ClientGoneError: its answer broke off after its beginning.
        """
        engine_hash = self._hash(model)
        whose = Whose(tenant, model.uid, model.revision, engine_hash, served_name)
        plan = rules.plan(request.path, request.target, request.headers, request.body, whose)
        if plan.key is None or model.response_cache is None:
            self._count(model, way.line, "bypass")
            way.outgoing.shown = (_BYPASS,)
            await way.serve()
            return
        shelf = (tenant, model.uid)
        if plan.looks_up:
            if (entry := self._kept.near(shelf, plan.key, plan.max_age_seconds)) is not None:
                self._give(model, way, entry, "memory")
                return
            if plan.key not in self._under_way:
                entries = model.response_cache.max_entries
                found = await self._kept.far(shelf, plan.key, plan.max_age_seconds, entries)
                if found is not None:
                    self._give(model, way, *found)
                    return
        if plan.only_kept:
            raise RefusedError(504, "not_kept", "no answer is kept, and Cache-Control: only-if-cached asks no engine")
        way.outgoing.shown = (_MISS,)
        if way.beats:
            # Its signs of life are its own.
            self._count(model, way.line, "miss")
            await way.serve()
        else:
            await self._share(model, plan, shelf, way)

    def _hash(self, model: Model) -> str:
        """Return which spec the model's engines were started from; empty if nobody knows, or not all from one."""
        if model.is_stopped or model.split is not None:
            return ""
        serving = {each.hash for each in self._endpoints.of(model.key) if each.is_ready or each.is_wakeable}
        if not serving:
            return model.settled_hash
        return serving.pop() if len(serving) == 1 else ""

    def _give(self, model: Model, way: "Way", entry: Entry, tier: str) -> None:
        """Give an answer again."""
        self._count(model, way.line, tier)
        headers: list[Header] = [
            (b"content-type", entry.content_type),
            (b"x-request-id", way.outgoing.request_id),
            (b"age", b"%d" % entry.age_seconds(time.time())),
            _HIT,
        ]
        way.outgoing.answer.reply(200, entry.body, headers)

    async def _share(self, model: Model, plan: Plan, shelf: tuple[str, str], way: "Way") -> None:
        """Have an engine answer, for all that ask the same meanwhile."""
        key, answer = plan.key, way.outgoing.answer
        assert key is not None
        shared = self._under_way.get(key) if plan.looks_up else None
        leads = shared is None or not shared.flight.can_join
        if shared is None or leads:
            shared = self._begin(model, plan, shelf, way)
        self._count(model, way.line, "miss" if leads else "shared")
        if not leads:
            self._metrics.merged.labels(*model.key).inc()
        reader = shared.flight.join(answer, way.outgoing.request_id, _MISS, leads=leads)
        try:
            end = await reader.read(None if leads else way.outgoing.expires)
        finally:
            shared.flight.leave(reader)
        if leads and shared.task is not None:
            await asyncio.wait({shared.task})  # it ends now, and says what it did
        if end is End.WHOLE:
            if shared.outgoing.is_broken:
                way.line.code = "broken"
        elif answer.status:
            raise ClientGoneError
        elif leads:
            raise shared.flight.error or ClientGoneError()
        else:
            way.outgoing.answer = answer
            await way.serve()

    def _begin(self, model: Model, plan: Plan, shelf: tuple[str, str], way: "Way") -> _Shared:
        def abandoned() -> None:
            if shared.task is not None:
                shared.task.cancel()

        outgoing = way.outgoing
        flight = Flight(self._kept.max_answer_bytes, abandoned)
        shared = _Shared(flight, outgoing)
        outgoing.answer = flight
        assert plan.key is not None
        if plan.looks_up:
            self._under_way[plan.key] = shared
        shared.task = asyncio.create_task(self._generate(model, plan, shelf, shared, way.serve), name="shared answer")
        self._tasks.add(shared.task)
        shared.task.add_done_callback(self._tasks.discard)
        return shared

    async def _generate(self, model: Model, plan: Plan, shelf: tuple[str, str], shared: _Shared, serve: Serve) -> None:
        flight, key = shared.flight, plan.key
        assert key is not None
        try:
            await serve()
        except asyncio.CancelledError:
            flight.fail(ClientGoneError())
            raise
        except Exception as error:
            # Whoever asked first raises it.
            flight.fail(error)
        else:
            if not flight.is_ended and flight.error is None:
                flight.abort()
            if self._may_keep(plan, shared) and model.response_cache is not None:
                now = time.time()
                content_type = next((value for name, value in flight.headers if name == b"content-type"), b"")
                ttl = model.response_cache.ttl_seconds
                entry = Entry(key, content_type, flight.body, now, now + ttl)
                self._kept.put(shelf, entry, model.response_cache.max_entries)
        finally:
            if self._under_way.get(key) is shared:
                del self._under_way[key]

    @staticmethod
    def _may_keep(plan: Plan, shared: _Shared) -> bool:
        """Whether an answer is whole, and of the engines that were meant."""
        flight, outgoing = shared.flight, shared.outgoing
        if flight.status != 200 or flight.error is not None or not flight.is_kept or outgoing.is_broken:
            return False
        if outgoing.served_hash != plan.engine_hash or not rules.may_be_kept(flight.headers):
            return False
        body = flight.body
        return (not flight.is_stream or body.endswith(DONE)) and _FAILED.search(body) is None

    def _count(self, model: Model, line: Line, result: str) -> None:
        line.cache = result
        self._metrics.asked.labels(*model.key, result).inc()


@dataclass(frozen=True, slots=True)
class Way:
    """How a request reaches an engine."""

    outgoing: Outgoing
    line: Line
    beats: bool
    """It shows signs of life while it is held."""
    serve: Serve
