"""Compile caches on their way into this node's store: out of a runner's outbox, or from the agent of another node.

Both are sources as any other (`sources.contract`), so that room, progress, limits, hashing and commit are those of
weights. What is special: the uri is the operator's own, never a person's, and what came is checked before it counts.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from warmfleet_agent.artifacts import peer
from warmfleet_agent.artifacts.outbox import OutboxSource
from warmfleet_agent.sources.contract import Source, SourceError
from warmfleet_agent.store.draft import Draft
from warmfleet_api import artifacts
from warmfleet_api.node_cache import WantedEntry
from warmfleet_api.vocabulary import WeightsProblem

__all__ = ["check", "open_artifact"]


@asynccontextmanager
async def open_artifact(wanted: WantedEntry, kubelet: Path | None) -> AsyncIterator[Source]:
    """Open where a compile cache comes from.

    Args:
        wanted: the entry, as the operator tells it.
        kubelet: kubelet's folder; None: this agent does not see runners' volumes.

    Raises:
        SourceError: it can't be had from there.
    """
    address = urlsplit(wanted.uri)
    name = artifacts.name_in(wanted.key)
    if address.scheme == artifacts.RUNNER_SCHEME and kubelet is not None:
        uid, _, found = address.path.removeprefix("/").partition("/")
        if found == name:
            yield OutboxSource(wanted.uri, kubelet, uid, name)
            return
    # Without a digest whoever answers at that address would be believed.
    elif address.scheme == artifacts.AGENT_SCHEME and wanted.digest and address.path == f"/{wanted.key}":
        async with peer.opened(wanted.uri, address.netloc, wanted.key, wanted.digest) as source:
            yield source
        return
    raise SourceError(
        WeightsProblem.FORBIDDEN_SOURCE,
        f"the compile cache {wanted.key} is not fetched from {wanted.uri[:200]!r}; the operator writes what is: see the"
        " log of `kubectl -n warmfleet-system logs deploy/warmfleet-operator`",
    )


def check(draft: Draft, key: str) -> None:
    """Accept a draft that holds the compile cache of this key, from here or from another node; blocks.

    Raises:
        artifacts.PackError: it is not what it should be.
    """
    size_bytes = draft.sizes[artifacts.PACK_FILE]
    length = artifacts.index_bytes(draft.read(artifacts.PACK_FILE, 0, artifacts.PREFIX_BYTES))
    encoded = draft.read(artifacts.PACK_FILE, artifacts.PREFIX_BYTES, length)
    artifacts.decode_index(encoded, artifacts.name_in(key), size_bytes)
