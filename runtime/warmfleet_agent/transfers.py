"""Carries transfers out: asks, fetches, promotions and demotions, each in a task of its own, one at a time per entry.

What a step needs is passed in, what it brought is an `Outcome`; whoever owns the tasks decides what follows.
"""

import asyncio
import errno
import logging
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from warmfleet_agent import credentials
from warmfleet_agent.artifacts import check, open_artifact
from warmfleet_agent.credentials import CredentialError
from warmfleet_agent.progress import Meter, Progress
from warmfleet_agent.sources import Listing, Source, SourceError, SourceRules, open_source
from warmfleet_agent.sources.download import Bandwidth, download
from warmfleet_agent.store.errors import DamagedError, LockedError, NoSpaceError, PresentError, StoreError
from warmfleet_agent.store.manifest import BadNameError
from warmfleet_agent.store.store import Store
from warmfleet_agent.threads import Threads
from warmfleet_agent.tiers import probe
from warmfleet_api.artifacts import PackError, name_in
from warmfleet_api.node_cache import WantedEntry
from warmfleet_api.vocabulary import EntryState, Tier, WeightsProblem
from warmfleet_kube.client import KubeClient

logger = logging.getLogger(__name__)

PROBE_BYTES = 256 * 1024**2
SOON_SECONDS = 5.0
"""After what passes by itself and names no time."""
ASK_SECONDS = 120.0
"""Time limit of a question to a source; a transfer has none, its progress is watched by the source."""
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class UnwantedError(Exception):
    """Raised inside a copy that is to end."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a step did not do what it should."""

    reason: WeightsProblem
    message: str
    retry_after_seconds: float | None
    """None: only a person can mend it."""
    tier: Tier = Tier.REMOTE


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended. None of the fields: it was cancelled."""

    done: bool = False
    listing: Listing | None = None
    """What the source said, where it was asked."""
    trouble: Trouble | None = None
    is_full: bool = False
    """There was no room after all: to be planned anew."""
    brought_bytes: int = 0
    seconds: float = 0.0
    memory_read: tuple[int, float] | None = None
    """Bytes and seconds of a short read of what arrived in memory."""


@dataclass(slots=True)
class Moving:
    """A transfer under way."""

    key: str
    source: Tier
    target: Tier
    room_bytes: int
    progress: Progress
    is_reserved: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    task: "asyncio.Task[None] | None" = None

    def end(self) -> None:
        """End it soon: threads first, which can't be cancelled."""
        self.stop.set()
        if self.task is not None:
            self.task.cancel()

    def count(self, size_bytes: int) -> None:
        """Count bytes that have passed; ends a copy that is to end."""
        if self.stop.is_set():
            raise UnwantedError(self.key)
        self.progress.meter.add(size_bytes)


def moving(key: str, source: Tier, target: Tier, size_bytes: int, room_bytes: int) -> Moving:
    """Return a transfer that has not begun."""
    on_its_way = EntryState.FETCHING if source is Tier.REMOTE else EntryState.PROMOTING
    # What is copied down is where it should be, in memory.
    state = EntryState.PRESENT if source is Tier.MEMORY else on_its_way
    progress = Progress(key, source, target, state, Meter(time.monotonic), size_bytes)
    return Moving(key, source, target, room_bytes, progress)


class Transfers:
    """How steps are carried out on this node."""

    def __init__(
        self, client: KubeClient, threads: Threads, *, allow_private: bool, kubelet: Path | None = None
    ) -> None:
        """`kubelet`: its folder, where this node's runners offer what they compiled."""
        self.bandwidth = Bandwidth()
        """Shared by all fetches."""
        self.file_roots: tuple[Path, ...] = ()
        self._client = client
        self._threads = threads
        self._allow_private = allow_private
        self._kubelet = kubelet

    async def ask(self, wanted: WantedEntry) -> Outcome:
        """Ask the source of an entry for revision, files and sizes."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(ASK_SECONDS):
                async with self._opened(wanted) as source:
                    listing = await source.list()
            return Outcome(done=True, listing=listing, seconds=time.monotonic() - started)
        except Exception as error:
            return Outcome(trouble=_trouble(error, Tier.REMOTE), seconds=time.monotonic() - started)

    async def fetch(self, wanted: WantedEntry, store: Store, way: Moving) -> Outcome:
        """Fetch an entry from its source into a store."""
        started = time.monotonic()
        listing: Listing | None = None
        try:
            async with self._opened(wanted) as source:
                listing = await source.list()
                _check_revision(wanted, listing)
                way.progress.total_bytes = listing.bytes
                async with self._threads.entered(store.begin(wanted.key, listing.sizes, wanted.uri)) as draft:
                    way.is_reserved = True
                    lacking = sum(end - start for path in listing.sizes for start, end in draft.missing(path))
                    way.progress.meter.resume(listing.bytes - lacking)
                    await download(source, listing, draft, bandwidth=self.bandwidth, on_progress=way.count)
                    if name_in(wanted.key):
                        await self._threads.long(check, draft, wanted.key)
                    await self._threads.long(draft.commit, wanted.uri, listing.revision, wanted.digest or "")
            return await self._arrived(store, way, started, listing)
        except (DamagedError, PackError) as error:
            # A draft that was kept would be gone on with, and be as wrong again.
            await self._threads.long(store.discard, way.key)
            return _failed(error, way, started, listing)
        except Exception as error:
            return _failed(error, way, started, listing)

    async def copy(self, source: Store, target: Store, way: Moving) -> Outcome:
        """Copy an entry from one tier to the other."""
        started = time.monotonic()
        try:
            await self._threads.long(_copy, source, target, way)
            return await self._arrived(target, way, started, None)
        except DamagedError as error:
            # What is on disk is not what was committed there: it is fetched anew.
            await self._threads.long(_drop, source, way.key)
            return Outcome(trouble=_trouble(error, way.source), seconds=time.monotonic() - started)
        except Exception as error:
            return _failed(error, way, started, None)

    async def _arrived(self, store: Store, way: Moving, started: float, listing: Listing | None) -> Outcome:
        seconds = time.monotonic() - started
        read: tuple[int, float] | None = None
        if way.target is Tier.MEMORY and way.progress.total_bytes:
            try:
                read = await self._threads.long(probe, store, way.key, PROBE_BYTES)
            except (OSError, KeyError):
                logger.debug("%s went again before it could be read", way.key)
        brought_bytes = way.progress.meter.brought_bytes
        return Outcome(done=True, listing=listing, brought_bytes=brought_bytes, seconds=seconds, memory_read=read)

    @asynccontextmanager
    async def _opened(self, wanted: WantedEntry) -> AsyncIterator[Source]:
        """Open where an entry comes from.

        Raises:
            SourceError: it can't be had from there.
            CredentialError: its credential can't be had.
        """
        if name_in(wanted.key):
            async with open_artifact(wanted, self._kubelet) as artifact:
                yield artifact
            return
        credential = await credentials.read(self._client, wanted.secret_ref)
        async with open_source(wanted.uri, wanted.revision, credential, self._rules()) as source:
            yield source

    def _rules(self) -> SourceRules:
        return SourceRules(file_roots=self.file_roots, allow_private=self._allow_private)


def _copy(source: Store, target: Store, way: Moving) -> None:
    """Copy and hash all files, and commit if they are what the source's manifest says.

    Raises:
        UnwantedError: it is not wanted any more.
        StoreError: no room, damaged, or gone.
        OSError: a broken store.
    """
    entry = source.entries.get(way.key)
    if entry is None:
        raise UnwantedError(way.key)
    sizes = {piece.path: piece.bytes for piece in entry.files}
    with target.begin(way.key, sizes, entry.uri) as draft, ExitStack() as opened:
        way.is_reserved = True
        for piece in entry.files:
            descriptor = source.open_entry_file(way.key, piece.path)
            opened.callback(os.close, descriptor)
            draft.fill(piece.path, descriptor, way.count)
        draft.commit(entry.uri, entry.revision, entry.files)


def _drop(store: Store, key: str) -> None:
    """Remove an entry that is damaged, unless a reader still has it."""
    with suppress(KeyError, LockedError):
        store.evict(key)


def _check_revision(wanted: WantedEntry, listing: Listing) -> None:
    """Accept what the source has if it is what was asked for.

    Raises:
        SourceError: it has something else by now.
    """
    if wanted.revision and listing.revision != wanted.revision:
        raise SourceError(
            WeightsProblem.MODEL_NOT_FOUND,
            f"{wanted.uri} has {listing.revision} where {wanted.revision} was; set `revision` to the one to use",
        )


def _failed(error: Exception, way: Moving, started: float, listing: Listing | None) -> Outcome:
    seconds = time.monotonic() - started
    match error:
        case UnwantedError() | PresentError():
            return Outcome(listing=listing, seconds=seconds)
        case NoSpaceError():
            return Outcome(listing=listing, is_full=True, seconds=seconds)
        case OSError() if error.errno in _NO_SPACE:
            return Outcome(listing=listing, is_full=True, seconds=seconds)
    # Where the disk is at fault, the plan goes around it.
    tier = Tier.DISK if Tier.DISK in {way.source, way.target} else Tier.REMOTE
    return Outcome(listing=listing, trouble=_trouble(error, tier), seconds=seconds)


def _trouble(error: Exception, tier: Tier) -> Trouble:
    """Say in words what went wrong; `tier`: where, if it was a store."""
    reason, words, retry_after_seconds = WeightsProblem.DISK_ERROR, str(error), None
    where = Tier.REMOTE
    match error:
        case SourceError():
            reason, retry_after_seconds = error.reason, error.retry_after_seconds
        case CredentialError():
            reason = error.reason
            retry_after_seconds = SOON_SECONDS if reason is WeightsProblem.SOURCE_UNREACHABLE else None
        case BadNameError() | PackError():
            reason = WeightsProblem.UNSAFE_FORMAT
        case DamagedError():
            reason, retry_after_seconds, where = WeightsProblem.DAMAGED, SOON_SECONDS, tier
        case aiohttp.ClientError() | TimeoutError():
            reason, retry_after_seconds = WeightsProblem.SOURCE_UNREACHABLE, SOON_SECONDS
            words = f"{words or 'no answer in time'}; it is tried again"
        case OSError() | StoreError():
            retry_after_seconds, where = SOON_SECONDS, tier
            words = f"{words}; look at the node's kernel log: dmesg"
        case _:
            logger.error("a defect", exc_info=error)
            words = f"{type(error).__name__}: {words}; this is a defect, its traceback is in the agent's log"
    return Trouble(reason, words, retry_after_seconds, where)
