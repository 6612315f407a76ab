"""Keeps the InferencePools of models as they are wanted, where their kind is installed.

The kind belongs to others and may come or go while the operator runs. So it is not watched but listed every half
minute: one request tells whether it is there, which pools there are, and what drifted; nothing is asked per model.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Never

from warmfleet_api import names
from warmfleet_kube.client import KubeClient, Selector
from warmfleet_kube.errors import KubeError, NotFound
from warmfleet_kube.mirror import Mirror
from warmfleet_operator.build.inference_pool import inference_pool
from warmfleet_operator.children import ensure, remove
from warmfleet_operator.decide.fleet import Model, ModelKey
from warmfleet_operator.records import InferencePool
from warmfleet_operator.resources import INFERENCE_POOLS

logger = logging.getLogger(__name__)

LIST_SECONDS = 30.0
"""How often they are listed: by then a kind that was installed is known, and what somebody changed is put right."""
_OWN = Selector(labels=f"{names.LABEL_MANAGED_BY}={names.MANAGED_BY}")


class InferencePools:
    """The InferencePools of all models. `changed` hears of each model that is to be looked at again."""

    def __init__(
        self, client: KubeClient, models: Callable[[], list[ModelKey]], changed: Callable[[ModelKey], None]
    ) -> None:
        self._client = client
        self._models = models
        self._changed = changed
        self._mirror: Mirror[InferencePool] = Mirror()
        self._mirror.subscribe(self._saw)
        self._is_installed = False

    async def run(self) -> Never:
        """List them until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LIST_SECONDS)

    async def look(self) -> None:
        """List them once; a try that fails changes nothing."""
        was_installed = self._is_installed
        try:
            listing = await self._client.list(INFERENCE_POOLS, _OWN)
        except NotFound:
            self._is_installed = False
            for known in self._mirror.values():
                self._mirror.forget(known)
            return
        except KubeError as error:
            logger.warning("InferencePools: %s", error)
            return
        self._is_installed = True
        self._mirror.replace(listing.items, listing.resource_version)
        if not was_installed:
            for key in self._models():
                self._changed(key)

    async def bring_in_order(self, model: Model) -> InferencePool | None:
        """Make, put right or remove a model's InferencePool; return one of its name that is not the model's.

        Raises:
            KubeError: it is to be tried again.
        """
        wanted = inference_pool(model)
        uid = model.metadata.uid

        def is_ours(known: InferencePool) -> bool:
            return known.metadata.controller_uid == uid

        if not self._is_installed:
            return None
        if wanted is None:
            known = self._mirror.get(model.key.namespace, model.key.name)
            if known is not None and is_ours(known):
                await remove(self._client, INFERENCE_POOLS, self._mirror, known)
            return None
        try:
            found = await ensure(self._client, INFERENCE_POOLS, self._mirror, wanted, is_ours)
        except NotFound:
            # The kind or the pool was taken away in this moment; the next list tells which, and comes back to it.
            self._is_installed = False
            return None
        return None if is_ours(found) else found

    def _saw(self, former: InferencePool | None, new: InferencePool | None) -> None:
        seen = new if new is not None else former
        assert seen is not None
        self._changed(ModelKey(seen.metadata.namespace, seen.metadata.name))
