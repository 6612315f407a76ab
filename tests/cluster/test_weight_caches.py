"""WeightCaches and NodeCaches on a real API server: agents made, nodes told, conflicts and sizes said, rest at rest.

The nodes are fake and KWOK calls every pod Ready; what agents would write the tests write themselves.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from localcluster.audit import AuditLog
from support import fleet
from support.cluster import Cluster
from support.kubeapi import MDL, Object
from support.models import model_deployment
from support.namespace import Namespace, condition, new_name
from support.operator import ProxiedOperator
from support.waiting import stays_true, wait_for
from warmfleet_api import names
from warmfleet_api.weights import entry_key

pytestmark = pytest.mark.cluster

CACHES = f"{MDL}/{names.WEIGHT_CACHE_PLURAL}"
NODE_CACHES = f"{MDL}/{names.NODE_CACHE_PLURAL}"
AGENTS = f"apis/apps/v1/namespaces/{names.AGENT_NAMESPACE}/daemonsets"
SECONDS = 60
REVISION = "c" * 40
GIB = 1024**3


@dataclass
class Site:
    """Four fake nodes under a label of the test's own, and what is said about their weight stores."""

    cluster: Cluster
    label: str
    nodes: list[str]
    log_tail: Any
    made: list[str]

    def mark(self, node: str, **labels: str | None) -> None:
        """Set labels of a node below this site's prefix."""
        self.cluster.api.merge(
            f"api/v1/nodes/{node}", {"metadata": {"labels": {self.key(name): value for name, value in labels.items()}}}
        )

    def key(self, name: str) -> str:
        """Return a label of this site."""
        return f"{self.label}.test/{name}"

    def cache(self, name: str, **spec: Any) -> str:
        """Make or change a WeightCache that selects the nodes marked `name`; return its name."""
        full = f"{self.label}-{name}"
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.WEIGHT_CACHE_KIND,
            "metadata": {"name": full},
            "spec": {"nodeSelector": {self.key(name): "yes"}, "memory": {"size": "4Gi"}} | spec,
        }
        path = f"{CACHES}/{full}?fieldManager=test&force=true"
        self.cluster.api.request("PATCH", path, body, "application/apply-patch+yaml")
        self.made.append(full)
        return full

    def node_cache(self, node: str) -> Object | None:
        """Return the NodeCache of a node."""
        return self.cluster.api.get(f"{NODE_CACHES}/{node}")

    def wanted(self, node: str) -> dict[str, Object]:
        """Return what a node is told to keep, by key."""
        found = self.node_cache(node)
        return {entry["key"]: entry for entry in found["spec"].get("entries", [])} if found else {}

    def says(self, node: str, *entries: Object) -> None:
        """Write what a node has, as its agent does."""
        self.cluster.api.merge(f"{NODE_CACHES}/{node}/status", {"status": {"entries": list(entries)}})

    def condition(self, cache: str, kind: str) -> Object | None:
        """Return a condition of a WeightCache, if it speaks of the present generation."""
        found = self.cluster.api.get(f"{CACHES}/{cache}")
        return condition(found, kind) if found else None

    def wait(self, what: str, holds: Any) -> Any:
        """Wait for anything; the failure prints the operator's log."""
        return wait_for(what, holds, SECONDS, self.log_tail)

    def wait_condition(self, cache: str, kind: str, status: str, reason: str) -> str:
        """Wait for a condition and return its message."""

        def holds() -> Object | None:
            found = self.condition(cache, kind)
            return found if found and (found["status"], found["reason"]) == (status, reason) else None

        return str(self.wait(f"{cache} has {kind}={status}/{reason}", holds)["message"])


@pytest.fixture
def site(cluster: Cluster, operator: ProxiedOperator) -> Iterator[Site]:
    chosen = sorted(node["metadata"]["name"] for node in cluster.api.list("api/v1/nodes"))[-4:]
    found = Site(cluster, new_name("wc"), chosen, operator.log_tail, [])
    yield found
    for cache in set(found.made):
        cluster.api.delete(f"{CACHES}/{cache}")
    for node in chosen:
        found.mark(node, left=None, right=None)
    found.wait("the NodeCaches are gone", lambda: not any(found.node_cache(node) for node in chosen))


def known(key: str, size: int, **fields: Any) -> Object:
    return {"key": key, "tier": "Remote", "state": "Known", "revision": REVISION, "bytes": size, **fields}


def in_memory(key: str, size: int, **fields: Any) -> Object:
    return known(key, size) | {"tier": "Memory", "state": "Present", "digest": f"sha256:{'0' * 64}", **fields}


def test_a_cache_makes_its_agents_and_node_caches_and_takes_them_along(site: Site) -> None:
    first, second = site.nodes[:2]
    site.mark(first, left="yes")
    site.mark(second, left="yes")
    cache = site.cache("left", memory={"size": "1536Mi"}, fetch={"bytesPerSecond": "100M", "parallel": 3})
    site.wait("both nodes are told", lambda: site.node_cache(first) and site.node_cache(second))
    told = site.node_cache(first)
    assert told is not None
    assert told["spec"] | {"entries": []} == {
        "cache": cache,
        "memory": {"bytes": 1536 * 1024**2, "path": "/dev/shm/model_cache"},
        "bytesPerSecond": 100_000_000,
        "parallel": 3,
        "fileRoots": [],
        "entries": [],
        "views": [],
    }
    assert [(owner["kind"], owner["name"]) for owner in told["metadata"]["ownerReferences"]] == [("Node", first)]
    assert told["metadata"]["labels"][names.LABEL_CACHE] == cache
    sets = site.wait(
        "the agents' DaemonSets", lambda: site.cluster.api.list(AGENTS, labelSelector=f"{names.LABEL_CACHE}={cache}")
    )
    assert f"warmfleet-agent-{cache}" in {each["metadata"]["name"] for each in sets}
    site.wait_condition(cache, "Ready", "True", "AgentsReady")
    site.wait_condition(cache, "Fits", "True", "Fits")
    columns = site.cluster.kubectl("get", "wc", cache).splitlines()
    assert columns[0].split() == ["NAME", "READY", "FITS", "MEMORY", "DISK", "NODES", "WORKING", "AGE"]
    assert columns[1].split()[:4] == [cache, "True", "True", "1536Mi"]
    assert columns[1].split()[4:6] == ["2", "2"]

    site.mark(second, left=None)
    site.wait("the node that left is told nothing", lambda: site.node_cache(second) is None)
    site.cluster.api.delete(f"{CACHES}/{cache}")
    site.wait("the NodeCache goes with the cache", lambda: site.node_cache(first) is None)
    site.wait(
        "the agents go with the cache",
        lambda: not site.cluster.api.list(AGENTS, labelSelector=f"{names.LABEL_CACHE}={cache}"),
    )


def test_a_preloaded_model_is_asked_for_frozen_kept_and_counted(site: Site) -> None:
    first, second = site.nodes[:2]
    site.mark(first, left="yes")
    site.mark(second, left="yes")
    uri = f"hf://org/{site.label}"
    asked, key = entry_key(uri, ""), entry_key(uri, REVISION)
    cache = site.cache("left", models=[{"name": "own", "uri": uri}])
    (node,) = site.wait("a node is asked", lambda: [each for each in site.nodes[:2] if asked in site.wanted(each)])
    assert site.wanted(node)[asked]["tier"] == "Remote"
    assert "own" in site.wait_condition(cache, "Fits", "Unknown", "SizesUnknown")
    site.says(node, known(asked, GIB))
    site.wait("both nodes are to keep it", lambda: all(key in site.wanted(each) for each in site.nodes[:2]))
    assert site.wanted(first)[key] == {
        "key": key,
        "uri": uri,
        "revision": REVISION,
        "tier": "Memory",
        "priority": "Normal",
        "pinned": True,
        "usesPerDay": 0,
        "savesSeconds": 0,
    }
    site.wait_condition(cache, "Ready", "False", "Preloading")
    for each in site.nodes[:2]:
        site.says(each, in_memory(key, GIB))
    site.wait_condition(cache, "Ready", "True", "AgentsReady")
    status = site.cluster.api.get(f"{CACHES}/{cache}")["status"]  # type: ignore[index]
    assert status["summary"] == "1 of 1 preloaded models in memory on all 2 nodes"
    (model,) = status["models"]
    assert (model["revision"], model["bytes"], model["memoryNodes"]) == (REVISION, GIB, 2)
    assert asked not in site.wanted(node)
    # The answer is gone from the node by now, and stays frozen.
    site.wait("every node learns what it has to hold", lambda: site.wanted(second)[key].get("digest"))


def test_preloads_that_do_not_fit_are_named_with_numbers_and_a_failed_fetch_is_told(site: Site) -> None:
    (node,) = site.nodes[:1]
    site.mark(node, left="yes")
    uris = {name: f"hf://org/{site.label}-{name}" for name in ("big", "small", "lost")}
    lines = [{"name": name, "uri": uri, "revision": REVISION} for name, uri in uris.items()]
    cache = site.cache("left", models=lines)
    keys = {name: entry_key(uri, REVISION) for name, uri in uris.items()}
    site.wait("all are asked for", lambda: set(keys.values()) <= site.wanted(node).keys())
    lost = known(keys["lost"], 0, revision="", state="Failed") | {
        "error": {"reason": "ModelNotFound", "message": "there is no such model; check the uri"}
    }
    site.says(node, known(keys["big"], 3 * GIB), known(keys["small"], 2 * GIB), lost)
    message = site.wait_condition(cache, "Fits", "False", "PreloadExceedsSize")
    assert "small (2.0 GiB)" in message
    assert "1.0 GiB too much" in message
    assert "lost: ModelNotFound" in site.wait_condition(cache, "Ready", "False", "PreloadFailed")
    tiers = {name: site.wanted(node)[key]["tier"] for name, key in keys.items() if key in site.wanted(node)}
    assert tiers == {"big": "Memory", "lost": "Remote"}

    def told() -> list[Object]:
        events = site.cluster.api.list("apis/events.k8s.io/v1/namespaces/default/events")
        return [each for each in events if each["reason"] == "FetchFailed" and each["regarding"]["name"] == cache]

    (event,) = site.wait("an event tells of the failed fetch", told)
    assert "check the uri" in event["note"]


def test_a_node_that_two_caches_name_stays_with_the_first_and_both_say_so(site: Site) -> None:
    both, other = site.nodes[:2]
    site.mark(both, left="yes", right="yes")
    site.mark(other, right="yes")
    left = site.cache("left")
    site.wait("the first has the node", lambda: (site.node_cache(both) or {"spec": {}})["spec"].get("cache") == left)
    right = site.cache("right")
    for cache in (left, right):
        assert f"{both} (kept by {left})" in site.wait_condition(cache, "Ready", "False", "Conflict")
    site.wait(
        "the second has the other", lambda: (site.node_cache(other) or {"spec": {}})["spec"].get("cache") == right
    )

    def agents() -> dict[str, str]:
        pods = site.cluster.api.list(
            f"api/v1/namespaces/{names.AGENT_NAMESPACE}/pods", labelSelector=f"{names.LABEL_COMPONENT}=agent"
        )
        return {each["spec"].get("nodeName", ""): each["metadata"]["labels"][names.LABEL_CACHE] for each in pods}

    site.wait("each node has one agent", lambda: agents() == {both: left, other: right})
    site.cluster.api.delete(f"{CACHES}/{left}")
    site.wait("the second takes the node over", lambda: site.node_cache(both)["spec"]["cache"] == right)  # type: ignore[index]
    site.wait_condition(right, "Ready", "True", "AgentsReady")


def test_what_a_model_asks_for_goes_to_its_nodes_and_to_another_when_one_is_lost(
    site: Site, namespace: Namespace
) -> None:
    for node in site.nodes:
        site.mark(node, left="yes")
    uri = f"hf://org/{site.label}"
    asked, key = entry_key(uri, ""), entry_key(uri, REVISION)
    site.cache("left")
    site.wait("all nodes are told", lambda: all(site.node_cache(node) for node in site.nodes))
    namespace.apply(
        model_deployment(
            "reads",
            {
                "model": {"uri": uri},
                "engine": {"type": "VLLM"},
                "replicas": 0,
                "coldStart": {"preloadNodes": 2},
                "resources": {"cpu": "10m", "memory": "64Mi"},
            },
        )
    )

    def holders(key: str) -> list[str]:
        return [node for node in site.nodes if site.wanted(node).get(key, {}).get("tier") == "Memory"]

    (node,) = site.wait("one is asked", lambda: [each for each in site.nodes if asked in site.wanted(each)])
    site.says(node, known(asked, GIB))
    site.wait("two nodes keep it", lambda: len(holders(key)) == 2)
    kept, lost = holders(key)
    for each in (kept, lost):
        site.says(each, in_memory(key, GIB))
    site.cluster.api.merge(f"api/v1/nodes/{lost}", {"spec": {"unschedulable": True}})
    try:
        site.wait("another takes its place", lambda: len(holders(key)) == 2 and lost not in holders(key))
        assert kept in holders(key)
    finally:
        site.cluster.api.merge(f"api/v1/nodes/{lost}", {"spec": {"unschedulable": None}})
    after = holders(key)
    stays_true("it does not move back", lambda: holders(key) == after, 3, site.log_tail)


def test_at_rest_and_over_a_restart_of_the_operator_nothing_is_written(site: Site, operator: ProxiedOperator) -> None:
    first, second = site.nodes[:2]
    site.mark(first, left="yes")
    site.mark(second, left="yes")
    uri = f"hf://org/{site.label}"
    key = entry_key(uri, REVISION)
    cache = site.cache(
        "left",
        memory={"size": "2048Mi"},
        disk={"size": "10Gi"},
        models=[{"name": "own", "uri": uri, "revision": REVISION}],
    )
    site.wait("one is asked", lambda: any(key in site.wanted(node) for node in (first, second)))
    for node in (first, second):
        if key in site.wanted(node):
            site.says(node, known(key, GIB))
    site.wait("both keep it", lambda: all(key in site.wanted(node) for node in (first, second)))
    for node in (first, second):
        site.says(node, in_memory(key, GIB))
    site.wait_condition(cache, "Ready", "True", "AgentsReady")
    log = AuditLog(site.cluster.audit_log)
    fleet.wait_quiet(log)
    before = [site.node_cache(node)["metadata"]["generation"] for node in (first, second)]  # type: ignore[index]
    rest = log.end()
    operator.kill()
    operator.start()
    operator.wait_ready()
    assert [f"{each.verb} {each.path}" for each in fleet.writes_at_rest(log, 20)] == []
    assert [f"{each.verb} {each.path}" for each in fleet.operator_writes(log, rest)] == []
    assert [site.node_cache(node)["metadata"]["generation"] for node in (first, second)] == before  # type: ignore[index]

    # What a person writes into a NodeCache is put right: the reader sees that write.
    site.cluster.api.merge(f"{NODE_CACHES}/{first}", {"spec": {"parallel": 7, "entries": []}})
    site.wait(
        "it is as it was",
        lambda: site.wanted(first).get(key) and site.node_cache(first)["spec"]["parallel"] == 2,  # type: ignore[index]
    )
    assert {each.resource for each in fleet.operator_writes(log, rest)} >= {"nodecaches"}
