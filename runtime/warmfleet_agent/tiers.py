"""The tiers of the node: opens their stores as the NodeCache says, resizes them, and looks at them.

A tier that can't be used says why in words and is tried again; the other one goes on meanwhile.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from warmfleet_agent import former_memory, mounts
from warmfleet_agent.plan import Held, TierState
from warmfleet_agent.settings import Settings
from warmfleet_agent.status import TierView, format_size
from warmfleet_agent.store.errors import StoreError
from warmfleet_agent.store.store import Store
from warmfleet_api import names
from warmfleet_api.node_cache import NodeCacheSpec, TierSpec
from warmfleet_api.vocabulary import Tier
from warmfleet_api.weights import Manifest

logger = logging.getLogger(__name__)

RETRY_SECONDS = 10.0
"""After a tier could not be used."""
FORMER_SECONDS = 60.0
"""How often it is looked for memory of a former path, which stays while runners read from it."""
OWN_BYTES = 512 * 1024**2
"""What the agent itself needs of its container's memory limit; the rest is the tmpfs's."""
RESTART = f"kubectl -n {names.AGENT_NAMESPACE} delete pod -l {names.LABEL_CACHE} --field-selector spec.nodeName="


@dataclass(frozen=True, slots=True)
class Look:
    """What one store held at one moment."""

    entries: Mapping[str, Manifest]
    state: TierState
    view: TierView
    views: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Keys shown by view; of the memory alone."""
    strangers: tuple[str, ...] = ()
    """What others put there, in words."""


class Tiers:
    """The stores. `follow` and `look` block and are called from one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.memory: Store | None = None
        self.disk: Store | None = None
        self.troubles: dict[Tier, str] = {}
        """Why a tier is not, or not as it should be."""
        self.notes: dict[Tier, str] = {}
        """What an administrator may want to mend, though it works."""
        self._left: list[Store] = []
        self._capacities: dict[Tier, int] = {}
        self._retry_at: dict[Tier, float] = {}
        self._wanted_path = str(settings.memory_path)
        self._former_at = 0.0

    def store(self, tier: Tier) -> Store | None:
        """Return the store of a tier, if it works."""
        return self.memory if tier is Tier.MEMORY else self.disk

    def follow(self, spec: NodeCacheSpec, now: float) -> None:
        """Make the tiers what the spec says. `now`: unix seconds."""
        self._wanted_path = spec.memory.path
        if self._due(Tier.MEMORY, spec.memory, now):
            self._try(Tier.MEMORY, spec.memory, now)
        if spec.disk is None or self._settings.disk_path is None:
            self._leave(Tier.DISK)
            if spec.disk is not None:
                self.troubles[Tier.DISK] = f"this agent was made without a disk; {self._restart()}"
            else:
                self.troubles.pop(Tier.DISK, None)
        elif self._due(Tier.DISK, spec.disk, now):
            self._try(Tier.DISK, spec.disk, now)
        if self.memory is not None and now >= self._former_at:
            self._former_at = now + FORMER_SECONDS
            self._give_back(former_memory.beside)

    def retry_time(self) -> float | None:
        """Return when a broken tier is to be tried again, in unix seconds."""
        return min(self._retry_at.values(), default=None)

    def broke(self, tier: Tier, error: OSError | StoreError, now: float) -> None:
        """Give up a store that fails as a whole; it is opened anew later."""
        logger.error("%s tier: %s", tier.value, error)
        self._leave(tier)
        self.troubles[tier] = f"{tier.value}: {error}"
        self._retry_at[tier] = now + RETRY_SECONDS

    def look(self, tier: Tier) -> Look | None:
        """Return what a tier holds now; None without it.

        Raises:
            OSError: the store is broken.
            StoreError: likewise.
        """
        store = self.store(tier)
        if store is None:
            return None
        held = {key: each for key, entry in store.entries.items() if (each := _held(store, key, entry)) is not None}
        entries = {key: entry for key, entry in store.entries.items() if key in held}
        usage = store.usage()
        return Look(
            entries=entries,
            state=TierState(
                capacity_bytes=usage.capacity_bytes,
                free_bytes=usage.free_bytes,
                held=held,
                idle_drafts=dict(store.idle_drafts),
                page_bytes=store.page_bytes,
            ),
            view=TierView(
                entries=entries,
                capacity_bytes=usage.capacity_bytes,
                used_bytes=usage.entry_bytes + usage.draft_bytes,
                unlinked_bytes=usage.unlinked_bytes,
            ),
            views=store.views if tier is Tier.MEMORY else {},
            strangers=store.strangers(),
        )

    def close_left(self) -> None:
        """Let go of stores that are not used any more. Called while nothing of them is in use."""
        while self._left:
            self._left.pop().close()

    def close(self) -> None:
        """Let go of all stores; everything in them stays. Called while nothing of them is in use."""
        self._leave(Tier.MEMORY)
        self._leave(Tier.DISK)
        self.close_left()
        if self._wanted_path != str(self._settings.memory_path):
            # Its successor may not see this folder.
            self._give_back(lambda path: [path])

    def _give_back(self, found: Callable[[Path], Iterable[Path]]) -> None:
        """Unmount memory of a former `spec.memory.path`."""
        if self._settings.memory_mount != "Own":
            return
        for path in found(self._settings.memory_path):
            why = former_memory.give_back(path)
            logger.info("%s is not the memory tier any more: %s", path, why or "unmounted, its memory is given back")

    def _due(self, tier: Tier, wanted: TierSpec, now: float) -> bool:
        if tier in self._retry_at:
            return now >= self._retry_at[tier]
        return self.store(tier) is None or self._capacities.get(tier) != wanted.bytes

    def _try(self, tier: Tier, wanted: TierSpec, now: float) -> None:
        self.troubles.pop(tier, None)
        self.notes.pop(tier, None)
        self._retry_at.pop(tier, None)
        try:
            self._open(tier, wanted)
        except (OSError, StoreError, mounts.MountError) as error:
            logger.error("%s tier: %s", tier.value, error)  # noqa: TRY400 - said in words
            self.troubles[tier] = f"{tier.value}: {error}"
            self._retry_at[tier] = now + RETRY_SECONDS

    def _open(self, tier: Tier, wanted: TierSpec) -> None:
        """Open or resize one store.

        Raises:
            OSError: its folder can't be used.
            StoreError: another agent has it.
            mounts.MountError: the tmpfs can't be mounted.
        """
        path = self._settings.memory_path if tier is Tier.MEMORY else self._settings.disk_path
        assert path is not None, "asked only with a path"
        if str(path) != wanted.path:
            self.notes[tier] = f"{wanted.path} is wanted, this agent was made for {path}; {self._restart()}"
        capacity = self._affordable(wanted) if tier is Tier.MEMORY else wanted.bytes
        store = self.store(tier)
        if store is not None:
            # First the account: what is too much by it is evicted, and then the mount can shrink.
            store.resize(capacity)
        if tier is Tier.MEMORY and self._settings.memory_mount == "Own":
            mounted = mounts.memory(path, capacity)
            if mounted.note:
                self.notes.setdefault(tier, mounted.note)
        else:
            path.mkdir(parents=True, exist_ok=True)
        if store is None:
            store = Store(path, capacity, is_durable=tier is Tier.DISK)
            logger.info("%s tier at %s: %d entries adopted", tier.value, path, len(store.entries))
            for words in store.deleted:
                logger.warning("%s tier: %s", tier.value, words)
        self._capacities[tier] = wanted.bytes
        if tier is Tier.MEMORY:
            self.memory = store
        else:
            self.disk = store

    def _affordable(self, wanted: TierSpec) -> int:
        """Return how much memory the container's limit leaves: pages of the tmpfs are charged to it."""
        limit = self._settings.memory_limit_bytes
        if not limit or wanted.bytes <= limit - OWN_BYTES:
            return wanted.bytes
        self.notes[Tier.MEMORY] = (
            f"{format_size(wanted.bytes)} of memory are wanted, this agent's pod was made for "
            f"{format_size(limit - OWN_BYTES)}; {self._restart()}"
        )
        return limit - OWN_BYTES

    def _restart(self) -> str:
        return f"nothing is lost by: {RESTART}{self._settings.node_name}"

    def _leave(self, tier: Tier) -> None:
        store = self.store(tier)
        self._retry_at.pop(tier, None)
        self._capacities.pop(tier, None)
        self.notes.pop(tier, None)
        if store is not None:
            # A transfer may still write through its descriptors, and a number that is free is given to another file.
            self._left.append(store)
        if tier is Tier.MEMORY:
            self.memory = None
        else:
            self.disk = None


def _held(store: Store, key: str, entry: Manifest) -> Held | None:
    """Return an entry as a plan sees it; None if it has just gone, or somebody took it away by hand."""
    try:
        arrived, is_locked = store.arrived(key), store.is_locked(key)
    except KeyError:
        return None
    except OSError as error:
        logger.error("%s: %s; it is fetched again", key, error)  # noqa: TRY400 - said in words
        with suppress(KeyError, StoreError):
            store.verify(key)
        return None
    sizes = tuple(piece.bytes for piece in entry.files)
    return Held(key=key, file_bytes=sizes, arrived=arrived, is_locked=is_locked)


def boot_id() -> str:
    """Return what tells one boot of the node's kernel from another; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def probe(store: Store, key: str, most_bytes: int) -> tuple[int, float]:
    """Read part of an entry's largest file and return bytes and seconds.

    Raises:
        OSError: it can't be read.
        KeyError: no such entry.
    """
    piece = max(store.entries[key].files, key=lambda each: each.bytes)
    descriptor = store.open_entry_file(key, piece.path)
    try:
        block, done, started = memoryview(bytearray(4 * 1024**2)), 0, time.perf_counter()
        while done < min(piece.bytes, most_bytes) and (read := os.preadv(descriptor, [block], done)):
            done += read
        return done, time.perf_counter() - started
    finally:
        os.close(descriptor)
