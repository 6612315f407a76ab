"""Where a runner goes, and what a person reads when it goes nowhere."""

import pytest

from support import make
from warmfleet_api.vocabulary import Reason
from warmfleet_operator.decide.fleet import Fleet, Model
from warmfleet_operator.decide.ledger import Ledger
from warmfleet_operator.decide.needs import need_of
from warmfleet_operator.decide.placement import NoPlace, Places, Spread
from warmfleet_operator.decide.suited import Suited
from warmfleet_operator.records import Node, Pod


def find(model: Model, *parts: Node | Pod, spread: Spread | None = None) -> str | NoPlace:
    fleet: Fleet = make.fleet(model, *parts)
    ledger = Ledger(fleet.nodes, [(pod.spec.node_name, pod) for pod in fleet.strangers])
    return Places(Suited(fleet.nodes), ledger).find(need_of(model.spec), spread or Spread())


def refusal(model: Model, *parts: Node | Pod) -> tuple[Reason, str]:
    found = find(model, *parts)
    assert isinstance(found, NoPlace)
    return found.reason, found.blocker


def test_a_runner_goes_where_the_fewest_gpus_are_left_over() -> None:
    model = make.model(gpus=2)
    assert find(model, make.node("a", gpus=8), make.node("b", gpus=2), make.node("c", gpus=4)) == "b"


def test_a_runner_prefers_nodes_and_then_zones_without_its_model() -> None:
    nodes = [make.node("a", zone="1"), make.node("b", zone="1"), make.node("c", zone="2")]
    spread = Spread()
    spread.nodes["a"] += 1
    spread.zones["1"] += 1
    assert find(make.model(), *nodes, spread=spread) == "c"


def test_a_node_that_just_failed_is_taken_only_where_no_other_fits() -> None:
    spread = Spread(avoid=frozenset({"a"}))
    assert find(make.model(gpus=1), make.node("a", gpus=1), make.node("b", gpus=8), spread=spread) == "b"
    assert find(make.model(gpus=1), make.node("a", gpus=1), make.node("b"), spread=spread) == "a"


def test_a_model_without_gpus_leaves_the_gpu_nodes_to_those_that_need_them() -> None:
    assert find(make.model(), make.node("a", gpus=8), make.node("b")) == "b"


def test_among_equal_nodes_the_one_with_most_free_memory_wins_and_then_the_name() -> None:
    assert find(make.model(), make.node("a"), make.node("b"), make.stranger("s", "a", memory="9Gi")) == "b"
    assert find(make.model(), make.node("b"), make.node("a")) == "a"


def test_nodes_whose_gpus_are_too_small_are_passed_over() -> None:
    model = make.model(resources={"gpus": 1, "gpuMemory": "40Gi"})
    small, large = make.node("a", gpus=1, gpu_memory_mib=24_000), make.node("b", gpus=8, gpu_memory_mib=81_920)
    assert find(model, small, large) == "b"
    assert refusal(model, small) == (
        Reason.NO_MATCHING_NODE,
        "needs GPUs with 40.0 GiB each, the largest have 23.4 GiB",
    )


def test_taints_are_respected_and_tolerated() -> None:
    tainted = make.node("a", taints=({"key": "gpu", "value": "yes", "effect": "NoSchedule"},))
    assert refusal(make.model(), tainted) == (
        Reason.NO_MATCHING_NODE,
        "podTemplate.tolerations lack the taint gpu=yes:NoSchedule of a",
    )
    for toleration in (
        {"key": "gpu", "value": "yes"},
        {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"operator": "Exists"},
    ):
        assert find(make.model(podTemplate={"tolerations": [toleration]}), tainted) == "a"
    wrong = make.model(podTemplate={"tolerations": [{"key": "gpu", "value": "no"}]})
    assert isinstance(find(wrong, tainted), NoPlace)


def test_a_taint_that_only_prefers_keeps_nobody_away() -> None:
    assert find(make.model(), make.node("a", taints=({"key": "k", "effect": "PreferNoSchedule"},))) == "a"


def test_a_node_under_memory_pressure_takes_no_runner_but_still_counts_as_matching() -> None:
    node = make.node("a", taints=({"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"},))
    reason, blocker = refusal(make.model(), node)
    assert reason is Reason.NO_MATCHING_NODE
    assert blocker.endswith("only on a, cordoned, not Ready or out of reach now")


@pytest.mark.parametrize(
    ("nodes", "reason", "blocker"),
    [
        ([make.node("n2", gpus=2), make.node("n1", gpus=1)], Reason.NEVER_FITS, "no matching node has more than 2: n2"),
        ([make.node("n1")], Reason.NEVER_FITS, "no matching node has more than 0: n1"),
        (
            [make.node("n1", gpus=4), make.stranger("s", "n1", gpus=3)],
            Reason.NO_FREE_MEMORY,
            "at most 1 free on n1",
        ),
        (
            [make.node("n1", gpus=4), make.stranger("s", "n1", gpus=5)],
            Reason.NO_FREE_MEMORY,
            "at most 0 free on n1",
        ),
    ],
    ids=["no node is large enough", "no node has any", "room is taken", "room is over-committed by others"],
)
def test_a_refusal_says_what_is_needed_and_the_most_there_is(
    nodes: list[Node | Pod], reason: Reason, blocker: str
) -> None:
    assert refusal(make.model(gpus=3), *nodes) == (reason, f"needs 3 nvidia.com/gpu, {blocker}")


def test_a_refusal_for_memory_and_cpu_speaks_in_their_units() -> None:
    assert refusal(make.model(memory="64Gi"), make.node("n1", memory="32Gi"))[1] == (
        "needs 64.0 GiB memory, no matching node has more than 32.0 GiB: n1"
    )
    assert refusal(make.model(cpu="2500m"), make.node("n1", cpu="2"))[1] == (
        "needs 2500m cpu, no matching node has more than 2: n1"
    )


def test_a_refusal_says_when_only_the_combination_is_missing() -> None:
    full_of_pods, without_gpus = make.node("a", gpus=2, memory="1Gi"), make.node("b", memory="64Gi")
    assert refusal(make.model(gpus=1, memory="8Gi"), full_of_pods, without_gpus) == (
        Reason.NEVER_FITS,
        "needs 1 nvidia.com/gpu, 8.0 GiB memory, 1 cpu together on one node, and no node has all of it",
    )


def test_refusals_without_any_matching_node_name_the_labels_or_the_missing_nodes() -> None:
    assert refusal(make.model()) == (Reason.NO_MATCHING_NODE, "the cluster has no nodes")
    assert refusal(make.model(podTemplate={"nodeSelector": {"pool": "h100"}}), make.node("a")) == (
        Reason.NO_MATCHING_NODE,
        "no node has the labels of podTemplate.nodeSelector: pool=h100",
    )


def test_cordoned_nodes_and_nodes_that_are_not_ready_are_not_taken_but_could_be_later() -> None:
    for node in (make.node("a", cordoned_seconds=1), make.node("a", ready=False)):
        assert refusal(make.model(), node) == (
            Reason.NO_MATCHING_NODE,
            "needs 1.0 GiB memory, 1 cpu: only on a, cordoned, not Ready or out of reach now",
        )
