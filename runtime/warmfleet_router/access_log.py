"""The access log: one JSON object per request on standard output, in batches so that no request waits for it."""

import asyncio
import sys
from typing import BinaryIO, Never

import msgspec

FLUSH_SECONDS = 0.25
MAX_LINES = 20_000
"""Kept for the next batch; a reader that takes none loses what is beyond, which is said."""


class Line(msgspec.Struct, rename="camel", omit_defaults=True):
    """One request. Times are seconds."""

    time: float
    """Unix seconds, when it ended."""
    method: str
    path: str
    status: int
    """0: the client left before there was one."""
    seconds: float
    request_id: str = ""
    namespace: str = ""
    model: str = ""
    tenant: str = ""
    runner: str = ""
    """Pod that answered."""
    first_byte_seconds: float | None = None
    held_seconds: float = 0.0
    tries: int = 0
    stream: bool = False
    request_bytes: int = 0
    code: str = ""
    """Of a refusal by the router; `cancelled` or `broken`."""
    cache: str = ""
    """Of a model that keeps answers: the tier that had it, `shared`, `miss` or `bypass`."""


class AccessLog:
    """Collects lines, and writes them from a thread."""

    def __init__(self, out: BinaryIO | None = None) -> None:
        self._out = out or sys.stdout.buffer
        self._lines: list[bytes] = []
        self._dropped = 0
        self._encode = msgspec.json.Encoder().encode

    def add(self, line: Line) -> None:
        """Take a line."""
        if len(self._lines) < MAX_LINES:
            self._lines.append(self._encode(line))
        else:
            self._dropped += 1

    async def run(self) -> Never:
        """Write until cancelled, and what is left then."""
        try:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                if self._lines:
                    await asyncio.to_thread(self._write, self._take())
        finally:
            self._write(self._take())

    def _take(self) -> list[bytes]:
        lines, self._lines = self._lines, []
        if self._dropped:
            lines.append(self._encode({"dropped": self._dropped}))
            self._dropped = 0
        return lines

    def _write(self, lines: list[bytes]) -> None:
        if lines:
            self._out.write(b"\n".join(lines) + b"\n")
            self._out.flush()
