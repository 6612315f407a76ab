"""Keeps the zygote: starts it, asks it for engines, starts it again when it dies, gives it up when that is no use."""

import asyncio
import logging
import math
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from warmfleet_api import names
from warmfleet_api.runner_status import ZygoteStatus
from warmfleet_api.vocabulary import ZygoteState
from warmfleet_runtime import processes
from warmfleet_runtime.config import RunnerConfig
from warmfleet_runtime.engines.logtail import LogTail
from warmfleet_runtime.engines.vllm import environment_of
from warmfleet_runtime.engines.vllm_zygote import protocol
from warmfleet_runtime.engines.vllm_zygote.environment import FOR_IMPORTS

COMMAND = (sys.executable, "-m", "warmfleet_runtime.engines.vllm_zygote")
NAME = ".zygote"
"""Of its log and cache folder: no engine can be called so."""
IMPORT_SECONDS = 300.0
"""vLLM's imports take 10 s, two minutes from a slow disk. One that takes longer hangs."""
FORK_SECONDS = 30.0
"""A fork takes a twentieth of a second, a few seconds where memory or processors are short."""
DEATHS = 3
"""In a row, after which it is Unavailable; it is still tried again."""
HEALTHY_SECONDS = 60.0
"""A zygote that was Ready for so long died by an accident, not by a fault."""
RESTART_SECONDS = 0.5
"""Before the first restart; doubles with each death in a row."""
RETRY_SECONDS = 300.0
"""Between the tries of an Unavailable one: each costs ten seconds of a core."""
_log = logging.getLogger("supervisor.zygote")


class ForkError(Exception):
    """The engine was not forked, so it has to be executed; the message says why."""


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """An engine to fork."""

    arguments: tuple[str, ...]
    """`Command.fork_arguments` of its adapter."""
    environment: Mapping[str, str]
    log: Path


class _Process:
    """One zygote process and this end of the link to it."""

    def __init__(self, pid: int, now: float, log: LogTail) -> None:
        self.pid = pid
        self.started_at = now
        self.ready_at: float | None = None
        self.log = log
        self.killed_for = ""
        """Why it was killed by us; a signal from elsewhere leaves it empty."""
        self.problem = ""
        """Why it says itself that it must not be forked."""
        self.writer: asyncio.StreamWriter | None = None
        self.reader: asyncio.Task[None] | None = None
        self.waiting: deque[asyncio.Future[protocol.Answer]] = deque()

    def kill(self, why: str) -> None:
        """End it, and remember why."""
        self.killed_for = self.killed_for or why
        processes.signal_group(self.pid, signal.SIGKILL)

    def end_waiting(self, why: str) -> None:
        """Let nobody wait for an answer that can't come."""
        while self.waiting:
            answer = self.waiting.popleft()
            if not answer.done():
                answer.set_result(protocol.Answer(error=why))

    def explain(self, exit_code: int) -> str:
        """Say why it ended."""
        if self.killed_for:
            return self.killed_for
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with code {exit_code}"
        when = "" if self.ready_at is not None else " during its imports"
        return f"it {how}{when}" + (f": {self.log.last[-1]}" if self.log.last else "")


class ZygoteKeeper:
    """At most one zygote at a time."""

    def __init__(
        self,
        config: RunnerConfig,
        on_change: Callable[[], None],
        *,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.status: ZygoteStatus | None = None
        """None while no zygote is wanted."""
        self._config = config
        self._on_change = on_change
        self._command = command
        self._environment = environment
        self._process: _Process | None = None
        self._start_at = 0.0
        self._deaths = 0
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """Its process, None while there is none."""
        return self._process.pid if self._process else None

    async def keep(self, wanted: bool) -> None:
        """Start it if it is wanted and down, kill it if it hangs or is not wanted. Called often."""
        now = time.monotonic()
        process = self._process
        if process:
            self._pass_on(process.log.read())
        if not wanted:
            self._change(None)
            self.stop(signal.SIGKILL)
        elif self._environment.get(names.ENV_ZYGOTE) == "Off":
            self._change(_unavailable(f"switched off by {names.ENV_ZYGOTE}=Off"))
        elif process is None:
            if now >= self._start_at:
                await self._start(now)
        elif process.ready_at is None and now - process.started_at > IMPORT_SECONDS:
            process.kill(f"it did not finish its imports within {IMPORT_SECONDS:.0f} s")

    async def fork(self, request: ForkRequest) -> int:
        """Return the pid of a new engine's leader, which is its process group's id too. It is a child of this process.

        It may be reaped before this returns.

        Raises:
            ForkError: there is no engine.
        """
        process = self._process
        if process is None or process.writer is None or process.ready_at is None:
            raise ForkError((self.status and self.status.message) or "the zygote is not ready")
        answer: asyncio.Future[protocol.Answer] = asyncio.get_running_loop().create_future()
        process.waiting.append(answer)
        fork = protocol.Fork(arguments=request.arguments, environment=dict(request.environment), log=str(request.log))
        process.writer.write(protocol.encode(fork))
        try:
            async with asyncio.timeout(FORK_SECONDS):
                answered = await answer
        except TimeoutError:
            process.kill(f"it did not answer a request within {FORK_SECONDS:.0f} s")
            raise ForkError(f"the zygote hangs: {process.killed_for}") from None
        if not answered.pid:
            raise ForkError(answered.error)
        return answered.pid

    def exited(self, ended: processes.Exit) -> bool:
        """Take note of a reaped child; return whether it was the zygote."""
        process = self._process
        if process is None or ended.pid != process.pid:
            return False
        self._process = None
        self._pass_on(process.log.read_to_end())
        why = process.problem or process.explain(ended.exit_code)
        process.end_waiting(f"the zygote is gone: {why}")
        self._let_go(process)
        if self.status is None:  # as it was told
            return True
        now = time.monotonic()
        if process.problem:
            self._start_at = math.inf
            self._change(_unavailable(why))
        else:
            lasted = process.ready_at is not None and now - process.ready_at >= HEALTHY_SECONDS
            self._deaths = 1 if lasted else self._deaths + 1
            self._start_at = now + RESTART_SECONDS * 2 ** (self._deaths - 1)
            if self._deaths >= DEATHS:
                self._start_at = now + RETRY_SECONDS
                self._change(_unavailable(f"it died {self._deaths} times in a row; the last time {why}"))
            else:
                self._change(ZygoteStatus(state=ZygoteState.IMPORTING, message=why))
        _log.warning("the zygote is gone: %s", why)
        return True

    def stop(self, number: signal.Signals) -> None:
        """Signal it. Engines are in groups of their own and stay."""
        if self._process:
            processes.signal_group(self._process.pid, number)

    async def close(self) -> None:
        """Let go of the link: a zygote ends with it."""
        if self._process:
            self._let_go(self._process, at_once=True)
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _start(self, now: float) -> None:
        ours, theirs = socket.socketpair()
        path = self._config.log(NAME)
        with theirs:
            log = LogTail(path)
            try:
                descriptor = (theirs.fileno(), protocol.DESCRIPTOR)
                pid = processes.spawn(self._command, self._zygote_environment(), log=path, descriptor=descriptor)
            except OSError as error:
                ours.close()
                self._start_at = now + RETRY_SECONDS
                self._change(_unavailable(f"can't start {self._command[0]}: {error}"))
                return
        process = self._process = _Process(pid, now, log)
        ours.setblocking(False)
        reader, process.writer = await asyncio.open_unix_connection(sock=ours, limit=protocol.MAX_LINE_BYTES)
        process.reader = asyncio.create_task(self._read(process, reader), name="zygote answers")
        if self.status is None:
            self._change(ZygoteStatus(state=ZygoteState.IMPORTING))

    def _zygote_environment(self) -> dict[str, str]:
        """Return what an engine gets that asks for nothing, so that its imports are those of every engine."""
        own = environment_of(NAME, (), self._config.cache)
        del own["CUDA_VISIBLE_DEVICES"]  # which GPUs are seen is each engine's own
        return {**self._environment, **own, **FOR_IMPORTS}

    async def _read(self, process: _Process, reader: asyncio.StreamReader) -> None:
        try:
            if line := await reader.readline():
                self._announced(process, protocol.decode_announcement(line))
            while line := await reader.readline():
                answer = protocol.decode_answer(line)
                waiter = process.waiting.popleft() if process.waiting else None
                if waiter and not waiter.done():
                    waiter.set_result(answer)
                elif answer.pid:
                    # Whoever asked for it has left.
                    processes.signal_group(answer.pid, signal.SIGKILL)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            process.kill(f"its link broke: {error}")

    def _announced(self, process: _Process, announcement: protocol.Announcement) -> None:
        process.problem = announcement.problem
        if process is not self._process or announcement.problem:
            return
        process.ready_at = time.monotonic()
        milliseconds = announcement.import_milliseconds
        self._change(ZygoteStatus(state=ZygoteState.READY, import_milliseconds=milliseconds))
        _log.info("the zygote is ready after %d ms", milliseconds)

    def _change(self, status: ZygoteStatus | None) -> None:
        if status != self.status:
            self.status = status
            self._on_change()

    def _pass_on(self, lines: list[str]) -> None:
        for line in lines:
            logging.getLogger("zygote").info("%s", line)

    def _let_go(self, process: _Process, *, at_once: bool = False) -> None:
        """Close the link, after what is still in it was read: it may be the pid of an engine nobody waits for."""
        if process.reader is None:
            return
        if at_once:
            process.reader.cancel()
        task = asyncio.create_task(_end_link(process.reader, process.writer), name="zygote link's end")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _end_link(reader: asyncio.Task[None], writer: asyncio.StreamWriter | None) -> None:
    try:
        async with asyncio.timeout(FORK_SECONDS):
            await asyncio.gather(reader, return_exceptions=True)
    except TimeoutError:
        pass  # gather has cancelled it
    finally:
        if writer:
            writer.close()


def _unavailable(why: str) -> ZygoteStatus:
    return ZygoteStatus(state=ZygoteState.UNAVAILABLE, message=why)
