"""Keeps the front running: starts it, links with it, starts it again when it dies or falls silent."""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from warmfleet_runtime import link, processes
from warmfleet_runtime.config import RunnerConfig

SILENT_SECONDS = 10.0
"""A front that reports nothing for this long is killed: it reports every second."""
STARTING_SECONDS = 45.0
"""One that has not reported yet has so long: its imports may take that where all cores are taken, and one that is
killed meanwhile begins again, for ever. Less than the pod's startup probe gives."""
_RESTART_SECONDS = 0.5
_log = logging.getLogger("supervisor.front")


class FrontKeeper:
    """One front process at a time, and this end of the link to it."""

    def __init__(self, config: RunnerConfig, on_report: Callable[[link.Report], None]) -> None:
        self._config = config
        self._on_report = on_report
        self._pid: int | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.Task[None] | None = None
        self._patience_seconds = STARTING_SECONDS
        self._silent_at = 0.0
        """When that is over."""
        self._start_at = 0.0
        self._last_line = b""

    @property
    def is_running(self) -> bool:
        """Whether its process exists."""
        return self._pid is not None

    async def keep(self) -> None:
        """Start the front if it is down; kill it if it is silent. Called often."""
        now = time.monotonic()
        if self._pid is None:
            if now >= self._start_at:
                await self._start(now)
        elif now > self._silent_at:
            _log.error("the front said nothing for %d s; killing it", self._patience_seconds)
            self._wait_for_report(now, SILENT_SECONDS)
            processes.signal_group(self._pid, signal.SIGKILL)

    def send(self, table: link.Table) -> None:
        """Tell the front everything; a front that is down learns it when it starts."""
        self._last_line = link.encode(table)
        # A front that does not read gets only what fits: it is told everything again within a second.
        if self._writer and self._writer.transport.get_write_buffer_size() < link.MAX_LINE_BYTES:
            self._writer.write(self._last_line)

    def exited(self, ended: processes.Exit) -> bool:
        """Take note of a reaped child; return whether it was the front."""
        if ended.pid != self._pid:
            return False
        self._pid = None
        self._start_at = time.monotonic() + _RESTART_SECONDS
        self._close_link()
        _log.log(logging.WARNING if ended.exit_code else logging.INFO, "the front ended with %d", ended.exit_code)
        return True

    def stop(self, number: signal.Signals) -> None:
        """Signal the front's process group."""
        if self._pid is not None:
            processes.signal_group(self._pid, number)

    async def close(self) -> None:
        """Let go of the link."""
        reader = self._reader
        self._close_link()
        if reader:
            await asyncio.gather(reader, return_exceptions=True)

    async def _start(self, now: float) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = (sys.executable, "-m", "warmfleet_runtime.front", *self._config.flags())
            self._pid = processes.spawn(command, os.environ, descriptor=(theirs.fileno(), link.DESCRIPTOR))
        self._wait_for_report(now, STARTING_SECONDS)
        reader, self._writer = await link.open_link(ours)
        self._writer.write(self._last_line)
        self._reader = asyncio.create_task(self._read(reader), name="front reports")

    def _wait_for_report(self, now: float, seconds: float) -> None:
        self._patience_seconds, self._silent_at = seconds, now + seconds

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self._wait_for_report(time.monotonic(), SILENT_SECONDS)
                self._on_report(link.decode_report(line))
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            # Its end of the link is broken, so it can't be trusted with anything else.
            _log.error("the link to the front broke: %s", error)
            self.stop(signal.SIGKILL)

    def _close_link(self) -> None:
        if self._reader:
            self._reader.cancel()
        if self._writer:
            self._writer.close()
        self._reader = self._writer = None
