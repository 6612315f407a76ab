"""A thin client of the Kubernetes API: aiohttp for HTTP, msgspec straight into records.

Each request has a time limit and each failure is an error of `errors.py`. What the server refused
before doing anything (429) is tried again; what may or may not have happened (5xx, no answer) only where
doing it twice is the same as once.
"""

import asyncio
import random
import socket
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec

from warmfleet_kube.credentials import Credentials
from warmfleet_kube.errors import (
    KubeError,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    UnreadableAnswer,
    api_error,
)
from warmfleet_kube.lines import LineTooLongError, lines
from warmfleet_kube.metrics import KubeMetrics
from warmfleet_kube.objects import R, Resource

VERSION = version("warmfleet")
ATTEMPTS = 3
LONGEST_RETRY_DELAY_SECONDS = 5.0
LIST_CHUNK = 500
WATCH_GRACE_SECONDS = 10.0
"""A watch that is silent for this long beyond its server-side end is dead."""
MAX_LINE_BYTES = 16 * 1024 * 1024

JSON = "application/json"
APPLY_PATCH = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"

T = TypeVar("T")
Body = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Selector:
    """Which objects of a kind: label and field selectors as in kubectl."""

    labels: str = ""
    fields: str = ""
    namespace: str = ""
    """Empty: all namespaces."""

    def params(self) -> dict[str, str]:
        """Return the query parameters."""
        pairs = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {name: value for name, value in pairs.items() if value}


EVERYTHING = Selector()


@dataclass(frozen=True, slots=True)
class Listing(Generic[R]):
    """All objects of a kind at one resourceVersion."""

    items: tuple[R, ...]
    resource_version: int


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[R]):
    """One change. `item` is None for a bookmark."""

    deleted: bool
    resource_version: int
    item: R | None


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = "0"
    continue_: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] = []


class _Line(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _BookmarkMeta(msgspec.Struct, rename="camel"):
    resource_version: str


class _Bookmark(msgspec.Struct):
    metadata: _BookmarkMeta


class _Cause(msgspec.Struct):
    reason: str = ""


class _Details(msgspec.Struct, rename="camel"):
    causes: list[_Cause] = []
    retry_after_seconds: float = 0


class _Status(msgspec.Struct):
    message: str = ""
    reason: str = ""
    code: int = 0
    details: _Details | None = None


class _Kind(msgspec.Struct):
    kind: str = ""


def _keepalive_socket(address: tuple[Any, ...]) -> socket.socket:
    """Return a socket that notices within half a minute that the other machine is gone."""
    family, kind, protocol = address[:3]
    sock = socket.socket(family=family, type=kind, proto=protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    return sock


def open_session(credentials: Credentials) -> aiohttp.ClientSession:
    """Return a session for the API server; the caller closes it."""
    connector = aiohttp.TCPConnector(ssl=credentials.tls or True, limit=64, socket_factory=_keepalive_socket)
    return aiohttp.ClientSession(connector=connector, headers={"Accept": JSON})


class KubeClient:
    """Requests to one API server. Methods raise `KubeError`."""

    def __init__(
        self,
        credentials: Credentials,
        session: aiohttp.ClientSession,
        metrics: KubeMetrics,
        *,
        request_seconds: float = 10.0,
        agent: str,
        role: str = "",
    ) -> None:
        self._credentials = credentials
        self._session = session
        self._metrics = metrics
        self._request_seconds = request_seconds
        self._name = agent
        self._agent = f"{agent}/{VERSION} {role}".rstrip()

    def as_role(self, role: str, *, request_seconds: float) -> "KubeClient":
        """Return a client whose traffic can be told apart in the audit log: `role` ends its user agent."""
        return KubeClient(
            self._credentials,
            self._session,
            self._metrics,
            request_seconds=request_seconds,
            agent=self._name,
            role=role,
        )

    async def get(self, resource: Resource[R], namespace: str, name: str) -> R:
        """Read one object."""
        body = await self._request("GET", resource, resource.path(namespace, name))
        return _decode(body, resource.record)

    async def check(self, resource: Resource[Any]) -> None:
        """Read next to nothing of a kind: `NotFound` where it is not installed, `Forbidden` without the right."""
        await self._request("GET", resource, resource.path(), params={"limit": "1"}, verb="LIST")

    async def list(self, resource: Resource[R], selector: Selector = EVERYTHING) -> Listing[R]:
        """Read all objects of a kind that the selector names, in chunks, consistently with etcd."""
        items: list[R] = []
        params = {**selector.params(), "limit": str(LIST_CHUNK)}
        while True:
            path = resource.path(selector.namespace)
            body = await self._request("GET", resource, path, params=params, verb="LIST")
            page = _decode(body, _Page)
            items.extend(_decode(raw, resource.record) for raw in page.items)
            if not page.metadata.continue_:
                return Listing(tuple(items), int(page.metadata.resource_version))
            params["continue"] = page.metadata.continue_

    async def watch(
        self, resource: Resource[R], resource_version: int, watch_seconds: float, selector: Selector = EVERYTHING
    ) -> AsyncIterator[WatchEvent[R]]:
        """Yield changes after `resource_version` until the server ends the watch after `watch_seconds`.

        Raises:
            Gone: the version is too old; list again.
            Unreachable: the connection broke, or was silent for longer than the server may be.
        """
        params = {
            **selector.params(),
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": str(resource_version),
            "timeoutSeconds": str(int(watch_seconds)),
        }
        path = resource.path(selector.namespace)
        timeout = aiohttp.ClientTimeout(
            sock_connect=self._request_seconds, sock_read=watch_seconds + WATCH_GRACE_SECONDS
        )
        try:
            async with self._session.get(
                self._credentials.server + path, params=params, headers=self._headers(), timeout=timeout
            ) as response:
                if response.status >= 400:
                    raise _error(response, await response.read(), f"watch {path}")
                async for line in lines(response.content, limit_bytes=MAX_LINE_BYTES):
                    yield _watch_event(line, resource)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"watch {path}: {_words(error)}") from error
        except LineTooLongError as error:
            raise UnreadableAnswer(f"watch {path}: {error}") from error

    async def create(self, resource: Resource[R], body: Mapping[str, Any], manager: str) -> R:
        """Create an object; its namespace and name are those of the body."""
        path = resource.path(body["metadata"].get("namespace", ""))
        answer = await self._request(
            "POST", resource, path, params={"fieldManager": manager}, body=body, idempotent=False
        )
        return _decode(answer, resource.record)

    async def apply(
        self, resource: Resource[R], body: Mapping[str, Any], manager: str, *, subresource: str = "", force: bool = True
    ) -> R:
        """Server-side apply: own the body's fields as `manager`, taking them from others; without `force`: `Conflict`.

        A `uid` or `resourceVersion` in the body's metadata is a precondition (`Conflict`).
        """
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"], subresource)
        params = {"fieldManager": manager, "force": "true" if force else "false"}
        answer = await self._request(
            "PATCH", resource, path, params=params, body=body, content_type=APPLY_PATCH, verb="APPLY"
        )
        return _decode(answer, resource.record)

    async def replace(self, resource: Resource[R], body: Mapping[str, Any], manager: str) -> R:
        """Replace an object; the body's `resourceVersion` is a precondition (`Conflict`)."""
        metadata = body["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"])
        answer = await self._request("PUT", resource, path, params={"fieldManager": manager}, body=body)
        return _decode(answer, resource.record)

    async def patch(
        self, resource: Resource[R], namespace: str, name: str, operations: Sequence[Mapping[str, Any]], manager: str
    ) -> R:
        """Carry out a JSON patch as a whole, or nothing of it if a `test` fails (`Invalid`)."""
        answer = await self._request(
            "PATCH",
            resource,
            resource.path(namespace, name),
            params={"fieldManager": manager},
            body=operations,
            content_type=JSON_PATCH,
            idempotent=False,
        )
        return _decode(answer, resource.record)

    async def delete(
        self, resource: Resource[R], namespace: str, name: str, *, uid: str, resource_version: str | None = None
    ) -> R | None:
        """Delete this very object (`Conflict` if it is another or has changed).

        Returns:
            The object if it goes on to exist for its grace period, None if the server says only that it is done.
        """
        preconditions = {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {})
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": preconditions,
            "propagationPolicy": "Background",
        }
        answer = await self._request("DELETE", resource, resource.path(namespace, name), body=options)
        return None if _decode(answer, _Kind).kind == "Status" else _decode(answer, resource.record)

    def _headers(self) -> dict[str, str]:
        return {"User-Agent": self._agent, **self._credentials.headers()}

    async def _request(
        self,
        method: str,
        resource: Resource[Any],
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Body | None = None,
        content_type: str = JSON,
        verb: str = "",
        idempotent: bool = True,
    ) -> bytes:
        """Send one request, up to `ATTEMPTS` times, and return the answer's body."""
        for attempt in range(1, ATTEMPTS + 1):
            started = time.monotonic()
            answer, error = b"", None
            try:
                answer = await self._once(method, path, params, body, content_type)
            except KubeError as caught:
                error = caught
            code = "2xx" if error is None else str(getattr(error, "code", "none"))
            self._metrics.requests.labels(verb or method, resource.plural, code).observe(time.monotonic() - started)
            if error is None:
                return answer
            if attempt == ATTEMPTS or not self._may_retry(error, idempotent):
                raise error
            await asyncio.sleep(_retry_delay(error, attempt))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _may_retry(self, error: KubeError, idempotent: bool) -> bool:
        match error:
            case TooManyRequests():
                return True
            case Unauthorized():
                return self._credentials.expire_token()
            case ServerError() | Unreachable():
                return idempotent
        return False

    async def _once(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Body | None, content_type: str
    ) -> bytes:
        data = None if body is None else msgspec.json.encode(body)
        try:
            headers = self._headers() | ({} if data is None else {"Content-Type": content_type})
            async with self._session.request(
                method,
                self._credentials.server + path,
                params=params,
                data=data,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=self._request_seconds),
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{method} {path}: {_words(error)}") from error
        if response.status >= 400:
            raise _error(response, answer, f"{method} {path}")
        return answer


def _retry_delay(error: KubeError, attempt: int) -> float:
    """Return the seconds to wait: what the server asked for, else 0.2, 0.4, … with jitter; bounded."""
    asked = getattr(error, "retry_after_seconds", None)
    delay: float = asked if asked is not None else 0.2 * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
    return min(delay, LONGEST_RETRY_DELAY_SECONDS)


def _words(error: BaseException) -> str:
    """Return an error's text; time limits have none of their own."""
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


def _decode(body: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise UnreadableAnswer(f"unreadable {kind.__name__}: {error}") from error


def _error(response: aiohttp.ClientResponse, body: bytes, what: str) -> KubeError:
    try:
        status = msgspec.json.decode(body, type=_Status)
    except msgspec.MsgspecError:
        # Load balancers and proxies answer in their own words.
        status = _Status(message=body[:200].decode(errors="replace"))
    return _status_error(status, response.status, what, response.headers.get("Retry-After"))


def _status_error(status: _Status, code: int, what: str, retry_after: str | None = None) -> KubeError:
    details = status.details or _Details()
    seconds = float(retry_after) if retry_after and retry_after.isdecimal() else details.retry_after_seconds or None
    return api_error(
        code,
        f"{what}: {code} {status.message or status.reason}",
        reason=status.reason,
        causes=tuple(cause.reason for cause in details.causes),
        retry_after_seconds=seconds,
    )


def _watch_event(line: bytes, resource: Resource[R]) -> WatchEvent[R]:
    event = _decode(line, _Line)
    if event.type == "ERROR":
        status = _decode(event.object, _Status)
        raise _status_error(status, status.code or 500, f"watch {resource.path()}")
    if event.type == "BOOKMARK":
        bookmark = _decode(event.object, _Bookmark)
        return WatchEvent(False, int(bookmark.metadata.resource_version), None)
    item = _decode(event.object, resource.record)
    return WatchEvent(event.type == "DELETED", int(item.metadata.resource_version), item)
