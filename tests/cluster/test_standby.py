"""Standbys with the real operator: one takes over for a lost replica, and one that can be nowhere says so."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from support.kubeapi import Object
from support.models import simulated
from support.namespace import Namespace
from support.pools import warm_pool
from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

MODEL = "guarded"


def stands_by(namespace: Namespace) -> Object | None:
    """Return the standby's status once all that is wanted stands by."""
    standby: Object | None = namespace.model(MODEL).get("status", {}).get("standby")
    return standby if standby is not None and standby["readyReplicas"] == standby["replicas"] else None


def serving(namespace: Namespace, state: EngineState) -> Object | None:
    """Return the runner whose label says that of the model."""
    label = names.serve_label(MODEL)
    return next((each for each in namespace.runners("default") if each["metadata"]["labels"].get(label) == state), None)


def node_with(namespace: Namespace, state: EngineState) -> str | None:
    """Return the node of that runner."""
    found = serving(namespace, state)
    return str(found["spec"]["nodeName"]) if found is not None else None


@contextmanager
def not_ready(namespace: Namespace, node: str) -> Iterator[Callable[[], str]]:
    """Let nobody renew a fake node's lease, as if its kubelet alone had stopped; yield what says that it is not Ready.

    The control plane would say so after 50 s. Until the player of fake nodes has seen the lease it says the contrary.
    """
    spec = {"holderIdentity": "nobody", "leaseDurationSeconds": 10_000_000}
    metadata = {"name": node, "namespace": "kube-node-lease"}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
    kubectl = namespace.cluster.kubectl
    kubectl("apply", "--server-side", "--force-conflicts", "--filename", "-", stdin=json.dumps(lease))
    unknown = json.dumps({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})
    try:
        yield lambda: kubectl("patch", "node", node, "--subresource=status", "--patch", unknown)
    finally:
        kubectl("delete", "lease", "--namespace", "kube-node-lease", node)
        kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=60s")


def promotions(namespace: Namespace) -> list[Object]:
    return [each for each in namespace.events() if each["reason"] == "StandbyPromoted"]


def degraded(namespace: Namespace) -> str:
    found = namespace.condition(MODEL, "Degraded")
    return f"{found['reason']}: {found['message']}" if found is not None else ""


def test_a_standby_takes_over_for_a_replica_that_is_lost_and_is_replaced(namespace: Namespace) -> None:
    namespace.apply(warm_pool("default", replicas=3, cpu="10m", memory="2Gi"), simulated(MODEL))
    namespace.wait_ready(MODEL)
    before = {each["metadata"]["uid"] for each in namespace.runners("default")}
    namespace.change(MODEL, standby={"mode": "Hot"})
    standby = namespace.wait("something stands by", lambda: stands_by(namespace))
    (near,) = standby["nodes"]
    serves = namespace.wait("it serves", lambda: node_with(namespace, EngineState.READY))
    assert near != serves
    assert node_with(namespace, EngineState.ASLEEP) == near
    assert namespace.model(MODEL)["status"]["readyReplicas"] == 1
    assert {each["metadata"]["uid"] for each in namespace.runners("default")} == before, "switching it on restarts none"
    lost = serving(namespace, EngineState.READY)
    assert lost is not None
    namespace.kubectl("delete", "pod", lost["metadata"]["name"], "--force", "--grace-period=0")
    namespace.wait("the standby serves", lambda: node_with(namespace, EngineState.READY) == near or None)
    namespace.wait("another stands by", lambda: (found := stands_by(namespace)) and near not in found["nodes"])
    assert namespace.model(MODEL)["status"]["lastStart"]["startType"] == "Hot"


def test_a_standby_takes_over_where_the_node_is_not_ready_though_its_runner_is_still_heard(
    namespace: Namespace,
) -> None:
    standby = {"mode": "Hot"}
    namespace.apply(warm_pool("default", replicas=2, cpu="10m", memory="2Gi"), simulated(MODEL, standby=standby))
    namespace.wait_ready(MODEL)
    (near,) = namespace.wait("something stands by", lambda: stands_by(namespace))["nodes"]
    serves = namespace.wait("it serves", lambda: node_with(namespace, EngineState.READY))

    with not_ready(namespace, serves) as say_not_ready:

        def standby_serves() -> bool:
            say_not_ready()
            return bool(node_with(namespace, EngineState.READY) == near)

        namespace.wait("the standby serves", standby_serves)
        notes = namespace.wait("it is told", lambda: [each["note"] for each in promotions(namespace)])
        assert all(f"node {serves} is not Ready" in note for note in notes)


def test_a_standby_that_can_be_nowhere_says_what_to_do_until_it_can(namespace: Namespace) -> None:
    nowhere = {"mode": "Cold", "topologyKey": "example.com/rack"}
    namespace.apply(simulated(MODEL, standby=nowhere))
    namespace.wait("StandbyMissing is there", lambda: "kubectl label node" in degraded(namespace) or None)
    assert degraded(namespace).startswith("StandbyMissing: 0 of 1 standbys")
    assert (namespace.condition(MODEL, "Ready") or {})["status"] == "True"
    namespace.change(MODEL, standby={"mode": "Cold", "topologyKey": "kubernetes.io/hostname"})
    namespace.wait("nothing is missing", lambda: (not degraded(namespace) and stands_by(namespace)) or None)
