"""What may be taken from a node and when, and what a new version of the operator leaves alone."""

import pytest

from support.cluster import Cluster
from support.kubeapi import ApiError
from support.models import simulated
from support.namespace import Namespace
from support.operator import ProxiedOperator, StartOperator
from support.pools import warm_pool
from support.ready_watch import watching
from warmfleet_api import names

pytestmark = pytest.mark.cluster

REST_SECONDS = 3
REFUSAL = "disruption budget"


def evict(namespace: Namespace, runner: str) -> None:
    """Ask for a runner as `kubectl drain` does, and wait until it is gone; another one may have its name at once.

    Raises:
        ApiError: the budget refuses it.
    """
    former = next(each["metadata"]["uid"] for each in namespace.runners() if each["metadata"]["name"] == runner)
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": runner}}
    namespace.api.create(f"{namespace.core_path}/pods/{runner}/eviction", eviction)
    namespace.wait("it is gone", lambda: former not in versions(namespace))


def versions(namespace: Namespace) -> dict[str, str]:
    """Return the resource version of each runner's pod by its uid: any write at all changes it."""
    return {each["metadata"]["uid"]: each["metadata"]["resourceVersion"] for each in namespace.runners()}


def protected(namespace: Namespace) -> dict[str, bool]:
    """Return which runners are under the budget, by name."""
    return {
        each["metadata"]["name"]: each["metadata"]["labels"].get(names.LABEL_PROTECTED) == "true"
        for each in namespace.runners()
    }


def test_a_replica_that_is_not_the_last_may_be_evicted_and_comes_back(
    namespace: Namespace, operator: ProxiedOperator
) -> None:
    namespace.apply(simulated("two", replicas=2))
    namespace.wait_ready("two")
    kept = namespace.wait(
        "one is protected", lambda: [name for name, is_kept in protected(namespace).items() if is_kept]
    )
    (other,) = protected(namespace).keys() - set(kept)
    with pytest.raises(ApiError, match=REFUSAL):
        evict(namespace, kept[0])
    evict(namespace, other)
    namespace.wait_ready("two")
    assert kept[0] in protected(namespace)


def test_a_drained_node_gives_up_a_runner_of_several_models_when_each_serves_elsewhere(
    namespace: Namespace, cluster: Cluster, operator: ProxiedOperator
) -> None:
    namespace.apply(warm_pool("pool", cpu="10m", memory="6Gi"))
    models = [f"m-{number}" for number in range(3)]
    namespace.wait_pool("pool")
    namespace.apply(*(simulated(name, pools=["pool"]) for name in models))
    namespace.wait_ready(*models)
    (former,) = namespace.runners()
    with pytest.raises(ApiError, match=REFUSAL):
        evict(namespace, former["metadata"]["name"])
    node = former["spec"]["nodeName"]
    try:
        drained = ("drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=240s")
        selected = (f"--pod-selector={names.LABEL_RUNNER}",)
        cluster.kubectl(*drained, *selected, bound_seconds=70)
        assert all(namespace.model(name)["status"]["readyReplicas"] == 1 for name in models)
        namespace.wait_ready(*models)
        assert {each["metadata"]["uid"] for each in namespace.runners()}.isdisjoint({former["metadata"]["uid"]})
    finally:
        cluster.kubectl("uncordon", node)


def test_a_runner_whose_engine_sleeps_may_be_evicted_and_its_model_stays_ready(
    namespace: Namespace, operator: ProxiedOperator
) -> None:
    namespace.apply(simulated("asleep", idle={"afterSeconds": 10}))
    namespace.wait_condition("asleep", "Ready", "True", "Asleep")
    namespace.wait("nothing of it is protected", lambda: list(protected(namespace).values()) == [False])
    (name,) = protected(namespace)
    evict(namespace, name)
    namespace.wait_condition("asleep", "Ready", "True", "Asleep")


def test_another_version_of_the_operator_writes_to_no_runner_unless_it_brings_another_runtime(
    namespace: Namespace, start_operator: StartOperator
) -> None:
    first = start_operator()
    namespace.apply(warm_pool("pool", cpu="10m", memory="4Gi"), simulated("own", replicas=2))
    namespace.apply(simulated("pooled", pools=["pool"]))
    namespace.wait_pool("pool")
    namespace.wait_ready("own", "pooled")
    before = versions(namespace)
    namespace.stays("nothing is written at rest", lambda: versions(namespace) == before, REST_SECONDS)
    first.kill()
    second = start_operator(agent_image="registry.example/warmfleet:2", drain_deadline_seconds=33, workers=3)
    namespace.stays("nothing is written by another", lambda: versions(namespace) == before, REST_SECONDS)
    second.kill()
    with watching(namespace, "own", "pooled") as ready:
        # The control: another runtime does roll, own runners and the pool's, and no model serves less meanwhile.
        start_operator(runtime_image="registry.example/warmfleet-runtime:2")
        namespace.wait("all runners are new", lambda: before.keys().isdisjoint(versions(namespace)))
        namespace.wait_ready("own", "pooled")
    assert (ready["own"].least_serving(), ready["pooled"].least_serving()) == (2, 1)
