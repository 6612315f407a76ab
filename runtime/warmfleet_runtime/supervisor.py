"""PID 1 of a runner: the process table and the assignment, and nothing that could hang or crash on a request.

several times a second and whenever something happens:
    events  ← assignment file, weights, engine logs, reaped processes, the front's reports, memory, signals, time
    actions ← machine.step(events)
    carry out: start, wake, signal; tell the front everything
"""

import asyncio
import logging
import os
import signal
import time
from pathlib import Path

from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.vocabulary import EngineState, EngineType, ZygoteState
from warmfleet_runtime import link, processes
from warmfleet_runtime.assignment_file import POLL_SECONDS, AssignmentFile
from warmfleet_runtime.config import RunnerConfig
from warmfleet_runtime.engine_processes import EngineProcesses
from warmfleet_runtime.engines.adapters import ADAPTERS, is_vllm_installed
from warmfleet_runtime.front_keeper import FrontKeeper
from warmfleet_runtime.gpu_meter import mean_percent
from warmfleet_runtime.machine import events
from warmfleet_runtime.machine.state import Limits, Phase, State
from warmfleet_runtime.machine.step import step
from warmfleet_runtime.machine.view import Load, engine_state, runner_status
from warmfleet_runtime.machine.weights import readers
from warmfleet_runtime.memory import MemoryMeter, control_group
from warmfleet_runtime.memory_guard import MemoryGuard, Share
from warmfleet_runtime.outbox import Outbox
from warmfleet_runtime.start_journal import StartJournal
from warmfleet_runtime.weights_view import WeightsView
from warmfleet_runtime.zygote_keeper import ZygoteKeeper

_STAGE_SECONDS = 0.02
"""Between turns while an engine starts or wakes: its log tells stages, which are as exact as the log's reading."""
_log = logging.getLogger("supervisor")


class Supervisor:
    """Runs one runner until it is told to end."""

    def __init__(self, config: RunnerConfig) -> None:
        self._config = config
        self._journal = StartJournal(config.run_directory)
        self._state = State(
            limits=Limits(
                memory_bytes=config.memory_limit_bytes,
                gpus=_count_gpus(),
                drain_seconds=config.drain_seconds,
                stop_seconds=config.stop_seconds,
                sleepers=frozenset(kind for kind, adapter in ADAPTERS.items() if adapter.can_sleep),
                weights_root=str(config.weights),
            ),
            born=time.monotonic() - processes.seconds_since_start(),
            clock_offset_seconds=time.time() - time.monotonic(),
            # Until the keeper says more: an engine that comes first shall not be executed for that.
            zygote_is_importing=is_vllm_installed(),
            deaths=self._journal.deaths,
        )
        self._wake = asyncio.Event()
        self._file = AssignmentFile(config.assignment)
        self._front = FrontKeeper(config, self._on_report)
        self._zygote = ZygoteKeeper(config, self._wake.set)
        self._engines = EngineProcesses(config, self._zygote, self._dispatch)
        self._weights = WeightsView(config.weights, self._dispatch, self._wake.set)
        self._outbox = Outbox(config.cache, config.weights)
        self._meter = MemoryMeter(has_gpus=self._state.limits.gpus > 0)
        self._guard = MemoryGuard(config.memory_limit_bytes, control_group())
        self._memory: dict[str, int] = {}
        self._beat_at = 0.0
        self._finished = False

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
            await self._engines.close()
            self._weights.close()
            self._outbox.stop()
            self._zygote.stop(signal.SIGKILL)
            self._front.stop(signal.SIGKILL)
            await self._zygote.close()
            await self._front.close()
            await self._meter.close()

    async def _turn(self) -> None:
        self._wake.clear()
        for ended in processes.reap():
            if not any(each.exited(ended) for each in (self._front, self._zygote, self._outbox)):
                self._engines.exited(ended)
        self._engines.read_logs()
        self._engines.bury()
        self._dispatch(self._file.poll() or events.Tick())
        self._weights.keep(readers(self._state, time.monotonic()))
        await self._keep_zygote()
        await self._front.keep()
        self._watch_memory()
        if self._outbox.keep(self._state.engines.values()):
            self._tell_front()
        if time.monotonic() >= self._beat_at:
            self._tell_front()

    async def _nap(self) -> None:
        is_measuring = any(engine.is_start_open for engine in self._state.engines.values())
        try:
            async with asyncio.timeout(_STAGE_SECONDS if is_measuring else POLL_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _keep_zygote(self) -> None:
        """Have a zygote where an engine may be forked from it: also in a runner that has no engine yet."""
        kinds = {engine.content.engine.type for engine in self._state.engines.values()}
        is_wanted = is_vllm_installed() and (not kinds or EngineType.VLLM in kinds) and not self._state.draining
        await self._zygote.keep(is_wanted)
        status = self._zygote.status
        is_importing = status is not None and status.state is ZygoteState.IMPORTING
        if is_importing is not self._state.zygote_is_importing:
            self._dispatch(events.ZygoteChanged(is_importing))

    # Events in ------------------------------------------------------------------------------------------------------

    def _dispatch(self, event: events.Event) -> None:
        before = self._state
        self._state, actions = step(before, event, time.monotonic())
        for action in actions:
            self._carry_out(action)
        if self._state != before:
            if _has_settled(before, self._state):
                self._meter.hasten()
            self._journal.note(self._state)
            self._log_changes(before)
            self._tell_front()
            if any(engine.missing for engine in readers(self._state, time.monotonic()).values()):
                self._wake.set()  # to look for what it reads

    def _on_report(self, report: link.Report) -> None:
        for key, seen in report.engines.items():
            engine = self._state.engines.get(key)
            if engine is None or engine.attempt != seen.attempt:
                continue
            self._dispatch(events.Heard(key, seen.attempt, seen.busy, seen.wake_requested))
            if seen.drained:
                self._dispatch(events.Drained(key, seen.attempt))
            match engine.phase:
                case Phase.STARTING | Phase.WAKING if engine.phase is Phase.STARTING or engine.is_woken:
                    self._on_warm_up(key, seen)
                case Phase.FALLING_ASLEEP | Phase.WAKING if seen.sleep_error:
                    self._dispatch(events.SleepFailed(key, seen.attempt, seen.sleep_error))
                case Phase.FALLING_ASLEEP if seen.asleep:
                    self._dispatch(events.FellAsleep(key, seen.attempt))
                case Phase.WAKING if not seen.asleep:
                    self._dispatch(events.Woken(key, seen.attempt, self._engines.cpu_milliseconds(key)))

    def _on_warm_up(self, key: str, seen: link.EngineReport) -> None:
        if seen.warm_up_error:
            self._dispatch(events.WarmUpFailed(key, seen.attempt, seen.warm_up_error))
        elif seen.first_request_milliseconds is not None:
            self._engines.read_logs()  # the stages before it happened before it
            cpu = self._engines.cpu_milliseconds(key)
            self._dispatch(events.WarmedUp(key, seen.attempt, seen.first_request_milliseconds, cpu))

    # Actions out ----------------------------------------------------------------------------------------------------

    def _carry_out(self, action: events.Action) -> None:
        match action:
            case events.Start():
                self._engines.start(action)
            case events.Wake():
                self._engines.wake(action)
            case events.Stop():
                self._engines.stop(action)
            case events.Sleep():
                pass  # the front does it: its table says so
            case events.Finish():
                self._finished = True

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

    # Memory ---------------------------------------------------------------------------------------------------------

    def _watch_memory(self) -> None:
        if self._meter.poll(self._engines.groups().values()):
            self._take_measures()
        # One at a time: what is being killed gives its memory back in a moment.
        if any(engine.failure for engine in self._state.engines.values()):
            return
        if victim := self._guard.look(self._shares(), self._measured_shares):
            engine = self._state.engines[victim.id]
            _log.error("killing engine %s: %s", victim.id, victim.message)
            self._dispatch(events.Outgrown(victim.id, engine.attempt, victim.message))

    def _take_measures(self) -> None:
        self._memory = {}
        for key, group in self._engines.groups().items():
            engine = self._state.engines[key]
            adapter = ADAPTERS[engine.content.engine.type]
            held = self._meter.bytes_by_group.get(group, 0)
            self._memory[key] = adapter.memory_bytes(engine.content, held, is_asleep=engine.holds_asleep_bytes)
        self._dispatch(events.Measured(self._memory))

    def _measured_shares(self) -> list[Share]:
        self._meter.measure_now(self._engines.groups().values())
        self._take_measures()
        return self._shares()

    def _shares(self) -> list[Share]:
        """Return what each engine was last measured to hold, against what is reserved for it."""
        shares = []
        for key, group in self._engines.groups().items():
            engine = self._state.engines[key]
            content = engine.content
            budget = content.asleep_bytes if engine.phase is Phase.ASLEEP else content.awake_bytes
            # Memory of GPUs is not this memory.
            shares.append(Share(key, self._meter.bytes_by_group.get(group, 0), 0 if content.gpus else budget))
        return shares

    # To the front ---------------------------------------------------------------------------------------------------

    def _tell_front(self) -> None:
        now = time.monotonic()
        self._beat_at = now + link.BEAT_SECONDS
        status = runner_status(
            self._state,
            self._config.pod_uid,
            memory_bytes=sum(self._memory.values()),
            engine_memory_bytes=self._memory,
            engine_loads=self._loads(),
            zygote=self._zygote.status,
            offers=self._outbox.offers,
        )
        table = link.table_of(
            self._state, status, lambda key: str(self._config.socket(key)), now, max_sequences=self._max_sequences
        )
        self._front.send(table)

    def _loads(self) -> dict[str, Load]:
        """Return what each engine was last measured to take of the machine, its memory apart."""
        return {
            key: Load(
                cpu_millicores=self._meter.millicores_by_group.get(group),
                gpu_percent=mean_percent(self._state.engines[key].content.gpus, self._meter.gpu_percents),
            )
            for key, group in self._engines.groups().items()
        }

    def _max_sequences(self, engine: EngineAssignment) -> int:
        return ADAPTERS[engine.engine.type].max_sequences(engine)

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
            if engine.missing and engine.waits_since is not None and (former is None or former.waits_since is None):
                _log.info("engine %s waits until the node's agent shows %s", key, ", ".join(engine.missing))


def _has_settled(before: State, after: State) -> bool:
    """Whether an engine has just got where its memory says what it takes awake or asleep."""
    return any(
        engine.phase in {Phase.READY, Phase.ASLEEP}
        and (former := before.engines.get(key))
        and former.phase != engine.phase
        for key, engine in after.engines.items()
    )


def _count_gpus() -> int:
    """Count the GPUs the container was given, without loading a driver."""
    return sum(1 for device in Path("/dev").glob("nvidia*") if device.name.removeprefix("nvidia").isdecimal())
