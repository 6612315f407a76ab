"""Fills a draft of the store from a source: parallel ranges, resumed, bounded, checked.

Small files and the headers of safetensors come first, so that what is no model is refused before the gigabytes come.
Then ranges of the weights, over several connections. What a broken connection brought stays written; only the rest is
asked for again. A file is sealed when all of it is there and its hash is the one that the source names.
"""

import asyncio
import hashlib
import os
import random
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from warmfleet_agent.sources import formats, safetensors
from warmfleet_agent.sources.bandwidth import Bandwidth
from warmfleet_agent.sources.contract import Listing, LocalSource, RemoteFile, Source, SourceError
from warmfleet_agent.sources.web import NoRangesError
from warmfleet_agent.store.draft import Draft
from warmfleet_api.vocabulary import WeightsProblem

__all__ = ["Bandwidth", "Patience", "download"]

_RANGE_BYTES = 64 * 1024**2
_BLOCK_BYTES = 2 * 1024**2
"""Written at once; so much of each connection is in memory."""
_FIRST_BYTES = 1024**2
"""Of each safetensors file: holds most headers."""
_STREAMS = 8
_MAX_INDEX_BYTES = 64 * 1024**2
_PROGRESS_BYTES = 64 * 1024
_DAMAGED_RETRY_SECONDS = 60.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download goes on against an unwilling server."""

    no_byte_seconds: float = 30.0
    """A connection that brings nothing for so long is given up."""
    failures: int = 8
    """In a row, each with less than 64 KiB: then the download is given up, and the agent tries again later."""
    first_pause_seconds: float = 0.25
    longest_pause_seconds: float = 20.0

    def pause_seconds(self, failures: int, chance: float) -> float:
        """Return how long to wait after so many failures in a row: doubled each time, scattered by `chance` (0..1)."""
        longest = min(self.longest_pause_seconds, self.first_pause_seconds * 2.0 ** (failures - 1))
        return longest * (0.5 + chance / 2)


_DEFAULT_PATIENCE = Patience()


async def download(
    source: Source,
    listing: Listing,
    draft: Draft,
    *,
    bandwidth: Bandwidth,
    on_progress: Callable[[int], None],
    patience: Patience = _DEFAULT_PATIENCE,
) -> None:
    """Fetch every file of a listing into a draft that was begun with `listing.sizes`, and seal each.

    Only what the draft lacks is fetched. `on_progress` is called, in any thread, with the bytes that came since its
    last call; what the draft had before is not among them. What it raises ends the download.

    Raises:
        SourceError: the files can't be had, or are not what they should be.
        StoreError, OSError: the store failed.
    """
    if isinstance(source, LocalSource):
        await _copy(source, listing, draft, bandwidth, on_progress)
    else:
        await _Download(source, listing, draft, bandwidth=bandwidth, on_progress=on_progress, patience=patience).run()


async def _copy(
    source: LocalSource, listing: Listing, draft: Draft, bandwidth: Bandwidth, on_progress: Callable[[int], None]
) -> None:
    """Copy from files of this node, one after the other: a copy keeps two cores busy.

    The limit holds here too: a folder of the node is often a file system of the network.
    """
    ended = threading.Event()

    def progress(size: int) -> None:
        # The thread of a cancelled copy ends at its next block.
        if ended.wait(bandwidth.book(size)):
            raise InterruptedError("the copy was given up")
        # Not on the loop, which would take a core away at each block.
        on_progress(size)

    def copy(file: RemoteFile) -> None:
        descriptor = source.open(file.path)
        try:
            if file.path.endswith(formats.WEIGHTS):
                _check_weights(listing, file, lambda offset, length: os.pread(descriptor, length, offset))
            draft.fill(file.path, descriptor, progress)
            source.verify(file.path, descriptor)
        finally:
            os.close(descriptor)
        if file.path.endswith(formats.INDEX):
            _check_index(listing, file, draft)

    try:
        for file in sorted(listing.files, key=lambda file: (file.path.endswith(formats.WEIGHTS), file.path)):
            await asyncio.to_thread(copy, file)
    finally:
        ended.set()


@dataclass(frozen=True, slots=True)
class _Part:
    file: RemoteFile
    start: int
    end: int


class _Download:
    """One run of `download`."""

    def __init__(
        self,
        source: Source,
        listing: Listing,
        draft: Draft,
        *,
        bandwidth: Bandwidth,
        on_progress: Callable[[int], None],
        patience: Patience,
    ) -> None:
        self._source = source
        self._listing = listing
        self._draft = draft
        self._bandwidth = bandwidth
        self._on_progress = on_progress
        self._patience = patience
        self._without_ranges: dict[str, asyncio.Lock] = {}
        self._came_bytes: Counter[str] = Counter()

    async def run(self) -> None:
        """Fetch all."""
        small = [file for file in self._listing.files if not file.path.endswith(formats.WEIGHTS)]
        weights = [file for file in self._listing.files if file.path.endswith(formats.WEIGHTS)]
        await _in_parallel(self._whole, small)
        await _in_parallel(self._head, weights)
        parts = [part for file in weights for part in _parts(file)]
        left = Counter(part.file.path for part in parts)

        async def fetch(part: _Part) -> None:
            await self._fetch(part)
            left[part.file.path] -= 1
            if not left[part.file.path]:
                await self._seal(part.file)

        await _in_parallel(fetch, parts)

    async def _whole(self, file: RemoteFile) -> None:
        await self._fetch(_Part(file, 0, file.bytes))
        if file.path.endswith(formats.INDEX):
            await asyncio.to_thread(_check_index, self._listing, file, self._draft)
        await self._seal(file)

    async def _head(self, file: RemoteFile) -> None:
        """Fetch and check the header of a safetensors file."""
        await self._fetch(_Part(file, 0, min(file.bytes, _FIRST_BYTES)))
        first = await asyncio.to_thread(self._draft.read, file.path, 0, safetensors.LENGTH_BYTES)
        length = _header_length(self._listing, file, first)
        await self._fetch(_Part(file, 0, safetensors.LENGTH_BYTES + length))

        def read(offset: int, size: int) -> bytes:
            return self._draft.read(file.path, offset, size)

        await asyncio.to_thread(_check_weights, self._listing, file, read)

    async def _seal(self, file: RemoteFile) -> None:
        """Hash a whole file; one that is not what the source names is fetched once more, then given up."""
        for attempt in (1, 2):
            found = hashlib.sha256()
            await asyncio.to_thread(self._draft.seal, file.path, found.update if file.sha256 else None)
            if file.sha256 is None or found.hexdigest() == file.sha256:
                return
            await asyncio.to_thread(self._draft.forget, file.path)
            if attempt == 1:
                await self._fetch(_Part(file, 0, file.bytes))
        raise SourceError(
            WeightsProblem.DAMAGED,
            f"{file.path} of {self._listing.uri} has another sha256 than its source names, twice. It is fetched again"
            " later; if that goes on, upload it anew",
            retry_after_seconds=_DAMAGED_RETRY_SECONDS,
        )

    async def _fetch(self, part: _Part) -> None:
        """Fetch what the draft lacks of a part, as often as the patience lasts."""
        failures = 0
        while (gap := self._gap(part)) is not None:
            before = self._came_bytes[part.file.path]
            try:
                if part.file.path not in self._without_ranges:
                    await self._stream(part.file, *gap)
                    continue
                # Then it comes from the start, as often as need be; once for all parts of the file.
                async with self._without_ranges[part.file.path]:
                    if self._gap(part) is not None:
                        await self._stream(part.file, 0, part.file.bytes)
            except NoRangesError:
                self._without_ranges.setdefault(part.file.path, asyncio.Lock())
            except SourceError as error:
                if error.reason is not WeightsProblem.SOURCE_UNREACHABLE or error.retry_after_seconds is None:
                    raise
                failures = 1 if self._came_bytes[part.file.path] - before >= _PROGRESS_BYTES else failures + 1
                if failures >= self._patience.failures:
                    raise
                await asyncio.sleep(self._patience.pause_seconds(failures, random.random()))

    def _gap(self, part: _Part) -> tuple[int, int] | None:
        """Return the first range of a part that the draft lacks."""
        for start, end in self._draft.missing(part.file.path):
            first, last = max(start, part.start), min(end, part.end)
            if first < last:
                return first, last
        return None

    async def _stream(self, file: RemoteFile, start: int, end: int) -> None:
        """Read one range and write it; what came before an error is written too."""
        buffer, offset = bytearray(), start
        async with aclosing(self._source.read(file.path, start, end - start)) as stream:
            try:
                while (chunk := await self._next(stream, file)) is not None:
                    await self._bandwidth.take(len(chunk))
                    buffer += chunk
                    if len(buffer) >= _BLOCK_BYTES:
                        block, buffer = buffer, bytearray()
                        await self._write(file, offset, block)
                        offset += len(block)
            except SourceError:
                await self._write(file, offset, buffer)
                raise
            await self._write(file, offset, buffer)

    async def _next(self, stream: AsyncGenerator[bytes, None], file: RemoteFile) -> bytes | None:
        try:
            async with asyncio.timeout(self._patience.no_byte_seconds):
                return await anext(stream)
        except StopAsyncIteration:
            return None
        except TimeoutError:
            raise SourceError(
                WeightsProblem.SOURCE_UNREACHABLE,
                f"{self._listing.uri}: no byte of {file.path} came for {self._patience.no_byte_seconds:.0f} s. It is"
                " tried again",
                retry_after_seconds=_DAMAGED_RETRY_SECONDS,
            ) from None

    async def _write(self, file: RemoteFile, offset: int, block: bytearray) -> None:
        if block:
            await asyncio.to_thread(self._draft.write, file.path, offset, memoryview(block))
            self._came_bytes[file.path] += len(block)
            self._on_progress(len(block))


def _parts(file: RemoteFile) -> Iterator[_Part]:
    for start in range(0, max(1, file.bytes), _RANGE_BYTES):
        yield _Part(file, start, min(start + _RANGE_BYTES, file.bytes))


def _header_length(listing: Listing, file: RemoteFile, first: bytes) -> int:
    try:
        return safetensors.header_length(first, file.bytes)
    except safetensors.BadHeaderError as error:
        raise _bad_weights(listing, file, error) from None


def _check_weights(listing: Listing, file: RemoteFile, read: Callable[[int, int], bytes]) -> None:
    """Check the header of a safetensors file; `read` gives its bytes by offset and length."""
    length = _header_length(listing, file, read(0, safetensors.LENGTH_BYTES))
    try:
        safetensors.check_header(read(safetensors.LENGTH_BYTES, length), file.bytes)
    except safetensors.BadHeaderError as error:
        raise _bad_weights(listing, file, error) from None


def _bad_weights(listing: Listing, file: RemoteFile, error: safetensors.BadHeaderError) -> SourceError:
    return SourceError(
        WeightsProblem.UNSAFE_FORMAT,
        f"{file.path} of {listing.uri} is no sound safetensors file: {error}. Upload it anew, or name another revision",
    )


def _check_index(listing: Listing, file: RemoteFile, draft: Draft) -> None:
    """Check that the files that an index names are there: an upload may have been broken off."""
    if file.bytes > _MAX_INDEX_BYTES:
        raise SourceError(
            WeightsProblem.UNSAFE_FORMAT, f"{file.path} of {listing.uri} has {file.bytes} bytes. Upload it anew"
        )
    try:
        named = set(formats.decode_index(draft.read(file.path, 0, file.bytes)).weight_map.values())
    except (msgspec.MsgspecError, RecursionError) as error:
        raise SourceError(
            WeightsProblem.UNSAFE_FORMAT, f"{file.path} of {listing.uri} is damaged: {str(error)[:120]}. Upload it anew"
        ) from None
    folder = file.path.rpartition("/")[0]
    there = {each.path for each in listing.files}
    lacking = sorted(name for name in named if (f"{folder}/{name}" if folder else name) not in there)
    if lacking:
        raise SourceError(
            WeightsProblem.MODEL_NOT_FOUND,
            f"{listing.uri} lacks {lacking[0][:80]!r}, which its {file.path} names. Finish the upload, or name another"
            " revision",
        )


async def _in_parallel(do: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """Do something for each item, a few at a time; the first error ends all."""
    left = iter(items)

    async def work() -> None:
        for item in left:
            await do(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(_STREAMS):
                group.create_task(work(), name="download")
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
