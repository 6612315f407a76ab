"""The weight stores' part of the snapshot: what is parsed, remembered, and what is wrong with an agent."""

from typing import Any

import msgspec
import pytest

from support import make
from support.observer import observer_of, stores_of
from support.scripted import client_of, scripted
from warmfleet_api import names
from warmfleet_api.weights import entry_key
from warmfleet_kube.objects import Metadata
from warmfleet_operator.build.node_cache import is_labelled, node_cache, node_cache_patch
from warmfleet_operator.caches_snapshot import StoresObserver
from warmfleet_operator.cluster import Cluster, mirrored
from warmfleet_operator.decide.weights import NeededEntry
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.records import NodeCache, Pod, PodCondition, PodSpec, PodStatus, WeightCache

SPEC = {"cache": "default", "memory": {"bytes": 1024, "path": "/dev/shm/c"}}


@pytest.fixture
async def cluster() -> Cluster:
    async with scripted() as script, client_of(script) as client:
        found = mirrored(client, Metrics(), 30)
        node = make.node("n1")
        found.nodes.saw(msgspec.structs.replace(node, metadata=_versioned(node.metadata, 1)))
        return found


@pytest.fixture
def stores(cluster: Cluster) -> StoresObserver:
    return stores_of(cluster)


def _versioned(metadata: Metadata, version: int) -> Metadata:
    return msgspec.structs.replace(metadata, resource_version=str(version))


def told(cluster: Cluster, version: int = 1, spec: Any = None, **status: Any) -> NodeCache:
    metadata = Metadata(name="n1", uid="uid-nc", generation=3, resource_version=str(version))
    cluster.node_caches.saw(NodeCache(metadata=metadata, spec=spec or SPEC, status=status))
    known = cluster.node_caches.get("", "n1")
    assert known is not None
    return known


def agent(cluster: Cluster, *, ready: bool = True, version: int = 1) -> None:
    condition = PodCondition(type="Ready", status="True" if ready else "False")
    cluster.agents.saw(
        Pod(
            metadata=Metadata(name="a-1", namespace=names.AGENT_NAMESPACE, uid="u", resource_version=str(version)),
            spec=PodSpec(node_name="n1"),
            status=PodStatus(phase="Running", conditions=(condition,)),
        )
    )


def trouble(stores: StoresObserver) -> str:
    return stores.caches()["n1"].trouble


async def test_there_is_nothing_to_bring_in_order_until_a_store_is_made_and_again_once_all_it_left_is_gone(
    cluster: Cluster, stores: StoresObserver
) -> None:
    assert stores.is_empty(), "of nodes alone nothing follows"
    cache = WeightCache(metadata=Metadata(name="default", uid="uid-wc", resource_version="1"))
    cluster.weight_caches.saw(cache)
    assert not stores.is_empty()
    left = told(cluster)
    cluster.weight_caches.forget(cache)
    assert not stores.is_empty(), "what a node was told is still to be taken back"
    cluster.node_caches.forget(left)
    assert stores.is_empty()


async def test_a_node_cache_is_parsed_once_per_version(cluster: Cluster, stores: StoresObserver) -> None:
    told(cluster)
    first = stores.caches()["n1"]
    assert stores.caches()["n1"].spec is first.spec
    told(cluster, 2, memoryUse="1/2")
    second = stores.caches()["n1"]
    assert second.spec is first.spec, "an agent's word does not change what it was told"
    assert second.status.memory_use == "1/2"


async def test_an_agent_is_in_trouble_as_long_as_kubernetes_or_it_says_so(
    cluster: Cluster, stores: StoresObserver
) -> None:
    told(cluster)
    assert trouble(stores) == "no agent runs there"
    agent(cluster, ready=False)
    assert trouble(stores) == "its agent a-1 is not Ready"
    agent(cluster, version=2)
    assert trouble(stores) == ""
    broken = {"type": "Ready", "status": "False", "reason": "StoreBroken", "message": "no tmpfs"}
    told(cluster, 2, conditions=[broken | {"lastTransitionTime": make.ago(1)}])
    assert trouble(stores) == "StoreBroken: no tmpfs"
    node = make.node("n1", ready=False)
    cluster.nodes.saw(msgspec.structs.replace(node, metadata=_versioned(node.metadata, 2)))
    assert trouble(stores) == "node n1 is not Ready"


async def test_trouble_lasts_from_when_it_was_first_seen_until_it_ends(
    cluster: Cluster, stores: StoresObserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    told(cluster)
    clock = [100.0]
    monkeypatch.setattr("warmfleet_operator.caches_snapshot.time.monotonic", lambda: clock[0])
    fleet = observer_of(cluster).fleet()
    assert stores.view(fleet).troubles["n1"].seconds == 0
    clock[0] = 130.0
    assert stores.view(fleet).troubles["n1"].seconds == 30
    agent(cluster)
    assert stores.view(fleet).troubles == {}
    agent(cluster, ready=False, version=2)
    assert stores.view(fleet).troubles["n1"].seconds == 0


async def test_a_spec_that_can_not_be_read_is_no_store_and_a_status_is_empty(
    cluster: Cluster, stores: StoresObserver
) -> None:
    told(cluster, spec={"surprise": 1})
    assert stores.caches() == {}
    told(cluster, 2, entries=[{"surprise": 1}])
    assert stores.caches()["n1"].seen == {}


async def test_caches_that_can_not_be_read_or_used_are_told_apart(cluster: Cluster, stores: StoresObserver) -> None:
    specs: dict[str, dict[str, Any]] = {
        "good": {"memory": {"size": "1Gi"}},
        "strange": {"surprise": 1},
        "unusable": {"memory": {"size": "1Gi", "path": "/usr/share"}},
    }
    for version, (name, spec) in enumerate(specs.items(), start=1):
        metadata = Metadata(name=name, uid=f"uid-{name}", resource_version=str(version))
        cluster.weight_caches.saw(WeightCache(metadata=metadata, spec=spec))
    view = stores.view(observer_of(cluster).fleet())
    assert {group.name for group in view.groups} == {"good", "unusable"}
    assert view.unreadable == {"strange"}
    assert set(view.unusable) == {"unusable"}


async def test_a_change_tests_what_it_was_decided_on_and_leaves_foreign_labels(
    cluster: Cluster, stores: StoresObserver
) -> None:
    record, node = told(cluster), make.node("n1")
    spec = stores.spec(record)
    assert spec is not None
    assert not is_labelled(record, node, spec)
    marked = msgspec.structs.replace(record, metadata=msgspec.structs.replace(record.metadata, labels={"mine": "1"}))
    patch = node_cache_patch(marked, node, spec)
    assert [each["path"] for each in patch if each["op"] == "test"] == ["/metadata/uid", "/metadata/generation"]
    labels = next(each["value"] for each in patch if each["path"] == "/metadata/labels")
    assert labels == {"mine": "1", names.LABEL_MANAGED_BY: names.MANAGED_BY, names.LABEL_CACHE: "default"}
    made = msgspec.convert(node_cache(node, spec), NodeCache)
    assert is_labelled(made, node, spec)


async def test_a_store_knows_what_its_weight_cache_has_frozen(cluster: Cluster, stores: StoresObserver) -> None:
    uri, revision = "hf://org/m", "0123abc"
    line = {"name": "m", "uri": uri, "key": entry_key(uri, revision), "revision": revision, "bytes": 7}

    def saw(version: int, **status: Any) -> None:
        metadata = Metadata(name="default", uid="uid-wc", generation=1, resource_version=str(version))
        spec = {"memory": {"size": "1Gi"}, "models": [{"name": "m", "uri": uri}]}
        cluster.weight_caches.saw(WeightCache(metadata=metadata, spec=spec, status=status))

    told(cluster)
    assert stores.caches()["n1"].listed == {}
    saw(1)
    assert stores.caches()["n1"].listed == {}
    saw(2, models=[line])
    (found,) = stores.caches()["n1"].listed.items()
    assert found[0] == NeededEntry(uri=uri)
    assert (found[1].revision, found[1].bytes) == (revision, 7)
