"""HTTP as sources use it: guarded connections, redirects by hand, ranges that are what was asked for."""

import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from warmfleet_agent.sources.contract import SourceError
from warmfleet_agent.sources.endpoints import UNREACHABLE_RETRY_SECONDS, Endpoints
from warmfleet_api.vocabulary import WeightsProblem

_CONNECT_SECONDS = 15.0
_READ_SECONDS = 30.0
_MAX_REDIRECTS = 5
_MAX_RETRY_SECONDS = 3600.0
_BUFFER_BYTES = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")
USER_AGENT = "warmfleet-agent"


class NoRangesError(Exception):
    """The server sends whole files only."""


class ChangedError(SourceError):
    """What is read is not what was listed."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(
            WeightsProblem.DAMAGED,
            f"{what} {why}. It changed since it was listed, or its server is wrong; it is listed again",
            retry_after_seconds=UNREACHABLE_RETRY_SECONDS,
        )


class _Resolver(AbstractResolver):
    """Gives aiohttp the checked addresses: it connects to these, so a name can't change in between."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in await self._endpoints.addresses(host, port)
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Web:
    """A client for one open source."""

    def __init__(self, endpoints: Endpoints, session: aiohttp.ClientSession) -> None:
        self.endpoints = endpoints
        self._session = session

    @asynccontextmanager
    async def request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, secret: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and give its response, whatever its status; redirects are followed.

        Args:
            method: GET or HEAD.
            url: where to.
            headers: sent to every host.
            secret: headers sent to this URL's host only, and never after a redirect to another.

        Raises:
            SourceError: the server can't be reached, or may not be.
        """
        first = current = _parsed(url)
        for _ in range(_MAX_REDIRECTS + 1):
            self.endpoints.check(current)
            allowed = {**(headers or {}), **((secret or {}) if current.origin() == first.origin() else {})}
            with _translated(current):
                response = await self._session.request(method, current, headers=allowed, allow_redirects=False)
            try:
                if response.status not in {301, 302, 303, 307, 308} or "Location" not in response.headers:
                    with _translated(current):
                        yield response
                    return
                current = _parsed(response.headers["Location"], current)
            finally:
                # What was not read is not waited for; a connection at its end is used again.
                if response.content.at_eof():
                    response.release()
                else:
                    response.close()
        raise _unreachable(first, "it redirects in a circle")

    async def document(
        self,
        url: str,
        limit_bytes: int,
        headers: Mapping[str, str] | None = None,
        secret: Mapping[str, str] | None = None,
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """Get a small document; the response tells status and headers.

        Raises:
            SourceError: it can't be had, or is larger.
        """
        async with self.request("GET", url, headers, secret) as response:
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > limit_bytes:
                    raise SourceError(
                        WeightsProblem.FORBIDDEN_SOURCE,
                        f"{_shown(response.url)} is larger than {limit_bytes} bytes. Check the uri",
                    )
            return response, bytes(content)

    async def read_range(
        self,
        url: str,
        offset: int,
        length: int,
        total: int,
        *,
        etag: str | None = None,
        secret: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield exactly `length` bytes from `offset` on, of a file of `total` bytes.

        Raises:
            SourceError: they can't be had; `ChangedError`: the server's file is another.
            NoRangesError: the server sends whole files only, and a part was asked for.
        """
        headers = {"Range": f"bytes={offset}-{offset + length - 1}", "Accept-Encoding": "identity"}
        if etag is not None and not etag.startswith("W/"):
            headers["If-Match"] = etag
        async with self.request("GET", url, headers, secret) as response:
            _check_range(response, offset, length, total, etag)
            received = 0
            async for chunk in response.content.iter_any():
                if received + len(chunk) > length:
                    raise ChangedError(_shown(response.url), "sends more bytes than it was asked for")
                received += len(chunk)
                yield chunk
            if received != length:
                raise _unreachable(response.url, f"it closed the connection after {received} of {length} bytes")


@asynccontextmanager
async def opened(endpoints: Endpoints) -> AsyncIterator[Web]:
    """Open a client."""
    connector = aiohttp.TCPConnector(resolver=_Resolver(endpoints), limit=0, use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        headers={"User-Agent": USER_AGENT},
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=_BUFFER_BYTES,
    ) as session:
        yield Web(endpoints, session)


def check_status(response: aiohttp.ClientResponse) -> None:
    """Accept a success.

    Raises:
        SourceError: the status says otherwise; of sources that know nothing better to say.
    """
    status, where = response.status, _shown(response.url)
    if status < 400:
        return
    if status in {401, 403}:
        raise SourceError(
            WeightsProblem.ACCESS_DENIED,
            f"{where} answers {status}. Put a credential that may read it into the Secret of secretRef",
        )
    if status in {404, 410}:
        raise SourceError(WeightsProblem.MODEL_NOT_FOUND, f"{where} answers {status}. Check the uri and the revision")
    if status == 429 or status >= 500:
        raise _unreachable(response.url, f"it answers {status}", retry_after_seconds(response))
    raise SourceError(WeightsProblem.MODEL_NOT_FOUND, f"{where} answers {status}. Check the uri")


def retry_after_seconds(response: aiohttp.ClientResponse) -> float:
    """Return how long a server wants to be left alone."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), _MAX_RETRY_SECONDS) if value.isdecimal() else UNREACHABLE_RETRY_SECONDS


def _check_range(response: aiohttp.ClientResponse, offset: int, length: int, total: int, etag: str | None) -> None:
    where = _shown(response.url)
    if response.status in {412, 416}:
        raise ChangedError(where, "is another file by now" if response.status == 412 else "is shorter than listed")
    check_status(response)
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ChangedError(where, "comes encoded although nobody asked for that")
    if etag is not None and response.headers.get("ETag", etag) != etag:
        raise ChangedError(where, "is another file by now")
    if response.status == 206:
        matched = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if matched is None or int(matched[1]) != offset or int(matched[2]) >= offset + length:
            raise ChangedError(where, f"answers with {response.headers.get('Content-Range', 'no range')[:60]!r}")
        if matched[3] not in {"*", str(total)}:
            raise ChangedError(where, f"has {matched[3]} bytes instead of {total}")
    elif response.status == 200:
        if response.content_length not in {None, total}:
            raise ChangedError(where, f"has {response.content_length} bytes instead of {total}")
        if (offset, length) != (0, total):
            raise NoRangesError
    else:
        raise ChangedError(where, f"answers {response.status} to a request for a range")


@contextmanager
def _translated(url: URL) -> Iterator[None]:
    """Turn errors of the network into words."""
    try:
        yield
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _unreachable(url, str(error)[:200] or "time is up") from error


def _parsed(url: str, base: URL | None = None) -> URL:
    try:
        parsed = URL(url, encoded=False)
        parsed = base.join(parsed) if base is not None else parsed
        if not parsed.host or parsed.port is None:
            raise ValueError
    except ValueError:
        raise SourceError(WeightsProblem.FORBIDDEN_SOURCE, f"{url[:200]!r} is no URL. Check the uri") from None
    return parsed


def _unreachable(url: URL, why: str, retry: float = UNREACHABLE_RETRY_SECONDS) -> SourceError:
    return SourceError(
        WeightsProblem.SOURCE_UNREACHABLE,
        f"{_shown(url)} can't be read: {why}. It is tried again; check it with `curl -I {_shown(url)}`",
        retry_after_seconds=retry,
    )


def _shown(url: URL) -> str:
    """Without query: signed URLs carry secrets there."""
    return str(url.with_query(None).with_fragment(None))[:200]
