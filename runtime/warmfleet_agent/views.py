"""The views of this node's runners, as kubelet's calls make and remove them."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from warmfleet_agent.csi import NotReadyError
from warmfleet_agent.store.store import Store
from warmfleet_agent.threads import Threads
from warmfleet_agent.tiers import Tiers

T = TypeVar("T")


class NodeViews:
    """Folders of the memory tier. What is in them is decided by plans."""

    def __init__(self, tiers: Tiers, threads: Threads) -> None:
        self._tiers = tiers
        self._threads = threads

    async def make(self, uid: str) -> Path:
        """Return the folder of a runner's view, and make it unless it is there.

        Raises:
            NotReadyError: there is no store yet.
            OSError: it can't be made.
        """
        return await self._do(lambda store: store.make_view(uid))

    async def remove(self, uid: str) -> None:
        """Remove a view with what it shows; one that is not there changes nothing.

        Raises:
            NotReadyError, OSError: as `make`.
        """
        await self._do(lambda store: store.remove_view(uid))

    async def names(self) -> frozenset[str]:
        """Return the runners that have a view.

        Raises:
            NotReadyError, OSError: as `make`.
        """
        return await self._do(lambda store: frozenset(store.views))

    async def _do(self, call: Callable[[Store], T]) -> T:
        store = self._tiers.memory
        if store is None:
            raise NotReadyError("the node's memory tier is not there yet; it waits for its NodeCache")
        return await self._threads.quick(call, store)
