"""How many loads a node and its runners carry now, and whether another would only wait.

A runner carries one load at a time (its own rule). An engine's start keeps a core busy for most of its time, so a node
carries as many at once as it has cores; and a link is full with one or two transfers, so at most two starts fetch
weights to a node at once. A start that would only wait there is not assigned yet: a more urgent one that comes
meanwhile then goes first.
"""

from collections import Counter
from collections.abc import Mapping

from warmfleet_operator.decide.requests import CPU, amount
from warmfleet_operator.records import Node

TRANSFERS_OF_A_LINK = 2


class Links:
    """One round's count of the loads under way."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self._nodes = nodes
        self._loads: Counter[str] = Counter()
        self._fetches: Counter[str] = Counter()

    def add(self, node: str, *, fetches: bool) -> None:
        """Count a start that is under way, or that was just given its place."""
        self._loads[node] += 1
        self._fetches[node] += fetches

    def is_busy(self, node: str) -> bool:
        """Whether any start is under way there."""
        return self._loads[node] > 0

    def why_busy(self, node: str, *, fetches: bool) -> str:
        """Say why another start would only wait there; empty where it would not."""
        loads = self._loads[node]
        if not loads:
            return ""
        if loads >= self._cores(node):
            return f"{node} starts {loads} engines already, as many as it has cores"
        if fetches and self._fetches[node] >= TRANSFERS_OF_A_LINK:
            return f"{node} fetches the weights of {self._fetches[node]} other starts first"
        return ""

    def _cores(self, node: str) -> int:
        found = self._nodes.get(node)
        return max(1, amount(CPU, found.status.allocatable.get(CPU, 1)) // 1000) if found is not None else 1
