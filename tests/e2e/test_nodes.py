"""Nodes that are drained or lose power, under models whose clients never stop asking."""

import pytest

from support.cluster import Cluster
from support.endpoint import client, traffic
from support.kubeapi import ApiError, Object
from support.models import simulated
from support.namespace import Namespace, condition, settled

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

LOSS_SECONDS = 180


def test_scaling_puts_a_second_engine_to_work(namespace: Namespace) -> None:
    namespace.apply(simulated("scaled"))
    namespace.wait_ready("scaled")
    with traffic(namespace, "scaled") as seen:
        namespace.kubectl("scale", "mdl/scaled", "--replicas=2")
        namespace.wait_ready("scaled")
        namespace.kubectl("scale", "mdl/scaled", "--replicas=1")
        namespace.wait("one runner is left", lambda: len(namespace.runners()) == 1)
    assert seen.answered > 10
    assert seen.failures == [], namespace.explain()


def test_the_client_notices_when_nobody_answers(namespace: Namespace) -> None:
    """The control of the tests around it: their client would have seen a lost request."""
    namespace.apply(simulated("torn"))
    namespace.wait_ready("torn")
    with traffic(namespace, "torn") as seen:
        namespace.remove("torn")
        namespace.wait("a request is lost", lambda: seen.failures, 60)


def test_a_drained_node_hands_its_model_over_first(namespace: Namespace, cluster: Cluster) -> None:
    namespace.apply(simulated("moved"))
    namespace.wait_ready("moved")
    node = _node(namespace)
    try:
        with traffic(namespace, "moved") as seen:
            cluster.kubectl(
                "drain",
                node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                "--force",
                "--timeout=600s",
                bound_seconds=170,
            )
            assert _is_ready(namespace.model("moved"))
            namespace.wait_ready("moved")
            namespace.wait("the old runner is gone", lambda: len(namespace.runners()) == 1)
        assert _node(namespace) != node
        assert seen.answered > 10
        assert seen.failures == [], namespace.explain()
    finally:
        cluster.kubectl("uncordon", node)


def test_a_last_ready_engine_is_not_evicted(namespace: Namespace, cluster: Cluster) -> None:
    """The control: what lets the drain above through is the other engine, not a budget that protects nothing."""
    namespace.apply(simulated("pinned"))
    namespace.wait_ready("pinned")
    node = _node(namespace)
    name = namespace.runners()[0]["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    with pytest.raises(ApiError, match="disruption budget"):
        namespace.api.create(f"{namespace.core_path}/pods/{name}/eviction", eviction)
    assert settled(namespace.model("pinned"))
    assert _node(namespace) == node


def test_a_node_without_power_loses_its_model_to_another(namespace: Namespace, cluster: Cluster) -> None:
    namespace.apply(simulated("lost"))
    namespace.wait_ready("lost")
    node = _node(namespace)
    cluster.hack("kill-node", node)
    try:
        namespace.wait(
            "another node serves the model",
            lambda: any(
                engine["state"] == "Ready" and engine["node"] != node
                for engine in namespace.model("lost")["status"].get("engines", [])
            ),
            LOSS_SECONDS,
        )
        namespace.wait_condition("lost", "Ready", "True", within=LOSS_SECONDS)
        with client(namespace, "lost") as openai:
            assert openai.models.list().data[0].id == "lost"
    finally:
        cluster.hack("start-node", node)
    namespace.wait("only one runner is left", lambda: len(namespace.runners()) == 1, LOSS_SECONDS)
    namespace.wait_ready("lost")


def _node(namespace: Namespace) -> str:
    node: str = namespace.runners()[0]["spec"]["nodeName"]
    return node


def _is_ready(model: Object) -> bool:
    found = condition(model, "Ready")
    return found is not None and found["status"] == "True"
