"""Which nodes belong to which WeightCache: by labels, by turn, and as the agents' DaemonSets select them."""

from collections.abc import Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from support import make, stores
from warmfleet_operator.decide.caches_groups import MAX_TERMS, Group, agent_group, membership
from warmfleet_operator.records import Node

GPU = {"gpu": "h100"}
KEYS, VALUES = ["a", "b", "c"], ["1", "2"]


def nodes(*labels: Mapping[str, str]) -> dict[str, Node]:
    return {f"n{at}": make.node(f"n{at}", labels=each) for at, each in enumerate(labels)}


def test_a_cache_without_a_selector_takes_what_no_other_names() -> None:
    gpu, default = stores.group("gpu", nodeSelector=GPU), stores.group()
    found = membership([default, gpu], nodes(GPU, {}, {"gpu": "a100"}))
    assert {node: group.name for node, group in found.groups.items()} == {"n0": "gpu", "n1": "default", "n2": "default"}
    assert found.conflicts == {}


def test_the_first_by_creation_keeps_a_node_that_two_name_and_both_are_told() -> None:
    old = stores.group("old", nodeSelector=GPU, age_seconds=900)
    new = stores.group("new", nodeSelector={"zone": "a"}, age_seconds=100)
    found = membership([new, old], nodes({**GPU, "zone": "a"}, {"zone": "a"}))
    assert {node: group.name for node, group in found.groups.items()} == {"n0": "old", "n1": "new"}
    assert found.conflicts == {"old": {"n0": "old"}, "new": {"n0": "old"}}


def test_of_two_without_a_selector_the_first_keeps_everything() -> None:
    first, second = stores.group("first", age_seconds=2000), stores.group("second")
    found = membership([second, first], nodes({}))
    assert found.groups["n0"].name == "first"
    assert set(found.conflicts) == {"first", "second"}
    assert not selects(agent_group(second, [first, second], ()).node_terms, make.node("n0"))


def test_a_taint_that_agents_do_not_tolerate_takes_the_node_out_and_gives_it_to_nobody() -> None:
    taint = {"key": "dedicated", "effect": "NoSchedule", "value": "x"}
    tainted = {"n0": make.node("n0", labels=GPU, taints=(taint,))}
    gpu, default = stores.group("gpu", nodeSelector=GPU), stores.group()
    assert membership([gpu, default], tainted).groups == {}
    tolerant = stores.group("gpu", nodeSelector=GPU, tolerations=[{"key": "dedicated", "operator": "Exists"}])
    assert membership([tolerant, default], tainted).groups["n0"].name == "gpu"


def test_labels_that_would_need_too_many_alternatives_are_replaced_by_names() -> None:
    many = [stores.group(f"g{at}", nodeSelector={f"k{at}-{part}": "x" for part in "abcd"}) for at in range(5)]
    default = stores.group()
    found = agent_group(default, [*many, default], ["n1", "n2"])
    assert [selects(found.node_terms, make.node(name)) for name in ("n1", "n2", "n3")] == [True, True, False]
    assert MAX_TERMS < 4**5


@st.composite
def groups(draw: st.DrawFn) -> list[Group]:
    selectors = draw(st.lists(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)), max_size=4))
    return [
        stores.group(f"g{at}", nodeSelector=each, age_seconds=draw(st.integers(0, 3)))
        for at, each in enumerate(selectors)
    ]


@settings(deadline=None)
@given(groups(), st.lists(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)), min_size=1, max_size=6))
def test_the_agents_run_where_the_nodes_belong(made: list[Group], labels: list[Mapping[str, str]]) -> None:
    there = nodes(*labels)
    found = membership(made, there)
    for group in made:
        terms = agent_group(group, made, found.nodes_of(group)).node_terms
        assert {name for name, node in there.items() if selects(terms, node)} == set(found.nodes_of(group))


def selects(terms: tuple[Mapping[str, Any], ...], node: Node) -> bool:
    """Whether Kubernetes would match the node: any of the terms, each with all of its expressions."""
    return not terms or any(_matches(term, node) for term in terms)


def _matches(term: Mapping[str, Any], node: Node) -> bool:
    labels = node.metadata.labels
    for each in term.get("matchFields", ()):
        if node.metadata.name not in each["values"]:
            return False
    for each in term.get("matchExpressions", ()):
        value = labels.get(each["key"])
        match each["operator"]:
            case "In":
                holds = value in each["values"]
            case "NotIn":
                holds = value not in each["values"]
            case _:
                holds = value is not None
        if not holds:
            return False
    return bool(term)
