"""What the ledger of a round begins with, carried from round to round: each node's room beside all pods that stay.

The sums are exact, so it is all the same whether a pod was counted in this round or a thousand rounds ago. Pods that
end are not among them: they give back what they take, and each round counts them anew.
"""

from collections.abc import Iterable, Mapping
from operator import is_not

from warmfleet_operator.decide.ledger import capacity_once, requests_once
from warmfleet_operator.decide.requests import Amounts
from warmfleet_operator.records import Node, Pod


def stays(pod: Pod) -> bool:
    """Whether a pod takes of its node what it takes, with no end in sight."""
    return pod.metadata.deletion_timestamp is None and not pod.is_terminal


class LedgerBase:
    """The nodes, what pods that stay take of them, and the strangers as the last round saw them."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.steady: tuple[str, ...] = ()
        """Names of those that are Ready and not to be emptied."""
        self.capacity: dict[str, Amounts] = {}
        self.free: dict[str, dict[str, int]] = {}
        """By node, what is open. Nobody changes these accounts: who wants to changes a copy."""
        self.ending: tuple[Pod, ...] = ()
        """Strangers that end, or have ended."""
        self.stranger_names: set[tuple[str, str]] = set()
        """Namespaces and names of all strangers."""
        self._strangers: dict[int, Pod] = {}
        """By identity, which lasts as they are held here."""
        self._used: dict[str, dict[str, int]] = {}
        """By node, whether that exists or not."""
        self._touched: set[str] = set()
        """Nodes whose account is to be drawn up anew."""

    def see_nodes(self, nodes: Mapping[str, Node]) -> set[str]:
        """Take the nodes as they are now; return the names of those that came, went or changed."""
        if len(nodes) == len(self.nodes) and not any(map(is_not, nodes.values(), self.nodes.values())):
            return set()
        changed = {name for name, node in nodes.items() if self.nodes.get(name) is not node}
        changed |= self.nodes.keys() - nodes.keys()
        self.nodes = dict(nodes)
        self.steady = tuple(name for name, node in nodes.items() if node.is_ready and not node.is_cordoned)
        for name in changed:
            node = nodes.get(name)
            if node is not None:
                self.capacity[name] = capacity_once(node)
            else:
                self.capacity.pop(name, None)
        self._touched |= changed
        return changed

    def see_strangers(self, strangers: Iterable[Pod]) -> None:
        """Take the strangers as they are now."""
        now = {id(pod): pod for pod in strangers}
        if now.keys() == self._strangers.keys():
            return
        for each in self._strangers.keys() - now.keys():
            pod = self._strangers[each]
            self.stranger_names.discard((pod.metadata.namespace, pod.metadata.name))
            if stays(pod):
                self.give(pod.spec.node_name, requests_once(pod))
        for each in now.keys() - self._strangers.keys():
            pod = now[each]
            self.stranger_names.add((pod.metadata.namespace, pod.metadata.name))
            if stays(pod):
                self.take(pod.spec.node_name, requests_once(pod))
        self._strangers = now
        self.ending = tuple(pod for pod in now.values() if not stays(pod))

    def take(self, node: str, need: Amounts) -> None:
        """Count in what a pod that stays takes."""
        used = self._used.setdefault(node, {})
        for resource, number in need.items():
            used[resource] = used.get(resource, 0) + number
        self._touched.add(node)

    def give(self, node: str, need: Amounts) -> None:
        """Count a pod out that stays no more."""
        used = self._used[node]
        for resource, number in need.items():
            used[resource] -= number
        if not any(used.values()):
            del self._used[node]
        self._touched.add(node)

    def draw_up(self) -> None:
        """Bring the accounts up to date."""
        for name in self._touched:
            capacity = self.capacity.get(name)
            if capacity is None:
                self.free.pop(name, None)
                continue
            free = self.free[name] = dict(capacity)
            for resource, number in self._used.get(name, {}).items():
                free[resource] = free.get(resource, 0) - number
        self._touched.clear()
