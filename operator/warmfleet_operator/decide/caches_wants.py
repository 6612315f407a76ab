"""What one node is to keep, put together from all who want something of it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from warmfleet_api import quantity
from warmfleet_api.node_cache import MAX_ENTRIES, MAX_VIEWS, NodeCacheSpec, TierSpec, View, WantedEntry
from warmfleet_api.vocabulary import Tier
from warmfleet_api.weight_cache import WeightCacheSpec
from warmfleet_operator.decide.caches_places import nearer

Catalog = Mapping[str, WantedEntry]
"""Every entry that anybody needs, by key: where it comes from, its highest class and its uses."""


@dataclass(slots=True)
class Wants:
    """What is wanted of one node."""

    tiers: dict[str, Tier] = field(default_factory=dict)
    """Key → where the entry is wanted at least."""
    pinned: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    """Keys whose source is to say what it holds."""
    views: list[View] = field(default_factory=list)

    def add(self, key: str, tier: Tier, *, pinned: bool = False) -> None:
        """Want an entry; the nearest tier that anybody wants counts."""
        self.tiers[key] = nearer(tier, self.tiers.get(key, tier))
        if pinned:
            self.pinned.add(key)

    def ask(self, key: str) -> None:
        """Want to know what a source holds."""
        self.asked.add(key)
        self.add(key, Tier.REMOTE)

    def spec(self, cache: str, group: WeightCacheSpec, memory_bytes: int, catalog: Catalog) -> NodeCacheSpec:
        """Return what the node's agent is told. Of more than it takes the least important is left out."""
        used = {key for view in self.views for key in view.keys}
        ranks = {Tier.MEMORY: 0, Tier.DISK: 2, Tier.REMOTE: 3}
        entries = [
            catalog[key].model_copy(update={"tier": tier, "pinned": key in self.pinned})
            for key, tier in self.tiers.items()
            if key in catalog
        ]
        entries.sort(
            key=lambda entry: (
                entry.key not in used,
                not entry.pinned,
                1 if entry.key in self.asked else ranks[entry.tier],
                entry.priority.rank,
                -entry.uses_per_day,
                entry.key,
            )
        )
        limit = group.fetch.bytes_per_second
        return NodeCacheSpec(
            cache=cache,
            memory=TierSpec(bytes=memory_bytes, path=group.memory.path),
            disk=TierSpec(bytes=quantity.to_bytes(group.disk.size), path=group.disk.path) if group.disk else None,
            bytes_per_second=quantity.to_bytes(limit) if limit is not None else 0,
            parallel=group.fetch.parallel,
            file_roots=list(group.file_roots),
            entries=sorted(entries[:MAX_ENTRIES], key=lambda entry: entry.key),
            views=sorted(self.views, key=lambda view: view.uid)[:MAX_VIEWS],
        )


def merged(entries: Iterable[WantedEntry]) -> dict[str, WantedEntry]:
    """Return entries by key: of one that several need the highest class counts, and uses add up."""
    catalog: dict[str, WantedEntry] = {}
    for entry in entries:
        known = catalog.get(entry.key)
        if known is None:
            catalog[entry.key] = entry
            continue
        catalog[entry.key] = known.model_copy(
            update={
                "priority": min(known.priority, entry.priority, key=lambda each: each.rank),
                "uses_per_day": known.uses_per_day + entry.uses_per_day,
                "digest": known.digest or entry.digest,
                "secret_ref": known.secret_ref or entry.secret_ref,
            }
        )
    return catalog


def tier_keys(spec: NodeCacheSpec | None, tier: Tier) -> frozenset[str]:
    """Return the keys that a spec wants in a tier."""
    return frozenset(entry.key for entry in spec.entries if entry.tier is tier) if spec is not None else frozenset()
