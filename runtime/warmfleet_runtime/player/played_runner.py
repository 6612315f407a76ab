"""One runner without processes: the state machine, Simulated engines on a timeline, board and API as in a front."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from starlette.types import Message

from warmfleet_api import assignment as wire
from warmfleet_api import runner_status as runner_line
from warmfleet_api.assignment import AssignmentError, EngineAssignment, SimulatedEngine
from warmfleet_api.runner_status import EngineError
from warmfleet_api.vocabulary import EngineType, Reason, Stage
from warmfleet_http.answer import Answer
from warmfleet_http.errors import NotConnectedError
from warmfleet_runtime import link
from warmfleet_runtime.engines.simulated import SimulatedAdapter
from warmfleet_runtime.front.api import Api
from warmfleet_runtime.front.board import Board
from warmfleet_runtime.front.metrics import RequestMetrics
from warmfleet_runtime.front.relay import Outgoing
from warmfleet_runtime.machine import events
from warmfleet_runtime.machine.state import Limits, Phase, State
from warmfleet_runtime.machine.step import next_deadline, step
from warmfleet_runtime.machine.view import runner_status
from warmfleet_runtime.simulated.app import SimulatedApp

_ADAPTER = SimulatedAdapter()


@dataclass(slots=True)
class _PlayedEngine:
    """What stands for the process of one attempt."""

    attempt: int
    content: EngineAssignment
    app: SimulatedApp
    is_asleep: bool = False
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    @property
    def behaviour(self) -> SimulatedEngine:
        return self.content.engine.simulated or SimulatedEngine()

    @property
    def memory_bytes(self) -> int:
        return _ADAPTER.memory_bytes(self.content, 0, is_asleep=self.is_asleep)

    def cancel(self) -> None:
        for timer in self.timers:
            timer.cancel()


class PlayedRunner:
    """The runner of one fake pod."""

    def __init__(self, pod_uid: str, memory_limit_bytes: int, metrics: RequestMetrics) -> None:
        self._loop = asyncio.get_running_loop()
        self._pod_uid = pod_uid
        limits = Limits(memory_bytes=memory_limit_bytes, sleepers=frozenset({EngineType.SIMULATED}))
        now = self._loop.time()
        self._state = State(limits=limits, born=now, clock_offset_seconds=time.time() - now)
        self._engines: dict[str, _PlayedEngine] = {}
        self._annotation: str | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._load: tuple[tuple[int, int, int], ...] = ()
        self.board = Board()
        self.api = Api(self.board, self._forward, metrics)

    def assign(self, annotation: str) -> None:
        """Take the pod's annotation, as the kubelet's file would bring it."""
        if annotation == self._annotation:
            return
        self._annotation = annotation
        try:
            self._dispatch(events.Assigned(wire.decode(annotation)))
        except AssignmentError as error:
            self._dispatch(events.AssignmentRefused(str(error)))

    def terminate(self) -> None:
        """Drain, as on SIGTERM."""
        if not self._state.draining:
            self._dispatch(events.Terminate())

    def beat(self) -> None:
        """Give the status stream its heartbeat, and let engines sleep and wake by the requests there are."""
        for key, seen in self.board.report().engines.items():
            known = self._state.engines.get(key)
            # Only news: a player gives the heartbeat of thousands.
            if known is not None and (known.busy, known.wake_requested) != (seen.busy, seen.wake_requested):
                self._dispatch(events.Heard(key, seen.attempt, seen.busy, seen.wake_requested))
        if self.board.feed.line:
            self.board.heard_at = self._loop.time()
            load = self.board.load()
            if load != self._load:
                self._load = load
                self.board.feed.publish(runner_line.encode(self.board.status()) + b"\n")
            else:
                self.board.feed.publish(self.board.feed.line)

    def close(self) -> None:
        """The pod is gone: streams end, nothing happens any more."""
        self.board.feed.close()
        self.api.turn_away()
        if self._deadline:
            self._deadline.cancel()
        for engine in self._engines.values():
            engine.cancel()
        self._engines.clear()

    def _dispatch(self, event: events.Event) -> None:
        before = self._state
        self._state, actions = step(before, event, self._loop.time())
        for action in actions:
            match action:
                case events.Start(engine, attempt):
                    self._start(engine, attempt)
                case events.Sleep(key, attempt):
                    self._sleep(key, attempt)
                case events.Wake(key, attempt):
                    self._wake(key, attempt)
                case events.Stop(key, attempt, _):
                    self._later(key, attempt, 0, partial(self._exit, key, -15, "stopped"))
        self._arm()
        if self._state != before:
            self._publish()

    def _arm(self) -> None:
        if self._deadline:
            self._deadline.cancel()
        now = self._loop.time()
        deadline = next_deadline(self._state, now)
        self._deadline = None if deadline is None else self._loop.call_at(deadline, self._dispatch, events.Tick())

    def _publish(self) -> None:
        memory = {key: engine.memory_bytes for key, engine in self._engines.items()}
        status = runner_status(
            self._state, self._pod_uid, memory_bytes=sum(memory.values()), engine_memory_bytes=memory
        )
        now = self._loop.time()
        self.board.update(
            link.table_of(self._state, status, lambda key: key, now, max_sequences=_ADAPTER.max_sequences)
        )
        self.api.follow()
        for key, engine in self._state.engines.items():
            if engine.phase is Phase.DRAINING:
                self._later(key, engine.attempt, 0, partial(self._look_if_drained, key))

    # The timeline ---------------------------------------------------------------------------------------------------

    def _start(self, engine: EngineAssignment, attempt: int) -> None:
        key = engine.id
        self._engines[key] = _PlayedEngine(attempt, engine, SimulatedApp(engine.engine))
        behaviour = self._engines[key].behaviour
        fault = behaviour.fault.kind if behaviour.fault else None
        if engine.engine.type is not EngineType.SIMULATED:
            self._later(key, attempt, 0, partial(self._refuse, key))
            return
        self._progress(key, attempt, 0, Stage.ENGINE_FORKED)
        if fault == "CrashAtStart":
            self._later(key, attempt, 0, partial(self._exit, key, 1, "simulated fault: CrashAtStart"))
        elif fault != "HangAtStart":
            loaded = behaviour.load_milliseconds / 1000
            initialized = loaded + behaviour.initialize_milliseconds / 1000
            self._progress(key, attempt, loaded, Stage.WEIGHTS_LOADED)
            self._progress(key, attempt, initialized, Stage.CACHE_ALLOCATED)
            ready_at = initialized + behaviour.first_token_milliseconds / 1000
            self._later(key, attempt, ready_at, partial(self._warmed_up, key, behaviour))

    def _progress(self, key: str, attempt: int, delay_seconds: float, stage: Stage) -> None:
        self._later(key, attempt, delay_seconds, partial(self._dispatch, events.Progressed(key, attempt, stage)))

    def _warmed_up(self, key: str, behaviour: SimulatedEngine) -> None:
        played = self._engines[key]
        played.app.answered.set()
        fault = behaviour.fault
        if fault and fault.kind == "CrashAfterSeconds":
            words = f"simulated fault: CrashAfterSeconds {fault.after_seconds}"
            self._later(key, played.attempt, fault.after_seconds, partial(self._exit, key, -9, words))
        self._dispatch(events.WarmedUp(key, played.attempt, behaviour.first_token_milliseconds))

    def _sleep(self, key: str, attempt: int) -> None:
        behaviour = self._engines[key].behaviour
        if behaviour.fault and behaviour.fault.kind == "FailSleep":
            event: events.Event = events.SleepFailed(key, attempt, "simulated fault: FailSleep")
            self._later(key, attempt, 0, partial(self._dispatch, event))
        else:
            self._later(key, attempt, behaviour.sleep_milliseconds / 1000, partial(self._fell_asleep, key))

    def _fell_asleep(self, key: str) -> None:
        played = self._engines[key]
        played.is_asleep = True
        self._dispatch(events.FellAsleep(key, played.attempt))

    def _wake(self, key: str, attempt: int) -> None:
        played = self._engines[key]
        played.attempt, played.is_asleep = attempt, False
        behaviour = played.behaviour
        if behaviour.fault and behaviour.fault.kind == "HangAtWake":
            return
        woken_at = behaviour.wake_milliseconds / 1000
        self._later(key, attempt, woken_at, partial(self._dispatch, events.Woken(key, attempt)))
        ready_at = woken_at + behaviour.first_token_milliseconds / 1000
        self._later(key, attempt, ready_at, partial(self._warmed_up, key, behaviour))

    def _later(self, key: str, attempt: int, delay_seconds: float, act: Callable[[], None]) -> None:
        """Do something with an engine's process, if it still is the same by then."""

        def act_if_alive() -> None:
            engine = self._engines.get(key)
            if engine and engine.attempt == attempt:
                act()

        self._engines[key].timers.append(self._loop.call_later(delay_seconds, act_if_alive))

    def _look_if_drained(self, key: str) -> None:
        played = self._engines[key]
        engine = self._state.engines[key]
        if engine.phase is not Phase.DRAINING:
            return
        if self.board.running(key):
            self._later(key, played.attempt, 0.1, partial(self._look_if_drained, key))
        else:
            self._dispatch(events.Drained(key, played.attempt))

    def _refuse(self, key: str) -> None:
        message = "a fake node runs Simulated engines only; set engine.type: Simulated or use a real node"
        self._end(key, EngineError(reason=Reason.INVALID_ARGS, message=message))

    def _exit(self, key: str, exit_code: int, last_words: str) -> None:
        self._end(key, _ADAPTER.explain(exit_code, (last_words,)))

    def _end(self, key: str, error: EngineError) -> None:
        played = self._engines.pop(key)
        played.cancel()
        self._dispatch(events.Exited(key, played.attempt, error))

    # Requests -------------------------------------------------------------------------------------------------------

    async def _forward(self, request: Outgoing, answer: Answer) -> None:
        """Answer in place of the engine's process."""
        engine = self._engines.get(request.route.engine.id)
        if engine is None:
            raise NotConnectedError("no such engine")
        bodies: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]

        async def receive() -> Message:
            # After the body nothing comes: who forwards is cancelled when the client leaves.
            return bodies.pop() if bodies else await asyncio.Future()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.start(message["status"], [*message["headers"], request.load])
                return
            if body := message.get("body", b""):
                if answer.is_stream:
                    request.place.saw(body.count(b"\n\n"))
                answer.write(body)
            if message.get("more_body", False):
                await answer.drain()
            else:
                answer.finish()

        scope = {
            "type": "http",
            "method": "POST",
            "path": request.path,
            "headers": request.headers,
            "query_string": b"",
        }
        await engine.app(scope, receive, send)
