"""Three real nodes, the built images, and Warmfleet installed as people install it: two operators, real rights."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cluster import REPOSITORY, Cluster, local_cluster, run
from support.namespace import Namespace, new_name

SYSTEM = "warmfleet-system"
BUILD_SECONDS = 1800


@pytest.fixture(scope="session")
def models() -> Iterator[Path]:
    """A folder of models that the nodes see and the operator allows, with the tiny real one in `tiny-llama`."""
    made = run([str(REPOSITORY / "hack" / "model" / "tiny")], BUILD_SECONDS).strip().splitlines()[-1]
    folder = Path(f"/var/lib/warmfleet/e2e-{os.getpid()}")
    shutil.copytree(made, folder / "tiny-llama")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def cluster(models: Path) -> Iterator[Cluster]:
    """The cluster, Warmfleet running in it."""
    run([str(REPOSITORY / "hack" / "images" / "build")], BUILD_SECONDS)
    with local_cluster("e2e", "--nodes", "3", "--fast-node-loss") as cluster:
        cluster.hack("load", "--all")
        cluster.install("manifests/overlays/local")
        system = ("--namespace", SYSTEM)
        deployment = "deployment/warmfleet-operator"
        cluster.kubectl(*system, "set", "env", deployment, f"WARMFLEET_FILE_ROOTS={models}")
        cluster.kubectl(*system, "rollout", "status", deployment, "--timeout=120s", bound_seconds=150)
        yield cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    """A namespace of the test's own. It may mount folders of its nodes, as file:// models need."""
    namespace = Namespace(cluster, new_name("test"), lambda: operator_log(cluster))
    namespace.create()
    yield namespace
    namespace.delete()


def operator_log(cluster: Cluster) -> str:
    """Return the end of both operators' logs."""
    selector = "app.kubernetes.io/component=operator"
    return cluster.kubectl("--namespace", SYSTEM, "logs", "--selector", selector, "--tail=30", "--prefix")
