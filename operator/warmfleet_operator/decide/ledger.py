"""The ledger: what each node has, what is taken of it, and what has been promised to starts that wait.

It is rebuilt in every round from the nodes and all their pods, so nothing is forgotten over a restart. A
runner that is lost or terminating keeps its reservation until its pod is gone, and a runner that
is about to be created is *assumed*: the next start of the same round sees its room as taken.

There are two accounts of each node: *now*, and *later*, when all pods that end are gone and all who wait for their
room have it. A start goes only where it fits both, so what is coming free is never given away twice.
"""

from collections.abc import Iterable, Mapping, Sequence

from warmfleet_operator.decide.remembered import Remembered
from warmfleet_operator.decide.requests import CPU, MEMORY, PODS, Amounts, amounts, requests_of
from warmfleet_operator.records import Node, Pod

_HOST_RESOURCES = (MEMORY, CPU, PODS)
_requests: Remembered[Amounts] = Remembered()
_capacities: Remembered[Amounts] = Remembered()


def requests_once(pod: Pod) -> Amounts:
    """Return what a pod takes of its node; of one that was asked about before, what was found then."""
    known = _requests.get(pod.metadata.uid, pod)
    return known if known is not None else _requests.keep(pod.metadata.uid, requests_of(pod), pod)


def capacity_once(node: Node) -> Amounts:
    """Return what a node has for pods; of one that was asked about before, what was found then."""
    known = _capacities.get(node.metadata.name, node)
    return known if known is not None else _capacities.keep(node.metadata.name, amounts(node.status.allocatable), node)


class Ledger:
    """One round's account of the nodes' room. Amounts as in `requests.Amounts`."""

    @classmethod
    def over(cls, capacity: Mapping[str, Amounts], free: Mapping[str, dict[str, int]]) -> "Ledger":
        """Begin with accounts that are drawn up already, and leave these as they are."""
        ledger = cls({}, ())
        ledger._capacity, ledger._free = dict(capacity), dict(free)
        ledger._shared, ledger.versions = set(free), dict.fromkeys(free, 0)
        return ledger

    def __init__(self, nodes: Mapping[str, Node], pods: Iterable[tuple[str, Pod]]) -> None:
        """Account for the pods, each with the node it is on or pinned to; terminal ones take nothing."""
        self._capacity: dict[str, Amounts] = {name: capacity_once(node) for name, node in nodes.items()}
        self._free: dict[str, dict[str, int]] = {name: dict(capacity) for name, capacity in self._capacity.items()}
        self._shared: set[str] = set()
        """Nodes whose account is another's too, until the first change."""
        self._change: dict[str, dict[str, int]] = {}
        """By node: how much more is open later than now; below 0 for what is promised."""
        self._ending: dict[str, dict[str, int]] = {}
        """By node: what pods that end, or are told to, give back."""
        self.versions: dict[str, int] = dict.fromkeys(nodes, 0)
        """By node: grows with each change."""
        self._having: dict[str, Mapping[str, None]] = {}
        """By resource: the nodes that had any of it when somebody asked first, by name."""
        self.count(pods)

    def count(self, pods: Iterable[tuple[str, Pod]]) -> None:
        """Account for pods, each with the node it is on or pinned to; terminal ones take nothing."""
        for node, pod in pods:
            if not pod.is_terminal and node in self._free:
                need = requests_once(pod)
                self.take(node, need)
                if pod.metadata.deletion_timestamp is not None:
                    self.release(node, need)

    def take(self, node: str, need: Amounts) -> None:
        """Take room on a node: that of a pod that exists, or of a runner that is about to."""
        free = self._free[node]
        if node in self._shared:
            self._shared.discard(node)
            free = self._free[node] = free.copy()
        for resource, number in need.items():
            free[resource] = free.get(resource, 0) - number
        self.versions[node] += 1

    def release(self, node: str, need: Amounts) -> None:
        """Count room in that is free once a pod has ended."""
        if node in self._free:
            ending = self._ending.setdefault(node, {})
            for resource, number in need.items():
                ending[resource] = ending.get(resource, 0) + number
            self._add(node, need, 1)

    def claim(self, node: str, need: Amounts) -> None:
        """Keep room that is coming free for a start that waits for it."""
        if node in self._free:
            self._add(node, need, -1)

    def hold(self, node: str, need: Amounts) -> None:
        """Keep what is open on a node, up to the need, from all starts that are placed later in this round."""
        self.claim(
            node, {resource: max(0, min(number, self.later(node, resource))) for resource, number in need.items()}
        )

    def free(self, node: str, resource: str) -> int:
        """Return what no pod takes; negative where strangers took more than the node has."""
        return self._free[node].get(resource, 0)

    def later(self, node: str, resource: str) -> int:
        """Return what is open when all that ends is gone, and is promised to nobody."""
        change = self._change.get(node)
        return self._free[node].get(resource, 0) + (change.get(resource, 0) if change else 0)

    def open(self, node: str, resource: str) -> int:
        """Return what is neither taken nor promised."""
        change = self._change.get(node)
        return self._free[node].get(resource, 0) + (min(0, change.get(resource, 0)) if change else 0)

    def most_open(self, nodes: Sequence[str], resource: str) -> dict[str, int]:
        """Return what is open on nodes in their order: where any is, only of those that may have some."""
        having = self._having_of(resource)
        there = {node: self.open(node, resource) for node in nodes if node in having}
        if max(there.values(), default=0) > 0:
            return there
        return {node: self.open(node, resource) for node in nodes}

    def pieces(self, nodes: Iterable[str], resource: str) -> list[int]:
        """Return what is open of a resource on each of the nodes that has any."""
        free = self._free
        return [
            self.open(node, resource) for node in nodes if free[node].get(resource, 0) > 0 < self.open(node, resource)
        ]

    def capacity(self, node: str, resource: str) -> int:
        """Return what the node has for pods."""
        return self._capacity[node].get(resource, 0)

    def capacity_on(self, nodes: Iterable[str], resource: str) -> dict[str, int]:
        """Return what each of the nodes has for pods, in their order."""
        return {node: self.capacity(node, resource) for node in nodes}

    def fits(self, node: str, need: Amounts) -> bool:
        """Whether the need fits beside everything that is taken or promised."""
        return covers(self._free[node], need) and (
            node not in self._change or all(self.open(node, resource) >= number for resource, number in need.items())
        )

    def changing(self) -> Iterable[str]:
        """Return the nodes of which something ends, or is promised."""
        return self._change

    def having_any(self, need: Amounts) -> Iterable[str]:
        """Return the nodes that may have the need, by name: those with any of what it names first.

        Needs name devices first, and of these most nodes of a full fleet have none.
        """
        first, least = next(iter(need.items()))
        return self._having_of(first) if least > 0 else sorted(self._free)

    def _having_of(self, resource: str) -> Mapping[str, None]:
        """Return the nodes with any of a resource, by name: looked up once, as free room only shrinks in a round."""
        having = self._having.get(resource)
        if having is None:
            names = sorted(name for name, free in self._free.items() if free.get(resource, 0) > 0)
            having = self._having[resource] = dict.fromkeys(names)
        return having

    def fitting(self, nodes: Iterable[str], need: Amounts) -> list[str]:
        """Return those of the nodes on which the need fits beside everything that is taken or promised."""
        return [node for node in nodes if self.fits(node, need)]

    def fits_later(self, node: str, need: Amounts) -> bool:
        """Whether the need fits when all that ends is gone."""
        return node in self._change and all(self.later(node, resource) >= number for resource, number in need.items())

    def fits_without_holds(self, node: str, need: Amounts) -> bool:
        """Whether only what is held for others keeps the need from the node, if anything does."""
        return covers(self._free[node], need)

    def could_be_taken(self, node: str, need: Amounts) -> bool:
        """Whether the room is there or is coming free, whoever it is promised to."""
        ending = self._ending.get(node, {})
        return all(self.free(node, resource) + ending.get(resource, 0) >= number for resource, number in need.items())

    def nearest(self, nodes: Sequence[str], need: Amounts) -> str:
        """Return the node that lacks the least of what the need takes, of scarce resources first; the first by name."""
        scarce = by_scarcity(need)
        nodes = list(self.most_open(nodes, scarce[0]))
        for resource in scarce:
            there = {node: self.open(node, resource) for node in nodes}
            most = min(need[resource], max(there.values()))
            nodes = [node for node, number in there.items() if number >= most]
        return min(nodes)

    def _add(self, node: str, need: Amounts, sign: int) -> None:
        change = self._change.setdefault(node, {})
        for resource, number in need.items():
            change[resource] = change.get(resource, 0) + sign * number
        self.versions[node] += 1


def covers(there: Amounts, need: Amounts) -> bool:
    """Whether there is at least what a need takes."""
    for resource, number in need.items():  # noqa: SIM110 - no generator: it runs once per need and node
        if there.get(resource, 0) < number:
            return False
    return True


def by_scarcity(need: Amounts) -> list[str]:
    """Return the resources of a need, devices first: the order in which people want to read of them."""
    return sorted(each for each in need if each not in _HOST_RESOURCES) + [
        each for each in _HOST_RESOURCES if each in need
    ]
