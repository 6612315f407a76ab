"""What every node is to keep of weights: one plan over all WeightCaches, nodes, models and runners.

The rules, for one node:

* Its WeightCache's preloaded models are kept in memory, pinned, as many as fit together, the highest class first.
* What runners of the node read is kept in memory, whatever the plan says: they hold it anyway.
* Models are kept in memory of as many nodes as they ask for (`caches_places`), one at least while their spec has no
  runner yet: the weights come while the start waits for its turn. Where memory has no room, on disk. Where a former
  spec may give its place up before the new one serves, the new one's are kept first (`preloading.py`).
* Whatever else is there stays while nothing needs its place; the node is told what it is worth.
* What nobody knows yet is asked for on one node, and always on the same one while that works. A folder of the nodes
  may be on another one: where it is not found the next node is asked too.

Nothing is remembered between rounds: what was decided before stands in the NodeCaches.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from warmfleet_api import quantity
from warmfleet_api.artifacts import name_in
from warmfleet_api.node_cache import NodeCacheSpec, View
from warmfleet_api.vocabulary import StartType, Tier
from warmfleet_operator.decide.caches_artifacts import Artifacts
from warmfleet_operator.decide.caches_groups import AgentGroup, Group, Membership, agent_group, membership
from warmfleet_operator.decide.caches_lines import Line, lines_of
from warmfleet_operator.decide.caches_places import Load, Shelf, place
from warmfleet_operator.decide.caches_reads import hosted_hashes, reads_by_node
from warmfleet_operator.decide.caches_uses import RECHECK_SECONDS, uses_per_day
from warmfleet_operator.decide.caches_view import is_missing, listed, size_bytes
from warmfleet_operator.decide.caches_wants import Catalog, Wants, merged, tier_keys
from warmfleet_operator.decide.canary import variants
from warmfleet_operator.decide.fleet import Fleet, Model
from warmfleet_operator.decide.matching import zone_of
from warmfleet_operator.decide.preloading import gives_places
from warmfleet_operator.decide.sleep import is_dormant
from warmfleet_operator.decide.weights import NeededEntry
from warmfleet_operator.decide.weights_places import Candidates
from warmfleet_operator.records import NodeCache, Pod

LOST_AGENT_SECONDS = 60.0
"""How long an agent may not work before what its node keeps is kept elsewhere: longer than it takes to restart."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the agent of a node does not work."""

    words: str
    seconds: float = 0.0
    """For how long that has been seen."""


@dataclass(frozen=True, slots=True)
class CachesView:
    """All that the plan depends on, apart from the time."""

    fleet: Fleet
    groups: tuple[Group, ...]
    """The WeightCaches that are not being deleted."""
    records: Mapping[str, NodeCache] = field(default_factory=dict)
    """All NodeCaches by name, readable or not."""
    unreadable: frozenset[str] = frozenset()
    """WeightCaches whose spec can't be read: their nodes are left as they are."""
    unusable: Mapping[str, str] = field(default_factory=dict)
    """WeightCaches with folders that no agent can work with, and why: their nodes are left as they are."""
    troubles: Mapping[str, Trouble] = field(default_factory=dict)
    """Nodes whose agent does not work."""
    agents: Mapping[str, Pod] = field(default_factory=dict)
    """Node → the pod of its agent."""
    agent_hashes: Mapping[str, str] = field(default_factory=dict)
    """WeightCache → the template hash that agents of its present spec carry."""
    allotted_bytes: Mapping[str, int] = field(default_factory=dict)
    """Memory for weights that the node's present agent was given; it may be one of a former spec."""


@dataclass(frozen=True, slots=True)
class CachesPlan:
    """What is to be."""

    membership: Membership
    agents: tuple[AgentGroup, ...] = ()
    """What the DaemonSets are built from."""
    specs: Mapping[str, NodeCacheSpec] = field(default_factory=dict)
    """Node → what it keeps."""
    removals: tuple[tuple[NodeCache, str], ...] = ()
    """NodeCaches that go, each with the reason in words."""
    lines: Mapping[str, tuple[Line, ...]] = field(default_factory=dict)
    """WeightCache → its models."""
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Model → the nodes that keep what it reads in memory, those of its runners included."""
    recheck_seconds: float | None = None


def decide_caches(view: CachesView, now: datetime) -> CachesPlan:
    """Return what every node is to keep."""
    held = {name for name, record in view.records.items() if record.spec.get("cache") in view.unreadable}
    members = membership(view.groups, view.fleet.nodes, held)
    left_alone = held | {name for name, group in members.groups.items() if group.name in view.unusable}
    lines = {group.name: lines_of(group, view.fleet.caches, members.nodes_of(group)) for group in view.groups}
    round_ = _Round(view, members, lines, now)
    wants = round_.wants()
    specs = {
        node: wants[node].spec(group.name, group.spec, round_.memory_bytes(node), round_.catalog(node, wants[node]))
        for node, group in members.groups.items()
        if node not in left_alone
    }
    removals = tuple(
        (record, f"no WeightCache names node {name}" if name in view.fleet.nodes else f"node {name} is gone")
        for name, record in view.records.items()
        if name not in members.groups and name not in left_alone and record.metadata.deletion_timestamp is None
    )
    agents = (
        ()
        if view.unreadable
        else tuple(
            agent_group(group, view.groups, members.nodes_of(group))
            for group in view.groups
            if group.name not in view.unusable
        )
    )
    seconds = [trouble.seconds for node, trouble in view.troubles.items() if node in members.groups]
    waits = [LOST_AGENT_SECONDS - each for each in seconds if each < LOST_AGENT_SECONDS]
    if any(entry.uses_per_day for spec in specs.values() for entry in spec.entries):
        waits.append(RECHECK_SECONDS)
    return CachesPlan(
        membership=members,
        agents=agents,
        specs=specs,
        removals=removals,
        lines=lines,
        places=round_.places,
        recheck_seconds=max(0.1, min(waits)) if waits else None,
    )


class _Round:
    """One round's facts, by node."""

    def __init__(
        self, view: CachesView, members: Membership, lines: Mapping[str, tuple[Line, ...]], now: datetime
    ) -> None:
        self._view = view
        self._fleet = view.fleet
        self._candidates = Candidates(view.fleet)
        self._members = members
        self._lines = lines
        self._models = tuple(model for model in view.fleet.models.values() if model.weights)
        self._artifacts = Artifacts(view.fleet, view.agents, view.troubles, now)
        self._reads = reads_by_node(view.fleet.runners, self._artifacts.shown)
        self._hosted = hosted_hashes(view.fleet.runners)
        self.places: Mapping[str, tuple[str, ...]] = {}
        read = [each for model in view.fleet.models.values() for each in variants(model)]
        needed = merged(
            entry.wanted(Tier.REMOTE, model.spec.priority, uses_per_day=uses_per_day(model, now))
            for model in read
            for entry in model.weights
        )
        former = {
            entry.key: entry.model_copy(update={"uses_per_day": 0}) if entry.uses_per_day else entry
            for cache in view.fleet.caches.values()
            for entry in cache.spec.entries
            if entry.key not in needed and not name_in(entry.key)
        }
        self._told: defaultdict[str, set[str]] = defaultdict(set)
        for node, cache in view.fleet.caches.items():
            for entry in cache.spec.entries:
                self._told[entry.key].add(node)
        self._standing: dict[str, bool] = {}
        self._entries = {entry.key: entry for model in read for entry in model.weights}
        own = (entry for model in read for entry in model.weights)
        listed = (line.entry for group in lines.values() for line in group)
        self._listed = {name: {line.entry.key: line.entry for line in group} for name, group in lines.items()}
        self._sizes = {entry.key: entry.bytes for entry in (*own, *listed)}
        self.catalogs = {group.name: self._catalog(needed, former, lines[group.name]) for group in view.groups}

    def catalog(self, node: str, want: Wants) -> Catalog:
        """Return all entries that a node may be told of."""
        listed = self.catalogs[self._members.groups[node].name]
        compiled = self._artifacts.overlay(want.tiers, node)
        return {**listed, **compiled} if compiled else listed

    @staticmethod
    def _catalog(needed: Catalog, former: Catalog, lines: Sequence[Line]) -> Catalog:
        """Return all entries that nodes of a WeightCache may be told of, with the class that its list gives them."""
        classes = {line.model.uri: line.model.priority for line in lines}
        raised = dict(needed)
        for key, entry in needed.items():
            given = classes.get(entry.uri)
            if given is not None and given.rank < entry.priority.rank:
                raised[key] = entry.model_copy(update={"priority": given})
        listed = merged(
            [
                *(line.entry.wanted(Tier.REMOTE, line.model.priority) for line in lines),
                *(raised[line.entry.key] for line in lines if line.entry.key in raised),
            ]
        )
        return {**former, **raised, **listed}

    def memory_bytes(self, node: str) -> int:
        """Return the memory for weights: never more than the agent that runs there was given."""
        wanted = quantity.to_bytes(self._members.groups[node].spec.memory.size)
        return min(wanted, self._view.allotted_bytes.get(node, wanted))

    def wants(self) -> Mapping[str, Wants]:
        """Return what is wanted of each node."""
        wants: Mapping[str, Wants] = {node: Wants() for node in self._members.groups}
        for node, reads in self._reads.items():
            if node in wants:
                self._add_views(wants[node], node, reads)
        self._add_lines(wants)
        self._add_models(wants)
        self._add_questions(wants)
        for node, want in wants.items():
            self._add_worth(want, node)
        return wants

    def _add_views(self, want: Wants, node: str, reads: Mapping[str, Sequence[str]]) -> None:
        cache = self._fleet.caches.get(node)
        told = {view.uid for view in cache.spec.views} if cache is not None else set()
        for uid, keys in reads.items():
            # One that never had keys needs no mention, one that had is to lose them.
            if keys or uid in told:
                want.views.append(View(uid=uid, keys=list(keys)))
            for key in keys:
                want.add(key, Tier.MEMORY)

    def _add_lines(self, wants: Mapping[str, Wants]) -> None:
        ranked = {
            name: sorted((line for line in group if line.model.preload), key=lambda each: each.model.priority.rank)
            for name, group in self._lines.items()
        }
        for node, want in wants.items():
            group = self._members.groups[node]
            cache = self._fleet.caches.get(node)
            disk = quantity.to_bytes(group.spec.disk.size) if group.spec.disk is not None else 0
            memory = self.memory_bytes(node)
            for line in ranked[group.name]:
                entry = line.entry
                if not entry.is_known:
                    continue
                if cache is not None and is_missing(cache, entry):
                    continue
                if line.fits and entry.bytes <= memory:
                    memory -= entry.bytes
                    want.add(entry.key, Tier.MEMORY, pinned=True)
                elif entry.bytes <= disk:
                    disk -= entry.bytes
                    want.add(entry.key, Tier.DISK, pinned=True)

    def _add_models(self, wants: Mapping[str, Wants]) -> None:
        loads, models = [], {}
        for model in self._models:
            for load in self._loads(model):
                loads.append(load)
                models[load.name] = model
        memory = {node: self._shelf(node, want, Tier.MEMORY) for node, want in wants.items()}
        self.places = place([load for load in loads if not load.is_for_disk], memory)
        missing = [
            Load(
                name=load.name,
                sizes=load.sizes,
                count=load.count - len(self.places.get(load.name, ())),
                nodes=tuple(node for node in load.nodes if node not in self.places.get(load.name, ())),
                priority=load.priority,
                turn=load.turn,
            )
            for load in loads
            if len(self.places.get(load.name, ())) < load.count
        ]
        disks = {
            node: self._shelf(node, want, Tier.DISK)
            for node, want in wants.items()
            if self._members.groups[node].spec.disk is not None
        }
        on_disks = place(missing, disks)
        for load in loads:
            found = (self.places.get(load.name, ()), Tier.MEMORY), (on_disks.get(load.name, ()), Tier.DISK)
            for nodes, tier in found:
                for node in nodes:
                    for key in (*load.sizes, *self._artifacts.of_model(models[load.name], node)):
                        wants[node].add(key, tier)

    def _loads(self, model: Model) -> Iterator[Load]:
        """Yield what of a model is to be kept where; nothing while that is not known."""
        if not model.knows_weights or model.problem is not None:
            return
        hashes = self._hosted.get(model.metadata.uid, {})
        waits = model.spec.replicas > 0 and not any(model.hash in there for there in hashes.values())
        count = max(model.spec.cold_start.preload_nodes, 1 if waits else 0)
        if count > 0:
            yield self._load(model, str(model.key), count, self._candidates.nodes_of(model))
        # A former spec gives its places up only where the new one finds its weights.
        given = sorted(node for node, there in hashes.items() if model.hash not in there)
        if given and gives_places(model) and not is_dormant(model):
            suited = set(self._candidates.nodes_of(model))
            yield self._load(model, f"{model.key} in place", len(given), [node for node in given if node in suited])
        standby = model.status.standby
        if standby is not None and standby.nodes and model.spec.standby is not None:
            near = [node for node in self._candidates.nodes_of(model) if node in standby.nodes]
            load = self._load(model, f"{model.key} standby", len(near), near)
            yield replace(load, is_for_disk=standby.mode is StartType.COLD)

    def _load(self, model: Model, name: str, count: int, nodes: Sequence[str]) -> Load:
        caches = self._fleet.caches
        for entry in model.weights:
            if entry.folder:
                nodes = [node for node in nodes if not is_missing(caches[node], entry)]
        return Load(
            name=name,
            sizes={entry.key: entry.bytes for entry in model.weights},
            count=count,
            nodes=tuple(nodes),
            priority=model.spec.priority,
            turn=(model.metadata.creation_timestamp, str(model.key)),
        )

    def _shelf(self, node: str, want: Wants, tier: Tier) -> Shelf:
        cache = self._fleet.caches.get(node)
        group = self._members.groups[node]
        seen = cache.seen if cache is not None else {}
        if tier is Tier.MEMORY:
            capacity = self.memory_bytes(node)
        else:
            capacity = quantity.to_bytes(group.spec.disk.size) if group.spec.disk is not None else 0
        shelf = Shelf(
            node=node,
            bytes=capacity,
            zone=zone_of(self._fleet.nodes[node]),
            is_open=cache is not None and not cache.trouble,
            stands=cache is not None and self._stands(node),
            given=tier_keys(cache.spec if cache is not None else None, tier),
            present=frozenset(key for key, each in seen.items() if each.tier is Tier.MEMORY),
            nearby=frozenset(key for key, each in seen.items() if each.tier in {Tier.MEMORY, Tier.DISK}),
            used=frozenset(key for keys in self._reads.get(node, {}).values() for key in keys),
        )
        for key, wanted in want.tiers.items():
            if wanted is tier:
                shelf.put(key, self._size(key))
        return shelf

    def _stands(self, node: str) -> bool:
        """Whether what is kept on a node counts: it is there, is not about to go, and its agent works or soon will."""
        if node not in self._standing:
            there = self._fleet.nodes[node]
            trouble = self._view.troubles.get(node)
            is_lost = trouble is not None and trouble.seconds >= LOST_AGENT_SECONDS
            self._standing[node] = there.is_ready and not there.is_cordoned and not is_lost
        return self._standing[node]

    def _size(self, key: str) -> int:
        return self._sizes.get(key) or size_bytes(self._fleet.caches, key)

    def _add_questions(self, wants: Mapping[str, Wants]) -> None:
        caches = self._fleet.caches
        for model in self._models:
            # What a WeightCache lists is taken over without a question.
            unknown = [entry for entry in model.weights if not entry.is_known and listed(caches, entry) is None]
            if unknown and model.problem is None:
                candidates = [node for node in self._candidates.nodes_of(model) if node in wants]
                for entry in unknown:
                    self._ask(entry, candidates, wants)
        for group in self._view.groups:
            candidates = list(self._members.nodes_of(group))
            for line in self._lines[group.name]:
                if not line.entry.is_known and line.model.preload:
                    self._ask(line.entry, candidates, wants)

    def _ask(self, entry: NeededEntry, candidates: Sequence[str], wants: Mapping[str, Wants]) -> None:
        """Ask on the node that was asked before while that works; where that one does not have it, on another."""
        caches = self._fleet.caches
        able = [
            node for node in candidates if node in caches and self._stands(node) and not is_missing(caches[node], entry)
        ]
        told = self._told.get(entry.key, ())
        asked = [node for node in able if node in told]
        fresh = [node for node in able if not caches[node].trouble]
        for node in (asked or fresh)[:1]:
            wants[node].ask(entry.key)

    def _add_worth(self, want: Wants, node: str) -> None:
        """Tell the node what else it has is worth, and remember what it was found not to have."""
        cache = self._fleet.caches.get(node)
        known = self._listed[self._members.groups[node].name]
        for key, seen in cache.seen.items() if cache is not None else ():
            entry = self._entries.get(key) or known.get(key)
            if self._artifacts.is_wanted(key) and seen.digest:
                want.add(key, Tier.REMOTE)
            if entry is None or cache is None:
                continue
            if seen.tier in {Tier.MEMORY, Tier.DISK} or is_missing(cache, entry):
                want.add(key, Tier.REMOTE)
