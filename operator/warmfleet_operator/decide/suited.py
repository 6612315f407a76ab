"""Which nodes suit what a runner needs, whatever is on them now: the same in many rounds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from warmfleet_operator.decide.ledger import capacity_once, covers
from warmfleet_operator.decide.matching import has_gpu_memory, has_labels, repelling, takes_pods
from warmfleet_operator.decide.needs import Need
from warmfleet_operator.decide.weights_stores import CacheKind
from warmfleet_operator.records import Node


@dataclass(slots=True)
class Suited:
    """The nodes of a fleet by the needs they suit, each found when it is first asked for. All by name."""

    nodes: Mapping[str, Node]
    kinds: Mapping[str, CacheKind] = field(default_factory=dict)
    """Of the nodes' weight stores."""
    unreachable: frozenset[str] = frozenset()
    _matching: dict[Need, Sequence[str]] = field(default_factory=dict)
    _usable: dict[Need, Sequence[str]] = field(default_factory=dict)
    _usable_names: dict[Need, frozenset[str]] = field(default_factory=dict)
    _large: dict[Need, Sequence[str]] = field(default_factory=dict)
    _able: dict[Need, Sequence[str]] = field(default_factory=dict)

    def matching(self, need: Need) -> Sequence[str]:
        """Return the nodes whose labels, lasting taints, GPUs and weight stores suit, whatever their condition now."""
        kind = need.kind
        found = self._matching.get(kind)
        if found is None:
            found = self._matching[kind] = [
                name
                for name, node in sorted(self.nodes.items())
                if has_labels(node, need.node_selector)
                and has_gpu_memory(node, need.gpu_memory_bytes)
                and not repelling(node, need.tolerations)
                and (need.stores is None or self.kinds.get(name) in need.stores)
            ]
        return found

    def usable(self, need: Need) -> Sequence[str]:
        """Return those of the matching nodes that take pods now."""
        found = self._usable.get(need)
        if found is None:
            found = self._usable[need] = [
                name
                for name in self.matching(need)
                if name not in self.unreachable and takes_pods(self.nodes[name], need.tolerations)
            ]
        return found

    def usable_of(self, need: Need, names: Iterable[str]) -> list[str]:
        """Return those of the named nodes that are usable, in their order."""
        usable = self._usable_names.get(need)
        if usable is None:
            usable = self._usable_names[need] = frozenset(self.usable(need))
        return [name for name in names if name in usable]

    def large(self, need: Need) -> Sequence[str]:
        """Return those of the matching nodes that could have the room if nobody else were there."""
        found = self._large.get(need)
        if found is None:
            wanted = need.amounts
            found = self._large[need] = [
                name for name in self.matching(need) if covers(capacity_once(self.nodes[name]), wanted)
            ]
        return found

    def able(self, need: Need) -> Sequence[str]:
        """Return those of the usable nodes that could have the room if nobody else were there."""
        found = self._able.get(need)
        if found is None:
            large = frozenset(self.large(need))
            found = self._able[need] = [name for name in self.usable(need) if name in large]
        return found
