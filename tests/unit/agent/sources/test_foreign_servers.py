"""Servers that others wrote: moto (S3), go-containerregistry (OCI), huggingface_hub's API, any web server."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from support.sources.cutting_proxy import at_random
from support.sources.origins import S3_CREDENTIAL, Origin, origin, s3_server
from warmfleet_agent.sources import Listing, SourceError, SourceRules, open_source
from warmfleet_agent.sources.buckets import is_of_another_region
from warmfleet_agent.sources.download import Bandwidth, Patience, download
from warmfleet_agent.store import Store
from warmfleet_api.vocabulary import WeightsProblem

QUICK = Patience(no_byte_seconds=5.0, failures=20, first_pause_seconds=0.01, longest_pause_seconds=0.05)


@pytest.fixture(params=["hf", "s3", "gs", "https", "oci"])
async def served(
    request: pytest.FixtureRequest, root: Path, wanted: Mapping[str, bytes], registry_binary: Path
) -> AsyncIterator[Origin]:
    async with origin(request.param, root, wanted, registry_binary) as each:
        yield each


class KilledError(Exception):
    pass


async def fetch(served: Origin, store: Store, kill_at: int | None = None) -> Listing:
    """Fetch and commit; `kill_at`: the agent is killed after so many bytes."""
    came = 0

    def progress(size: int) -> None:
        nonlocal came
        came += size
        if kill_at is not None and came >= kill_at:
            raise KilledError(came)

    async with open_source(served.uri, None, served.credential, served.rules) as source:
        listing = await source.list()
        with store.begin("model", listing.sizes, listing.uri) as draft:
            await download(source, listing, draft, bandwidth=Bandwidth(), on_progress=progress, patience=QUICK)
            draft.commit(listing.uri, listing.revision)
    return listing


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def content(folder: Path) -> dict[str, bytes]:
    entry = folder / "entries" / "model"
    return {
        path.relative_to(entry).as_posix(): path.read_bytes()
        for path in entry.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


async def test_a_model_is_fetched_whole_and_nothing_else_of_its_folder(
    served: Origin, wanted: Mapping[str, bytes], store_folder: Path
) -> None:
    store = Store(store_folder, 1 << 30)
    listing = await fetch(served, store)
    store.close()
    assert content(store_folder) == wanted
    assert listing.bytes == sum(len(each) for each in wanted.values())


async def test_a_revision_is_found_again_by_its_own_name(served: Origin) -> None:
    async with open_source(served.uri, None, served.credential, served.rules) as source:
        listing = await source.list()
    async with open_source(served.uri, listing.revision, served.credential, served.rules) as source:
        assert await source.list() == listing
    assert listing.revision


async def test_cut_connections_cost_only_what_they_had_not_brought(
    served: Origin, wanted: Mapping[str, bytes], store_folder: Path
) -> None:
    async with open_source(served.uri, None, served.credential, served.rules) as source:
        listing = await source.list()
        await served.proxy.cut(at_random(seed=7, most_bytes=1_500_000, times=12))
        before = served.proxy.sent_bytes
        store = Store(store_folder, 1 << 30)
        with store.begin("model", listing.sizes, listing.uri) as draft:
            await download(source, listing, draft, bandwidth=Bandwidth(), on_progress=lambda _: None, patience=QUICK)
            draft.commit(listing.uri, listing.revision)
        store.close()
    assert content(store_folder) == wanted
    assert served.proxy.cuts >= 3
    # What was under way in buffers when a connection was cut comes again: at most a few of the proxy's blocks each.
    assert served.proxy.sent_bytes - before < listing.bytes * 1.25 + served.proxy.cuts * 4 * 65536


async def test_an_agent_that_was_killed_fetches_only_the_rest(
    served: Origin, wanted: Mapping[str, bytes], store_folder: Path
) -> None:
    store = Store(store_folder, 1 << 30, is_durable=True)
    with pytest.raises(KilledError) as killed:
        await fetch(served, store, kill_at=4_000_000)
    store.close()
    total = sum(len(each) for each in wanted.values())
    before = served.proxy.sent_bytes
    store = Store(store_folder, 1 << 30, is_durable=True)
    await fetch(served, store)
    store.close()
    assert content(store_folder) == wanted
    assert served.proxy.sent_bytes - before < total - killed.value.args[0] + 300_000


async def test_a_server_that_is_down_is_told_of_in_words_and_tried_again(served: Origin, store_folder: Path) -> None:
    async with open_source(served.uri, None, served.credential, served.rules) as source:
        listing = await source.list()
        await served.proxy.cut(lambda: 1)
        patience = Patience(no_byte_seconds=1.0, failures=3, first_pause_seconds=0.01, longest_pause_seconds=0.02)
        store = Store(store_folder, 1 << 30)
        with store.begin("model", listing.sizes) as draft, pytest.raises(SourceError) as caught:
            await download(source, listing, draft, bandwidth=Bandwidth(), on_progress=lambda _: None, patience=patience)
        store.close()
    assert caught.value.reason is WeightsProblem.SOURCE_UNREACHABLE
    assert caught.value.retry_after_seconds
    assert "tried again" in str(caught.value)


async def test_what_is_not_there_names_the_next_command(served: Origin) -> None:
    uri = served.uri.replace("org/model", "org/absent").replace("/files", "/nothing")
    async with open_source(uri, None, served.credential, served.rules) as source:
        with pytest.raises(SourceError) as caught:
            await source.list()
    assert caught.value.reason is WeightsProblem.MODEL_NOT_FOUND
    assert caught.value.retry_after_seconds is None
    assert "heck" in str(caught.value) or "`" in str(caught.value)


async def test_a_cancelled_download_leaves_no_task_and_no_connection(served: Origin, store_folder: Path) -> None:
    async with open_source(served.uri, None, served.credential, served.rules) as source:
        listing = await source.list()
        slow = Bandwidth(100_000)
        store = Store(store_folder, 1 << 30)
        with store.begin("model", listing.sizes) as draft:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.4):
                    await download(source, listing, draft, bandwidth=slow, on_progress=lambda _: None)
            assert draft.written_bytes < listing.bytes
        store.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "download"]


@pytest.mark.parametrize("name", ["..%2Fx", "a%2F%2Fb", "a%5Cb", "%00", "-rf", "with%20space"])
async def test_hostile_names_of_objects_are_refused(name: str) -> None:
    with s3_server() as port:
        url = f"http://127.0.0.1:{port}"
        async with aiohttp.ClientSession() as session:
            for path in ("", f"/model/{name}.safetensors"):
                async with session.put(
                    URL(f"{url}/models{path}", encoded=True), data=b"x" if path else b""
                ) as response:
                    assert response.status == 200
        rules = SourceRules(environment={"AWS_ENDPOINT_URL": url})
        async with open_source("s3://models/model", None, S3_CREDENTIAL, rules) as source:
            with pytest.raises(SourceError) as caught:
                await source.list()
    assert caught.value.reason is WeightsProblem.FORBIDDEN_SOURCE
    assert "ename it" in str(caught.value)


@pytest.mark.parametrize(
    ("message", "elsewhere"),
    [
        ("Error performing GET http://s3/b/a in 1.38ms - Received redirect without LOCATION, this normally", True),
        ("<Error><Code>PermanentRedirect</Code></Error>", True),
        ("Error performing GET http://127.0.0.1:43017/b/a in 9.3013ms - error sending request", False),
    ],
)
def test_a_port_or_a_time_is_not_taken_for_another_region(message: str, elsewhere: bool) -> None:
    assert is_of_another_region(message) is elsewhere
