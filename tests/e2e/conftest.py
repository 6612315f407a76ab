"""Three real nodes, the built images, and Warmfleet installed as people install it: two operators, real rights."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.caches import Caches
from support.cluster import REPOSITORY, Cluster, local_cluster, run
from support.namespace import Namespace, new_name

SYSTEM = "warmfleet-system"
BUILD_SECONDS = 1800
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="session")
def models() -> Iterator[Path]:
    """A folder of models that the nodes see and the WeightCache allows, with `tiny-llama` and `large-llama` in it."""
    folder = Path(f"/var/lib/warmfleet/e2e-{os.getpid()}")
    for option in ([], ["--large"]):
        made = Path(run([str(REPOSITORY / "hack" / "model" / "tiny"), *option], BUILD_SECONDS).strip().splitlines()[-1])
        shutil.copytree(made, folder / made.name)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cluster(models: Path) -> Iterator[Cluster]:
    """The cluster, Warmfleet running in it."""
    run([str(REPOSITORY / "hack" / "images" / "build")], BUILD_SECONDS)
    with local_cluster("e2e", "--nodes", "3", "--fast-node-loss") as cluster:
        cluster.hack("load", "--all")
        cluster.install("manifests/overlays/local")
        caches = Caches(cluster)
        caches.change(fileRoots=[str(models)])
        system = ("--namespace", SYSTEM)
        cluster.kubectl(
            *system, "rollout", "status", "deployment/warmfleet-operator", "--timeout=120s", bound_seconds=150
        )
        caches.wait_ready()
        yield cluster


@pytest.fixture(scope="session")
def caches(cluster: Cluster) -> Caches:
    """The cluster's weight store."""
    return Caches(cluster)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace of the test's own, as strict as Pod Security knows."""
    namespace = Namespace(cluster, new_name("test"), lambda: operator_log(cluster))
    namespace.create(**RESTRICTED)
    yield namespace
    namespace.delete()


def operator_log(cluster: Cluster) -> str:
    """Return the end of both operators' logs."""
    selector = "app.kubernetes.io/component=operator"
    return cluster.kubectl("--namespace", SYSTEM, "logs", "--selector", selector, "--tail=30", "--prefix")
