"""Gives the compile caches of this node to the agents of others: by key and digest, so to nobody who does not know it.

Only what came out of a runner is given this way, never weights: those may need a credential.
"""

import asyncio
import hmac
import os

from aiohttp import web

from warmfleet_agent.metrics import Metrics
from warmfleet_agent.store import Store
from warmfleet_agent.tiers import Tiers
from warmfleet_api import artifacts, names
from warmfleet_api.vocabulary import Tier

MAX_AT_ONCE = 8
SLOW_SECONDS = 30.0
"""A reader that takes nothing for this long is dropped."""
_BLOCK_BYTES = 1024 * 1024
_SOURCES = (f"{artifacts.RUNNER_SCHEME}://", f"{artifacts.AGENT_SCHEME}://")


def artifacts_route(tiers: Tiers, metrics: Metrics) -> web.RouteDef:
    """Return the route `GET /v1/artifacts/<key>?digest=…`, which knows ranges."""
    served = 0

    async def give(request: web.Request) -> web.StreamResponse:
        nonlocal served
        store = _holder(tiers, request.match_info["key"], request.query.get("digest", ""))
        if served >= MAX_AT_ONCE:
            raise web.HTTPServiceUnavailable(text="others are served; come again\n", headers={"Retry-After": "1"})
        served += 1
        try:
            return await _give(request, store, metrics)
        finally:
            served -= 1

    return web.get(f"{names.PATH_ARTIFACTS}/{{key}}", give)


def _holder(tiers: Tiers, key: str, digest: str) -> Store:
    for tier in (Tier.MEMORY, Tier.DISK):
        store = tiers.store(tier)
        entry = store.entries.get(key) if store is not None else None
        if store is None or entry is None or not artifacts.name_in(key) or not entry.uri.startswith(_SOURCES):
            continue
        if hmac.compare_digest(entry.digest.encode(), digest.encode()):
            return store
    raise web.HTTPNotFound(text="no such compile cache with that digest is on this node\n")


async def _give(request: web.Request, store: Store, metrics: Metrics) -> web.StreamResponse:
    try:
        asked = request.http_range
        descriptor = await asyncio.to_thread(store.open_entry_file, request.match_info["key"], artifacts.PACK_FILE)
    except ValueError:
        raise web.HTTPRequestRangeNotSatisfiable(text="this is no range of bytes\n") from None
    except (KeyError, OSError):
        raise web.HTTPNotFound(text="it has just been evicted\n") from None
    try:
        size = os.fstat(descriptor).st_size
        start, end, _ = asked.indices(size)
        response = web.StreamResponse()
        if asked != slice(None, None, 1) and start < end:
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        response.content_type = "application/octet-stream"
        response.content_length = end - start
        await response.prepare(request)
        while start < end and request.method != "HEAD":
            block = await asyncio.to_thread(os.pread, descriptor, min(end - start, _BLOCK_BYTES), start)
            if not block:
                break
            async with asyncio.timeout(SLOW_SECONDS):
                await response.write(block)
            metrics.served_bytes.inc(len(block))
            start += len(block)
        return response
    finally:
        os.close(descriptor)
