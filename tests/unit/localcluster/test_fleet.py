from collections import Counter
from dataclasses import replace

from localcluster.fleet import FAKE_NODE, fake_node
from localcluster.record import Fleet

FLEET = Fleet(count=6, gpus=8, gpu_memory_bytes=80 * 2**30, zones=3)


def test_a_fake_node_claims_its_gpus_as_a_real_one_does() -> None:
    node = fake_node(0, FLEET)
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "8"
    assert node["metadata"]["labels"]["nvidia.com/gpu.memory"] == "81920"
    assert node["metadata"]["annotations"][FAKE_NODE] == "fake"


def test_fake_nodes_are_spread_over_zones() -> None:
    zones = Counter(fake_node(i, FLEET)["metadata"]["labels"]["topology.kubernetes.io/zone"] for i in range(6))
    assert zones == {"zone-a": 2, "zone-b": 2, "zone-c": 2}


def test_strangers_stay_away_unless_told_otherwise() -> None:
    assert fake_node(0, FLEET)["spec"]["taints"] == [{"key": FAKE_NODE, "value": "fake", "effect": "NoSchedule"}]
    assert fake_node(0, replace(FLEET, tainted=False))["spec"]["taints"] == []


def test_a_fake_node_without_gpus_claims_none() -> None:
    node = fake_node(0, replace(FLEET, gpus=0))
    assert "nvidia.com/gpu" not in node["status"]["allocatable"]
    assert "nvidia.com/gpu.memory" not in node["metadata"]["labels"]
