"""The ledger: what each node has, what is taken of it, and what is held for a start that waits.

It is rebuilt in every round from the nodes and all their pods, so nothing is forgotten over a restart. A
runner that is lost or terminating keeps its reservation until its pod is gone, and a runner that
is about to be created is *assumed*: the next start of the same round sees its room as taken.
"""

from collections.abc import Iterable, Mapping

from warmfleet_operator.decide.requests import CPU, MEMORY, PODS, Amounts, amounts, requests_of
from warmfleet_operator.records import Node, Pod

_HOST_RESOURCES = (MEMORY, CPU, PODS)


class Ledger:
    """One round's account of the nodes' room. Amounts as in `requests.Amounts`."""

    def __init__(self, nodes: Mapping[str, Node], pods: Iterable[tuple[str, Pod]]) -> None:
        """Account for the pods, each with the node it is on or pinned to; terminal ones take nothing."""
        self._capacity: dict[str, Amounts] = {name: amounts(node.status.allocatable) for name, node in nodes.items()}
        self._free: dict[str, dict[str, int]] = {name: dict(capacity) for name, capacity in self._capacity.items()}
        self._held: dict[str, dict[str, int]] = {}
        for node, pod in pods:
            if node in self._free and not pod.is_terminal:
                self.take(node, requests_of(pod))

    def take(self, node: str, need: Amounts) -> None:
        """Take room on a node: that of a pod that exists, or of a runner that is about to."""
        free = self._free[node]
        for resource, number in need.items():
            free[resource] = free.get(resource, 0) - number

    def hold(self, node: str, need: Amounts) -> None:
        """Keep what is free on a node, up to the need, from all starts that are placed later in this round."""
        held = self._held.setdefault(node, {})
        for resource, number in need.items():
            held[resource] = held.get(resource, 0) + max(0, min(number, self.open(node, resource)))

    def free(self, node: str, resource: str) -> int:
        """Return what no pod takes; negative where strangers took more than the node has."""
        return self._free[node].get(resource, 0)

    def open(self, node: str, resource: str) -> int:
        """Return what is neither taken nor held."""
        held = self._held.get(node)
        return self.free(node, resource) - (held.get(resource, 0) if held else 0)

    def capacity(self, node: str, resource: str) -> int:
        """Return what the node has for pods."""
        return self._capacity[node].get(resource, 0)

    def fits(self, node: str, need: Amounts) -> bool:
        """Whether the need fits beside everything that is taken or held."""
        free = self._free[node]
        for resource, number in need.items():  # no generator: this line runs once per waiting start and node
            if free.get(resource, 0) < number:
                return False
        return node not in self._held or all(self.open(node, resource) >= number for resource, number in need.items())

    def fits_without_holds(self, node: str, need: Amounts) -> bool:
        """Whether only what is held for others keeps the need from the node, if anything does."""
        return all(self.free(node, resource) >= number for resource, number in need.items())

    def could_ever_fit(self, node: str, need: Amounts) -> bool:
        """Whether the node is large enough when it is empty."""
        return all(self.capacity(node, resource) >= number for resource, number in need.items())

    def shortfall(self, node: str, need: Amounts) -> tuple[int, ...]:
        """Return what is missing of each resource, scarce ones first: nodes sort by it, the nearest to fit first."""
        return tuple(max(0, need[resource] - self.open(node, resource)) for resource in by_scarcity(need))


def by_scarcity(need: Amounts) -> list[str]:
    """Return the resources of a need, devices first: the order in which people want to read of them."""
    return sorted(each for each in need if each not in _HOST_RESOURCES) + [
        each for each in _HOST_RESOURCES if each in need
    ]
