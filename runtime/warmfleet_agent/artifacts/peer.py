"""Fetches a compile cache from the agent of another node.

The digest is the operator's, from a NodeCache that only it and that node's agent may write. So neither the address nor
the peer is trusted: what has another digest is never committed.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from warmfleet_agent.sources.contract import Listing, RemoteFile, SourceError
from warmfleet_api import artifacts, names
from warmfleet_api.vocabulary import WeightsProblem

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 30.0
RETRY_SECONDS = 5.0
_BLOCK_BYTES = 1024 * 1024


class PeerSource:
    """One compile cache at one agent: a `Source`."""

    def __init__(self, uri: str, url: str, digest: str, http: aiohttp.ClientSession) -> None:
        self._uri = uri
        self._url = url
        self._digest = digest
        self._http = http

    async def list(self) -> Listing:
        """See `Source.list`."""
        async with self._asked("HEAD", 200) as answer:
            size_bytes = answer.content_length or 0
        if not artifacts.PREFIX_BYTES < size_bytes <= artifacts.MAX_BYTES:
            raise _away(self._uri, f"says that it has {size_bytes} bytes")
        return Listing(self._uri, "", (RemoteFile(artifacts.PACK_FILE, size_bytes, None),))

    async def read(self, path: str, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """See `Source.read`; the pack is the only file there is."""
        left = length
        async with self._asked("GET", 206, {"Range": f"bytes={offset}-{offset + length - 1}"}) as answer:
            try:
                async for block in answer.content.iter_chunked(_BLOCK_BYTES):
                    left -= len(block)
                    if left < 0:
                        raise _away(self._uri, "sent more than was asked for")
                    yield block
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _away(self._uri, f"broke off: {str(error) or 'no answer in time'}") from None
        if left:
            raise _away(self._uri, f"broke off {left} bytes before its end")

    @asynccontextmanager
    async def _asked(
        self, method: str, status: int, headers: dict[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request.

        Raises:
            SourceError: another answer than `status`, or none.
        """
        try:
            answer = await self._http.request(
                method, self._url, params={"digest": self._digest}, headers=headers, allow_redirects=False
            )
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _away(self._uri, f"does not answer: {str(error) or 'in time'}") from None
        async with answer:
            if answer.status != status:
                raise _away(self._uri, f"answers {answer.status}")
            yield answer


@asynccontextmanager
async def opened(uri: str, address: str, key: str, digest: str) -> AsyncIterator[PeerSource]:
    """Open the compile cache of a key at the agent that listens at `address`, `<host>:<port>`."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as http:
        yield PeerSource(uri, f"http://{address}{names.PATH_ARTIFACTS}/{key}", digest, http)


def _away(uri: str, what: str) -> SourceError:
    message = f"{uri} {what}. It is tried again, and engines compile meanwhile"
    return SourceError(WeightsProblem.SOURCE_UNREACHABLE, message, retry_after_seconds=RETRY_SECONDS)
