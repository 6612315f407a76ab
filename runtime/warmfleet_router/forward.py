"""One try: brings a request to one endpoint and the answer back, or says why another try may follow.

Until the first byte of an answer's body is there nothing of it goes to the client, so whatever breaks or is refused
before can still become another answer. After it a stream that breaks ends with an error as its last event.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from warmfleet_api import names
from warmfleet_http.answer import Answer
from warmfleet_http.connection import Exchange
from warmfleet_http.errors import BrokenError, LostError, NotConnectedError, UpstreamError
from warmfleet_http.messages import Header
from warmfleet_http.pool import Patience, Pool
from warmfleet_router.dispatch import Dispatcher
from warmfleet_router.endpoints import Endpoint, Runner, read_load
from warmfleet_router.metrics import Metrics

STREAM = Patience(connect_seconds=2.0, first_seconds=600.0, next_seconds=120.0)
WHOLE = Patience(connect_seconds=2.0, first_seconds=3600.0, next_seconds=120.0)
"""Of a complete answer nothing is seen before it is there."""
MAX_REFUSAL_BYTES = 256 * 1024
_LOAD = names.HEADER_LOAD.lower().encode()
_STATE = names.HEADER_STATE.lower().encode()
_OWN_HEADERS = frozenset({_LOAD, b"x-request-id", b"connection", b"keep-alive", b"transfer-encoding"})
_UNKNOWN_MODEL = b'"model_not_found"'
_WAITED_ENOUGH = b'"deadline_passed"'
_TOKEN = names.HEADER_TOKEN.lower().encode()
_DEADLINE = names.HEADER_DEADLINE.lower().encode()
_LEAST_REFUSAL = 400
_MAY_BE_ANOTHER = frozenset({404, 429, 500, 502, 503, 504})
logger = logging.getLogger(__name__)


class Reason(StrEnum):
    """Why a try did not serve its request."""

    UNREACHABLE = "unreachable"
    """Nothing was sent."""
    BROKEN = "broken"
    """It was sent, and no byte of an answer's body came."""
    MOVED = "refused"
    """The engine is not Ready, or not there any more."""
    FULL = "full"
    """Its queue is."""
    FAILED = "failed"
    """5xx."""
    OTHER = "other"
    """An answer for the client after all: no other try would change it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer that was read and not passed on."""

    status: int
    headers: list[Header]
    body: bytes


@dataclass(frozen=True, slots=True)
class Failure:
    """How a try ended that did not serve its request."""

    reason: Reason
    message: str
    kept: Kept | None = None

    @property
    def was_sent(self) -> bool:
        """Whether an engine may have worked on it."""
        return self.reason in {Reason.BROKEN, Reason.FAILED}


class Outgoing(msgspec.Struct):
    """A request on its way to runners."""

    target: bytes
    headers: list[Header]
    body: bytes
    stream: bool
    arrived: float
    answer: Answer
    request_id: bytes
    expires: float | None = None
    """Monotonic seconds: its client waits no longer for a first byte; None: it does not say."""
    seen: Callable[[bytes], None] | None = None
    """Looks at the bytes of the answer."""
    is_broken: bool = False
    """The answer began and did not end."""
    tried: list[str] = []  # a new one for each
    """Runners, by name."""
    served_hash: str = ""
    """Of the spec from which the engine of the last try was started."""
    shown: tuple[Header, ...] = ()
    """Headers of the router's own, for the client."""


class Forward:
    """Sends requests to endpoints.

    `lost` hears of runners that take no connection; `token` gives what proves to one who we are.
    """

    def __init__(
        self,
        pool: Pool,
        dispatcher: Dispatcher,
        lost: Callable[[Runner, str], None],
        token: Callable[[str], bytes | None],
        metrics: Metrics,
    ) -> None:
        self._pool = pool
        self._dispatcher = dispatcher
        self._lost = lost
        self._token = token
        self._metrics = metrics

    async def __call__(self, request: Outgoing, endpoint: Endpoint) -> Failure | None:
        """Try once, and give the endpoint back; None: the answer was passed on, whole or broken off."""
        runner = endpoint.runner
        request.tried.append(runner.name)
        request.served_hash = endpoint.hash
        began = time.monotonic()
        passes_on = False
        asking = self._pool.ask(
            runner.origin,
            b"POST",
            request.target,
            self._headers(request, began),
            request.body,
            lines=self._lines(runner),
            patience=STREAM if request.stream else WHOLE,
        )
        endpoint.waiting.add(asking)
        try:
            async with asking as exchange:
                if (value := exchange.header(_LOAD)) and (load := read_load(value)):
                    endpoint.told(load, time.monotonic())
                    if value.endswith(names.LOAD_MERGED):
                        self._metrics.cache.merged.labels(*endpoint.model).inc()
                if exchange.status >= _LEAST_REFUSAL and (failure := await self._refusal(exchange, endpoint)):
                    return failure
                await exchange.begun()
                endpoint.waiting.discard(asking)
                endpoint.answered(time.monotonic() - began)
                passes_on = True
                _start(request, exchange)
                await exchange.pipe(request.answer, request.seen)
                return None
        except NotConnectedError as error:
            endpoint.breaker.abandoned()
            self._lost(runner, str(error))
            return Failure(Reason.UNREACHABLE, str(error))
        except (LostError, BrokenError) as error:
            if passes_on:
                request.is_broken = True
                request.answer.break_off(f"the engine did not end its answer: {error}")
                return None
            return self._broke(endpoint, error)
        except BaseException:
            endpoint.breaker.abandoned()
            raise
        finally:
            endpoint.waiting.discard(asking)
            self._dispatcher.done(endpoint)

    def _broke(self, endpoint: Endpoint, error: UpstreamError) -> Failure:
        """An engine took a request and gave nothing: one that hangs is not probed, as it takes connections."""
        self._count_failure(endpoint)
        if not error.timed_out:
            self._lost(endpoint.runner, str(error))
        return Failure(Reason.BROKEN, str(error))

    async def _refusal(self, exchange: Exchange, endpoint: Endpoint) -> Failure | None:
        """Return why the answer is not for the client, as far as its status tells; None: it is."""
        status = exchange.status
        if status not in _MAY_BE_ANOTHER:
            return None
        kept = Kept(status, exchange.headers, await exchange.whole(MAX_REFUSAL_BYTES))
        if status == 404:
            if _UNKNOWN_MODEL not in kept.body:
                endpoint.breaker.succeeded()
                return Failure(Reason.OTHER, "", kept)
            status = 503
        now = time.monotonic()
        if status == 503 and (exchange.header(_STATE) is not None or exchange.status == 404):
            endpoint.breaker.abandoned()
            endpoint.pause.again(now)
            state = (exchange.header(_STATE) or b"not there").decode("latin-1")
            return Failure(Reason.MOVED, f"the engine is {state}", kept)
        if status == 429:
            endpoint.breaker.abandoned()
            return Failure(Reason.OTHER if _WAITED_ENOUGH in kept.body else Reason.FULL, "its queue is full", kept)
        self._count_failure(endpoint)
        return Failure(Reason.FAILED, f"the runner answered {status}", kept)

    def _count_failure(self, endpoint: Endpoint) -> None:
        if endpoint.breaker.failed(time.monotonic()):
            self._metrics.breakers_opened.inc()
            logger.warning(
                "model %s: runner %s failed %d requests in a row and is taken out",
                endpoint.model,
                endpoint.runner.name,
                endpoint.breaker.failures,
            )

    def _lines(self, runner: Runner) -> bytes:
        """Return the headers that are the same for all requests to a runner, while its token is."""
        token = self._token(runner.uid)
        known = runner.lines
        if known is None or known[0] is not token:
            lines = b"host: %b\r\n" % _host(runner)
            if token is not None:
                lines += b"%b: %b\r\n" % (_TOKEN, token)
            known = runner.lines = token, lines
        return known[1]

    @staticmethod
    def _headers(request: Outgoing, now: float) -> list[Header]:
        if request.expires is None:
            return request.headers
        return [*request.headers, (_DEADLINE, b"%d" % max(0, round((request.expires - now) * 1000)))]


def pass_on(request: Outgoing, kept: Kept) -> None:
    """Give the client an answer that was kept."""
    request.answer.reply(kept.status, kept.body, _shown(request, kept.headers, is_whole=True))


def _start(request: Outgoing, exchange: Exchange) -> None:
    """Begin the answer, if no sign of life has done so already."""
    if not request.answer.status:
        request.answer.start(exchange.status, _shown(request, exchange.headers))


def _shown(request: Outgoing, headers: list[Header], *, is_whole: bool = False) -> list[Header]:
    dropped = _OWN_HEADERS | {b"content-length"} if is_whole else _OWN_HEADERS
    shown = [each for each in headers if each[0] not in dropped]
    shown.append((b"x-request-id", request.request_id))
    shown += request.shown
    return shown


def _host(runner: Runner) -> bytes:
    host, port = runner.address
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}").encode()
