"""The NodeCache's status: pure functions, and the writer against a scripted API server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.agent_api import NODE, OneNodeCache, api_server, spec_for
from support.scripted import client_of, until
from warmfleet_agent.bandwidths import Bandwidths, recalled
from warmfleet_agent.metrics import Metrics
from warmfleet_agent.records import NODE_CACHES, NodeCache
from warmfleet_agent.status import (
    Found,
    Seen,
    TierView,
    activity,
    format_size,
    format_speed,
    is_transition,
    newly_present,
    node_status,
    problem,
)
from warmfleet_agent.status_writer import StatusWriter
from warmfleet_api.agent_status import Transfer
from warmfleet_api.node_cache import NodeCacheStatus, WantedEntry
from warmfleet_api.vocabulary import CacheReason, EntryState, Tier, WeightsProblem
from warmfleet_api.weights import Manifest, Piece
from warmfleet_kube.mirror import Mirror
from warmfleet_kube.reflector import Reflector

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
GIB = 1 << 30


def manifest(key: str, size_bytes: int = GIB) -> Manifest:
    pieces = (Piece(path="model.safetensors", bytes=size_bytes, blake3="0" * 64),)
    return Manifest(key=key, uri=f"hf://org/{key}", revision="r1", files=pieces)


def entry(key: str, tier: Tier = Tier.MEMORY, **more: str) -> WantedEntry:
    return WantedEntry(key=key, uri=f"hf://org/{key}", tier=tier, **more)


def transfer(key: str, done_bytes: int, *, speed: int = 0, source: Tier = Tier.REMOTE) -> Transfer:
    state = {Tier.REMOTE: EntryState.FETCHING, Tier.DISK: EntryState.PROMOTING}.get(source, EntryState.PRESENT)
    target = Tier.DISK if source is Tier.MEMORY else Tier.MEMORY
    return Transfer(
        key=key, source=source, target=target, state=state, bytes=GIB, done_bytes=done_bytes, bytes_per_second=speed
    )


def seen_node(**more: object) -> Seen:
    base = Seen(
        generation=3,
        boot_id="boot",
        device="cpu 0123",
        wanted=(),
        memory=TierView({}, capacity_bytes=4 * GIB),
        disk=None,
        transfers={},
        problems={},
        failed=frozenset(),
        found={},
        readers={},
        last_used={},
        bandwidths=Bandwidths(),
    )
    return replace(base, **more)  # type: ignore[arg-type]


def told(former: NodeCacheStatus | None = None, **more: object) -> NodeCacheStatus:
    return node_status(seen_node(**more), former or NodeCacheStatus(), NOW)


def test_columns_answer_what_is_where_how_full_and_how_fast() -> None:
    status = told(
        wanted=(entry("a-1"), entry("b-2")),
        memory=TierView({"a-1": manifest("a-1")}, capacity_bytes=4 * GIB, used_bytes=GIB + GIB // 2),
        disk=TierView({}, capacity_bytes=100 * GIB),
        transfers={"b-2": transfer("b-2", GIB // 4, speed=210_000_000)},
    )
    assert status.in_memory == "1/2"
    assert status.memory_use == "1.5Gi/4Gi"
    assert status.disk_use == "0/100Gi"
    assert status.activity == "fetching b 25%, 210 MB/s"


def test_each_state_follows_from_where_the_entry_is_and_what_happens_to_it() -> None:
    status = told(
        wanted=(
            *(entry(key) for key in ("here-1", "moving-2", "failed-3", "waiting-4")),
            entry("asked-5", Tier.REMOTE),
            entry("kept-6", Tier.DISK),
        ),
        memory=TierView({"here-1": manifest("here-1"), "stray-7": manifest("stray-7")}),
        disk=TierView({"kept-6": manifest("kept-6"), "waiting-4": manifest("waiting-4")}),
        transfers={"moving-2": transfer("moving-2", 5), "here-1": transfer("here-1", 5, source=Tier.MEMORY)},
        problems={
            "failed-3": problem(WeightsProblem.ACCESS_DENIED, "no"),
            "waiting-4": problem(WeightsProblem.CACHE_FULL, "full"),
        },
        failed=frozenset({"failed-3"}),
        found={"asked-5": Found("r9", 7)},
    )
    found = {each.key: (each.tier, each.state, each.error.reason if each.error else None) for each in status.entries}
    assert found == {
        "here-1": (Tier.MEMORY, EntryState.PRESENT, None),
        "moving-2": (Tier.REMOTE, EntryState.FETCHING, None),
        "failed-3": (Tier.REMOTE, EntryState.FAILED, WeightsProblem.ACCESS_DENIED),
        "waiting-4": (Tier.DISK, EntryState.WAITING, WeightsProblem.CACHE_FULL),
        "asked-5": (Tier.REMOTE, EntryState.KNOWN, None),
        "kept-6": (Tier.DISK, EntryState.PRESENT, None),
        "stray-7": (Tier.MEMORY, EntryState.PRESENT, None),
    }


def test_bytes_and_speed_alone_are_no_transition_but_each_quarter_is() -> None:
    def at(done_bytes: int, speed: int) -> NodeCacheStatus:
        return told(wanted=(entry("a-1"),), transfers={"a-1": transfer("a-1", done_bytes, speed=speed)})

    assert not is_transition(at(GIB // 10, 5), at(GIB // 5, 9))
    assert is_transition(at(GIB // 10, 5), at(GIB // 3, 5))
    assert not is_transition(at(GIB // 10, 5), at(GIB // 10, 5))


def test_an_entry_that_arrives_in_memory_is_news_once() -> None:
    before = told(wanted=(entry("a-1"),))
    after = told(wanted=(entry("a-1"),), memory=TierView({"a-1": manifest("a-1")}))
    assert newly_present(before, after)
    assert not newly_present(after, after)
    assert not newly_present(after, before)


def test_ready_keeps_its_time_while_it_stays_and_says_what_is_broken() -> None:
    former = told()
    later = node_status(seen_node(notes=("no huge pages",)), former, NOW + timedelta(hours=1))
    assert later.conditions[0].last_transition_time == former.conditions[0].last_transition_time
    assert later.conditions[0].message == "the agent works; no huge pages"
    broken = node_status(seen_node(trouble=(CacheReason.STORE_BROKEN, "Memory: no")), former, NOW + timedelta(hours=2))
    assert (broken.conditions[0].status, broken.conditions[0].reason) == ("False", "StoreBroken")
    assert broken.conditions[0].last_transition_time == "2026-01-31T14:00:00Z"


def test_more_entries_than_fit_leave_out_what_nobody_wants() -> None:
    wanted = tuple(entry(f"w-{number}") for number in range(300))
    held = {f"h-{number}": manifest(f"h-{number}") for number in range(400)}
    status = told(wanted=wanted, memory=TierView(held))
    assert len(status.entries) == 512
    assert {each.key for each in status.entries} >= {each.key for each in wanted}


def test_activity_names_two_and_counts_the_rest() -> None:
    moving = {f"m{number}-1": transfer(f"m{number}-1", 0) for number in range(5)}
    assert activity(seen_node(transfers=moving)) == "fetching m0 0%; fetching m1 0% and 3 more"
    assert activity(seen_node()) == "idle"
    problems = {"a-1": problem(WeightsProblem.CACHE_FULL, "x" * 2000)}
    assert activity(seen_node(problems=problems)) == "a: CacheFull"
    assert len(problems["a-1"].message) == 512


@given(st.integers(0, 1 << 60))
def test_sizes_and_speeds_are_short(size_bytes: int) -> None:
    assert len(format_size(size_bytes)) <= 12
    assert len(format_speed(size_bytes)) <= 24


def test_measurements_outlive_a_restart_by_the_status() -> None:
    measured = Bandwidths(remote=100, disk=200, memory=300)
    assert recalled(told(disk=TierView({}), bandwidths=measured)) == measured


def test_small_transfers_measure_nothing_and_later_ones_count_more() -> None:
    first = Bandwidths().with_remote(1 << 30, 1.0)
    assert first.remote == 1 << 30
    assert first.with_remote(1000, 10.0) == first
    slower = first
    for _ in range(20):
        slower = slower.with_remote(1 << 27, 1.0)
    assert abs(slower.remote - (1 << 27)) < (1 << 27) // 50


@asynccontextmanager
async def written(api: OneNodeCache) -> AsyncIterator[StatusWriter]:
    metrics = Metrics()
    async with client_of(api.script) as client:
        mirror: Mirror[NodeCache] = Mirror()
        reflector = Reflector("nodecache", client, NODE_CACHES, mirror, metrics.kube, watch_seconds=50)
        writer = StatusWriter(client, mirror, NODE, metrics)
        tasks = [asyncio.create_task(reflector.run()), asyncio.create_task(writer.run())]
        await reflector.synced.wait()
        try:
            yield writer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_writes_are_a_second_apart_and_the_last_word_is_written(tmp_path: Path) -> None:
    async with api_server() as api:
        api.put(spec_for(tmp_path))
        async with written(api) as writer:
            for generation in range(20):
                writer.show(told(generation=generation))
                await asyncio.sleep(0.05)
            await until(lambda: api.status.get("observedGeneration") == 19)
            assert len(api.writes) <= 3


async def test_an_entry_in_memory_is_written_without_delay(tmp_path: Path) -> None:
    async with api_server() as api:
        api.put(spec_for(tmp_path))
        async with written(api) as writer:
            writer.show(told(wanted=(entry("a-1"),)))
            await until(lambda: len(api.writes) == 1)
            started = asyncio.get_running_loop().time()
            writer.show(told(wanted=(entry("a-1"),), generation=4))
            writer.show(told(wanted=(entry("a-1"),), memory=TierView({"a-1": manifest("a-1")})))
            await until(lambda: api.status["inMemory"] == "1/1")
            assert asyncio.get_running_loop().time() - started < 0.5


async def test_the_same_status_is_written_once_and_again_for_a_new_object(tmp_path: Path) -> None:
    async with api_server() as api:
        api.put(spec_for(tmp_path))
        async with written(api) as writer:
            for _ in range(3):
                writer.show(told())
                await asyncio.sleep(0.3)
            assert len(api.writes) == 1
            api.delete()
            api.put(spec_for(tmp_path), uid="uid-2", status={})
            await asyncio.sleep(0.3)
            writer.show(told())
            await until(lambda: len(api.writes) == 2)


async def test_what_an_older_server_drops_is_not_written_again_and_again(tmp_path: Path) -> None:
    async with api_server() as api:
        api.put(spec_for(tmp_path))
        api.drops = frozenset({"memoryUse"})
        async with written(api) as writer:
            for _ in range(4):
                writer.show(told(memory=TierView({}, capacity_bytes=GIB)))
                await asyncio.sleep(0.5)
            assert len(api.writes) == 1


async def test_a_refused_write_is_tried_again_when_it_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmfleet_agent.status_writer.RETRY_SECONDS", 0.3)
    async with api_server() as api:
        api.put(spec_for(tmp_path))
        api.refusal = 403
        async with written(api) as writer:
            writer.show(told())
            await asyncio.sleep(0.5)
            assert api.writes == []
            api.refusal = 0
            await until(lambda: len(api.writes) == 1)
