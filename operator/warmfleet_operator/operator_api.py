"""The operator's API over HTTP: wake and demand come in, queue and fleet go out. Wire formats: `warmfleet_api`.

Every replica serves it, the leader alone answers: a follower passes a request on to the address that the leader's Lease
carries, once. So there is one Service and no client has to know who leads. A router's report is kept by the follower
too: should it lead in the next second, it knows already.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Never, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from warmfleet_api import names
from warmfleet_api.operator_api import (
    MAX_BODY_BYTES,
    DemandAnswer,
    DemandReport,
    ErrorAnswer,
    WakeAnswer,
    WakeRequest,
)
from warmfleet_api.vocabulary import Reason
from warmfleet_kube.errors import BadSetting, KubeError
from warmfleet_operator import keys
from warmfleet_operator.decide.answers import fleet_answer, queue_answer, wake_answer
from warmfleet_operator.decide.fleet import Fleet, ModelKey
from warmfleet_operator.demand import Demands
from warmfleet_operator.operator_access import Access, NotAllowed, NotKnown, Right
from warmfleet_operator.rounds import Rounds
from warmfleet_operator.scaling import Scalings
from warmfleet_operator.snapshot import Observer
from warmfleet_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 10.0
"""Time limit of one request, the body's arrival included."""
DECISION_SECONDS = 2.0
"""How long a wake waits for the round that tells its position."""
SNAPSHOT_SECONDS = 0.5
"""How old the snapshot may be that reads are answered from: many may look on at once."""
RETRY_SECONDS = 1
_AT_REST = {Reason.SERVING, Reason.STOPPED, Reason.NO_ENGINE, "NotFound"}
"""States in which no round is to be waited for."""
_DONE = {Reason.SERVING: 200, Reason.STOPPED: 409, Reason.NO_ENGINE: 409, "NotFound": 404}

B = TypeVar("B")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, as this process knows."""

    is_self: Callable[[], bool]
    address: Callable[[], str]
    """`host:port` of the leader's API; empty: not known."""


class OperatorApi:
    """The handlers, over what the process knows."""

    def __init__(
        self,
        *,
        leader: Leader,
        access: Access,
        observer: Observer,
        demands: Demands,
        scalings: Scalings,
        rounds: Rounds,
        queue: WorkQueue[keys.Key],
    ) -> None:
        self._leader = leader
        self._access = access
        self._observer = observer
        self._demands = demands
        self._scalings = scalings
        self._rounds = rounds
        self._queue = queue
        self._snapshot: tuple[float, Fleet] | None = None
        self._session: aiohttp.ClientSession | None = None

    async def serve(self, port: int, on_port: Callable[[int], None] = lambda _: None) -> Never:
        """Serve until cancelled.

        Args:
            port: 0: any that is free.
            on_port: hears of the port once it is open.

        Raises:
            BadSetting: the port is taken.
        """
        application = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        application.add_routes(
            [
                web.post(names.PATH_WAKE, self._wake),
                web.post(names.PATH_DEMAND, self._demand),
                web.get(names.PATH_QUEUE, self._show_queue),
                web.get(names.PATH_FLEET, self._show_fleet),
                web.get(names.PATH_SCALING, self._show_scaling),
            ]
        )
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS)) as self._session:
            await runner.setup()
            try:
                try:
                    await web.TCPSite(runner, port=port).start()
                except OSError as error:
                    raise BadSetting(f"WARMFLEET_API_PORT={port}: {error.strerror}; set it to a free port") from error
                # With port 0 IPv4 and IPv6 have each their own.
                opened = min(runner.addresses, key=len)[1]
                logger.info("API on port %d", opened)
                on_port(opened)
                await asyncio.Event().wait()
                raise AssertionError("unreachable: waits until cancelled")
            finally:
                await runner.cleanup()

    # What clients want ----------------------------------------------------------------------------------------------

    async def _wake(self, request: web.Request) -> web.StreamResponse:
        wanted = await _body(request, WakeRequest)
        key = ModelKey(wanted.namespace, wanted.model)
        await self._check(request, Right("create", "wake", key.namespace))
        if not self._leader.is_self():
            return await self._pass_on(request)
        answer = self._answer(key)
        if answer.state not in _DONE or answer.state == Reason.SERVING:
            # Also of one that serves: it is not to fall asleep before whoever asks has come.
            self._want(key)
        if answer.state not in _AT_REST:
            answer = await self._decided(key)
        return _json(answer, _DONE.get(answer.state, 202))

    async def _demand(self, request: web.Request) -> web.StreamResponse:
        report = await _body(request, DemandReport)
        await self._check(request, Right("create", "demand"))
        try:
            news = self._demands.report(report)
        except OverflowError as error:
            return _refusal(429, f"{error}; a router reports under one name for as long as it lives")
        if not self._leader.is_self():
            return await self._pass_on(request)
        for key in news:
            self._look_at(key)
        held = (ModelKey(each.namespace, each.model) for each in report.models if each.held)
        return _json(DemandAnswer(models=tuple(self._answer(key) for key in held)))

    # What there is --------------------------------------------------------------------------------------------------

    async def _show_queue(self, request: web.Request) -> web.StreamResponse:
        namespace = request.query.get("namespace", "")
        await self._check(request, Right("list", namespace=namespace))
        if not self._leader.is_self():
            return await self._pass_on(request)
        decisions, age = self._rounds.decisions, self._rounds.age_seconds
        answer = queue_answer(self._fleet(), decisions, _now(), round_seconds=age, namespace=namespace)
        return _json(answer)

    async def _show_fleet(self, request: web.Request) -> web.StreamResponse:
        namespace = request.query.get("namespace", "")
        await self._check(request, Right("list", namespace=namespace))
        if not self._leader.is_self():
            return await self._pass_on(request)
        return _json(fleet_answer(self._fleet(), self._rounds.decisions, _now(), namespace=namespace))

    async def _show_scaling(self, request: web.Request) -> web.StreamResponse:
        await self._check(request, Right("list", "scaling"))
        if not self._leader.is_self():
            return await self._pass_on(request)
        return _json(self._scalings.answer())

    # Parts ----------------------------------------------------------------------------------------------------------

    @web.middleware
    async def _guard(  # noqa: PLR0911 - one per error
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """Bound the time of a request, and say what went wrong in words."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                return await handler(request)
        except TimeoutError:
            return _refusal(503, f"no answer within {REQUEST_SECONDS:.0f} s; try again", retry=True)
        except msgspec.MsgspecError as error:
            return _refusal(400, f"unreadable body: {error}; see docs/guide/api.md")
        except NotKnown as error:
            return _refusal(401, str(error))
        except NotAllowed as error:
            return _refusal(403, str(error))
        except KubeError as error:
            return _refusal(503, f"the Kubernetes API could not be asked who calls: {error}", retry=True)
        except web.HTTPException as error:
            return _refusal(error.status, f"{request.method} {request.path}: {error.reason}; see docs/guide/api.md")

    async def _check(self, request: web.Request, right: Right) -> None:
        value = request.headers.get("Authorization") or request.headers.get(names.HEADER_AUTHORIZATION) or ""
        scheme, _, token = value.partition(" ")
        await self._access.check(token.strip() if scheme.lower() == "bearer" else "", right)

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        """Let the leader answer."""
        address = self._leader.address()
        if not address or names.HEADER_FORWARDED in request.headers or self._session is None:
            return _refusal(503, "no operator leads at this moment; try again", retry=True)
        headers = {
            name: value
            for name in ("Authorization", names.HEADER_AUTHORIZATION, "Content-Type")
            if (value := request.headers.get(name)) is not None
        }
        headers[names.HEADER_FORWARDED] = "1"
        url = f"http://{address}{request.path_qs}"
        try:
            async with self._session.request(
                request.method, url, data=await request.read(), headers=headers, allow_redirects=False
            ) as answer:
                body = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return _refusal(503, f"the leader at {address} did not answer: {error}; try again", retry=True)
        kept = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
        return web.Response(body=body, status=answer.status, content_type="application/json", headers=kept)

    def _answer(self, key: ModelKey) -> WakeAnswer:
        record = self._observer.record(key)
        model = self._observer.model(record) if record is not None else None
        return wake_answer(key, model, self._rounds.decisions, _now())

    async def _decided(self, key: ModelKey) -> WakeAnswer:
        """Return the answer once a round has seen that the model is wanted; what is known, if none comes in time."""
        until = time.monotonic() + DECISION_SECONDS
        while True:
            answer = self._answer(key)
            is_decided = answer.state != Reason.ASLEEP and (answer.position or answer.ready_seconds is not None)
            left = until - time.monotonic()
            if is_decided or answer.state in _AT_REST or left <= 0:
                return answer
            await self._rounds.next(left)

    def _want(self, key: ModelKey) -> None:
        was_wanted = self._demands.of(key).is_wanted
        self._demands.wake(key)
        if not was_wanted:
            self._look_at(key)

    def _look_at(self, key: ModelKey) -> None:
        """Let the passes follow that decide of a model that is wanted now."""
        self._queue.add(keys.model(key))
        self._queue.add(keys.FLEET)

    def _fleet(self) -> Fleet:
        now = time.monotonic()
        if self._snapshot is None or now - self._snapshot[0] > SNAPSHOT_SECONDS:
            self._snapshot = now, self._observer.fleet()
        return self._snapshot[1]


async def _body(request: web.Request, kind: type[B]) -> B:
    return msgspec.json.decode(await request.read(), type=kind)


def _json(answer: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(answer), status=status, content_type="application/json")


def _refusal(status: int, error: str, *, retry: bool = False) -> web.Response:
    response = _json(ErrorAnswer(error=error), status)
    if retry:
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def _now() -> datetime:
    return datetime.now(UTC)
