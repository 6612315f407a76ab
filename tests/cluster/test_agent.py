"""A node agent as a process against a real API server: its own rights, a real tmpfs, a NodeCache of the test."""

import contextlib
import fcntl
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from support.agent import MIB, AgentProcess, hub, node_cache, seen, wanted, write_model
from support.cluster import Cluster
from support.faultproxy import FaultProxy
from support.kubeapi import MDL, Object
from support.operator import ProxiedOperator
from support.sources.web_server import COMMIT, WebServer
from support.waiting import wait_for
from warmfleet_api import names

pytestmark = [pytest.mark.cluster, pytest.mark.long]

ACCOUNT = f"{names.AGENT_NAMESPACE}:{names.AGENT_SERVICE_ACCOUNT}"
HUB_URI = "hf://org/model"
HUB_BYTES = 40 * MIB
BOUND_SECONDS = 60.0


class Node:
    """One agent, its NodeCache and its folders."""

    def __init__(self, cluster: Cluster, proxy: FaultProxy, folder: Path, name: str, hub_url: str) -> None:
        self.cluster, self.proxy, self.folder, self.name = cluster, proxy, folder, name
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(_kubeconfig(proxy.url))
        environment = {"HF_ENDPOINT": hub_url, "HOME": str(folder)}
        self.agent = AgentProcess(kubeconfig, folder, name, environment, memory_mount="Own")
        self.path = f"{MDL}/{names.NODE_CACHE_PLURAL}/{name}"

    def put(self, *entries: Mapping[str, Any], memory_mib: int = 256, **more: Any) -> None:
        """Write the NodeCache's spec."""
        spec: Object = {
            "cache": "test",
            "memory": {"bytes": memory_mib * MIB, "path": str(self.agent.memory)},
            "fileRoots": [str(self.folder / "models")],
            "entries": [dict(each) for each in entries],
            **more,
        }
        if self.cluster.api.get(self.path) is None:
            self.cluster.api.create(f"{MDL}/{names.NODE_CACHE_PLURAL}", node_cache(self.name, spec))
        else:
            found = self.cluster.api.request("GET", self.path)
            self.cluster.api.request("PUT", self.path, found | {"spec": spec})

    def disk(self, size_mib: int = 512) -> Mapping[str, Any]:
        """Return the spec of a disk tier."""
        return {"bytes": size_mib * MIB, "path": str(self.agent.disk)}

    @property
    def status(self) -> Object:
        """Status of the NodeCache."""
        found: Object = (self.cluster.api.get(self.path) or {}).get("status", {})
        return found

    def seen(self, key: str) -> Mapping[str, Any]:
        """Return an entry of the status."""
        return seen(self.status, key)

    def wait(self, what: str, condition: Callable[[], object], seconds: float = BOUND_SECONDS) -> None:
        """Wait until something holds."""
        wait_for(what, condition, seconds, self.explain)

    def present(self, *keys: str) -> None:
        """Wait until entries are in memory by the status."""
        for key in keys:
            self.wait(f"{key} is in memory", lambda key=key: self._is_present(key))  # type: ignore[misc]

    def resolve(self, folder: str, size_mib: int, seed: int = 1) -> Mapping[str, Any]:
        """Write a model below the root, have its revision found, and return the entry as the operator then wants it."""
        uri = write_model(self.folder / "models" / folder, size_mib * MIB, seed=seed)
        ask = wanted(uri, tier="Remote")
        self.put(ask)
        self.wait(f"the revision of {folder} is known", lambda: self.seen(ask["key"]).get("state") == "Known")
        return wanted(uri, str(self.seen(ask["key"])["revision"]))

    def entries(self) -> set[str]:
        """Return what lies in memory's folder of whole entries."""
        return {path.name for path in (self.agent.memory / "entries").iterdir()}

    def explain(self) -> str:
        """Return what a person would look at."""
        return f"{self.status}\n--- agent\n{self.agent.log_tail()}"

    def _is_present(self, key: str) -> bool:
        entry = self.seen(key)
        return entry.get("tier") == "Memory" and entry.get("state") == "Present"


def _kubeconfig(server: str) -> str:
    return yaml.safe_dump(
        {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "u", "user": {}}],
        }
    )


@pytest.fixture
def model_hub(tmp_path: Path) -> Iterator[WebServer]:
    """A mirror of the Hub with one model."""
    write_model(tmp_path / "hub", HUB_BYTES, files=4)
    with hub(tmp_path / "hub") as server:
        yield server


@pytest.fixture
def node(cluster: Cluster, shared_operator: ProxiedOperator, model_hub: WebServer, tmp_path: Path) -> Iterator[Node]:
    """An agent that was not started, without a NodeCache."""
    # An operator would have its own mind about the NodeCache.
    shared_operator.kill()
    name = f"agent-{uuid4().hex[:8]}"
    with FaultProxy(cluster.credentials, ACCOUNT, node=name) as proxy:
        node = Node(cluster, proxy, tmp_path, name, model_hub.url)
        try:
            yield node
        finally:
            node.agent.kill()
            cluster.api.delete(node.path)
            subprocess.run(["umount", "--lazy", node.agent.memory], check=False, capture_output=True)


def test_a_model_is_fetched_shown_in_columns_and_told_by_the_stream(node: Node) -> None:
    entry = wanted(HUB_URI, COMMIT)
    node.put(entry, bytesPerSecond=16 * MIB)
    with node.agent:
        node.agent.wait_ready()
        with node.agent.stream() as lines:
            node.present(entry["key"])
            node.wait("the stream tells it", lambda: lines and entry["key"] in lines[-1].in_memory)
        done = [each.done_bytes for line in lines for each in line.transfers]
        assert done == sorted(done)
        assert any(0 < each < HUB_BYTES for each in done)
        columns = node.cluster.kubectl("get", "nodecaches", node.name)
        assert "1/1" in columns
        assert "Mi/256Mi" in columns
        mounts = Path("/proc/mounts").read_text()
        assert f"warmfleet {node.agent.memory} tmpfs" in mounts


@pytest.mark.timeout(600)
def test_killed_at_every_twentieth_of_a_load_the_agent_goes_on_and_nothing_partial_is_ever_an_entry(
    node: Node,
) -> None:
    entry = wanted(HUB_URI, COMMIT)
    node.put(entry, disk=node.disk(), bytesPerSecond=5 * MIB)
    for twentieth in range(1, 20):
        node.agent.start()
        node.agent.wait_ready()
        with contextlib.suppress(OSError):
            while True:
                status = node.agent.status()
                done = sum(each.done_bytes for each in status.transfers)
                if done >= twentieth * HUB_BYTES / 20 or entry["key"] in status.in_memory:
                    break
                time.sleep(0.01)
        node.agent.kill()
        for tier in (node.agent.memory, node.agent.disk):
            for found in (tier / "entries").iterdir():
                assert (found / names.MANIFEST_FILE).exists(), f"a part of a model at {found} after kill {twentieth}"
    node.put(entry, disk=node.disk())
    with node.agent:
        node.present(entry["key"])
        for path in (node.folder / "hub").iterdir():
            assert (node.agent.memory / "entries" / entry["key"] / path.name).read_bytes() == path.read_bytes()
        assert list((node.agent.memory / "drafts").iterdir()) == []
        assert list((node.agent.disk / "drafts").iterdir()) == []
        assert node.agent.fetched_bytes() < HUB_BYTES / 2


def test_a_restart_with_three_models_reloads_no_byte_and_writes_nothing(node: Node) -> None:
    node.agent.start()
    entries = [node.resolve(f"m{number}", 4, number) for number in (1, 2, 3)]
    node.put(*entries)
    node.present(*(each["key"] for each in entries))
    node.wait("the agent is idle", lambda: node.status["inMemory"] == "3/3" and node.status["activity"] == "idle")
    inodes = {path: path.stat().st_ino for path in (node.agent.memory / "entries").rglob("*")}
    assert node.agent.terminate() == 0
    (node.folder / "models").rename(node.folder / "gone")
    node.proxy.reset()
    node.agent.start()
    node.agent.wait_ready()
    node.wait("the agent sees them", lambda: len(node.agent.status().in_memory) == 3)
    time.sleep(5)
    assert node.agent.fetched_bytes() == 0
    assert {path: path.stat().st_ino for path in (node.agent.memory / "entries").rglob("*")} == inodes
    assert node.proxy.writes() == []


def test_at_rest_the_agent_writes_nothing(node: Node) -> None:
    node.agent.start()
    entry = node.resolve("tiny", 2)
    node.put(entry)
    node.present(entry["key"])
    time.sleep(3)
    node.proxy.reset()
    time.sleep(40)
    assert node.proxy.writes() == []


def test_what_is_worth_least_goes_first_and_what_is_read_never(node: Node) -> None:
    node.agent.start()
    held, low, high, new = (node.resolve(name, 20, seed) for seed, name in enumerate(("held", "low", "high", "new")))
    low, high = {**low, "priority": "Low"}, {**high, "priority": "High", "usesPerDay": 50}
    node.put(held, low, high, memory_mib=84)
    node.present(held["key"], low["key"], high["key"])
    with (node.agent.memory / "entries" / held["key"] / names.MANIFEST_FILE).open() as manifest:
        fcntl.flock(manifest, fcntl.LOCK_SH)
        node.put(high, low, {**new, "priority": "High"}, memory_mib=84)
        node.present(new["key"])
        # `held` is wanted by nobody, but read: `low` went in its place.
        assert node.entries() == {held["key"], high["key"], new["key"]}
        node.wait("low says why it waits", lambda: node.seen(low["key"]).get("state") == "Waiting")
        assert node.seen(low["key"])["error"]["reason"] == "CacheFull"
    node.present(low["key"])
    assert node.entries() == {low["key"], high["key"], new["key"]}


def test_memory_filled_by_a_stranger_is_said_and_used_again_once_it_is_free(node: Node) -> None:
    node.agent.start()
    small, large = node.resolve("small", 2), node.resolve("large", 40, 2)
    node.put(small, memory_mib=64)
    node.present(small["key"])
    stranger = node.agent.memory / "stranger"
    stranger.write_bytes(b"x" * (40 * MIB))
    node.put(small, large, memory_mib=64)
    node.wait("the large one waits", lambda: node.seen(large["key"]).get("error"))
    assert node.seen(large["key"])["error"]["reason"] == "CacheFull"
    assert node.seen(small["key"])["state"] == "Present"
    assert node.agent.probe(names.PATH_LIVE) == 200
    stranger.unlink()
    node.present(large["key"])


def test_a_disk_that_is_full_fails_one_model_and_no_other(node: Node) -> None:
    disk = node.agent.disk
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "fulldisk", disk], check=True)
    try:
        node.agent.start()
        small, large = node.resolve("small", 2), node.resolve("large", 60, 2)
        node.put(small, large, disk=node.disk(512))
        node.present(small["key"], large["key"])
        assert {path.name for path in (disk / "entries").iterdir()} <= {small["key"]}
    finally:
        node.agent.kill()
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_the_command_in_the_message_is_what_lets_the_agent_read_a_secret(node: Node, model_hub: WebServer) -> None:
    model_hub.tokens = {"good"}
    namespace = node.name
    node.cluster.kubectl("create", "namespace", namespace)
    try:
        node.cluster.kubectl("-n", namespace, "create", "secret", "generic", "hf-token", "--from-literal=token=good")
        entry = wanted(HUB_URI, COMMIT, namespace, secretRef={"name": "hf-token", "namespace": namespace})
        node.put(entry)
        with node.agent:
            node.wait("it is refused", lambda: node.seen(entry["key"]).get("error"))
            error = node.seen(entry["key"])["error"]
            assert error["reason"] == "AccessDenied"
            command = error["message"].partition("let them: kubectl ")[2]
            node.cluster.kubectl(*command.split())
            node.present(entry["key"])
    finally:
        node.cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def test_the_agent_writes_its_own_nodecache_and_no_other(node: Node) -> None:
    other = f"other-{node.name}"
    node.put(wanted(HUB_URI, tier="Remote"))
    spec = node.cluster.api.request("GET", node.path)["spec"]
    node.cluster.api.create(f"{MDL}/{names.NODE_CACHE_PLURAL}", node_cache(other, spec))
    try:
        # The proxy goes on naming the first node in the token.
        node.agent = AgentProcess(node.folder / "kubeconfig", node.folder, other, {}, memory_mount="Own")
        with node.agent:
            node.wait("the write is refused", lambda: node.agent.said("writes the NodeCache of its own node only"))
            assert node.agent.exit_code is None
        assert node.proxy.writes(lambda call: True)[-1].status == 403
    finally:
        node.cluster.api.delete(f"{MDL}/{names.NODE_CACHE_PLURAL}/{other}")


def test_a_nodecache_that_comes_late_goes_and_comes_again_is_followed_and_filled(node: Node) -> None:
    with node.agent:
        node.wait("the agent lives", lambda: node.agent.probe(names.PATH_LIVE) == 200)
        assert node.agent.probe(names.PATH_READY) == 503
        entry = node.resolve("tiny", 2)
        node.put(entry)
        node.present(entry["key"])
        node.cluster.api.delete(node.path)
        node.wait("it is gone", lambda: node.cluster.api.get(node.path) is None)
        node.put(entry)
        node.present(entry["key"])


def test_broken_answers_of_the_api_delay_the_status_and_nothing_else(node: Node) -> None:
    entry = wanted(HUB_URI, COMMIT)
    node.proxy.refuse(lambda call: call.is_write, 500, times=6)
    node.proxy.forget_resource_version(names.NODE_CACHE_PLURAL)
    node.put(entry)
    with node.agent:
        node.present(entry["key"])
        node.proxy.cut_watches()
        node.put({**entry, "pinned": True})
        node.wait("the new generation is seen", lambda: node.status.get("observedGeneration") == 2)


def test_a_signal_ends_the_agent_in_seconds_in_the_middle_of_a_fetch(node: Node) -> None:
    entry = wanted(HUB_URI, COMMIT)
    node.put(entry, bytesPerSecond=2 * MIB)
    node.agent.start()
    node.agent.wait_ready()
    node.wait("it fetches", lambda: node.agent.status().transfers)
    started = time.monotonic()
    assert node.agent.terminate() == 0
    assert time.monotonic() - started < 10
    assert list((node.agent.memory / "drafts").iterdir()) == []
