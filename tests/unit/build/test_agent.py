"""The DaemonSets of a WeightCache: as written down, as Kubernetes takes them, and which folders can't be."""

import dataclasses
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from warmfleet_api import names
from warmfleet_api.weight_cache import WeightCacheSpec
from warmfleet_operator.build.agent import agent_daemon_set, image_daemon_set, unusable
from warmfleet_operator.decide.caches_groups import AgentGroup
from warmfleet_operator.decide.fleet import Limits

KUBERNETES = "1.35"
GOLDEN = Path(__file__).parent / "golden"
LIMITS = Limits(default_image="registry.example/warmfleet-runtime:1", agent_image="registry.example/warmfleet:1")
SMALL = {"memory": {"size": "1Gi"}}
LARGE = {
    "nodeSelector": {"pool": "h100"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "memory": {"size": "128Gi", "path": "/mnt/weights/memory"},
    "disk": {"size": "500Gi"},
    "fileRoots": ["/srv/models", "/srv/models/inner", "/srv/more"],
    "imagePullSecrets": [{"name": "registry"}],
}
TERMS = ({"matchExpressions": [{"key": "pool", "operator": "In", "values": ["h100"]}]},)


def group(name: str, spec: dict[str, Any], terms: tuple[dict[str, Any], ...] = ()) -> AgentGroup:
    return AgentGroup(name, f"uid-of-{name}", WeightCacheSpec.model_validate(spec), terms)


GROUPS = (group("default", SMALL), group("h100", LARGE, TERMS))


def agent(spec: dict[str, Any], limits: Limits = LIMITS) -> dict[str, Any]:
    found: dict[str, Any] = agent_daemon_set(group("x", spec), limits)["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("cache", GROUPS, ids=lambda cache: cache.name)
def test_the_daemon_sets_are_those_written_down(cache: AgentGroup) -> None:
    """Each change of them replaces the agents of every fleet; write the new file by hand if the promise changes."""
    written = list(yaml.safe_load_all((GOLDEN / f"agent-{cache.name}.yaml").read_text()))
    assert [agent_daemon_set(cache, LIMITS), image_daemon_set(cache, LIMITS)] == written


@pytest.mark.parametrize("build", [agent_daemon_set, image_daemon_set])
@pytest.mark.parametrize("cache", GROUPS, ids=lambda cache: cache.name)
def test_kubernetes_knows_every_field(cache: AgentGroup, build: Any) -> None:
    kubernetes_validate.validate(build(cache, LIMITS), KUBERNETES, strict=True)


def test_the_hash_tells_another_pod_and_nothing_else() -> None:
    def of(spec: dict[str, Any], limits: Limits = LIMITS) -> str:
        template = agent_daemon_set(group("x", spec), limits)["spec"]["template"]
        found: str = template["metadata"]["labels"][names.LABEL_TEMPLATE_HASH]
        return found

    models = {"models": [{"name": "a", "uri": "hf://a/b"}]}
    assert of(SMALL) == of(SMALL | models)
    assert of(SMALL) == of(SMALL, dataclasses.replace(LIMITS, default_image="another-runtime:2"))
    assert of(SMALL) != of(SMALL | {"memory": {"size": "2Gi"}})
    assert of(SMALL) != of(SMALL, dataclasses.replace(LIMITS, agent_image="another:2"))
    # Where it may run is no part of it: another WeightCache restarts no agent.
    assert of(SMALL) == of(SMALL | {"tolerations": LARGE["tolerations"]})


def test_the_memory_that_is_asked_for_is_the_caches_and_the_agents_own() -> None:
    resources = agent({"memory": {"size": "1G"}})["containers"][0]["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == str(10**9 + 512 * 2**20)


def test_the_tmpfs_is_mounted_inside_a_shared_folder_that_nobody_can_swap() -> None:
    """The folder around it is mounted, so that the agent sees a link in its place; kubelet would follow one."""

    def shared(path: str) -> list[str]:
        mounts = agent({"memory": {"size": "1Gi", "path": path}})["containers"][0]["volumeMounts"]
        return [
            each["mountPath"]
            for each in mounts
            if each.get("mountPropagation") == "Bidirectional" and "kubelet" not in each["mountPath"]
        ]

    assert shared("/dev/shm/model_cache") == ["/dev/shm"]
    assert shared("/cache") == ["/cache"]


def test_kubelets_keys_are_not_mounted() -> None:
    limits = dataclasses.replace(LIMITS, kubelet_path="/data/kubelet")
    paths = [each["mountPath"] for each in agent(SMALL, limits)["containers"][0]["volumeMounts"]]
    assert "/data/kubelet" not in paths
    assert "/data/kubelet/pods" in paths
    assert not [path for path in paths if path.startswith("/var/lib/kubelet")]


def test_file_roots_are_read_only_and_a_root_inside_another_is_part_of_it() -> None:
    mounts = agent(LARGE)["containers"][0]["volumeMounts"]
    roots = {each["mountPath"]: each["readOnly"] for each in mounts if each["name"].startswith("root-")}
    assert roots == {"/srv/models": True, "/srv/more": True}


def test_what_holds_the_runtime_image_keeps_to_pod_security_restricted() -> None:
    pod = image_daemon_set(GROUPS[0], LIMITS)["spec"]["template"]["spec"]
    assert "volumes" not in pod
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert pod["containers"][0]["image"] == LIMITS.default_image


@pytest.mark.parametrize("spec", [SMALL, LARGE, {"memory": {"size": "1Gi", "path": "/cache"}}])
def test_ordinary_folders_are_usable(spec: dict[str, Any]) -> None:
    assert unusable(WeightCacheSpec.model_validate(spec), LIMITS) is None


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"memory": {"size": "1Gi", "path": "/opt/cache"}}, "it would hide /opt/warmfleet there"),
        ({"memory": {"size": "1Gi", "path": "/usr/cache"}}, "spec.memory.path: /usr/cache"),
        ({"memory": {"size": "1Gi", "path": "/proc/1/cache"}}, "can't be mounted into the agent"),
        (SMALL | {"fileRoots": ["/opt"]}, "spec.fileRoots: /opt"),
        (SMALL | {"fileRoots": ["/dev/shm"]}, "lies in /dev/shm, where memory.path is"),
        (SMALL | {"fileRoots": ["/var/lib/kubelet/pods/models"]}, "where kubelet's folder is"),
        (SMALL | {"disk": {"size": "1Gi", "path": "/dev/shm/disk"}}, "spec.disk.path"),
        (SMALL | {"disk": {"size": "1Gi", "path": "/data"}, "fileRoots": ["/data/models"]}, "lies in /data"),
        (
            {"memory": {"size": "1Gi", "path": "/data/a/b"}, "disk": {"size": "1Gi", "path": "/data"}},
            "spec.memory.path: /data/a/b lies in /data",
        ),
        ({"memory": {"size": "1Gi", "path": "/var/lib/kubelet/x"}}, "lies in kubelet's folder"),
    ],
)
def test_folders_that_would_break_the_agent_or_the_node_are_named(spec: dict[str, Any], words: str) -> None:
    found = unusable(WeightCacheSpec.model_validate(spec), LIMITS)
    assert found is not None
    assert words in found
