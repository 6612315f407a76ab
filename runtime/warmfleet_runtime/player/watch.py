"""A list kept up to date by a watch: what was deleted while the watch was cut is told as well."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Generic, TypeVar

import aiohttp
import msgspec

from warmfleet_runtime.player.kubeconfig import Access

T = TypeVar("T", bound="Watched")
_WATCH_SECONDS = 290
_SILENT_SECONDS = 330.0
_RETRY_SECONDS = 1.0
_METADATA_ONLY = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1,application/json"
_log = logging.getLogger("player.watch")


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """The object metadata a player reads."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    deletion_timestamp: str | None = None
    annotations: Mapping[str, str] = {}


class Watched(msgspec.Struct, frozen=True):
    """An object; subclasses add what they read of it."""

    metadata: Metadata


class _List(msgspec.Struct):
    metadata: Metadata
    items: list[msgspec.Raw]


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Expired(Exception):  # noqa: N818 - not an error: the list has to be read anew
    """The watch can't go on from where it was."""


class Watch(Generic[T]):
    """Follows one resource; calls back with each object as it is now, or that it is gone."""

    def __init__(
        self,
        path: str,
        kind: type[T],
        on_seen: Callable[[T], None],
        on_gone: Callable[[T], None],
        *,
        parameters: Mapping[str, str] | None = None,
        metadata_only: bool = False,
    ) -> None:
        self.synced = asyncio.Event()
        """Set after the first list."""
        self._path = path
        self._kind = kind
        self._on_seen = on_seen
        self._on_gone = on_gone
        self._parameters = dict(parameters or {})
        self._metadata_only = metadata_only
        self._known: dict[str, T] = {}

    async def run(self, http: aiohttp.ClientSession) -> None:
        """Follow until cancelled, whatever the API server does meanwhile."""
        while True:
            try:
                version = await self._list(http)
                while True:
                    version = await self._watch(http, version)
            except _Expired as expired:
                _log.info("%s: %s; listing anew", self._path, expired)
            except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError) as error:
                _log.warning("%s: %r; again in %.0f s", self._path, error, _RETRY_SECONDS)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _list(self, http: aiohttp.ClientSession) -> str:
        async with http.get(self._path, params=self._parameters, headers=self._accept("List")) as response:
            response.raise_for_status()
            listed = msgspec.json.decode(await response.read(), type=_List)
        objects = [msgspec.json.decode(item, type=self._kind) for item in listed.items]
        present = {each.metadata.uid for each in objects}
        for uid in set(self._known) - present:
            self._on_gone(self._known.pop(uid))
        for each in objects:
            self._known[each.metadata.uid] = each
            self._on_seen(each)
        self.synced.set()
        return listed.metadata.resource_version

    async def _watch(self, http: aiohttp.ClientSession, version: str) -> str:
        parameters = {
            **self._parameters,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENT_SECONDS)
        request = http.get(self._path, params=parameters, headers=self._accept(""), timeout=timeout)
        async with request as response:
            if response.status == 410:
                raise _Expired("resource version is too old")
            response.raise_for_status()
            async for line in _lines(response.content):
                event = msgspec.json.decode(line, type=_Event)
                if event.type == "ERROR":
                    raise _Expired(bytes(event.object).decode(errors="replace"))
                version = self._take(event) or version
        return version

    def _take(self, event: _Event) -> str:
        changed = msgspec.json.decode(event.object, type=self._kind)
        uid = changed.metadata.uid
        if event.type == "DELETED":
            self._known.pop(uid, None)
            self._on_gone(changed)
        elif event.type != "BOOKMARK":
            self._known[uid] = changed
            self._on_seen(changed)
        return changed.metadata.resource_version

    def _accept(self, suffix: str) -> dict[str, str]:
        return {"accept": _METADATA_ONLY.format(suffix)} if self._metadata_only else {}


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Split into lines of any length; aiohttp's own readline refuses long ones."""
    rest = b""
    async for chunk in content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def session(access: Access) -> aiohttp.ClientSession:
    """Return a client of the API server."""
    return aiohttp.ClientSession(
        base_url=access.server,
        headers=access.headers,
        connector=aiohttp.TCPConnector(ssl=access.tls if access.tls else True),
        timeout=aiohttp.ClientTimeout(total=60),
    )
