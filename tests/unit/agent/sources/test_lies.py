"""A server that breaks connections, lies about sizes and hashes, or changes what it has in the middle."""

import asyncio
import json
import struct
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from aiohttp import web

from support.sources.model import sha256, weights, write_model
from support.sources.web_server import WebServer, web_server
from warmfleet_agent.sources import Listing, SourceError, SourceRules, open_source
from warmfleet_agent.sources.download import Bandwidth, Patience, download
from warmfleet_agent.store import Store
from warmfleet_api.vocabulary import WeightsProblem

QUICK = Patience(no_byte_seconds=0.5, failures=3, first_pause_seconds=0.01, longest_pause_seconds=0.02)
FIRST = "model-00001-of-00002.safetensors"
Answer = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@pytest.fixture
async def server(root: Path, wanted: Mapping[str, bytes]) -> AsyncIterator[WebServer]:
    async with web_server(root) as each:
        yield each


@pytest.fixture
def store(tmp_path: Path) -> Store:
    folder = tmp_path / "store"
    folder.mkdir()
    return Store(folder, 1 << 30)


async def fetch(server: WebServer, store: Store, uri: str = "hf://org/model") -> Listing:
    rules = SourceRules(environment={"HF_ENDPOINT": server.url, "WARMFLEET_ENDPOINTS": server.url})
    async with open_source(uri.replace("SERVER", server.url), None, {}, rules) as source:
        listing = await source.list()
        with store.begin("model", listing.sizes) as draft:
            await download(source, listing, draft, bandwidth=Bandwidth(), on_progress=lambda _: None, patience=QUICK)
            draft.commit(listing.uri, listing.revision)
    return listing


async def refusal(server: WebServer, store: Store, uri: str = "hf://org/model") -> SourceError:
    with pytest.raises(SourceError) as caught:
        await fetch(server, store, uri)
    assert not store.entries
    return caught.value


def on_weights(answer: Answer) -> Answer:
    async def only(request: web.Request) -> web.StreamResponse | None:
        is_weights = request.method == "GET" and request.path.endswith(FIRST)
        return await answer(request) if is_weights else None

    return only


def body(content: bytes, content_range: str | None, status: int = 206) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(
            status=status, body=content, headers={"Content-Range": content_range} if content_range else {}
        )

    return answer


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (body(b"x" * 100, "bytes 0-99/100"), "instead of"),
        (body(b"x" * 1048576, "bytes 0-1048575/9223372036854775807"), "instead of"),
        (body(b"x" * 1048576, "bytes 5-1048580/3000119"), "answers with"),
        (body(b"x" * 1048576, "bytes 0-99999999/3000119"), "answers with"),
        (body(b"x" * 1048576, "bytes a-b/c"), "answers with"),
        (body(b"x" * 1048576, None), "no range"),
        (body(b"x" * 1048577, "bytes 0-1048575/3000119"), "more bytes"),
        (body(b"", None, 416), "shorter"),
        (body(b"x" * 77, None, 200), "instead of"),
        (body(b"", None, 204), "answers 204"),
    ],
)
async def test_a_range_that_is_not_what_was_asked_for_is_refused(
    server: WebServer, store: Store, wanted: Mapping[str, bytes], answer: Answer, word: str
) -> None:
    server.answer = on_weights(answer)
    error = await refusal(server, store)
    assert error.reason is WeightsProblem.DAMAGED, str(error)
    assert error.retry_after_seconds
    assert word in str(error)


async def test_a_server_without_ranges_is_read_from_the_start(
    server: WebServer, store: Store, wanted: Mapping[str, bytes], root: Path
) -> None:
    async def whole(request: web.Request) -> web.StreamResponse:
        return web.Response(body=(root / request.path.rpartition("/")[2]).read_bytes())

    server.answer = on_weights(whole)
    await fetch(server, store)
    assert len([path for method, path, _ in server.requests if path.endswith(FIRST)]) <= 3


async def test_a_file_with_another_hash_is_fetched_once_more_and_then_refused(
    server: WebServer, store: Store, root: Path
) -> None:
    other = weights(3_000_000, seed=99)
    tries = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal tries
        start, end = (int(each) for each in request.headers["Range"].removeprefix("bytes=").split("-"))
        tries += start == 0
        return web.Response(
            status=206, body=other[start : end + 1], headers={"Content-Range": f"bytes {start}-{end}/{len(other)}"}
        )

    assert len(other) == (root / FIRST).stat().st_size
    server.answer = on_weights(answer)
    error = await refusal(server, store)
    assert error.reason is WeightsProblem.DAMAGED
    assert "sha256" in str(error)
    assert tries == 2


async def test_a_file_that_was_damaged_once_on_its_way_arrives_the_second_time(
    server: WebServer, store: Store, root: Path
) -> None:
    content = (root / FIRST).read_bytes()
    wrong = [bytearray(content)]
    wrong[0][-1] ^= 1

    async def answer(request: web.Request) -> web.StreamResponse:
        start, end = (int(each) for each in request.headers["Range"].removeprefix("bytes=").split("-"))
        sent = wrong.pop() if wrong and end == len(content) - 1 else content
        return web.Response(
            status=206, body=bytes(sent[start : end + 1]), headers={"Content-Range": f"bytes {start}-{end}/{len(sent)}"}
        )

    server.answer = on_weights(answer)
    await fetch(server, store)
    assert not wrong


async def test_a_connection_that_brings_nothing_is_given_up(server: WebServer, store: Store, root: Path) -> None:
    async def stall(request: web.Request) -> web.StreamResponse:
        start, end = (int(each) for each in request.headers["Range"].removeprefix("bytes=").split("-"))
        size = (root / FIRST).stat().st_size
        response = web.StreamResponse(status=206, headers={"Content-Range": f"bytes {start}-{end}/{size}"})
        response.content_length = end - start + 1
        await response.prepare(request)
        await response.write(b"x" * 10)
        await asyncio.sleep(30)
        return response

    server.answer = on_weights(stall)
    error = await refusal(server, store)
    assert error.reason is WeightsProblem.SOURCE_UNREACHABLE
    assert "no byte" in str(error)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_an_overloaded_server_is_left_alone_for_as_long_as_it_asks(
    server: WebServer, store: Store, status: int
) -> None:
    async def busy(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Retry-After": "77"})

    server.answer = on_weights(busy)
    error = await refusal(server, store)
    assert error.reason is WeightsProblem.SOURCE_UNREACHABLE
    assert error.retry_after_seconds == 77


async def test_a_bad_header_is_refused_before_the_rest_of_the_file_is_fetched(
    server: WebServer, store: Store, root: Path
) -> None:
    (root / FIRST).write_bytes(struct.pack("<Q", 2**63) + b"x" * 20_000_000)
    error = await refusal(server, store)
    assert error.reason is WeightsProblem.UNSAFE_FORMAT
    assert "9223372036854775808" in str(error)
    ranges = [headers["Range"] for method, path, headers in server.requests if path.endswith(FIRST)]
    assert ranges == ["bytes=0-1048575"]


async def test_a_header_longer_than_the_first_range_is_fetched_and_checked(
    server: WebServer, store: Store, root: Path
) -> None:
    header = json.dumps({"__metadata__": {"x": "y" * 3_000_000}}).encode()
    (root / FIRST).write_bytes(struct.pack("<Q", len(header)) + header)
    await fetch(server, store)
    assert "model" in store.entries


async def test_an_index_that_names_a_file_that_is_not_there_is_told_of(
    server: WebServer, store: Store, root: Path
) -> None:
    (root / "model-00002-of-00002.safetensors").unlink()
    error = await refusal(server, store)
    assert error.reason is WeightsProblem.MODEL_NOT_FOUND
    assert "lacks 'model-00002-of-00002.safetensors'" in str(error)


async def test_a_web_folder_that_changes_after_it_was_listed_is_refused(
    server: WebServer, store: Store, root: Path
) -> None:
    rules = SourceRules(environment={"WARMFLEET_ENDPOINTS": server.url})
    async with open_source(f"{server.url}/files", None, {}, rules) as source:
        listing = await source.list()
        write_model(root, seed=50)
        with store.begin("model", listing.sizes) as draft, pytest.raises(SourceError) as caught:
            await download(source, listing, draft, bandwidth=Bandwidth(), on_progress=lambda _: None, patience=QUICK)
    assert caught.value.reason is WeightsProblem.DAMAGED
    assert "by now" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"not a list", b"0" * 64 + b"  ../../etc/model.safetensors", b"0" * 64 + b"  a\x00b.safetensors"]
)
async def test_a_list_of_hashes_that_lies_is_refused(
    server: WebServer, store: Store, root: Path, content: bytes
) -> None:
    (root / "SHA256SUMS").write_bytes(content)
    assert (await refusal(server, store, "SERVER/files")).reason is WeightsProblem.FORBIDDEN_SOURCE


async def test_a_wrong_hash_in_a_list_of_hashes_is_found(
    server: WebServer, store: Store, root: Path, wanted: Mapping[str, bytes]
) -> None:
    sums = {name: sha256(content) for name, content in wanted.items()} | {"config.json": "0" * 64}
    (root / "SHA256SUMS").write_text("".join(f"{digest} *./{name}\n" for name, digest in sums.items()))
    assert "config.json" in str(await refusal(server, store, "SERVER/files"))


async def test_a_web_folder_without_a_list_is_found_by_its_usual_names(
    server: WebServer, store: Store, wanted: Mapping[str, bytes]
) -> None:
    listing = await fetch(server, store, "SERVER/files/")
    assert {file.path for file in listing.files} == wanted.keys()


def outside(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "store" not in path.parts}


async def test_hostile_names_of_a_hub_write_nothing_outside_and_run_nothing(
    server: WebServer, store: Store, tmp_path: Path
) -> None:
    before = outside(tmp_path)
    for name in ["../x.safetensors", "/etc/x.safetensors", "a\x00.safetensors", "a\nb.safetensors", "x" * 4096]:
        server.siblings = [
            {"rfilename": "model.safetensors", "size": 10},
            {"rfilename": name, "size": 10, "lfs": {"sha256": "0" * 64, "size": 10, "pointerSize": 1}},
        ]
        assert (await refusal(server, store)).reason is WeightsProblem.FORBIDDEN_SOURCE
    assert outside(tmp_path) == before


async def test_memory_stays_flat_while_a_large_file_comes(server: WebServer, store: Store, root: Path) -> None:
    (root / FIRST).write_bytes(weights(120_000_000))
    server.siblings = server.listed()
    tracemalloc.start()
    try:
        await fetch(server, store)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The server is in this process too.
    assert peak < 60_000_000
