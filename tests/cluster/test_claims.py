"""A cluster autoscaler is asked for a node by a runner without one, and what comes of it."""

import pytest

from support.cluster import Cluster
from support.kubeapi import Object
from support.models import simulated
from support.namespace import Namespace, settled
from support.operator import StartOperator
from support.waiting import wait_for

pytestmark = pytest.mark.cluster
LABEL = "test.warmfleet.dev/on-demand"


def test_a_runner_without_a_node_asks_for_one_and_serves_when_it_came(
    cluster: Cluster, namespace: Namespace, start_operator: StartOperator
) -> None:
    start_operator(autoscaler="On", autoscaler_claims=1)
    wanted = {"nodeSelector": {LABEL: namespace.name}}
    namespace.apply(
        simulated("first", gpus=1, priority="High", podTemplate=wanted),
        simulated("second", gpus=1, podTemplate=wanted),
    )

    def claims() -> list[Object]:
        return [pod for pod in namespace.runners() if "nodeName" not in pod["spec"]]

    wait_for("one node is asked for", lambda: len(claims()) == 1, 30, namespace.log_tail)
    (claim,) = claims()
    assert claim["metadata"]["name"].startswith("first-")
    assert (claim["spec"]["priorityClassName"], claim["spec"]["preemptionPolicy"]) == ("warmfleet-high", "Never")
    assert "affinity" not in claim["spec"]

    def blocker() -> str:
        return str(namespace.model("first").get("status", {}).get("pendingStart", {}).get("blocker", ""))

    wait_for("the wait says so", lambda: "asked of the cluster autoscaler" in blocker(), 30, namespace.log_tail)
    # The autoscaler's part: a node of the shape comes.
    node = cluster.kubectl("get", "nodes", "--output=jsonpath={.items[0].metadata.name}").strip()
    try:
        cluster.kubectl("label", "node", node, f"{LABEL}={namespace.name}")
        wait_for(
            "both serve there",
            lambda: all(settled(namespace.model(name)) for name in ("first", "second")) and not claims(),
            60,
            namespace.log_tail,
        )
        assert {pod["spec"]["nodeName"] for pod in namespace.runners()} == {node}
    finally:
        cluster.kubectl("label", "node", node, f"{LABEL}-")
