"""A request's way: the front proxy's certificate, the user it names, the user's right, the value.

It is asked over TLS, by the API server alone; probes and metrics have a port of their own. A new certificate, or
another authority of the front proxy, gets a listener of its own beside the former one, which then is closed: nobody is
refused meanwhile, and connections that are open go on.
"""

import asyncio
import logging
import ssl
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final, Self

import aiohttp
import msgspec
from aiohttp import web
from prometheus_client import Counter

from warmfleet_external_metrics import documents, selectors
from warmfleet_external_metrics.callers import FrontProxy, UnknownCaller, caller
from warmfleet_external_metrics.levels import Levels, OperatorSilent
from warmfleet_external_metrics.registration import Identity
from warmfleet_external_metrics.rights import NotAllowed, Rights
from warmfleet_kube.errors import BadSetting, KubeError

logger = logging.getLogger(__name__)

REQUEST_SECONDS: Final = 10.0
"""Time limit of one request, of a handshake too."""
MAX_AT_ONCE: Final = 128
RETRY_SECONDS: Final = 1
METRIC: Final = f"{documents.PATH_VERSION}/namespaces/{{namespace}}/{{metric}}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers the API server. Use as an async context; nothing listens before `present`."""

    def __init__(self, port: int, rights: Rights, levels: Levels, requests: Counter) -> None:
        self._port = port
        self._rights = rights
        self._levels = levels
        self._requests = requests
        self._proxy: FrontProxy | None = None
        self._busy = 0
        self._listener: asyncio.Server | None = None
        self._stack = AsyncExitStack()
        self._session: aiohttp.ClientSession
        application = web.Application(middlewares=[self._guard])
        application.add_routes(
            [
                web.get("/apis", _says(documents.GROUPS)),
                web.get(documents.PATH_GROUP, _says(documents.GROUP)),
                web.get(documents.PATH_VERSION, _says(documents.RESOURCES)),
                web.get(METRIC, self._values),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        self._stack.push_async_callback(self._runner.cleanup)
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._stack.aclose()

    @property
    def port(self) -> int:
        """Where it listens; 0 before it does."""
        if self._listener is None:
            return 0
        # With port 0 IPv4 and IPv6 have each their own.
        address = min((each.getsockname() for each in self._listener.sockets), key=len)
        return int(address[1])

    async def present(self, identity: Identity) -> None:
        """Show this certificate, and believe this front proxy, from now on.

        Raises:
            BadSetting: the port is taken.
            ValueError: the front proxy's authority can't be read.
        """
        context = _context(identity)
        former, protocol = self._listener, self._runner.server
        assert protocol is not None
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                protocol,
                port=self.port or self._port,
                ssl=context,
                ssl_handshake_timeout=REQUEST_SECONDS,
                reuse_port=True,
            )
        except OSError as error:
            raise BadSetting(f"WARMFLEET_API_PORT={self._port}: {error.strerror}; set it to a free port") from error
        self._proxy = identity.proxy
        if former is not None:
            former.close()
        until = identity.pair.certificate.not_valid_after_utc
        logger.info("external metrics on port %d, with a certificate until %s", self.port, until.isoformat())

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let through who may, bound time and number, and say what went wrong as Kubernetes does."""
        self._busy += 1
        try:
            if self._busy > MAX_AT_ONCE:
                answer: web.StreamResponse = _refusal(429, f"{MAX_AT_ONCE} requests are being answered", retry=True)
            else:
                async with asyncio.timeout(REQUEST_SECONDS):
                    answer = await self._answer(request, handler)
        except TimeoutError:
            answer = _refusal(503, f"no answer within {REQUEST_SECONDS:.0f} s", retry=True)
        finally:
            self._busy -= 1
        self._requests.labels(str(answer.status)).inc()
        return answer

    async def _answer(  # noqa: PLR0911 - one per error
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        try:
            assert self._proxy is not None
            user = caller(self._proxy, _certificate(request), list(request.headers.items()))
            await self._rights.check(user, request.path, request.match_info)
            return await handler(request)
        except UnknownCaller as error:
            return _refusal(401, str(error))
        except NotAllowed as error:
            return _refusal(403, str(error))
        except ValueError as error:
            return _refusal(400, str(error))
        except KubeError as error:
            return _refusal(503, f"the Kubernetes API could not be asked who may: {error}", retry=True)
        except OperatorSilent as error:
            return _refusal(503, f"the operator does not say what it wants: {error}", retry=True)
        except web.HTTPException as error:
            return _refusal(error.status, f"{request.method} {request.path}: {error.reason}")

    async def _values(self, request: web.Request) -> web.StreamResponse:
        metric = request.match_info["metric"]
        if metric not in documents.METRICS:
            known = ", ".join(documents.METRICS)
            return _refusal(404, f"there is no external metric {metric}; Warmfleet serves {known}")
        selector = selectors.parse(request.query.get("labelSelector", ""))
        answer = await self._levels.now(self._session)
        return _json(documents.values(answer, request.match_info["namespace"], metric, selector))


def _context(identity: Identity) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=identity.proxy.authority)
    except ssl.SSLError as error:
        raise ValueError(f"the front proxy's authority can't be read: {error}") from error
    # Who shows none is told so in words.
    context.verify_mode = ssl.CERT_OPTIONAL
    # OpenSSL takes a certificate only from a file; this one is readable by us alone and gone at once.
    with tempfile.NamedTemporaryFile() as chain:
        chain.write(identity.pair.pem)
        chain.flush()
        context.load_cert_chain(chain.name)
    return context


def _certificate(request: web.Request) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = request.get_extra_info("peercert")
    return found


def _says(document: Mapping[str, Any]) -> Handler:
    async def answer(_: web.Request) -> web.StreamResponse:
        return _json(document)

    return answer


def _json(body: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json")


def _refusal(status: int, message: str, *, retry: bool = False) -> web.Response:
    response = _json(documents.status(status, message, RETRY_SECONDS if retry else 0), status)
    if retry:
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response
