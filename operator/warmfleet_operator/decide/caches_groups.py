"""Which nodes belong to which WeightCache, and how Kubernetes is told so.

A WeightCache takes the nodes that have the labels it selects, one without a selector those that no other names. Where
two name one node, the first by creation (then name) keeps it, and both say so. The agents' DaemonSets select by the
same rule, in terms of labels: a node that joins gets its agent without the operator.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from warmfleet_api.weight_cache import WeightCacheSpec, WeightCacheStatus
from warmfleet_kube.objects import Metadata
from warmfleet_operator.decide.matching import has_labels, repelling
from warmfleet_operator.records import Node

MAX_TERMS = 64
"""Alternatives of a DaemonSet's node affinity; where labels would need more, the nodes are named one by one."""


@dataclass(frozen=True, slots=True)
class Group:
    """A WeightCache, parsed: some nodes and what they keep."""

    metadata: Metadata
    spec: WeightCacheSpec
    status: WeightCacheStatus

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name

    @property
    def turn(self) -> tuple[object, ...]:
        """Sorts those first that keep a node which several name."""
        return not self.spec.node_selector, self.metadata.creation_timestamp, self.name


@dataclass(frozen=True, slots=True)
class AgentGroup:
    """What a WeightCache's DaemonSets are built from."""

    name: str
    """Of the WeightCache."""
    uid: str
    spec: WeightCacheSpec
    node_terms: tuple[Mapping[str, Any], ...]
    """The nodeSelectorTerms of their pods; none: all nodes."""


@dataclass(frozen=True, slots=True)
class Membership:
    """Who has which node."""

    groups: Mapping[str, Group]
    """Node → its WeightCache."""
    conflicts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """WeightCache → node that another one names too → who keeps it."""

    def nodes_of(self, group: Group) -> tuple[str, ...]:
        """Return the nodes of a WeightCache, by name."""
        return tuple(sorted(node for node, keeper in self.groups.items() if keeper.name == group.name))


def membership(groups: Collection[Group], nodes: Mapping[str, Node], held: Collection[str] = ()) -> Membership:
    """Say who has which node. `held` are nodes of WeightCaches that can't be read: nobody else gets them."""
    kept: dict[str, Group] = {}
    conflicts: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for group in sorted(groups, key=lambda each: each.turn):
        for name, node in nodes.items():
            if name in held or not has_labels(node, group.spec.node_selector.items()):
                continue
            keeper = kept.setdefault(name, group)
            # Whoever selects nothing takes what is left over, and disputes it only with others that select nothing.
            disputes = bool(group.spec.node_selector) == bool(keeper.spec.node_selector)
            if keeper.name != group.name and disputes:
                conflicts[group.name][name] = conflicts[keeper.name][name] = keeper.name
    # As with any DaemonSet, a node whose taints the agents do not tolerate is none of theirs, nor anybody else's.
    takes = {name: group for name, group in kept.items() if not repelling(nodes[name], group.spec.tolerations)}
    return Membership(takes, conflicts)


def agent_group(group: Group, groups: Collection[Group], nodes: Sequence[str]) -> AgentGroup:
    """Return what the DaemonSets of a WeightCache are built from.

    Args:
        group: the WeightCache.
        groups: all of them.
        nodes: those of `group`, for where labels can't say it in `MAX_TERMS` alternatives.
    """
    before = [each.spec.node_selector for each in groups if each.name != group.name and each.turn < group.turn]
    if any(not selector for selector in before):
        # Another one that selects nothing keeps all that is left.
        terms = _by_name(())
    else:
        terms = _by_label(group.spec.node_selector, before) or _by_name(nodes)
    return AgentGroup(group.name, group.metadata.uid, group.spec, () if terms == ({},) else terms)


def _by_label(selector: Mapping[str, str], before: Sequence[Mapping[str, str]]) -> tuple[Mapping[str, Any], ...] | None:
    """Return terms for the nodes that `selector` names and no other of `before`; None where they would be too many.

    A node is not one of another's if any label of that selector is missing: one alternative per label of each.
    """
    rivals = [dict(each) for each in before if not _exclude_each_other(selector, each)]
    alternatives = [
        sorted((key, value) for key, value in each.items() if selector.get(key) != value) for each in rivals
    ]
    count = 1
    for each in alternatives:
        count *= len(each)
        if count > MAX_TERMS:
            return None
    wanted = [{"key": key, "operator": "In", "values": [value]} for key, value in sorted(selector.items())]
    terms = []
    for choice in itertools.product(*alternatives):
        unwanted: defaultdict[str, set[str]] = defaultdict(set)
        for key, value in choice:
            unwanted[key].add(value)
        refused = [{"key": key, "operator": "NotIn", "values": sorted(unwanted[key])} for key in sorted(unwanted)]
        expressions = [*wanted, *refused]
        term: Mapping[str, Any] = {"matchExpressions": expressions} if expressions else {}
        if term not in terms:
            terms.append(term)
    return tuple(terms) or _by_name(())


def _exclude_each_other(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return any(key in one and one[key] != value for key, value in other.items())


def _by_name(nodes: Sequence[str]) -> tuple[Mapping[str, Any], ...]:
    """Return terms that name nodes; a term without a node matches none."""
    named = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]} for name in nodes]
    return tuple(named) or ({"matchExpressions": [{"key": "warmfleet.dev/no-node", "operator": "Exists"}]},)
