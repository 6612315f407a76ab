"""file:// - links, pipes and devices below a root are not followed, and nothing above it is read."""

import asyncio
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.sources.model import write_model
from warmfleet_agent.sources import Listing, SourceError, SourceRules, open_source
from warmfleet_agent.sources.download import Bandwidth, download
from warmfleet_agent.store import Store
from warmfleet_api.vocabulary import WeightsProblem


async def list_(folder: Path | str, *roots: Path, revision: str | None = None) -> Listing:
    uri = folder if isinstance(folder, str) else f"file://{folder}"
    async with open_source(uri, revision, {}, SourceRules(file_roots=roots)) as source:
        return await source.list()


async def refusal(folder: Path | str, *roots: Path, revision: str | None = None) -> SourceError:
    with pytest.raises(SourceError) as caught:
        await list_(folder, *roots, revision=revision)
    return caught.value


async def test_a_folder_is_copied_whole(root: Path, wanted: Mapping[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store, came = Store(tmp_path / "store", 1 << 30), [0]

    def progress(size: int) -> None:
        came[0] += size

    async with open_source(f"file://{root}", None, {}, SourceRules(file_roots=(tmp_path,))) as source:
        listing = await source.list()
        with store.begin("model", listing.sizes) as draft:
            await download(source, listing, draft, bandwidth=Bandwidth(), on_progress=progress)
            entry = draft.commit(listing.uri, listing.revision)
        part = b"".join([chunk async for chunk in source.read("config.json", 2, 5)])
    assert part == wanted["config.json"][2:7]
    assert {piece.path: piece.bytes for piece in entry.files} == listing.sizes
    assert came == [listing.bytes]
    for name, content in wanted.items():
        assert (tmp_path / "store" / "entries" / "model" / name).read_bytes() == content


async def test_the_limit_of_the_node_holds_and_a_cancelled_copy_ends_at_once(
    root: Path, wanted: Mapping[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store", 1 << 30)
    async with open_source(f"file://{root}", None, {}, SourceRules(file_roots=(tmp_path,))) as source:
        listing = await source.list()
        with pytest.raises(TimeoutError), store.begin("model", listing.sizes) as draft:
            async with asyncio.timeout(0.5):
                await download(source, listing, draft, bandwidth=Bandwidth(1000), on_progress=lambda _: None)
    assert not store.entries


async def test_two_nodes_with_the_same_files_see_the_same_revision(
    root: Path, wanted: Mapping[str, bytes], tmp_path: Path
) -> None:
    first = await list_(root, tmp_path)
    other = tmp_path / "other" / "model"
    shutil.copytree(root, other)
    assert (await list_(other, tmp_path)).revision == first.revision
    content = bytearray((other / "model-00001-of-00002.safetensors").read_bytes())
    content[-1] ^= 1
    (other / "model-00001-of-00002.safetensors").write_bytes(content)
    assert (await list_(other, tmp_path)).revision != first.revision
    assert (await refusal(other, tmp_path, revision=first.revision)).reason is WeightsProblem.MODEL_NOT_FOUND
    assert (await list_(root, tmp_path, revision=first.revision)) == first


async def test_without_a_root_and_outside_of_it_nothing_is_read(root: Path, wanted: object, tmp_path: Path) -> None:
    assert "fileRoots" in str(await refusal(root))
    for folder in (f"file://{tmp_path}/../etc", f"file://{root}/%2e%2e/x", "file:///etc", f"file://{tmp_path}x"):
        assert (await refusal(folder, tmp_path)).reason is WeightsProblem.FORBIDDEN_SOURCE
    assert (await refusal("file://host/model", tmp_path)).reason is WeightsProblem.FORBIDDEN_SOURCE
    assert (await refusal(tmp_path / "absent", tmp_path)).reason is WeightsProblem.MODEL_NOT_FOUND


async def test_a_link_a_pipe_or_a_device_in_the_place_of_a_file_is_refused(
    root: Path, wanted: object, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"secret")
    place = root / "extra.safetensors"
    place.symlink_to(outside)
    error = await refusal(root, root)
    assert error.reason is WeightsProblem.FORBIDDEN_SOURCE
    assert "cp -rL" in str(error)
    place.unlink()
    os.mkfifo(place)
    async with asyncio.timeout(5):
        assert (await refusal(root, root)).reason is WeightsProblem.FORBIDDEN_SOURCE


async def test_a_linked_folder_is_not_entered_neither_below_a_root_nor_inside_a_model(
    root: Path, wanted: Mapping[str, bytes], tmp_path: Path
) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "model").symlink_to(root)
    assert (await refusal(allowed / "model", allowed)).reason is WeightsProblem.FORBIDDEN_SOURCE
    (root / "more").symlink_to(tmp_path)
    assert {file.path for file in (await list_(root, tmp_path)).files} == wanted.keys()


async def test_a_file_that_is_swapped_for_a_link_after_it_was_listed_is_not_read(
    root: Path, wanted: object, tmp_path: Path
) -> None:
    async with open_source(f"file://{root}", None, {}, SourceRules(file_roots=(tmp_path,))) as source:
        await source.list()
        (tmp_path / "secret").write_bytes(b"secret")
        (root / "config.json").unlink()
        (root / "config.json").symlink_to(tmp_path / "secret")
        with pytest.raises(SourceError) as caught:
            [chunk async for chunk in source.read("config.json", 0, 3)]
    assert caught.value.reason is WeightsProblem.FORBIDDEN_SOURCE


async def test_a_file_that_is_written_while_it_is_copied_is_refused(root: Path, wanted: object, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store", 1 << 30)

    async with open_source(f"file://{root}", None, {}, SourceRules(file_roots=(tmp_path,))) as source:
        listing = await source.list()
        write_model(root, seed=5)
        with store.begin("model", listing.sizes) as draft, pytest.raises(SourceError) as caught:
            await download(source, listing, draft, bandwidth=Bandwidth(), on_progress=lambda _: None)
    assert caught.value.reason is WeightsProblem.DAMAGED


async def test_a_folder_of_endless_depth_is_not_walked(root: Path, wanted: Mapping[str, bytes]) -> None:
    deep = root
    for _ in range(40):
        deep /= "d"
    deep.mkdir(parents=True)
    (deep / "x.safetensors").write_bytes(b"x")
    assert {file.path for file in (await list_(root, root)).files} == wanted.keys()


async def test_a_root_that_the_agent_does_not_see_yet_passes_by_itself(tmp_path: Path) -> None:
    unseen = tmp_path / "unseen"
    refused = await refusal(unseen / "model", unseen)
    assert refused.reason is WeightsProblem.SOURCE_UNREACHABLE
    assert "does not see" in str(refused) and refused.retry_after_seconds is not None


async def test_what_counts_the_bytes_of_a_copy_can_end_it(
    root: Path, wanted: Mapping[str, bytes], tmp_path: Path
) -> None:
    def unwanted(_: int) -> None:
        raise InterruptedError("nobody wants it any more")

    (tmp_path / "store").mkdir()
    store = Store(tmp_path / "store", 1 << 30)
    async with open_source(f"file://{root}", None, {}, SourceRules(file_roots=(tmp_path,))) as source:
        listing = await source.list()
        with pytest.raises(InterruptedError, match="nobody"), store.begin("model", listing.sizes) as draft:
            await download(source, listing, draft, bandwidth=Bandwidth(), on_progress=unwanted)
    assert not store.entries
