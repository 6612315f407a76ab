"""Which of the installed operators leads, and on which node; how to have it lead there."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from support.cluster import Cluster
from support.kubeapi import Object
from support.namespace import is_ready
from support.operator import LEASE_PATH
from support.waiting import wait_for

SYSTEM = "warmfleet-system"
OPERATORS = "app.kubernetes.io/component=operator"
REPLICAS = 2
STEP_SECONDS = 120
_TAINT = "test.warmfleet.dev/no-operator"


def operators(cluster: Cluster) -> list[Object]:
    """Return the operators' pods that run and are not being deleted."""
    pods = cluster.api.list(f"api/v1/namespaces/{SYSTEM}/pods", labelSelector=OPERATORS)
    return [each for each in pods if is_ready(each) and "deletionTimestamp" not in each["metadata"]]


def leader(cluster: Cluster) -> Object | None:
    """Return the pod of the operator that the Lease names."""
    lease = cluster.api.get(LEASE_PATH) or {"spec": {}}
    name = lease["spec"].get("holderIdentity", "").partition("_")[0]
    return next((each for each in operators(cluster) if each["metadata"]["name"] == name), None)


def leading_node(cluster: Cluster) -> str:
    """Return the node of the leader that the Lease names; empty where nobody leads whose pod is up."""
    found = leader(cluster)
    return _node(found) if found is not None else ""


def lead_on(cluster: Cluster, node: str) -> None:
    """Have the operator on a node lead, and the other one be elsewhere."""
    wait_operators(cluster)
    if [_node(each) for each in operators(cluster)].count(node) != 1:
        present = leader(cluster)
        assert present is not None
        others = [each for each in operators(cluster) if each["metadata"]["uid"] != present["metadata"]["uid"]]
        # The follower moves: to the node if the leader is not there, away from it if both are.
        with _no_operator_on(cluster, [node] if _node(present) == node else _other_nodes(cluster, node)):
            _replace(cluster, others[0])
    if leading_node(cluster) != node:
        _hand_over(cluster, node)
    wait_for(f"the operator on {node} leads", lambda: leading_node(cluster) == node, STEP_SECONDS)


def lead_off(cluster: Cluster, node: str) -> None:
    """Have an operator lead that is not on this node, and none be there."""
    wait_operators(cluster)
    with _no_operator_on(cluster, [node]):
        for each in operators(cluster):
            if _node(each) == node:
                _replace(cluster, each)
    wait_for(f"an operator leads that is not on {node}", lambda: leading_node(cluster) not in {"", node}, STEP_SECONDS)


def wait_operators(cluster: Cluster) -> None:
    """Wait until all operators are up and one leads."""

    def up() -> bool:
        return len(operators(cluster)) == REPLICAS and leader(cluster) is not None

    wait_for("the operators are up and one leads", up, STEP_SECONDS)


def _hand_over(cluster: Cluster, node: str) -> None:
    """Have the leader end in order; whoever comes in its place is not to come to the node."""
    present = leader(cluster)
    assert present is not None
    with _no_operator_on(cluster, [node]):
        _replace(cluster, present)


def _replace(cluster: Cluster, pod: Object) -> None:
    cluster.api.delete(f"api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}")
    uid = pod["metadata"]["uid"]
    wait_for(
        "an operator is replaced",
        lambda: uid not in {each["metadata"]["uid"] for each in operators(cluster)},
        STEP_SECONDS,
    )
    wait_operators(cluster)


@contextmanager
def _no_operator_on(cluster: Cluster, nodes: Iterable[str]) -> Iterator[None]:
    """Taint nodes so that no new pod comes there. A cordon would tell Warmfleet to move its models away."""
    taints = list(nodes)
    for node in taints:
        cluster.kubectl("taint", "node", node, f"{_TAINT}=:NoSchedule")
    try:
        yield
    finally:
        for node in taints:
            cluster.kubectl("taint", "node", node, f"{_TAINT}-")


def _other_nodes(cluster: Cluster, node: str) -> list[str]:
    return [name for each in cluster.api.list("api/v1/nodes") if (name := each["metadata"]["name"]) != node]


def _node(pod: Object) -> str:
    return str(pod["spec"]["nodeName"])
