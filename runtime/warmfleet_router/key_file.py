"""Follows the file with the private key: kubelet brings it, perhaps after the router began, and changes it in place."""

import asyncio
import logging
import time
from pathlib import Path
from typing import Never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from warmfleet_api.router_key import public_key
from warmfleet_kube.errors import BadSetting
from warmfleet_router.tokens import Tokens, load_key

logger = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
ADOPT_SECONDS = 30.0
"""After a change of the key: runners hear of it first, else they would take requests for those of strangers."""


class KeyFile:
    """Gives `tokens` the key of a file, each time it has another one."""

    def __init__(self, path: Path | None, tokens: Tokens) -> None:
        self._path = path
        self._tokens = tokens
        self._next: Ed25519PrivateKey | None = None
        self._adopt_at = 0.0
        self._trouble = ""

    async def run(self) -> Never:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Look once; `now` is in monotonic seconds. Without a readable key the router goes on with the one it has."""
        try:
            found = load_key(self._path)
        except BadSetting as error:
            if str(error) != self._trouble:
                logger.warning("%s; signing goes on with the former key", error)
            self._trouble = str(error)
            return
        self._trouble = ""
        if found is None or _same(found, self._tokens.key):
            self._next = None
            return
        if not _same(found, self._next):
            self._next = found
            self._adopt_at = now + ADOPT_SECONDS if self._tokens.key is not None else now
        if now >= self._adopt_at:
            self._tokens.sign_with(found)
            self._next = None
            logger.info("requests are signed with the key whose public half is %s", public_key(found))


def _same(one: Ed25519PrivateKey, other: Ed25519PrivateKey | None) -> bool:
    return other is not None and public_key(one) == public_key(other)
