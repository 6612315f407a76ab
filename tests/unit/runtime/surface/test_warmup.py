"""Warm-up as the front does it: of Simulated engines behind real sockets, with every request they get on record."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from support.runner_process import simulated
from warmfleet_api.assignment import EngineAssignment, EngineSpec, SimulatedEngine, Warmup
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import EngineState, EngineType, WarmupMode
from warmfleet_http.server import Server, asgi_server
from warmfleet_runtime.front import replies
from warmfleet_runtime.front.admission import Admission
from warmfleet_runtime.front.board import Board, Nap
from warmfleet_runtime.front.prober import PASSAGE
from warmfleet_runtime.front.upstream import Upstream
from warmfleet_runtime.front.warmup import WarmUps
from warmfleet_runtime.link import EngineReport, Route, Table
from warmfleet_runtime.simulated.app import SimulatedApp

BOUND_SECONDS = 10.0
QUICK = SimulatedEngine(first_token_milliseconds=1, tokens_per_second=10_000)
Ask = tuple[str, dict[str, Any]]


@dataclass
class Recorder:
    """Writes down what an engine is asked, and lets `answer` answer some of it instead."""

    engine: ASGIApp
    answer: Callable[[str, dict[str, Any]], tuple[int, Any] | None] = lambda path, body: None
    asked: list[Ask] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self.engine(scope, receive, send)
            return
        read = [await receive()]
        while read[-1].get("more_body"):
            read.append(await receive())
        body = msgspec.json.decode(b"".join(each["body"] for each in read))
        if body:
            self.asked.append((scope["path"], body))
        if instead := self.answer(scope["path"], body):
            await replies.reply(send, *instead)
            return
        again = iter(read)

        async def replay() -> Message:
            return next(again, None) or await receive()

        await self.engine(scope, replay, send)

    @property
    def prompts(self) -> list[Any]:
        """What was to be completed or embedded, in order."""
        fields = {"/v1/completions": "prompt", "/v1/embeddings": "input"}
        return [body[fields[path]] for path, body in self.asked if path in fields]


@dataclass
class Front:
    """The part of a front that warms up; `tell` is the supervisor."""

    assigned: EngineAssignment
    path: Path
    engine: Recorder
    board: Board
    admission: Admission
    warm_ups: WarmUps
    upstream: Upstream
    http: Server

    def tell(self, attempt: int = 1, state: EngineState = EngineState.STARTING, **wishes: bool) -> None:
        told = {"accepts": False, "warms_up": False, "drains": False, **wishes}
        route = Route(attempt=attempt, socket=str(self.path), engine=self.assigned, max_sequences=2, **told)
        engine = EngineStatus(id="e", model="e", model_uid="u", hash="h", state=state)
        self.board.update(Table(status=RunnerStatus(pod_uid="", engines=(engine,)), routes={"e": route}))
        self.admission.follow(reserves=False)
        self.warm_ups.follow()

    @property
    def report(self) -> EngineReport:
        return self.board.report().engines["e"]

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(BOUND_SECONDS):
            while not condition():  # noqa: ASYNC110 - an engine sets no Event
                await asyncio.sleep(0.01)

    async def until_ready(self) -> None:
        await self.until(lambda: self.report.first_request_milliseconds is not None or self.report.warm_up_error)
        assert self.report.warm_up_error == ""
        self.tell(self.report.attempt, EngineState.READY, accepts=True)


@asynccontextmanager
async def front(folder: Path, warmup: Warmup, *, max_model_len: int | None = None) -> AsyncIterator[Front]:
    spec = EngineSpec(
        type=EngineType.SIMULATED, uri="hf://o/m", served_names=("e",), simulated=QUICK, max_model_len=max_model_len
    )
    assigned = simulated("e", engine=spec, warmup=warmup)
    recorder = Recorder(SimulatedApp(spec))
    path = folder / "e.sock"
    board, upstream = Board(), Upstream()
    admission = Admission(board)
    warm_ups = WarmUps(board, upstream, admission)
    async with serving(recorder, path) as http:
        try:
            yield Front(assigned, path, recorder, board, admission, warm_ups, upstream, http)
        finally:
            await warm_ups.close()
            await admission.close()
            await upstream.close()


@asynccontextmanager
async def serving(app: ASGIApp, path: Path) -> AsyncIterator[Server]:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    http = asgi_server(app, shutdown_seconds=1)
    task = asyncio.create_task(http.serve([listening]))
    try:
        yield http
    finally:
        http.should_exit = True
        await asyncio.wait_for(task, BOUND_SECONDS)


async def test_an_engine_is_ready_after_its_requests_its_prompts_and_one_more(tmp_path: Path) -> None:
    async with front(tmp_path, Warmup(requests=3, prompts=("You are a pilot.", "Be brief."))) as its:
        its.tell(warms_up=True)
        await its.until_ready()
        prompts = its.engine.prompts
        assert [prompts.index(each) for each in ("You are a pilot.", "Be brief.")] == [3, 4]
        assert len(prompts) == len({*prompts}) == 6, "each differs, so that none is answered from a cache"
        systems = [body["messages"][0]["content"] for path, body in its.engine.asked if path == "/v1/chat/completions"]
        assert systems == ["You are a pilot.", "Be brief."]
        assert len(its.http.server_state.connections) == 3, "one of ours, and as many as the engine runs sequences"


async def test_a_table_that_says_it_again_warms_nothing_up_twice(tmp_path: Path) -> None:
    async with front(tmp_path, Warmup()) as its:
        for _ in range(5):
            its.tell(warms_up=True)
            await asyncio.sleep(0)
        await its.until_ready()
        its.tell(state=EngineState.READY, accepts=True)
        await asyncio.sleep(0.1)
        assert len(its.engine.prompts) == 2


async def test_progressive_is_ready_after_a_short_context_and_opens_the_queue_step_by_step(tmp_path: Path) -> None:
    warmup = Warmup(mode=WarmupMode.PROGRESSIVE, prompts=("You are a pilot.",))
    async with front(tmp_path, warmup, max_model_len=5000) as its:
        its.tell(warms_up=True)
        await its.until(lambda: its.report.first_request_milliseconds is not None)
        lengths = [len(prompt.split()) for prompt in its.engine.prompts]
        assert lengths == [32, 256, 32], "nothing longer goes to an engine that is not Ready"
        assert its.board.warm_ups["e"].warm_tokens == 256
        await its.until_ready()
        await its.until(lambda: its.engine.asked[-1][0] == "/v1/chat/completions")
        assert [len(prompt.split()) for prompt in its.engine.prompts][3:] == [1024, 4096, 4996, 4]
        assert its.board.warm_ups["e"].warm_tokens is None


async def test_what_is_warmed_behind_ready_counts_as_a_request_of_the_lowest_class(tmp_path: Path) -> None:
    async with front(tmp_path, Warmup(mode=WarmupMode.PROGRESSIVE), max_model_len=2000) as its:
        its.tell(warms_up=True)
        await its.until_ready()
        await its.until(lambda: len(its.engine.prompts) == 5)
        classes = its.admission.queues["e"].queue.statistics().classes
        assert {priority.value: each.dispatched for priority, each in classes.items()} == {
            "Critical": 0,
            "High": 0,
            "Normal": 0,
            "Low": 2,
        }


async def test_after_a_wake_it_is_warmed_again_and_the_old_figure_does_not_count(tmp_path: Path) -> None:
    async with front(tmp_path, Warmup(prompts=("You are a pilot.",))) as its:
        its.tell(warms_up=True)
        await its.until_ready()
        its.board.naps["e"] = Nap(2, asleep=True)
        its.tell(2, EngineState.STARTING, wakes=True)
        assert its.report.first_request_milliseconds is None
        before = len(its.engine.asked)
        await asyncio.sleep(0.1)
        assert len(its.engine.asked) == before, "an engine that sleeps is asked nothing"
        its.board.naps["e"].asleep = False
        await its.until_ready()
        await its.until(lambda: its.engine.prompts.count("You are a pilot.") == 2)


async def test_a_model_that_only_embeds_is_warmed_with_embeddings(tmp_path: Path) -> None:
    async with front(tmp_path, Warmup(requests=2, prompts=("You are a pilot.",))) as its:
        its.engine.answer = lambda path, body: None if path == "/v1/embeddings" else (404, {"detail": "Not Found"})
        its.tell(warms_up=True)
        await its.until_ready()
        embedded = [body["input"] for path, body in its.engine.asked if path == "/v1/embeddings"]
        assert len(embedded) == 4 and embedded[2] == "You are a pilot."


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, {"error": {"message": "kernel panic"}}), "/v1/completions gave 500: .*kernel panic"),
        ((400, {"error": {"message": "no such thing"}}), "/v1/completions gave 400: .*no such thing"),
    ],
)
async def test_an_engine_that_fails_its_warm_up_says_how(tmp_path: Path, answer: tuple[int, Any], words: str) -> None:
    async with front(tmp_path, Warmup()) as its:
        its.engine.answer = lambda path, body: answer
        its.tell(warms_up=True)
        await its.until(lambda: its.report.warm_up_error)
        with pytest.raises(AssertionError, match=words):
            raise AssertionError(its.report.warm_up_error)
        assert its.report.first_request_milliseconds is None


async def test_a_failure_that_passes_is_tried_again(tmp_path: Path) -> None:
    failures: list[tuple[int, Any]] = [(500, {}), (500, {})]
    async with front(tmp_path, Warmup()) as its:
        its.engine.answer = lambda path, body: failures.pop() if failures and path == "/v1/completions" else None
        its.tell(warms_up=True)
        await its.until_ready()


async def test_a_prompt_that_the_engine_refuses_is_named(tmp_path: Path) -> None:
    async with front(tmp_path, Warmup(prompts=("fine", "too long"))) as its:
        its.engine.answer = lambda path, body: (400, {"error": "x"}) if "too long" in str(body) else None
        its.tell(warms_up=True)
        await its.until(lambda: its.report.warm_up_error)
        assert "warmup.prompts[1]: /v1/completions gave 400" in its.report.warm_up_error


async def test_an_engine_that_does_not_take_system_messages_is_ready_all_the_same(tmp_path: Path) -> None:
    async with front(tmp_path, Warmup(prompts=("You are a pilot.",))) as its:
        its.engine.answer = lambda path, body: (400, {}) if path == "/v1/chat/completions" else None
        its.tell(warms_up=True)
        await its.until_ready()


async def test_an_engine_tells_its_context_and_what_its_tokenizer_makes_of_text(tmp_path: Path) -> None:
    ids = list(range(100))
    async with front(tmp_path, Warmup(), max_model_len=None) as its:
        told = {"count": len(ids), "max_model_len": 512, "tokens": ids, "token_strs": None}
        its.engine.answer = lambda path, body: (200, told) if path == "/tokenize" else None
        its.tell(warms_up=True)
        await its.until_ready()
        progress = its.board.warm_ups["e"]
        assert (progress.context_tokens, progress.bytes_per_token) == (512, len(PASSAGE) / 100)
        assert all(isinstance(prompt, list) for prompt in its.engine.prompts)


async def test_a_front_that_is_younger_than_its_engine_learns_and_asks_for_no_generation(tmp_path: Path) -> None:
    async with front(tmp_path, Warmup()) as its:
        told = {"count": 2, "max_model_len": 512, "tokens": [1, 2], "token_strs": None}
        its.engine.answer = lambda path, body: (200, told) if path == "/tokenize" else None
        its.tell(state=EngineState.READY, accepts=True)
        await its.until(lambda: its.board.warm_ups["e"].context_tokens == 512)
        assert [path for path, _ in its.engine.asked] == ["/tokenize"]


@pytest.mark.parametrize("ending", ["drains", "sleeps"])
async def test_an_engine_that_is_to_stop_or_sleep_is_warmed_no_further(tmp_path: Path, ending: str) -> None:
    async with front(tmp_path, Warmup(mode=WarmupMode.PROGRESSIVE), max_model_len=100_000) as its:
        its.tell(warms_up=True)
        await its.until(lambda: its.report.first_request_milliseconds is not None)
        its.tell(state=EngineState.DRAINING, **{ending: True})
        await asyncio.sleep(0.1)
        assert len(its.engine.prompts) == 3
        assert its.board.warm_ups["e"].warm_tokens is None, "nobody waits for what will not come"
