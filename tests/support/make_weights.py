"""Makers of what models read and of the nodes' weight stores, beside those of `make`.

reads = make_weights.model("llama", bytes=8 * make.GIB)     # its source has answered
n1 = make_weights.cache("n1", make_weights.seen(reads, Tier.MEMORY))
"""

from collections.abc import Iterable, Mapping
from typing import Any

from support import make
from warmfleet_api.agent_status import Transfer
from warmfleet_api.node_cache import NodeCacheSpec, NodeCacheStatus, SeenEntry, WantedEntry
from warmfleet_api.vocabulary import EntryState, Tier, WeightsProblem
from warmfleet_api.weights import entry_key
from warmfleet_operator.decide.fleet import Cache, Model

REVISION = "0e9e39f249a16976918f6564b8830bc894c89659"
URI = "hf://org/llama"


def known(uri: str = URI, *, requested: str = "", bytes: int = make.GIB, scope: str = "") -> dict[str, Any]:  # noqa: A002
    """A line of `status.weights`: what a source answered."""
    return {
        "key": entry_key(uri, REVISION, scope),
        "uri": uri,
        "requested": requested,
        "revision": REVISION,
        "bytes": bytes,
    }


def asking(name: str = "llama", *, uri: str = URI, **fields: Any) -> Model:
    """A VLLM model whose source has not answered; keywords as in `make.model`."""
    return make.model(name, **({"model": {"uri": uri}, "engine": {"type": "VLLM"}} | fields))


def model(
    name: str = "llama",
    *,
    uri: str = URI,
    bytes: int = make.GIB,  # noqa: A002
    status: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Model:
    """The same with the answer in its status."""
    return asking(name, uri=uri, status={"weights": [known(uri, bytes=bytes)]} | dict(status or {}), **fields)


def seen(
    of: Model | str,
    tier: Tier = Tier.MEMORY,
    state: EntryState = EntryState.PRESENT,
    *,
    problem: tuple[WeightsProblem, str] | None = None,
    **fields: Any,
) -> SeenEntry:
    """An entry as a node has it: of a key, or the first that a model reads."""
    first = of.weights[0] if isinstance(of, Model) else None
    body: dict[str, Any] = {"key": first.key if first is not None else of, "tier": tier, "state": state}
    if first is not None and first.is_known:
        body |= {"revision": first.revision, "bytes": first.bytes}
    if problem is not None:
        body |= {"state": EntryState.FAILED, "error": {"reason": problem[0], "message": problem[1]}}
    return SeenEntry.model_validate(body | fields)


def cache(
    node: str,
    *entries: SeenEntry,
    memory_bytes: int = 64 * make.GIB,
    file_roots: tuple[str, ...] = ("/srv/models",),
    group: str = "default",
    transfers: tuple[Transfer, ...] = (),
    trouble: str = "",
    status: Mapping[str, Any] | None = None,
    **spec: Any,
) -> Cache:
    """The weight store of a node; `spec` and `status` are further fields of its NodeCache.

    Without `entries` the node was told of what it says that it does not have: agents answer what they are asked.
    """
    body = {
        "cache": group,
        "memory": {"bytes": memory_bytes, "path": "/dev/shm/model_cache"},
        "fileRoots": file_roots,
        "entries": asked(entries),
    }
    return Cache(
        node=node,
        spec=NodeCacheSpec.model_validate(body | spec),
        status=NodeCacheStatus.model_validate({"entries": list(entries)} | dict(status or {})),
        seen={entry.key: entry for entry in entries},
        transfers={each.key: each for each in transfers},
        trouble=trouble,
    )


def asked(entries: Iterable[SeenEntry]) -> list[WantedEntry]:
    """What a node was told that says this of entries which it does not have."""
    return [
        WantedEntry(key=each.key, uri=f"hf://org/{each.key}", tier=Tier.REMOTE)
        for each in entries
        if each.tier is Tier.REMOTE
    ]


def transfer(of: Model, done_bytes: int, *, bytes_per_second: int = 0, seconds_left: int | None = None) -> Transfer:
    """What a model reads first, on its way into memory of a node."""
    entry = of.weights[0]
    return Transfer(
        key=entry.key,
        source=Tier.REMOTE,
        target=Tier.MEMORY,
        state=EntryState.FETCHING,
        bytes=entry.bytes,
        done_bytes=done_bytes,
        bytes_per_second=bytes_per_second,
        seconds_left=seconds_left,
    )
