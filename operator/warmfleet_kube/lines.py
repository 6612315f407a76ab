"""Newline-separated JSON over HTTP: watches of the Kubernetes API and status streams of runners."""

from collections.abc import AsyncIterator

import aiohttp


class LineTooLongError(Exception):
    """A line is over the limit; the stream can't be followed further."""


async def lines(content: aiohttp.StreamReader, *, limit_bytes: int) -> AsyncIterator[bytes]:
    """Yield each line without its newline; an unfinished last line is left out.

    aiohttp's own `readline` refuses lines above its buffer size, and objects may be larger than that.

    Raises:
        LineTooLongError: a line is longer than `limit_bytes`.
    """
    rest = b""
    async for chunk in content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
        for line in whole:
            if line:
                yield line
        if len(rest) > limit_bytes:
            raise LineTooLongError(f"a line is longer than {limit_bytes} bytes")
