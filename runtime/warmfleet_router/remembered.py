"""What a router knows, kept in a file for the one that kubelet starts in its place while the API server is away.

Kubelet restarts a container without the API server: same pod, same address, same volumes. Clients are still sent
there, because nobody can take the address out; so the new process has to serve from what the former one knew. Of API
keys there are only hashes.
"""

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Never

import msgspec

from warmfleet_kube.mirror import Mirror
from warmfleet_router.records import ModelDeployment, Pod, Tenant
from warmfleet_router.tenants import TenantKey, Tenants

logger = logging.getLogger(__name__)

WRITE_SECONDS = 15.0
"""After a change; what changed later than that is not known after a restart."""


class _Table(msgspec.Struct):
    pods: tuple[Pod, ...]
    models: tuple[ModelDeployment, ...]
    tenants: tuple[Tenant, ...]
    hashes: list[tuple[TenantKey, list[bytes]]]


@dataclass(slots=True)
class Remembered:
    """The file, and the mirrors that are written to it and filled from it; without a path it does nothing."""

    path: Path | None
    pods: Mirror[Pod]
    models: Mirror[ModelDeployment]
    tenants: Mirror[Tenant]
    keys: Tenants

    async def run(self, filled: asyncio.Event) -> Never:
        """Write each change until cancelled, once the mirrors are `filled` from the API server."""
        await filled.wait()
        changed = asyncio.Event()
        changed.set()

        def note(*_: Any) -> None:
            changed.set()

        self.pods.subscribe(note)
        self.models.subscribe(note)
        self.tenants.subscribe(note)
        hashes = self.keys.hashes()
        while True:
            if changed.is_set() or self.keys.hashes() != hashes:
                changed.clear()
                hashes = self.keys.hashes()
                await self._write()
            await asyncio.sleep(WRITE_SECONDS)

    def restore(self) -> bool:
        """Fill the mirrors from the file; return whether there was anything to restore."""
        if self.path is None:
            return False
        try:
            table = msgspec.json.decode(self.path.read_bytes(), type=_Table)
        except FileNotFoundError:
            return False
        except (OSError, msgspec.MsgspecError) as error:
            logger.warning("%s can't be read: %s", self.path, error)
            return False
        # Tenants first: no namespace is open for a moment that is closed. Whatever the server lists later is newer.
        self.tenants.replace(table.tenants, 0)
        for key, hashes in table.hashes:
            self.keys.restore(key, hashes)
        self.models.replace(table.models, 0)
        self.pods.replace(table.pods, 0)
        return True

    async def _write(self) -> None:
        if self.path is None:
            return
        table = _Table(self.pods.values(), self.models.values(), self.tenants.values(), self.keys.hashes())
        try:
            await asyncio.to_thread(_replace, self.path, table)
        except OSError as error:
            logger.warning(
                "%s can't be written: %s; a restart without the API server would know nothing", self.path, error
            )


def _replace(path: Path, table: _Table) -> None:
    """Write a file, whole or not at all, for this user alone."""
    scratch = path.with_name(f"{path.name}.new")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(table))
    scratch.replace(path)
