"""The weight stores' part of the snapshot: WeightCaches, NodeCaches and agents, parsed once per version."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from warmfleet_api import names
from warmfleet_api.node_cache import NodeCacheSpec, NodeCacheStatus, SeenEntry
from warmfleet_api.weight_cache import WeightCacheSpec, WeightCacheStatus
from warmfleet_operator.agent_streams import AgentStreams
from warmfleet_operator.build.agent import AGENT_MEMORY_BYTES, agent_name, unusable
from warmfleet_operator.cluster import Cluster
from warmfleet_operator.decide.caches import CachesView, Trouble
from warmfleet_operator.decide.caches_groups import Group
from warmfleet_operator.decide.caches_lines import listed
from warmfleet_operator.decide.fleet import Cache, Fleet, Limits
from warmfleet_operator.decide.requests import MEMORY, requests_of
from warmfleet_operator.decide.runners import is_pod_ready
from warmfleet_operator.decide.weights import NeededEntry
from warmfleet_operator.records import NodeCache, Pod, WeightCache


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A NodeCache as its agent and this operator wrote it."""

    record: NodeCache
    spec: NodeCacheSpec | None
    """None: it can't be read, and is written anew."""
    status: NodeCacheStatus
    seen: Mapping[str, SeenEntry]


class StoresObserver:
    """Gives the weight stores as of now. One per process: it remembers what was parsed, and since when agents fail."""

    def __init__(self, cluster: Cluster, streams: AgentStreams, limits: Limits) -> None:
        self._cluster = cluster
        self._streams = streams
        self._limits = limits
        self._groups: dict[str, tuple[WeightCache, Group | str]] = {}
        self._frozen: dict[str, tuple[WeightCache, Mapping[NeededEntry, SeenEntry]]] = {}
        self._parsed: dict[str, _Parsed] = {}
        self._troubled: dict[str, float] = {}
        """Node → since when its agent has been seen not to work (monotonic)."""

    def is_empty(self) -> bool:
        """Whether there is neither a weight store nor anything that one left behind."""
        return not (self._cluster.weight_caches or self._cluster.node_caches or self._cluster.agent_sets)

    def caches(self) -> Mapping[str, Cache]:
        """Return the weight stores of all nodes that exist."""
        caches = {}
        frozen = {record.metadata.name: self._listed(record) for record in self._cluster.weight_caches.values()}
        for record in self._cluster.node_caches.values():
            name = record.metadata.name
            parsed = self._parse(record)
            if parsed.spec is None or self._cluster.nodes.get("", name) is None:
                continue
            agent = self._agent(name)
            caches[name] = Cache(
                node=name,
                spec=parsed.spec,
                status=parsed.status,
                seen=parsed.seen,
                transfers=self._streams.transfers(agent.metadata.uid) if agent is not None else {},
                trouble=self._trouble(name, agent, parsed),
                listed=frozen.get(parsed.spec.cache, {}),
            )
        return caches

    def view(self, fleet: Fleet) -> CachesView:
        """Return all that the plan of the weight stores depends on."""
        groups, unreadable, unusable_groups = [], set(), {}
        for record in self._cluster.weight_caches.values():
            if record.metadata.deletion_timestamp is not None:
                continue
            group = self.group(record)
            if isinstance(group, str):
                unreadable.add(record.metadata.name)
                continue
            groups.append(group)
            why = unusable(group.spec, self._limits)
            if why is not None:
                unusable_groups[group.name] = why
        agents = {name: agent for name in fleet.nodes if (agent := self._agent(name)) is not None}
        return CachesView(
            fleet=fleet,
            groups=tuple(groups),
            records={record.metadata.name: record for record in self._cluster.node_caches.values()},
            unreadable=frozenset(unreadable),
            unusable=unusable_groups,
            troubles=self._troubles(fleet),
            agents=agents,
            agent_hashes={group.name: self._template_hash(group.name) for group in groups},
            allotted_bytes={name: _allotted(agent) for name, agent in agents.items()},
        )

    def group(self, record: WeightCache) -> Group | str:
        """Return the WeightCache parsed, or why its spec can't be read."""
        name = record.metadata.name
        known = self._groups.get(name)
        if known is None or known[0] is not record:
            known = self._groups[name] = (record, _group(record))
        return known[1]

    def _listed(self, record: WeightCache) -> Mapping[NeededEntry, SeenEntry]:
        known = self._frozen.get(record.metadata.name)
        if known is None or known[0] is not record:
            group = self.group(record)
            found = listed(group) if isinstance(group, Group) else {}
            known = self._frozen[record.metadata.name] = (record, found)
        return known[1]

    def spec(self, record: NodeCache) -> NodeCacheSpec | None:
        """Return what a node was told, None where that can't be read."""
        return self._parse(record).spec

    def uris_of(self, node: str) -> set[str]:
        """Return the uris of what a node is told to keep and has under way."""
        record, agent = self._cluster.node_caches.get("", node), self._agent(node)
        spec = self._parse(record).spec if record is not None else None
        if spec is None or agent is None:
            return set()
        under_way = self._streams.transfers(agent.metadata.uid)
        return {entry.uri for entry in spec.entries if entry.key in under_way}

    def node_cache_changed(self, former: NodeCache | None, new: NodeCache | None) -> None:
        """Listener of the NodeCaches' mirror: forget those that are gone."""
        if new is None and former is not None:
            self._parsed.pop(former.metadata.name, None)
            self._troubled.pop(former.metadata.name, None)

    def weight_cache_changed(self, former: WeightCache | None, new: WeightCache | None) -> None:
        """Listener of the WeightCaches' mirror: forget those that are gone."""
        if new is None and former is not None:
            self._groups.pop(former.metadata.name, None)
            self._frozen.pop(former.metadata.name, None)

    def _parse(self, record: NodeCache) -> _Parsed:
        name = record.metadata.name
        known = self._parsed.get(name)
        if known is not None and known.record is record:
            return known
        if known is not None and known.record.spec == record.spec:
            spec = known.spec
        else:
            try:
                spec = NodeCacheSpec.model_validate(record.spec)
            except ValidationError:
                spec = None
        try:
            status = NodeCacheStatus.model_validate(record.status)
        except ValidationError:
            # Written by an agent of another version; it says so itself once it is replaced.
            status = NodeCacheStatus()
        parsed = _Parsed(record, spec, status, {entry.key: entry for entry in status.entries})
        self._parsed[name] = parsed
        return parsed

    def _agent(self, node: str) -> Pod | None:
        """Return the agent of a node, the one that stays if there are two."""
        agents = self._cluster.agents.indexed(node)
        return min(agents, key=lambda pod: (pod.metadata.deletion_timestamp is not None, pod.is_terminal), default=None)

    def _trouble(self, node: str, agent: Pod | None, parsed: _Parsed | None) -> str:
        there = self._cluster.nodes.get("", node)
        if there is None or not there.is_ready:
            return f"node {node} is not Ready"
        if agent is None:
            return "no agent runs there"
        if not is_pod_ready(agent):
            return f"its agent {agent.metadata.name} is not Ready"
        conditions = parsed.status.conditions if parsed is not None else []
        ready = next((each for each in conditions if each.type == "Ready"), None)
        # One that has not written yet is about to: its probe says that it works.
        return "" if ready is None or ready.status == "True" else f"{ready.reason}: {ready.message}"

    def _troubles(self, fleet: Fleet) -> Mapping[str, Trouble]:
        troubles = {}
        now = time.monotonic()
        for name in fleet.nodes:
            record = self._cluster.node_caches.get("", name)
            words = self._trouble(name, self._agent(name), self._parse(record) if record is not None else None)
            if words:
                troubles[name] = Trouble(words, now - self._troubled.setdefault(name, now))
        self._troubled = {name: since for name, since in self._troubled.items() if name in troubles}
        return troubles

    def _template_hash(self, cache: str) -> str:
        """Return the hash that agents of the present spec carry; empty while their DaemonSet is not there."""
        known = self._cluster.agent_sets.get(names.AGENT_NAMESPACE, agent_name(cache))
        template = known.spec.get("template", {}) if known is not None else {}
        return str(template.get("metadata", {}).get("labels", {}).get(names.LABEL_TEMPLATE_HASH, ""))


def _allotted(agent: Pod) -> int:
    return max(0, requests_of(agent).get(MEMORY, 0) - AGENT_MEMORY_BYTES)


def _group(record: WeightCache) -> Group | str:
    try:
        spec = WeightCacheSpec.model_validate(record.spec)
    except ValidationError as error:
        return "; ".join(
            f"spec.{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()[:3]
        )
    try:
        status = WeightCacheStatus.model_validate(record.status)
    except ValidationError:
        status = WeightCacheStatus()
    return Group(record.metadata, spec, status)
