"""Where a model's weights may be kept, and why it can't be placed before they are known."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from warmfleet_api.vocabulary import Reason
from warmfleet_operator.decide.caches_view import answer
from warmfleet_operator.decide.fleet import Cache, Fleet, Model, OwnerKey, PoolKey
from warmfleet_operator.decide.matching import has_gpu_memory, has_labels, repelling
from warmfleet_operator.decide.needs import Need, need_of, need_of_pool
from warmfleet_operator.decide.placement import NoPlace, why_no_store
from warmfleet_operator.decide.requests import amounts
from warmfleet_operator.decide.runners import node_of, owner_of
from warmfleet_operator.decide.weights import NeededEntry
from warmfleet_operator.decide.weights_stores import CacheKind, Stores
from warmfleet_operator.records import Node


class Candidates:
    """One round's answers to where models could run; needs that are equal are looked at once."""

    def __init__(self, fleet: Fleet, stores: Stores | None = None) -> None:
        self._fleet = fleet
        self._stores = stores if stores is not None else Stores(fleet.caches)
        self._able_nodes: dict[Need, Sequence[str]] = {}
        self._suited_nodes: dict[tuple[tuple[Need, ...], frozenset[CacheKind] | None], Sequence[str]] = {}
        self._hosts: defaultdict[OwnerKey, set[str]] | None = None

    def nodes_of(self, model: Model) -> list[str]:
        """Return the nodes where the model could run and whose store may keep what it reads: those it runs on first."""
        return self._nodes_of(model, self._stores.kinds_for(model.weights)) if model.weights else []

    def suiting(self, model: Model) -> list[str]:
        """Return the nodes where the model could run, whatever it reads: those it runs on first.

        A model of a pool runs where the pool's runners are, or could be.
        """
        return self._nodes_of(model, None)

    def _nodes_of(self, model: Model, kinds: frozenset[CacheKind] | None) -> list[str]:
        pools = [key for name in model.pools if (key := PoolKey(model.key.namespace, name)) in self._fleet.pools]
        needs = [need_of_pool(self._fleet.pools[key].spec) for key in pools] if model.pools else [need_of(model.spec)]
        owners: Sequence[OwnerKey] = pools if model.pools else (model.key,)
        hosts = {node for owner in owners for node in self._hosts_of(owner) if node in self._fleet.nodes}
        first = sorted(node for node in hosts if self._stores.suits(node, kinds))
        return [*first, *(node for node in self._suited(tuple(needs), kinds) if node not in hosts)]

    def _suited(self, needs: tuple[Need, ...], kinds: frozenset[CacheKind] | None) -> Sequence[str]:
        """Return the nodes that suit any of the needs and have a store of one of the kinds, by name."""
        if (needs, kinds) not in self._suited_nodes:
            able = {node for need in needs for node in self._able(need)}
            self._suited_nodes[needs, kinds] = sorted(node for node in able if self._stores.suits(node, kinds))
        return self._suited_nodes[needs, kinds]

    def _hosts_of(self, owner: OwnerKey) -> Collection[str]:
        if self._hosts is None:
            self._hosts = defaultdict(set)
            for runner in self._fleet.runners:
                self._hosts[owner_of(runner.pod)].add(node_of(runner.pod))
        return self._hosts.get(owner, ())

    def _able(self, need: Need) -> Sequence[str]:
        if need not in self._able_nodes:
            self._able_nodes[need] = [name for name, node in self._fleet.nodes.items() if could_run(need, node)]
        return self._able_nodes[need]


def nodes_of(model: Model, fleet: Fleet) -> list[str]:
    """Return `Candidates.nodes_of` for a single model."""
    return Candidates(fleet).nodes_of(model)


def why_not_yet(model: Model, fleet: Fleet, candidates: Candidates) -> NoPlace | None:
    """Return why the model can't be placed while its sources have not said what it reads.

    None where they have, and where it could not be placed anyhow: then that is what there is to say.
    """
    for entry in model.weights:  # no generator: this is asked of every start that waits
        if not entry.revision:
            break
    else:
        return None
    reason, message = why_unknown(entry, fleet.caches)
    if reason is Reason.WEIGHTS_UNKNOWN and not candidates.nodes_of(model):
        suiting = candidates.suiting(model)
        return why_no_store(model.weights, fleet.caches, suiting) if suiting else None
    return NoPlace(reason, message, is_of_weights=True)


def why_unknown(entry: NeededEntry, caches: Mapping[str, Cache]) -> tuple[Reason, str]:
    """Return what is known of an entry whose source has not said what it holds, in words."""
    found = answer(caches, entry)
    if found is not None and found.error is not None:
        return Reason(found.error.reason), f"{entry.uri}: {found.error.message}"
    return Reason.WEIGHTS_UNKNOWN, f"{entry.uri} is asked which files it has, and how large they are"


def could_run(need: Need, node: Node) -> bool:
    """Whether a node suits a runner, and is large enough when it is empty."""
    there = amounts(node.status.allocatable)
    return (
        has_labels(node, need.node_selector)
        and has_gpu_memory(node, need.gpu_memory_bytes)
        and not repelling(node, need.tolerations)
        and all(there.get(resource, 0) >= wanted for resource, wanted in need.amounts.items())
    )
