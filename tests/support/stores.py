"""Makers of weight stores, so that tests of what nodes keep read as prose.

    cache = stores.group("default", models=[stores.line("llama")])
    view = stores.view([make.node("n1")], [cache], [stores.model("qwen", size=8 * GIB, preload=2)])

`stores.obeyed(view, plan)` is the fleet after every node was told the plan and its agent fetched everything.
"""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from support import make, make_weights
from warmfleet_api.node_cache import EntryProblem, NodeCacheSpec, NodeCacheStatus, SeenEntry, TierSpec, WantedEntry
from warmfleet_api.vocabulary import EntryState, Tier, WeightsProblem
from warmfleet_api.weight_cache import WeightCacheSpec, WeightCacheStatus
from warmfleet_api.weights import entry_key
from warmfleet_kube.objects import Metadata
from warmfleet_operator.build.node_cache import node_cache_spec
from warmfleet_operator.decide.caches import CachesPlan, CachesView, Trouble
from warmfleet_operator.decide.caches_groups import Group
from warmfleet_operator.decide.fleet import Cache, Fleet, Model, Runner
from warmfleet_operator.records import Node, NodeCache

GIB = 1024**3
REVISION = "0123abc"


def line(name: str, uri: str = "", **fields: Any) -> dict[str, Any]:
    """One model of a WeightCache's list."""
    return {"name": name, "uri": uri or f"hf://org/{name}", **fields}


def group(
    name: str = "default",
    *,
    memory: str = "64Gi",
    age_seconds: float = 1000,
    status: WeightCacheStatus | None = None,
    **fields: Any,
) -> Group:
    """A parsed WeightCache; further fields of the spec as keywords, in camelCase."""
    spec = WeightCacheSpec.model_validate({"memory": {"size": memory}, **fields})
    metadata = Metadata(name=name, uid=f"uid-{name}", generation=1, creation_timestamp=make.ago(age_seconds))
    return Group(metadata, spec, status or WeightCacheStatus())


def model(
    name: str,
    *,
    size: int = GIB,
    preload: int = 0,
    replicas: int = 0,
    uri: str = "",
    known: bool = True,
    recent: Sequence[float] = (),
    adapters: Sequence[str] = (),
    **fields: Any,
) -> Model:
    """A model with weights, frozen where `known`; `recent` are the ages of its last starts in seconds."""
    uri = uri or f"hf://org/{name}"
    status: dict[str, Any] = {"recentStarts": [make.ago(age) for age in recent]}
    if known:
        status["weights"] = [
            {"key": entry_key(each, REVISION), "uri": each, "revision": REVISION, "bytes": size if each == uri else GIB}
            for each in (uri, *adapters)
        ]
    return make.model(
        name,
        model={"uri": uri, "adapters": [{"name": f"a-{at}", "uri": each} for at, each in enumerate(adapters)]},
        engine={"type": "VLLM"},
        replicas=replicas,
        coldStart={"preloadNodes": preload},
        status=status,
        **fields,
    )


def key(name: str, revision: str = REVISION) -> str:
    """The key of a model's entry."""
    return entry_key(f"hf://org/{name}", revision)


def seen(
    key: str,
    tier: Tier = Tier.MEMORY,
    state: EntryState = EntryState.PRESENT,
    *,
    size: int = GIB,
    revision: str = REVISION,
    problem: WeightsProblem | None = None,
) -> SeenEntry:
    """An entry as a node has it."""
    error = EntryProblem(reason=problem, message="so it is") if problem is not None else None
    state = EntryState.FAILED if problem is not None else state
    return SeenEntry(key=key, tier=tier, state=state, bytes=size, revision=revision, error=error)


def cache(
    node: str,
    *,
    of: str = "default",
    memory: int = 64 * GIB,
    told: Iterable[WantedEntry] | None = None,
    has: Iterable[SeenEntry] = (),
    trouble: str = "",
    file_roots: Sequence[str] = (),
) -> Cache:
    """The weight store of a node. Without `told` it was asked for what it says that it does not have."""
    entries = list(has)
    spec = NodeCacheSpec(
        cache=of,
        memory=TierSpec(bytes=memory, path="/dev/shm/c"),
        file_roots=list(file_roots),
        entries=list(told) if told is not None else make_weights.asked(entries),
    )
    return Cache(
        node=node,
        spec=spec,
        status=NodeCacheStatus(entries=entries),
        seen={entry.key: entry for entry in entries},
        trouble=trouble,
    )


def view(
    nodes: Iterable[Node],
    groups: Iterable[Group] = (),
    models: Iterable[Model] = (),
    *,
    caches: Iterable[Cache] | None = None,
    runners: Iterable[Runner] = (),
    **fields: Any,
) -> CachesView:
    """All that the plan depends on; without `caches` every node has an empty store of the default cache."""
    by_name = {node.metadata.name: node for node in nodes}
    stores = {each.node: each for each in (caches if caches is not None else map(cache, by_name))}
    fleet = Fleet(
        models={each.key: each for each in models},
        nodes=by_name,
        runners=tuple(runners),
        caches=stores,
        limits=make.LIMITS,
    )
    troubles = {name: Trouble(each.trouble) for name, each in stores.items() if each.trouble}
    records = {name: record(each) for name, each in stores.items()}
    return CachesView(fleet=fleet, groups=tuple(groups), records=records, **{"troubles": troubles, **fields})


def record(of: Cache) -> NodeCache:
    """The object of a weight store."""
    return NodeCache(metadata=Metadata(name=of.node, uid=f"uid-nc-{of.node}"), spec=node_cache_spec(of.spec))


def obeyed(former: CachesView, plan: CachesPlan, *, fetched: bool = False) -> CachesView:
    """The view after the plan was carried out; with `fetched`, after the agents brought everything where it goes."""
    caches = {}
    for name, spec in plan.specs.items():
        before = former.fleet.caches.get(name)
        entries = list(before.seen.values()) if before is not None else []
        if fetched:
            fetched_keys = {entry.key for entry in spec.entries if entry.tier is not Tier.REMOTE}
            entries = [entry for entry in entries if entry.key not in fetched_keys]
            entries += [seen(entry.key, entry.tier) for entry in spec.entries if entry.key in fetched_keys]
        trouble = before.trouble if before is not None else ""
        status = NodeCacheStatus(entries=entries)
        caches[name] = Cache(name, spec, status, {entry.key: entry for entry in entries}, trouble=trouble)
    fleet = replace(former.fleet, caches=caches)
    return replace(former, fleet=fleet, records={name: record(each) for name, each in caches.items()})


def reading(of: Model, on: str) -> Runner:
    """A runner of the model on a node, with a uid as Kubernetes makes them."""
    made = make.runner(of, on)
    uid = str(uuid.uuid5(uuid.NAMESPACE_URL, f"{of.key}/{on}"))
    metadata = msgspec.structs.replace(made.pod.metadata, uid=uid)
    return replace(made, pod=msgspec.structs.replace(made.pod, metadata=metadata))


def wants(plan: CachesPlan, node: str) -> Mapping[str, Tier]:
    """Key → tier of what a node is told to keep."""
    return {entry.key: entry.tier for entry in plan.specs[node].entries}


def holders(plan: CachesPlan, key: str, tier: Tier = Tier.MEMORY) -> set[str]:
    """The nodes that are told to keep an entry in a tier."""
    return {node for node in plan.specs if wants(plan, node).get(key) is tier}
