"""Compile caches from node to node: by key and digest, whole and the same, or not at all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from support.agent import write_model
from support.compile_node import Node, node
from warmfleet_api import artifacts, names
from warmfleet_api.node_cache import WantedEntry
from warmfleet_api.vocabulary import Tier, WeightsProblem
from warmfleet_runtime.compile_cache import pack

NAME = "compile--0123456789abcdef0123"
GRAPH = "vllm/torch_compile_cache/a1/rank_0_0/backbone/computation_graph.py"
PACKED_BYTES = 300_000


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    async with node(tmp_path, "first") as first, node(tmp_path, "second") as second:
        yield first, second


async def published(place: Node, folder: Path) -> str:
    """Have a runner of the node offer something, and the node take it."""
    (folder / GRAPH).parent.mkdir(parents=True)
    (folder / GRAPH).write_bytes(bytes(range(256)) * (PACKED_BYTES // 256))
    pack(folder, place.cache / artifacts.OUTBOX / f"{NAME}.pack", NAME)
    return await place.take(NAME)


def wanted_of(key: str, address: str, digest: str | None) -> WantedEntry:
    return WantedEntry(key=key, uri=f"agent://{address}/{key}", tier=Tier.MEMORY, digest=digest)


def content(place: Node, key: str) -> bytes:
    return (place.folder / "memory" / "entries" / key / artifacts.PACK_FILE).read_bytes()


async def test_another_node_gets_what_the_first_one_took(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    first, second = nodes
    key = await published(first, tmp_path / "cache")
    await second.fetch(key, first)
    assert second.store.entries[key].digest == first.store.entries[key].digest
    assert content(second, key) == content(first, key)
    async with node(tmp_path, "third") as third:
        await third.fetch(key, second)
        assert content(third, key) == content(first, key)


async def test_who_does_not_know_the_digest_gets_nothing(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    first, second = nodes
    key = await published(first, tmp_path / "cache")
    outcome = await second.bring(wanted_of(key, first.address, f"sha256:{'0' * 64}"))
    assert outcome.trouble is not None
    assert outcome.trouble.reason is WeightsProblem.SOURCE_UNREACHABLE
    outcome = await second.bring(wanted_of(key, first.address, None))
    assert outcome.trouble is not None
    assert outcome.trouble.reason is WeightsProblem.FORBIDDEN_SOURCE
    assert not second.store.entries


async def test_weights_are_given_to_nobody(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    first, _ = nodes
    write_model(tmp_path / "models" / "m", 10_000)
    key = await first.keep(tmp_path / "models" / "m")
    url = f"http://{first.address}{names.PATH_ARTIFACTS}/{key}"
    digest = first.store.entries[key].digest
    async with aiohttp.ClientSession() as http, http.get(url, params={"digest": digest}) as answer:
        assert answer.status == 404


async def test_what_has_another_digest_is_not_kept(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    first, second = nodes
    key = await published(first, tmp_path / "cache")
    lie = bytearray(content(first, key))
    lie[-1] ^= 1
    async with lying(bytes(lie)) as address:
        outcome = await second.bring(wanted_of(key, address, first.store.entries[key].digest))
    assert outcome.trouble is not None
    assert outcome.trouble.reason is WeightsProblem.DAMAGED
    assert not second.store.entries
    assert second.store.usage().draft_bytes == 0


async def test_a_connection_that_breaks_is_gone_on_with(nodes: tuple[Node, Node], tmp_path: Path) -> None:
    first, second = nodes
    key = await published(first, tmp_path / "cache")
    async with lying(content(first, key), breaks_at=100_000) as address:
        outcome = await second.bring(wanted_of(key, address, first.store.entries[key].digest))
    assert outcome.done
    assert content(second, key) == content(first, key)


@asynccontextmanager
async def lying(body: bytes, breaks_at: int = 0) -> AsyncIterator[str]:
    """Answer for an agent; with `breaks_at` the first answer ends after so many bytes."""
    broken = not breaks_at

    async def give(request: web.Request) -> web.StreamResponse:
        nonlocal broken
        start, end, _ = request.http_range.indices(len(body))
        response = web.StreamResponse(status=206 if request.method == "GET" else 200)
        response.content_length = end - start
        await response.prepare(request)
        if request.method == "GET":
            if not broken:
                broken = True
                await response.write(body[start : start + breaks_at])
                assert request.transport is not None
                request.transport.close()
            else:
                await response.write(body[start:end])
        return response

    application = web.Application()
    application.router.add_get("/{path:.*}", give)
    served = web.AppRunner(application)
    await served.setup()
    try:
        await web.TCPSite(served, "127.0.0.1", 0).start()
        yield f"127.0.0.1:{served.addresses[0][1]}"
    finally:
        await served.cleanup()
