"""Which agents of a former spec are replaced now: one of a WeightCache at a time, where the node has the room.

An agent that ends takes nothing with it: the weights stay in memory, its successor adopts them. But for some seconds
nothing is fetched on its node and no runner there begins to see anything, so the others have to work meanwhile. One
that does not work anyway is replaced first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from warmfleet_api import names, quantity
from warmfleet_operator.decide.caches import CachesPlan, CachesView
from warmfleet_operator.decide.caches_groups import Group
from warmfleet_operator.decide.ledger import Ledger
from warmfleet_operator.decide.requests import MEMORY
from warmfleet_operator.decide.runners import node_of
from warmfleet_operator.records import Pod


@dataclass(frozen=True, slots=True)
class Replacements:
    """Agents that go, and those that can't because their node lacks memory for the new size."""

    pods: tuple[tuple[Pod, str], ...] = ()
    """Each with the reason in words."""
    short: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """WeightCache → node → bytes of memory that are missing there."""


def replaceable(view: CachesView, plan: CachesPlan) -> Replacements:
    """Return the agents that are to go now; the DaemonSet makes their successors."""
    pods: list[tuple[Pod, str]] = []
    short: dict[str, Mapping[str, int]] = {}
    ledger: Ledger | None = None
    for group in view.groups:
        nodes = plan.membership.nodes_of(group)
        stale = outdated(view, group, nodes)
        if not stale or group.name in view.unusable:
            continue
        ledger = ledger or _ledger(view)
        wanted = quantity.to_bytes(group.spec.memory.size)
        missing = {
            node: lack
            for node in stale
            if (lack := wanted - view.allotted_bytes[node] - max(0, ledger.free(node, MEMORY))) > 0
            and wanted > view.allotted_bytes[node]
        }
        if missing:
            short[group.name] = missing
        able = sorted(
            (node for node in stale if node not in missing), key=lambda node: (node not in view.troubles, node)
        )
        others_work = all(node in stale or node not in view.troubles for node in nodes)
        if able and (able[0] in view.troubles or (others_work and not any(node in view.troubles for node in stale))):
            pods.append((view.agents[able[0]], f"it is of a former spec of WeightCache {group.name}"))
    return Replacements(tuple(pods), short)


def outdated(view: CachesView, group: Group, nodes: Sequence[str]) -> list[str]:
    """Return those of a WeightCache's nodes whose agent is of a former spec, or of another version of the operator."""
    return [node for node in nodes if _is_stale(view, group, node)]


def _is_stale(view: CachesView, group: Group, node: str) -> bool:
    agent, wanted = view.agents.get(node), view.agent_hashes.get(group.name, "")
    if agent is None or not wanted or agent.metadata.deletion_timestamp is not None:
        return False
    labels = agent.metadata.labels
    return labels.get(names.LABEL_CACHE) == group.name and labels.get(names.LABEL_TEMPLATE_HASH) != wanted


def _ledger(view: CachesView) -> Ledger:
    fleet = view.fleet
    pods = [(pod.spec.node_name, pod) for pod in fleet.strangers]
    pods += [(node_of(runner.pod), runner.pod) for runner in fleet.runners]
    return Ledger(fleet.nodes, pods)
