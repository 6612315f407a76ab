"""PID 1 of a runner: the process table and the assignment, and nothing that could hang or crash on a request.

every 0.1 s and whenever something happens:
    events  ← assignment file, engine logs, reaped processes, the front's reports, signals, time
    actions ← machine.step(events)
    carry out: start, signal; tell the front everything
"""

import asyncio
import logging
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import EngineState, Reason
from warmfleet_runtime import link, processes
from warmfleet_runtime.assignment_file import POLL_SECONDS, AssignmentFile
from warmfleet_runtime.config import RunnerConfig
from warmfleet_runtime.engines.adapters import ADAPTERS
from warmfleet_runtime.engines.logtail import LogTail
from warmfleet_runtime.engines.port import EngineAdapter, Place
from warmfleet_runtime.front_keeper import FrontKeeper
from warmfleet_runtime.machine import events
from warmfleet_runtime.machine.state import Limits, State
from warmfleet_runtime.machine.step import step
from warmfleet_runtime.machine.view import engine_state, runner_status

_log = logging.getLogger("supervisor")


@dataclass(slots=True)
class _EngineProcess:
    """The process group of one attempt of one engine."""

    id: str
    attempt: int
    group: int
    adapter: EngineAdapter
    log: LogTail
    leader_exit: processes.Exit | None = field(default=None)
    """Set when the leader was reaped; the group may outlive it for a moment."""


class Supervisor:
    """Runs one runner until it is told to end."""

    def __init__(self, config: RunnerConfig) -> None:
        self._config = config
        limits = Limits(config.memory_limit_bytes, _count_gpus(), config.drain_seconds, config.stop_seconds)
        self._state = State(limits=limits, born=time.monotonic() - processes.seconds_since_start())
        self._engines: dict[str, _EngineProcess] = {}
        self._file = AssignmentFile(config.assignment)
        self._front = FrontKeeper(config, self._on_report)
        self._memory: dict[str, int] = {}
        self._beat_at = 0.0
        self._finished = False
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Converge until SIGTERM has drained everything."""
        if os.getpid() != 1:
            processes.become_subreaper()
        self._config.run_directory.mkdir(parents=True, exist_ok=True)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._dispatch, events.Terminate())
        try:
            while not self._finished:
                await self._turn()
                await self._nap()
            await self._stop_front()
        finally:
            for engine in self._engines.values():
                processes.signal_group(engine.group, signal.SIGKILL)
            self._front.stop(signal.SIGKILL)
            await self._front.close()

    async def _turn(self) -> None:
        self._wake.clear()
        for ended in processes.reap():
            self._on_child_exit(ended)
        self._read_logs()
        self._bury_groups()
        if event := self._file.poll():
            self._dispatch(event)
        else:
            self._dispatch(events.Tick())
        await self._front.keep()
        if time.monotonic() >= self._beat_at:
            self._measure()
            self._tell_front()

    async def _nap(self) -> None:
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return

    # Events in ------------------------------------------------------------------------------------------------------

    def _dispatch(self, event: events.Event) -> None:
        before = self._state
        self._state, actions = step(before, event, time.monotonic())
        for action in actions:
            self._carry_out(action)
        if self._state != before:
            self._log_changes(before)
            self._tell_front()

    def _on_child_exit(self, ended: processes.Exit) -> None:
        if self._front.exited(ended):
            return
        for engine in self._engines.values():
            if engine.group == ended.pid:
                engine.leader_exit = ended

    def _bury_groups(self) -> None:
        """Report engines of which no process is left: only then is their memory free."""
        for engine in list(self._engines.values()):
            # What a leader leaves behind serves nobody; the signal also tells whether anything is left.
            if engine.leader_exit is None or processes.signal_group(engine.group, signal.SIGKILL):
                continue
            del self._engines[engine.id]
            self._memory.pop(engine.id, None)
            self._note(engine, engine.log.read_to_end())
            error = engine.adapter.explain(engine.leader_exit.exit_code, tuple(engine.log.last))
            self._dispatch(events.Exited(engine.id, engine.attempt, error))

    def _read_logs(self) -> None:
        for engine in list(self._engines.values()):
            self._note(engine, engine.log.read())

    def _note(self, engine: _EngineProcess, lines: list[str]) -> None:
        for line in lines:
            logging.getLogger(f"engine.{engine.id}").info("%s", line)
            if seen := engine.adapter.observe(line):
                self._dispatch(events.Progressed(engine.id, engine.attempt, seen.stage))
                if seen.weight_bytes is not None:
                    self._dispatch(events.Weighed(engine.id, engine.attempt, seen.weight_bytes))

    def _on_report(self, report: link.Report) -> None:
        for key, engine in report.engines.items():
            if engine.warm_up_error:
                self._dispatch(events.WarmUpFailed(key, engine.attempt, engine.warm_up_error))
            elif engine.first_request_milliseconds is not None:
                self._read_logs()  # the stages before it happened before it
                self._dispatch(events.WarmedUp(key, engine.attempt, engine.first_request_milliseconds))
            if engine.drained:
                self._dispatch(events.Drained(key, engine.attempt))

    # Actions out ----------------------------------------------------------------------------------------------------

    def _carry_out(self, action: events.Action) -> None:
        match action:
            case events.Start():
                self._start(action)
            case events.Stop(key, attempt, force):
                engine = self._engines.get(key)
                if engine and engine.attempt == attempt:
                    processes.signal_group(engine.group, signal.SIGKILL if force else signal.SIGTERM)
            case events.Finish():
                self._finished = True

    def _start(self, action: events.Start) -> None:
        key = action.engine.id
        adapter = ADAPTERS[action.engine.engine.type]
        place = Place(self._config.socket(key), self._config.cache)
        place.socket.unlink(missing_ok=True)
        command = adapter.command(action.engine, place, os.environ)
        log = LogTail(self._config.log(key))
        try:
            group = processes.spawn(command.arguments, command.environment, log=self._config.log(key))
        except OSError as error:
            failure = EngineError(reason=Reason.ENGINE_CRASHING, message=f"can't start {command.arguments[0]}: {error}")
            # Not from here: this event belongs to a later step than the one that asked for the start.
            asyncio.get_running_loop().call_soon(self._dispatch, events.Exited(key, action.attempt, failure))
            return
        self._engines[key] = _EngineProcess(key, action.attempt, group, adapter, log)

    async def _stop_front(self) -> None:
        """End the front, politely first; it has no engine left to forward to."""
        deadline = time.monotonic() + self._config.stop_seconds
        self._front.stop(signal.SIGTERM)
        while self._front.is_running:
            if time.monotonic() >= deadline:
                self._front.stop(signal.SIGKILL)
                deadline += self._config.stop_seconds
            await self._nap()
            self._wake.clear()
            for ended in processes.reap():
                self._front.exited(ended)

    # To the front ---------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
        measured = processes.group_memory_bytes([engine.group for engine in self._engines.values()])
        self._memory = {
            engine.id: engine.adapter.memory_bytes(self._state.engines[engine.id].content, measured[engine.group])
            for engine in self._engines.values()
        }

    def _tell_front(self) -> None:
        now = time.monotonic()
        self._beat_at = now + link.BEAT_SECONDS
        status = runner_status(
            self._state,
            self._config.pod_uid,
            memory_bytes=sum(self._memory.values()),
            engine_memory_bytes=self._memory,
        )
        self._front.send(link.table_of(self._state, status, lambda key: str(self._config.socket(key)), now))

    def _log_changes(self, before: State) -> None:
        if self._state.error and self._state.error != before.error:
            _log.error("%s", self._state.error)
        if self._state.revision != before.revision:
            _log.info("converging to assignment revision %d", self._state.revision)
        for key, engine in self._state.engines.items():
            former = before.engines.get(key)
            if former is None or former.phase is not engine.phase:
                reason = (
                    f": {engine.error.message}" if engine.error and engine_state(engine) != EngineState.READY else ""
                )
                _log.info("engine %s (start %d) is %s%s", key, engine.attempt, engine.phase, reason)


def _count_gpus() -> int:
    """Count the GPUs the container was given, without loading a driver."""
    return sum(1 for device in Path("/dev").glob("nvidia*") if device.name.removeprefix("nvidia").isdecimal())
