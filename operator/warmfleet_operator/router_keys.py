"""Keeps the key by which runners know routers: read from its Secret, made where there is none.

Kubelet brings the private key to the routers, which sign with it; its public half goes into every assignment. A key
that was replaced stays trusted for a while, because routers sign with it until they have the next one. So whoever
deletes the Secret, or puts another key into it, has changed the key, and no request loses its class meanwhile.

Every replica looks, not the leader alone: then the one that takes over knows a former key too.
"""

import asyncio
import base64
import binascii
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Never

from warmfleet_api import names, router_key
from warmfleet_kube.client import KubeClient
from warmfleet_kube.errors import AlreadyExists, Forbidden, KubeError, NotFound
from warmfleet_operator.records import Secret
from warmfleet_operator.resources import SECRETS

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
MISSING_SECONDS = 1.0
"""While no key is known."""
FORMER_SECONDS = 600.0
"""Kubelet takes up to two minutes to bring a key to the routers, and they wait a moment before they sign with it."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """Public keys that count: the present one, and the one before it until a moment of monotonic seconds."""

    present: str
    former: str = ""
    until: float = 0.0

    def keys(self, now: float) -> tuple[str, ...]:
        """Return those that count now."""
        return (self.present, self.former) if self.former and now < self.until else (self.present,)


def follow(known: Trusted | None, present: str, now: float) -> Trusted:
    """Return what counts now that the Secret has this key."""
    if known is None:
        return Trusted(present)
    if known.present == present:
        return known
    return Trusted(present, known.present, now + FORMER_SECONDS)


class RouterKeys:
    """Looks at the Secret again and again. `changed` hears of the keys that count, each time these are others."""

    def __init__(self, client: KubeClient, namespace: str, changed: Callable[[tuple[str, ...]], None]) -> None:
        self._client = client
        self._namespace = namespace
        self._changed = changed
        self._trusted: Trusted | None = None
        self._told: tuple[str, ...] = ()
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why the present key is not known, or not for sure; empty: it is."""
        return self._trouble

    async def run(self) -> Never:
        """Look until cancelled. While the key can't be read, those that were known go on to count."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS if self._trusted else MISSING_SECONDS)

    async def look(self) -> None:
        """Look once, and say so if other keys count than before."""
        trouble = ""
        try:
            present = router_key.public_key(router_key.read(await self._pem()))
        except AlreadyExists:
            return  # another replica was quicker: the next look finds its key
        except Forbidden as error:
            trouble = f"{error}; apply the operator's rights: kubectl apply --server-side -k manifests/base"
        except (KubeError, ValueError) as error:
            trouble = f"Secret {self._namespace}/{names.ROUTER_KEY_SECRET}: {error}"
        else:
            self._trusted = follow(self._trusted, present, time.monotonic())
        if trouble and trouble != self._trouble:
            logger.warning("the routers' key: %s", trouble)
        self._trouble = trouble
        keys = self._trusted.keys(time.monotonic()) if self._trusted is not None else ()
        if keys != self._told:
            self._told = keys
            self._changed(keys)

    async def _pem(self) -> bytes:
        """Return the private key, a new one if there is none.

        Raises:
            KubeError: it can't be read or made.
            ValueError: the Secret has no such entry.
        """
        try:
            secret = await self._client.get(SECRETS, self._namespace, names.ROUTER_KEY_SECRET)
        except NotFound:
            return await self._make()
        return _entry(secret)

    async def _make(self) -> bytes:
        pem = router_key.make()
        body = {
            "apiVersion": SECRETS.api_version,
            "kind": SECRETS.kind,
            "metadata": {
                "name": names.ROUTER_KEY_SECRET,
                "namespace": self._namespace,
                "labels": {names.LABEL_MANAGED_BY: names.MANAGED_BY},
            },
            "data": {names.ROUTER_KEY_ENTRY: base64.b64encode(pem).decode()},
        }
        await self._client.create(SECRETS, body, names.MANAGER_CHILDREN)
        logger.info("made a key for the routers: Secret %s/%s", self._namespace, names.ROUTER_KEY_SECRET)
        return pem


def _entry(secret: Secret) -> bytes:
    """Return the entry with the key.

    Raises:
        ValueError: there is none.
    """
    try:
        return base64.b64decode((secret.data or {})[names.ROUTER_KEY_ENTRY], validate=True)
    except (KeyError, binascii.Error):
        message = f"it has no entry {names.ROUTER_KEY_ENTRY}; delete the Secret to have a new key made"
        raise ValueError(message) from None
