"""Nodes that can't be counted on for new runners though Kubernetes still says that they are Ready.

Kubernetes takes a node without power for Ready for most of a minute. Its runners' addresses answer nobody after two
seconds, and a runner that is created there meanwhile would hang. So such a node takes none: until one of its runners
is heard again, or Kubernetes knows. Where that goes for every node of a zone of which anything was heard, the zone is
what was lost, with those of its nodes that have no runner.
"""

from collections.abc import Iterable, Mapping

from warmfleet_operator.decide.fleet import Runner
from warmfleet_operator.decide.matching import zone_of
from warmfleet_operator.decide.runners import node_of
from warmfleet_operator.records import Node

LEAST_NODES = 2
"""A zone with fewer nodes that are out of reach is not taken for lost: what is lost may be the node alone."""


def unreachable(runners: Iterable[Runner], heard: Iterable[str], nodes: Mapping[str, Node]) -> frozenset[str]:
    """Return the nodes that are out of reach.

    Args:
        runners: those that are not known to be heard.
        heard: nodes of all others.
    """
    there = [each for each in runners if each.pod.metadata.deletion_timestamp is None and not each.pod.is_terminal]
    gone = {node_of(each.pod) for each in there if each.is_gone}
    if not gone:
        return frozenset()
    speaking = {*heard, *(node_of(each.pod) for each in there if each.status is not None and not each.is_gone)}
    gone = {name for name in gone - speaking if name in nodes}
    zones = [zone_of(nodes[name]) for name in gone]
    alive = {zone_of(nodes[name]) for name in speaking if name in nodes}
    lost = {zone for zone in zones if zone and zone not in alive and zones.count(zone) >= LEAST_NODES}
    return frozenset(gone | {name for name, node in nodes.items() if zone_of(node) in lost})
