"""Three real nodes, the built images, and Warmfleet installed as people install it: two operators, real rights."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.caches import Caches
from support.cluster import Cluster
from support.namespace import Namespace, new_name
from support.real_cluster import model_folder, operator_log, real_cluster

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="session")
def models() -> Iterator[Path]:
    """A folder of models that the nodes see and the WeightCache allows, with `tiny-llama` and `large-llama` in it."""
    with model_folder("e2e") as folder:
        yield folder


@pytest.fixture(scope="session")
def cluster(models: Path) -> Iterator[Cluster]:
    """The cluster, Warmfleet running in it."""
    with real_cluster("e2e", models) as cluster:
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
