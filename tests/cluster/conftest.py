"""One local cluster for the tier: no real node, 100 fake ones whose runners one process plays.

The operator runs on the host behind a fault proxy. A healthy one is shared by the tests; a test that
breaks or kills it leaves that to the next use, which starts another.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest

from support.cluster import OPERATOR_ACCOUNT, Cluster
from support.faultproxy import FaultProxy
from support.fleet import fleet_cluster
from support.namespace import Namespace, new_name
from support.operator import ProxiedOperator, StartOperator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long modules begin first."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster; the operator of these tests runs on the host."""
    with fleet_cluster("cluster-tier") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def shared_operator(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxiedOperator]:
    """The process that `operator` hands out."""
    directory = tmp_path_factory.mktemp("operator")
    with FaultProxy(cluster.credentials, OPERATOR_ACCOUNT) as proxy:
        operator = ProxiedOperator(proxy, directory)
        yield operator
        operator.kill()


@pytest.fixture
def operator(shared_operator: ProxiedOperator) -> Iterator[ProxiedOperator]:
    """An operator that leads, whose proxy lets everything through."""
    shared_operator.proxy.reset()
    if not shared_operator.running:
        shared_operator.start()
    shared_operator.wait_ready()
    shared_operator.wait_leads()
    yield shared_operator
    shared_operator.proxy.reset()


@pytest.fixture
def start_operator(cluster: Cluster, shared_operator: ProxiedOperator, tmp_path: Path) -> Iterator[StartOperator]:
    """Start operators of a test's own, each behind its own proxy, after the shared one was ended."""
    shared_operator.kill()
    numbers = count(1)
    with ExitStack() as stack:

        def start(**settings: str | int) -> ProxiedOperator:
            directory = tmp_path / f"operator-{next(numbers)}"
            directory.mkdir()
            proxy = stack.enter_context(FaultProxy(cluster.credentials, OPERATOR_ACCOUNT))
            operator = stack.enter_context(ProxiedOperator(proxy, directory, **settings))
            operator.wait_ready()
            return operator

        yield start


@pytest.fixture
def namespace(cluster: Cluster, shared_operator: ProxiedOperator) -> Iterator[Namespace]:
    """A namespace of the test's own, under Pod Security `restricted`."""
    namespace = Namespace(cluster, new_name("test"), shared_operator.log_tail)
    namespace.create(**{"pod-security.kubernetes.io/enforce": "restricted"})
    yield namespace
    namespace.delete()
