"""The process groups of a runner's engines: forked or executed, followed by their logs, signalled and buried."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import Launch, Reason, ZygoteState
from warmfleet_runtime import processes
from warmfleet_runtime.config import RunnerConfig
from warmfleet_runtime.engines.adapters import ADAPTERS
from warmfleet_runtime.engines.logtail import LogTail
from warmfleet_runtime.engines.port import Command, EngineAdapter, Place
from warmfleet_runtime.machine import events
from warmfleet_runtime.zygote_keeper import ForkError, ForkRequest, ZygoteKeeper

_log = logging.getLogger("supervisor.engines")


@dataclass(slots=True)
class EngineProcess:
    """The process group of one engine, or the fork that is to give it."""

    id: str
    attempt: int
    adapter: EngineAdapter
    log: LogTail
    group: int | None = None
    """Id of the group and pid of its leader; None while the zygote forks it."""
    forking: asyncio.Task[None] | None = None
    told: signal.Signals | None = None
    """What it was told while it had no pid."""
    traces: tuple[Path, ...] = ()
    """Folders in which new names are signs of life."""
    traced_at: int = 0
    """When the last one came, in nanoseconds as the file system counts."""
    leader_exit: processes.Exit | None = field(default=None)
    """Set when the leader was reaped; the group may outlive it for a moment."""
    slept_cpu_milliseconds: int = 0
    """CPU time of its processes when its present attempt began: a wake finds them with a past."""


class EngineProcesses:
    """All engines that have processes, by id."""

    def __init__(
        self, config: RunnerConfig, zygote: ZygoteKeeper, dispatch: Callable[[events.EngineEvent], None]
    ) -> None:
        self._config = config
        self._zygote = zygote
        self._dispatch = dispatch
        self._engines: dict[str, EngineProcess] = {}
        self._early: dict[int, processes.Exit] = {}
        """Reaped while the zygote forks: one of them may be an engine whose pid is still on its way to here."""

    def start(self, action: events.Start) -> None:
        """Begin to start an engine; `Launched` or `Exited` follows."""
        key = action.engine.id
        adapter = ADAPTERS[action.engine.engine.type]
        place = Place(self._config.socket(key), self._config.cache, self._config.weights, action.is_fresh)
        place.socket.unlink(missing_ok=True)
        command = adapter.command(action.engine, place, os.environ)
        engine = EngineProcess(key, action.attempt, adapter, LogTail(self._config.log(key)), traces=command.traces)
        self._engines[key] = engine
        status = self._zygote.status
        if command.fork_arguments is not None and status is not None and status.state is ZygoteState.READY:
            fork = self._fork(engine, command, command.fork_arguments)
            engine.forking = asyncio.create_task(fork, name=f"fork {key}")
        else:
            # Not from here: what follows belongs to a later step than the one that asked for the start.
            asyncio.get_running_loop().call_soon(self._execute, engine, command)

    def wake(self, action: events.Wake) -> None:
        """Go on with the process as another attempt."""
        engine = self._engines[action.id]
        engine.attempt = action.attempt
        engine.slept_cpu_milliseconds = self._all_cpu_milliseconds(engine)

    def stop(self, action: events.Stop) -> None:
        """Signal an engine's group; one that is being forked gets the signal with its pid."""
        engine = self._engines.get(action.id)
        if engine is None or engine.attempt != action.attempt:
            return
        number = signal.SIGKILL if action.force else signal.SIGTERM
        if engine.group is None:
            engine.told = number
        else:
            processes.signal_group(engine.group, number)

    def exited(self, ended: processes.Exit) -> None:
        """Take note of a reaped child."""
        for engine in self._engines.values():
            if engine.group == ended.pid:
                engine.leader_exit = ended
                return
        if any(engine.forking for engine in self._engines.values()):
            self._early[ended.pid] = ended

    def bury(self) -> None:
        """Report engines of which no process is left: only then is their memory free."""
        for engine in list(self._engines.values()):
            if engine.group is None or engine.leader_exit is None:
                continue
            # What a leader leaves behind serves nobody; the signal also tells whether anything is left.
            if processes.signal_group(engine.group, signal.SIGKILL):
                continue
            del self._engines[engine.id]
            self._note(engine, engine.log.read_to_end())
            error = engine.adapter.explain(engine.leader_exit.exit_code, tuple(engine.log.last))
            self._dispatch(events.Exited(engine.id, engine.attempt, error))

    def read_logs(self) -> None:
        """Pass on what engines wrote since the last call, and dispatch what it tells."""
        for engine in list(self._engines.values()):
            self._note(engine, engine.log.read())
            self._look_for_traces(engine)

    def groups(self) -> dict[str, int]:
        """Return the process group of each engine that has one."""
        return {key: engine.group for key, engine in self._engines.items() if engine.group is not None}

    def cpu_milliseconds(self, key: str) -> int:
        """Return the CPU time an engine's processes have used in its present attempt."""
        engine = self._engines.get(key)
        return self._all_cpu_milliseconds(engine) - engine.slept_cpu_milliseconds if engine else 0

    async def close(self) -> None:
        """Kill all, and end the forks under way."""
        forks = [engine.forking for engine in self._engines.values() if engine.forking]
        for fork in forks:
            fork.cancel()
        await asyncio.gather(*forks, return_exceptions=True)
        for group in self.groups().values():
            processes.signal_group(group, signal.SIGKILL)

    async def _fork(self, engine: EngineProcess, command: Command, arguments: tuple[str, ...]) -> None:
        request = ForkRequest(arguments, command.environment, self._config.log(engine.id))
        try:
            pid = await self._zygote.fork(request)
        except ForkError as error:
            _log.warning("engine %s is executed, not forked: %s", engine.id, error)
            engine.forking = None
            self._execute(engine, command)
            return
        finally:
            engine.forking = None
        engine.leader_exit = self._early.pop(pid, None)
        if not any(each.forking for each in self._engines.values()):
            self._early.clear()
        self._launched(engine, pid, Launch.FORK)

    def _execute(self, engine: EngineProcess, command: Command) -> None:
        if engine.told is None:
            try:
                pid = processes.spawn(command.arguments, command.environment, log=self._config.log(engine.id))
            except OSError as error:
                message = f"can't start {command.arguments[0]}: {error}"
            else:
                self._launched(engine, pid, Launch.EXEC)
                return
        else:
            message = "it was stopped before it had a process"
        del self._engines[engine.id]
        failure = EngineError(reason=Reason.ENGINE_CRASHING, message=message)
        self._dispatch(events.Exited(engine.id, engine.attempt, failure))

    def _launched(self, engine: EngineProcess, pid: int, launch: Launch) -> None:
        engine.group = pid
        if engine.told is not None:
            processes.signal_group(pid, engine.told)
        self._dispatch(events.Launched(engine.id, engine.attempt, launch))

    def _note(self, engine: EngineProcess, lines: Iterable[str]) -> None:
        for line in lines:
            logging.getLogger(f"engine.{engine.id}").info("%s", line)
            seen = engine.adapter.observe(line)
            if seen is None:
                continue
            cpu = self.cpu_milliseconds(engine.id) if seen.stage else 0
            self._dispatch(events.Progressed(engine.id, engine.attempt, seen.stage, cpu))
            if seen.weight_bytes is not None:
                self._dispatch(events.Weighed(engine.id, engine.attempt, seen.weight_bytes))
            if seen.compile_cache_files is not None:
                self._dispatch(events.CompileCacheTaken(engine.id, engine.attempt, seen.compile_cache_files))

    def _look_for_traces(self, engine: EngineProcess) -> None:
        changed_at = 0
        for folder in engine.traces:
            with suppress(OSError):
                changed_at = max(changed_at, folder.stat().st_mtime_ns)
        if changed_at > engine.traced_at:
            engine.traced_at = changed_at
            self._dispatch(events.Progressed(engine.id, engine.attempt))

    def _all_cpu_milliseconds(self, engine: EngineProcess) -> int:
        if engine.group is None:
            return 0
        return processes.cpu_milliseconds(processes.members_of((engine.group,))[engine.group])
