"""A request's way through the router, from its last byte to the end of its answer.

    read it → caller → model → endpoint, held if there is none → try → the next try, or held again → answer

Nothing here waits without a bound: held requests have their deadline, tries their patience. A client that leaves ends
all of it, wherever the request is by then.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from msgspec import structs

from warmfleet_api import names, openapi
from warmfleet_api.vocabulary import BrokenStream, RoutingPolicy
from warmfleet_http.answer import Answer
from warmfleet_http.fallback import without_stream
from warmfleet_http.messages import Header, Request
from warmfleet_http.replies import openai_error
from warmfleet_router import listing, mending, refusals, requests
from warmfleet_router.access_log import AccessLog, Line
from warmfleet_router.cache.answers import Answers, Way
from warmfleet_router.catalog import Catalog, MayAsk, Model, ServedName, everything, rename
from warmfleet_router.dispatch import Dispatcher, Wish
from warmfleet_router.endpoints import Endpoint
from warmfleet_router.forward import Failure, Forward, Outgoing, Reason, pass_on
from warmfleet_router.metrics import Metrics
from warmfleet_router.quotas import Quotas
from warmfleet_router.refusals import ModelGoneError, RefusedError
from warmfleet_router.retry import RetryBudget, delay_seconds
from warmfleet_router.tenants import Caller, Tenants
from warmfleet_router.usage import Usage

logger = logging.getLogger(__name__)

MAX_SENT = 3
"""So many engines at most work on one request."""
WAKING = b": waking\n\n"
"""A comment of a stream of events: clients pass over it."""
_JSON = (b"content-type", b"application/json")
_EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")
_OWN_PATHS = frozenset({openapi.MODELS, openapi.HEALTH, openapi.PATH})
_CUT = frozenset({"cancelled", "broken"})
_CLASS, _TENANT = (name.lower().encode() for name in (names.HEADER_CLASS, names.HEADER_TENANT))


@dataclass(slots=True)
class _Work:
    """One request on its way."""

    request: Request
    asked: requests.Asked
    served_name: str
    model: Model
    caller: Caller
    wish: Wish
    outgoing: Outgoing
    usage: Usage | None = None
    """Of callers with limits and series of their own."""
    sent: int = 0
    held: bool = False


Serve = Callable[[_Work, Line], Awaitable[None]]


class Router:
    """Handler of the API port."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        tenants: Tenants,
        quotas: Quotas,
        dispatcher: Dispatcher,
        forward: Forward,
        metrics: Metrics,
        log: AccessLog | None,
        answers: Answers,
    ) -> None:
        self._catalog = catalog
        self._tenants = tenants
        self._quotas = quotas
        self._dispatcher = dispatcher
        self._forward = forward
        self._metrics = metrics
        self._log = log
        self._answers = answers
        self._budget = RetryBudget()

    async def __call__(self, request: Request, answer: Answer) -> None:
        """Answer one request."""
        line = Line(
            time=0.0,
            method=request.method,
            path=request.path[:256],
            status=0,
            seconds=0.0,
            request_bytes=len(request.body),
        )
        self._metrics.in_flight += 1
        try:
            await self._answer(request, answer, line)
        except RefusedError as error:
            line.code = error.code
            self._metrics.refused.labels(error.code).inc()
            refuse(answer, error)
        except asyncio.CancelledError:
            if not answer.is_told:
                line.code = "cancelled"
            raise
        finally:
            self._metrics.in_flight -= 1
            self._count(request, answer, line)

    async def _answer(self, request: Request, answer: Answer, line: Line) -> None:
        path, method = request.path, request.method
        if path in _OWN_PATHS or path.startswith(listing.MODEL):
            expected, is_forwarded = "GET", False
        elif requests.is_forwarded(path):
            expected, is_forwarded = "POST", True
        else:
            raise RefusedError(404, "not_found", f"no such path: {path[:256]}")
        if method != expected:
            error = openai_error(f"{path} takes {expected}", "invalid_request_error", "method_not_allowed")
            answer.reply(405, error, [_JSON, (b"allow", expected.encode())])
        elif is_forwarded:
            await self._serve_as_meant(request, answer, line)
        elif path == openapi.MODELS:
            may_ask = self._visible_to(self._tenants.identify(request.headers))
            answer.reply(200, listing.models(self._catalog, self._dispatcher.endpoints, may_ask))
        elif path == openapi.HEALTH:
            answer.reply(200)
        elif path == openapi.PATH:
            may_ask = self._visible_to(self._tenants.identify(request.headers))
            answer.reply(200, listing.document(self._catalog, may_ask))
        else:
            may_ask = self._visible_to(self._tenants.identify(request.headers))
            answer.reply(200, listing.model(self._catalog, self._dispatcher.endpoints, path, may_ask))

    async def _serve_as_meant(self, request: Request, answer: Answer, line: Line) -> None:
        """Serve a request by the model that its name means; if that is deleted meanwhile, by the one it means then."""
        while True:
            work = self._begin(request, answer, line)
            try:
                await self._serve_within_limits(work, line)
            except ModelGoneError:
                means_another = self._catalog.find(work.wish.name, self._visible_to(work.caller)) is not None
                if answer.status or not means_another:
                    raise
            else:
                return

    def _begin(self, request: Request, answer: Answer, line: Line) -> _Work:
        """Read a request and find out who asks for what."""
        asked = requests.read(request.headers, request.body)
        caller = self._tenants.identify(request.headers)
        model, served = self._find(asked.model, caller)
        request_id = (asked.request_id or f"{random.getrandbits(96):024x}").encode("latin-1")
        line.namespace, line.model = model.key
        line.tenant, line.stream, line.request_id = caller.tenant, asked.stream, request_id.decode("latin-1")
        patience = asked.patience_seconds
        headers: list[Header] = [_JSON, *asked.passed_on, (b"x-request-id", request_id), (_TENANT, _encode(caller))]
        if caller.priority is not None:
            headers.append((_CLASS, caller.priority.encode()))
        usage = Usage(len(asked.prompt), asked.stream) if caller.key is not None else None
        hold_seconds = model.hold_seconds if patience is None else min(patience, model.hold_seconds)
        return _Work(
            request=request,
            asked=asked,
            served_name=served.name,
            model=model,
            caller=caller,
            wish=Wish(
                model=model,
                name=asked.model,
                deadline=request.arrived + hold_seconds,
                size_bytes=len(request.body),
                session_key=asked.session_key,
                prefix_key=asked.prefix_key if model.policy is RoutingPolicy.PREFIX_AFFINITY else None,
            ),
            outgoing=Outgoing(
                target=request.target,
                headers=headers,
                body=request.body if asked.model == served.name else rename(request.body, served.name),
                stream=asked.stream,
                arrived=request.arrived,
                answer=answer,
                request_id=request_id,
                expires=None if patience is None else request.arrived + patience,
                seen=None if usage is None else usage.saw,
            ),
            usage=usage,
        )

    def _find(self, name: str, caller: Caller) -> tuple[Model, ServedName]:
        """Return the model that a caller means.

        Raises:
            RefusedError: there is none; to whoever may not ask for it it is not there, or asks for a key.
        """
        may_ask = self._visible_to(caller)
        found = self._catalog.find(name, may_ask)
        if found is None:
            self._tenants.refuse_unknown(caller, self._catalog.find(name) is not None)
            raise refusals.unknown_model(name, [each for each, _, _ in self._catalog.names(may_ask)])
        return found

    def _visible_to(self, caller: Caller) -> MayAsk:
        return partial(self._tenants.may_ask, caller) if self._tenants.has_any else everything

    async def _serve_within_limits(self, work: _Work, line: Line) -> None:
        """Serve a request that its tenant has the means for; held time counts as being served."""
        tenant = work.caller.key
        serve: Serve = self._serve_mended if self._may_mend(work) else self._serve
        if work.model.response_cache is not None:
            serve = partial(self._serve_kept, serve)
        if tenant is None or work.usage is None:
            await serve(work, line)
            return
        self._quotas.enter(tenant, time.monotonic())
        try:
            await serve(work, line)
        finally:
            tokens = work.usage.tokens
            self._quotas.leave(tenant, tokens, time.monotonic())
            self._metrics.tokens.labels(str(tenant)).inc(tokens)

    async def _serve_kept(self, serve: Serve, work: _Work, line: Line) -> None:
        """Serve a request for a model that keeps answers."""
        beats = work.asked.stream and bool(work.asked.heartbeat_seconds)
        way = Way(work.outgoing, line, beats, partial(serve, work, line))
        await self._answers.serve(work.request, work.model, work.caller.tenant, work.served_name, way)

    @staticmethod
    def _may_mend(work: _Work) -> bool:
        asked = work.asked
        return asked.stream and (bool(asked.broken_stream) or work.model.broken_stream is BrokenStream.COMPLETE)

    async def _serve_mended(self, work: _Work, line: Line) -> None:
        """Serve a request by an engine, and by another one where a stream breaks off and its client wants the rest."""
        wish = mending.wanted(work.asked.broken_stream, work.model.broken_stream)
        if not mending.can_mend(work.request.path, work.outgoing.body, wish):
            await self._serve(work, line)
            return
        stream = work.outgoing.answer = mending.Mendable(work.outgoing.answer)
        await self._serve(work, line)
        if stream.broken:
            await self._mend(work, line, stream, wish)

    async def _mend(self, work: _Work, line: Line, stream: mending.Mendable, wish: mending.Wanted) -> None:
        """Give the rest of a stream that broke off, from the complete answer of another engine."""
        now, first, sent = time.monotonic(), work.outgoing, stream.sent
        whole = mending.Whole()
        if sent is not None and self._budget.spend(now):
            logger.info("%s: a stream broke off (%s); asking for the complete answer", work.wish.name, stream.broken)
            body = without_stream(first.body)
            work.outgoing = structs.replace(first, body=body, stream=False, answer=whole, expires=None, is_broken=False)
            work.asked, work.held = structs.replace(work.asked, stream=False), False
            avoid = work.wish.avoid | {each.runner.uid for each in self._tried_of(work)}
            work.wish = structs.replace(work.wish, deadline=now + work.model.hold_seconds, avoid=avoid)
            with suppress(RefusedError):
                await self._serve(work, line)
        end, result = None, "given_up"
        if sent is not None and whole.body is not None:
            end, result = mending.rest(sent, whole.body, first.body), "completed"
            if end is None and wish is mending.Wanted.REPLACE:
                end, result = mending.replacement(whole.body), "replaced"
        if end is None:
            first.is_broken, line.code, result = True, "broken", "given_up"
            stream.inner.break_off(f"the engine did not end its answer: {stream.broken}")
        else:
            first.is_broken, first.served_hash, line.code = False, work.outgoing.served_hash, ""
            stream.inner.finish(end)
        self._metrics.broken_streams.labels(result).inc()

    def _tried_of(self, work: _Work) -> Iterator[Endpoint]:
        """Yield the endpoints that were tried for a request."""
        for endpoint in self._dispatcher.endpoints.of(work.model.key):
            if endpoint.runner.name in work.outgoing.tried:
                yield endpoint

    async def _serve(self, work: _Work, line: Line) -> None:
        """Try until the request is served, or is refused for good."""
        self._budget.asked(time.monotonic())
        try:
            endpoint = self._dispatcher.choose(work.wish) or await self._hold(work)
            while (failure := await self._forward(work.outgoing, endpoint)) is not None:
                work.sent += failure.was_sent
                endpoint = await self._next(work, endpoint, failure)
        except _GivenUpError as given_up:
            line.code = given_up.failure.reason
            self._give_up(work, given_up.failure)
        finally:
            line.tries = len(work.outgoing.tried)
            line.runner = work.outgoing.tried[-1] if work.outgoing.tried else ""
            line.held_seconds = round(work.wish.held_seconds, 4)
            if work.held:
                self._metrics.of(work.model.key).hold.observe(work.wish.held_seconds)
            if work.outgoing.is_broken:
                line.code = "broken"

    async def _next(self, work: _Work, failed: Endpoint, failure: Failure) -> Endpoint:
        """Return where the next try goes.

        Raises:
            _GivenUpError: there is none.
            RefusedError: it would have to be held, and can't be.
        """
        wish, reason = work.wish, failure.reason
        wish.avoid |= {failed.runner.uid}
        if reason is Reason.OTHER or work.sent >= MAX_SENT:
            raise _GivenUpError(failure)
        if failure.was_sent:
            if not self._budget.spend(time.monotonic()):
                self._metrics.retries_spent.inc()
                raise _GivenUpError(failure)
            if work.sent > 1:
                await asyncio.sleep(delay_seconds(work.sent - 1, random.random))
        another = self._dispatcher.choose_another(wish)
        if another is None:
            holds_again = work.held if reason is Reason.FULL else reason is not Reason.FAILED
            if not holds_again:
                raise _GivenUpError(failure)
            another = await self._hold(work)
        self._metrics.retries.labels(reason).inc()
        logger.debug("%s: %s; again at %s", work.wish.name, failure.message, another.runner.name)
        return another

    async def _hold(self, work: _Work) -> Endpoint:
        work.held = True
        seconds = work.asked.heartbeat_seconds if work.asked.stream else 0.0
        if not seconds:
            return await self._dispatcher.wait(work.wish)

        async def beat() -> None:
            answer = work.outgoing.answer
            if not answer.status:
                answer.start(200, [_EVENTS, (b"x-request-id", work.outgoing.request_id)])
            answer.write(WAKING)
            await answer.drain()

        return await self._dispatcher.wait(work.wish, beat, seconds)

    def _give_up(self, work: _Work, failure: Failure) -> None:
        """Tell the client what came of the last try."""
        answer = work.outgoing.answer
        if failure.kept is not None and not answer.status:
            pass_on(work.outgoing, failure.kept)
            return
        message = f"model {work.wish.name!r}: no engine answered in {len(work.outgoing.tried)} tries, the last one: "
        refuse(answer, RefusedError(503, "engine_lost", message + failure.message, retry_after_seconds=1))

    def _count(self, request: Request, answer: Answer, line: Line) -> None:
        now = time.monotonic()
        line.status, line.seconds = answer.status, round(now - request.arrived, 6)
        first = answer.first_body_at
        if first is not None:
            line.first_byte_seconds = round(first - request.arrived, 6)
        if line.model:
            of_model = self._metrics.of((line.namespace, line.model))
            of_model.request(line.code if line.code in _CUT else answer.status)
            if first is not None:
                of_model.first_byte.observe(first - request.arrived)
        if self._log is not None:
            line.time = time.time()
            self._log.add(line)


class _GivenUpError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def refuse(answer: Answer, error: RefusedError) -> None:
    """Tell the client that its request is not served: as an answer, or as the last event of one that shows life."""
    if answer.status:
        answer.break_off(str(error))
        return
    headers = [_JSON]
    if error.retry_after_seconds is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_seconds))
    if error.outlook is not None and error.outlook.state:
        headers.append((names.HEADER_STATE.lower().encode(), error.outlook.state.encode()))
    answer.reply(error.status, error.body(), headers)


def _encode(caller: Caller) -> bytes:
    return caller.tenant.encode("latin-1", "replace")
