"""The agent as a whole, in temporary folders, with real stores and real file:// sources."""

import asyncio
import fcntl
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from support.agent import MIB, wanted, write_model
from support.agent_api import NODE, OneNodeCache, Running, api_server, running, spec_for
from support.scripted import until
from support.sources.web_server import COMMIT, WebServer, web_server
from warmfleet_agent.plan import NodeState, Plan, plan
from warmfleet_agent.tiers import Look, Tiers
from warmfleet_api import agent_status
from warmfleet_api.agent_status import AgentStatus
from warmfleet_api.vocabulary import Tier
from warmfleet_api.weights import decode_manifest

HUB_URI = "hf://org/model"
HUB_BYTES = 16 * MIB


@pytest.fixture
async def api() -> AsyncIterator[OneNodeCache]:
    async with api_server() as server:
        yield server


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WebServer]:
    """A mirror of the Hub with one model, which is fetched from afar."""
    write_model(tmp_path / "hub", HUB_BYTES)
    async with web_server(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def done_bytes(agent: Running) -> int:
    """Return how much of all transfers is there."""
    return sum(each.done_bytes for each in agent.status().transfers)


async def resolved(api: OneNodeCache, folder: Path, uri: str) -> str:
    """Ask for the revision of a model, as the operator does first."""
    ask = wanted(uri, tier="Remote")
    async with running(api, folder):
        api.put(spec_for(folder, ask))
        await until(lambda: api.seen(ask["key"]).get("state") == "Known")
    return str(api.seen(ask["key"])["revision"])


async def test_a_model_that_is_asked_for_gets_its_revision_and_size_and_nothing_is_fetched(
    api: OneNodeCache, tmp_path: Path
) -> None:
    uri = write_model(tmp_path / "models/tiny", 3 * MIB)
    ask = wanted(uri, tier="Remote")
    api.put(spec_for(tmp_path, ask))
    async with running(api, tmp_path) as agent:
        await until(lambda: api.seen(ask["key"]).get("state") == "Known")
        entry = api.seen(ask["key"])
        assert entry["tier"] == "Remote"
        assert entry["revision"]
        assert entry["bytes"] > 3 * MIB
        assert list((agent.memory / "entries").iterdir()) == []


async def test_a_wanted_model_comes_to_memory_and_into_the_views_that_name_it(
    api: OneNodeCache, tmp_path: Path
) -> None:
    uri = write_model(tmp_path / "models/tiny", 3 * MIB)
    revision = await resolved(api, tmp_path, uri)
    entry = wanted(uri, revision)
    uid = "11111111-2222-3333-4444-555555555555"
    api.put(spec_for(tmp_path, entry, views=[{"uid": uid, "keys": [entry["key"]]}]))
    async with running(api, tmp_path) as agent:
        await agent.present(entry["key"])
        await until(lambda: api.seen(entry["key"]).get("readers") == 1)
        shown = agent.memory / "views" / uid / entry["key"]
        manifest = decode_manifest((shown / "manifest.json").read_bytes())
        assert (manifest.uri, manifest.revision) == (uri, revision)
        assert (shown / "model.safetensors").read_bytes() == (tmp_path / "models/tiny/model.safetensors").read_bytes()
        assert api.seen(entry["key"])["digest"] == manifest.digest
        assert api.status["inMemory"] == "1/1"
        assert api.status["activity"] == "idle"
        assert api.status["conditions"][0]["status"] == "True"


async def test_with_a_disk_a_model_passes_through_it_and_outlives_memory(api: OneNodeCache, tmp_path: Path) -> None:
    uri = write_model(tmp_path / "models/tiny", 5 * MIB)
    revision = await resolved(api, tmp_path, uri)
    entry = wanted(uri, revision)
    api.put(spec_for(tmp_path, entry, disk_bytes=256 * MIB))
    async with running(api, tmp_path) as agent:
        await agent.present(entry["key"])
        assert (agent.disk / "entries" / entry["key"] / "manifest.json").exists()
    shutil.rmtree(tmp_path / "memory")
    shutil.rmtree(tmp_path / "models")
    async with running(api, tmp_path) as agent:
        await until((agent.memory / "entries" / entry["key"] / "manifest.json").exists, 20)
        await until(lambda: agent.sample("warmfleet_weights_bytes_total", step="Promote") > 5 * MIB)
        assert agent.sample("warmfleet_weights_bytes_total", step="Fetch") == 0


async def test_a_restart_adopts_committed_models_reloads_no_byte_and_writes_no_status(
    api: OneNodeCache, tmp_path: Path
) -> None:
    entries = []
    for number in (1, 2, 3):
        uri = write_model(tmp_path / f"models/m{number}", 2 * MIB, seed=number)
        entries.append(wanted(uri, await resolved(api, tmp_path, uri)))
    api.put(spec_for(tmp_path, *entries))
    async with running(api, tmp_path) as agent:
        for entry in entries:
            await agent.present(entry["key"])
        await until(lambda: api.status["inMemory"] == "3/3" and api.status["activity"] == "idle")
    # Their source is gone: nothing could be fetched again.
    shutil.rmtree(tmp_path / "models")
    inodes = {path: path.stat().st_ino for path in (tmp_path / "memory/entries").rglob("*")}
    writes = len(api.writes)
    async with running(api, tmp_path) as agent:
        await until(lambda: agent.sample("warmfleet_weights_entries", tier="Memory") == 3)
        await asyncio.sleep(2.5)
        assert agent.sample("warmfleet_weights_bytes_total", step="Fetch") == 0
        assert {path: path.stat().st_ino for path in (tmp_path / "memory/entries").rglob("*")} == inodes
        assert api.writes[writes:] == []


async def test_at_rest_nothing_is_written(api: OneNodeCache, tmp_path: Path) -> None:
    uri = write_model(tmp_path / "models/tiny", 2 * MIB)
    entry = wanted(uri, await resolved(api, tmp_path, uri))
    api.put(spec_for(tmp_path, entry))
    async with running(api, tmp_path) as agent:
        await agent.present(entry["key"])
        await asyncio.sleep(2.0)
        writes = len(api.writes)
        agent.agent._changed.set()
        await asyncio.sleep(3.0)
        assert len(api.writes) == writes


async def test_one_model_that_cannot_be_had_leaves_the_others_alone_and_says_why(
    api: OneNodeCache, tmp_path: Path
) -> None:
    good_uri = write_model(tmp_path / "models/good", 2 * MIB)
    (tmp_path / "models/pickled").mkdir()
    (tmp_path / "models/pickled/pytorch_model.bin").write_bytes(b"\x80\x04")
    missing = wanted(f"{tmp_path.as_uri()}/models/missing", "r1")
    pickled = wanted(f"{tmp_path.as_uri()}/models/pickled", "r1")
    outside = wanted("file:///etc", "r1")
    good = wanted(good_uri, await resolved(api, tmp_path, good_uri))
    api.put(spec_for(tmp_path, missing, pickled, outside, good))
    async with running(api, tmp_path) as agent:
        await agent.present(good["key"])
        bad = (missing, pickled, outside)
        await until(lambda: all(api.seen(each["key"]).get("state") == "Failed" for each in bad))
        assert api.seen(missing["key"])["error"]["reason"] == "ModelNotFound"
        assert api.seen(pickled["key"])["error"]["reason"] == "UnsafeFormat"
        assert api.seen(outside["key"])["error"]["reason"] == "ForbiddenSource"
        assert agent.sample("warmfleet_weights_failures_total", step="Ask", reason="UnsafeFormat") >= 1


async def test_a_model_larger_than_the_cache_is_refused_in_words_and_smaller_ones_come(
    api: OneNodeCache, tmp_path: Path
) -> None:
    large_uri = write_model(tmp_path / "models/large", 12 * MIB)
    small_uri = write_model(tmp_path / "models/small", 1 * MIB)
    large = wanted(large_uri, await resolved(api, tmp_path, large_uri))
    small = wanted(small_uri, await resolved(api, tmp_path, small_uri))
    api.put(spec_for(tmp_path, large, small, memory_bytes=10 * MIB))
    async with running(api, tmp_path) as agent:
        await agent.present(small["key"])
        await until(lambda: api.seen(large["key"]).get("state") == "Failed")
        error = api.seen(large["key"])["error"]
        assert error["reason"] == "NeverFits"
        assert "memory.size" in error["message"]


async def test_an_entry_that_nobody_wants_any_more_gives_way_and_one_that_is_read_does_not(
    api: OneNodeCache, tmp_path: Path
) -> None:
    entries = {}
    for number, name in enumerate(("read", "idle", "next"), start=1):
        uri = write_model(tmp_path / f"models/{name}", 4 * MIB, seed=number)
        entries[name] = wanted(uri, await resolved(api, tmp_path, uri))
    capacity = 10 * MIB
    api.put(spec_for(tmp_path, entries["read"], entries["idle"], memory_bytes=capacity))
    async with running(api, tmp_path) as agent:
        await agent.present(entries["read"]["key"])
        await agent.present(entries["idle"]["key"])
        held = (agent.memory / "entries" / entries["read"]["key"] / "manifest.json").open()
        fcntl.flock(held, fcntl.LOCK_SH)
        api.put(spec_for(tmp_path, entries["next"], memory_bytes=capacity))
        await agent.present(entries["next"]["key"])
        left = {path.name for path in (agent.memory / "entries").iterdir()}
        assert left == {entries["read"]["key"], entries["next"]["key"]}
        held.close()


async def test_a_transfer_that_is_not_wanted_any_more_ends_and_leaves_nothing(
    api: OneNodeCache, tmp_path: Path, hub: WebServer
) -> None:
    entry = wanted(HUB_URI, COMMIT)
    api.put(spec_for(tmp_path, entry, disk_bytes=256 * MIB, bytesPerSecond=1 * MIB))
    async with running(api, tmp_path) as agent:
        await until(lambda: api.seen(entry["key"]).get("state") == "Fetching")
        await until(lambda: done_bytes(agent) > 0)
        api.put(spec_for(tmp_path, disk_bytes=256 * MIB))
        await until(lambda: api.seen(entry["key"]) == {} and api.status["activity"] == "idle")
        assert list((agent.disk / "drafts").iterdir()) == []
        assert list((agent.disk / "entries").iterdir()) == []


async def test_an_interrupted_fetch_to_disk_is_gone_on_with_by_the_next_agent(
    api: OneNodeCache, tmp_path: Path, hub: WebServer
) -> None:
    entry = wanted(HUB_URI, COMMIT)
    api.put(spec_for(tmp_path, entry, disk_bytes=256 * MIB, bytesPerSecond=4 * MIB))
    async with running(api, tmp_path) as agent:
        await until(lambda: done_bytes(agent) > 4 * MIB, 10)
    assert list((tmp_path / "disk/drafts").iterdir())
    hub.requests.clear()
    api.put(spec_for(tmp_path, entry, disk_bytes=256 * MIB))
    async with running(api, tmp_path) as agent:
        await agent.present(entry["key"])
        assert 0 < agent.sample("warmfleet_weights_bytes_total", step="Fetch") < HUB_BYTES - 3 * MIB


async def test_the_stream_tells_how_far_a_fetch_is_and_the_object_is_written_at_quarters_only(
    api: OneNodeCache, tmp_path: Path, hub: WebServer
) -> None:
    entry = wanted(HUB_URI, COMMIT)
    api.put(spec_for(tmp_path, entry, bytesPerSecond=4 * MIB))
    async with running(api, tmp_path) as agent, aiohttp.ClientSession() as session:
        await until(lambda: agent.agent.port != 0)
        lines: list[AgentStatus] = []
        async with session.get(f"http://127.0.0.1:{agent.agent.port}/v1/status?watch=1") as stream:
            while not lines or entry["key"] not in lines[-1].in_memory:
                lines.append(agent_status.decode(await asyncio.wait_for(stream.content.readline(), 10)))
        shares = [each.done_bytes for line in lines for each in line.transfers]
        assert all(line.node == NODE for line in lines)
        assert shares == sorted(shares)
        assert len(set(shares)) >= 4
        speeds = [each.bytes_per_second for line in lines for each in line.transfers if each.bytes_per_second]
        assert speeds
        assert max(speeds) < 12 * MIB
        assert lines[-1].transfers == ()
        states = [each["entries"][0]["state"] for each in api.writes if each["entries"]]
        assert states.count("Fetching") <= 5


async def test_a_credential_is_read_by_name_and_its_absence_is_said_with_a_command(
    api: OneNodeCache, tmp_path: Path, hub: WebServer
) -> None:
    hub.tokens = {"good"}
    reference = {"name": "hf-token", "namespace": "team-a"}
    entry = wanted(HUB_URI, COMMIT, "team-a", secretRef=reference)
    api.put(spec_for(tmp_path, entry))
    async with running(api, tmp_path):
        await until(lambda: api.seen(entry["key"]).get("state") == "Failed")
        assert api.seen(entry["key"])["error"]["reason"] == "SecretMissing"
        assert "kubectl -n team-a create secret generic hf-token" in api.seen(entry["key"])["error"]["message"]
    api.secrets["team-a/hf-token"] = 403
    async with running(api, tmp_path):
        await until(lambda: api.seen(entry["key"]).get("error", {}).get("reason") == "AccessDenied")
        message = api.seen(entry["key"])["error"]["message"]
        assert (
            "kubectl -n team-a create rolebinding warmfleet-weights-secrets --clusterrole=warmfleet-weights-secrets"
            " --serviceaccount=warmfleet-agents:warmfleet-agent" in message
        )
    api.secrets["team-a/hf-token"] = {"token": b"bad"}
    async with running(api, tmp_path):
        await until(lambda: "is not there" in api.seen(entry["key"]).get("error", {}).get("message", ""))
    api.secrets["team-a/hf-token"] = {"token": b"good"}
    async with running(api, tmp_path) as agent:
        await agent.present(entry["key"])
    assert not [each for each in api.script.seen if "secrets" in each.path and each.query.get("watch")]


async def test_a_namespace_that_is_not_let_in_any_more_gets_no_further_links(
    api: OneNodeCache, tmp_path: Path, hub: WebServer
) -> None:
    hub.tokens = {"good"}
    api.secrets["team-a/hf-token"] = {"token": b"good"}
    reference = {"name": "hf-token", "namespace": "team-a"}
    entry = wanted(HUB_URI, COMMIT, "team-a", secretRef=reference)
    first, second = (f"{number}1111111-2222-3333-4444-555555555555" for number in (1, 2))
    views = [{"uid": first, "keys": [entry["key"]]}]
    api.put(spec_for(tmp_path, entry, views=views))
    async with running(api, tmp_path) as agent:
        await until(lambda: api.seen(entry["key"]).get("readers") == 1, 15)
    hub.tokens = {"other"}
    # A restarted agent knows of no proof, and asks at once.
    async with running(api, tmp_path) as agent:
        await until(lambda: api.seen(entry["key"]).get("error", {}) != {}, 10)
        views.append({"uid": second, "keys": [entry["key"]]})
        api.put(spec_for(tmp_path, entry, views=views))
        await asyncio.sleep(1.0)
        assert (agent.memory / "views" / first / entry["key"]).exists()
        assert not (agent.memory / "views" / second / entry["key"]).exists()
        assert api.seen(entry["key"])["state"] == "Present"


async def test_a_full_disk_that_is_not_ours_is_said_and_memory_goes_on(api: OneNodeCache, tmp_path: Path) -> None:
    uri = write_model(tmp_path / "models/tiny", 2 * MIB)
    entry = wanted(uri, await resolved(api, tmp_path, uri))
    (tmp_path / "disk").write_text("a file where the folder should be")
    api.put(spec_for(tmp_path, entry, disk_bytes=256 * MIB))
    async with running(api, tmp_path) as agent:
        await agent.present(entry["key"])
        ready = api.status["conditions"][0]
        assert ready["status"] == "True"
        assert "Disk" in ready["message"]


async def test_a_broken_memory_tier_is_said_and_the_agent_mends_itself_when_it_can(
    api: OneNodeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmfleet_agent.tiers.RETRY_SECONDS", 0.5)
    uri = write_model(tmp_path / "models/tiny", 2 * MIB)
    entry = wanted(uri, await resolved(api, tmp_path, uri))
    shutil.rmtree(tmp_path / "memory")
    (tmp_path / "memory").symlink_to(tmp_path / "models")
    api.put(spec_for(tmp_path, entry))
    async with running(api, tmp_path) as agent:
        await until(lambda: api.status["conditions"][0]["reason"] == "StoreBroken")
        assert api.status["conditions"][0]["status"] == "False"
        (tmp_path / "memory").unlink()
        await agent.present(entry["key"])
        await until(lambda: api.status["conditions"][0]["reason"] == "AgentReady")
        assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["tiny"]


async def test_an_entry_that_somebody_took_away_by_hand_is_fetched_again(
    api: OneNodeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmfleet_agent.agent.LOOK_SECONDS", 0.5)
    uris = [write_model(tmp_path / f"models/m{number}", 2 * MIB, seed=number) for number in (1, 2)]
    taken, other = [wanted(uri, await resolved(api, tmp_path, uri)) for uri in uris]
    api.put(spec_for(tmp_path, taken, other))
    async with running(api, tmp_path) as agent:
        await agent.present(taken["key"])
        await agent.present(other["key"])
        inode = (agent.memory / "entries" / other["key"]).stat().st_ino
        (agent.memory / "entries" / taken["key"] / "manifest.json").unlink()
        await until((agent.memory / "entries" / taken["key"] / "manifest.json").exists, 20)
        await agent.present(taken["key"])
        assert (agent.memory / "entries" / other["key"]).stat().st_ino == inode


async def test_a_disk_that_hangs_keeps_nothing_from_memory(
    api: OneNodeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warmfleet_agent.agent.SLOW_LOOK_SECONDS", 0.3)
    monkeypatch.setattr("warmfleet_agent.agent.LOOK_SECONDS", 0.5)
    answers, look = threading.Event(), Tiers.look

    def hanging(tiers: Tiers, tier: Tier) -> Look | None:
        if tier is Tier.DISK:
            answers.wait(30)
        return look(tiers, tier)

    monkeypatch.setattr(Tiers, "look", hanging)
    uri = write_model(tmp_path / "models/tiny", 2 * MIB)
    entry = wanted(uri, await resolved(api, tmp_path, uri))
    api.put(spec_for(tmp_path, entry, disk_bytes=256 * MIB))
    async with running(api, tmp_path) as agent:
        await agent.present(entry["key"])
        await until(lambda: "Disk: it does not answer" in api.status["conditions"][0]["message"])
        answers.set()
        await until(lambda: api.status["conditions"][0]["message"] == "the agent works")


async def test_a_defect_in_a_round_is_logged_and_the_next_round_goes_on(
    api: OneNodeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("warmfleet_agent.agent.DEFECT_SECONDS", 0.2)
    uri = write_model(tmp_path / "models/tiny", 2 * MIB)
    entry = wanted(uri, await resolved(api, tmp_path, uri))
    failures = iter([True, True])

    def failing(state: NodeState, now: float) -> Plan:
        if next(failures, False):
            raise ZeroDivisionError
        return plan(state, now)

    monkeypatch.setattr("warmfleet_agent.agent.plan", failing)
    api.put(spec_for(tmp_path, entry))
    async with running(api, tmp_path) as agent:
        await agent.present(entry["key"])
    assert caplog.text.count("this round failed") == 2


async def test_a_spec_of_another_version_is_said_and_what_is_here_stays(api: OneNodeCache, tmp_path: Path) -> None:
    uri = write_model(tmp_path / "models/tiny", 2 * MIB)
    entry = wanted(uri, await resolved(api, tmp_path, uri))
    api.put(spec_for(tmp_path, entry))
    async with running(api, tmp_path) as agent:
        await agent.present(entry["key"])
        api.put(spec_for(tmp_path, entry, compression="zstd"))
        await until(lambda: api.status["conditions"][0]["reason"] == "Unreadable")
        assert "spec.compression" in api.status["conditions"][0]["message"]
        assert api.seen(entry["key"])["state"] == "Present"
        api.put(spec_for(tmp_path, entry))
        await until(lambda: api.status["conditions"][0]["reason"] == "AgentReady")


async def test_entries_come_in_the_order_of_their_class(api: OneNodeCache, tmp_path: Path) -> None:
    entries = []
    for number, priority in enumerate(("Low", "Normal", "High", "Critical", "Normal"), start=1):
        uri = write_model(tmp_path / f"models/m{number}", 3 * MIB, seed=number)
        entries.append(wanted(uri, await resolved(api, tmp_path, uri), priority=priority))
    api.put(spec_for(tmp_path, *entries, parallel=1))
    async with running(api, tmp_path) as agent:
        for entry in entries:
            await agent.present(entry["key"])
        arrived = sorted(
            entries,
            key=lambda each: (agent.memory / "entries" / each["key"] / "manifest.json").stat().st_mtime_ns,
        )
        assert {each["priority"] for each in arrived[:2]} == {"Critical", "High"}
        assert arrived[-1]["priority"] == "Low"
