"""Identical requests that share a generation: each its own stream of it, and none the others' fate."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from support.front import Front, until
from warmfleet_api.assignment import Serving, SimulatedEngine
from warmfleet_http.answer import Answer, Source
from warmfleet_http.errors import ClientGoneError
from warmfleet_http.messages import Header
from warmfleet_runtime.front import sharing
from warmfleet_runtime.front.sharing import Shared

SLOW = SimulatedEngine(load_milliseconds=0, initialize_milliseconds=0, first_token_milliseconds=5, tokens_per_second=20)
MERGING = Serving(merge_window_milliseconds=2000)


class Recorded(Answer):
    """An answer that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = b""

    async def drain(self) -> None:
        return

    def abort(self) -> None:
        return

    def _start(self, status: int, headers: list[Header]) -> None:
        return

    def _write(self, data: bytes) -> None:
        self.body += data

    def _finish(self, data: bytes) -> None:
        self.body += data


class Engine(Source):
    """Where a generation comes from: counts how often it was told to pause and to go on."""

    def __init__(self) -> None:
        self.pauses = self.resumes = 0

    def pause_reading(self) -> None:
        self.pauses += 1

    def resume_reading(self) -> None:
        self.resumes += 1


class Abandoned:
    """Counts how often a generation was given up."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


async def test_a_late_reader_gets_everything_from_the_first_byte() -> None:
    shared = Shared(Abandoned())
    answers = [Recorded() for _ in range(3)]
    early = shared.join(answers[0])
    shared.start(200, [])
    shared.write(b"a")
    late = shared.join(answers[1])
    shared.write(b"b")
    shared.finish()
    last = shared.join(answers[2])
    for reader in (early, late, last):
        await asyncio.wait_for(reader.read(), 1)
    assert [(answer.status, answer.body, answer.is_ended) for answer in answers] == [(200, b"ab", True)] * 3


async def test_nobody_joins_when_the_beginning_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Shared(Abandoned())
    assert shared.can_join
    shared.close_to_newcomers()
    assert not shared.can_join
    monkeypatch.setattr(sharing, "MAX_HISTORY_BYTES", 1)
    long, answer = Shared(Abandoned()), Recorded()
    reader = long.join(answer)
    long.start(200, [])
    long.write(b"ab")
    assert not long.can_join
    long.finish()
    await asyncio.wait_for(reader.read(), 1)
    assert answer.body == b"ab"


async def test_a_generation_goes_on_until_its_last_reader_has_left() -> None:
    abandoned = Abandoned()
    shared = Shared(abandoned)
    first, second = shared.join(Recorded()), shared.join(Recorded())
    shared.start(200, [])
    first.left()
    assert abandoned.times == 0
    second.left()
    assert abandoned.times == 1


async def test_a_generation_that_is_over_is_not_given_up() -> None:
    abandoned = Abandoned()
    shared = Shared(abandoned)
    reader = shared.join(Recorded())
    shared.start(200, [])
    shared.finish()
    reader.left()
    assert abandoned.times == 0


async def test_a_reader_far_behind_holds_the_engine_back_is_cut_after_its_patience_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sharing, "HOLD_SECONDS", 0.05)
    abandoned, engine = Abandoned(), Engine()
    shared, answers = Shared(abandoned), [Recorded(), Recorded()]
    shared.source = engine
    quick, slow = (shared.join(answer) for answer in answers)
    shared.start(200, [])
    shared.write(b"a")
    for _ in range(2):
        slow.pause_reading()
        assert engine.pauses == engine.resumes + 1
        slow.resume_reading()
        assert engine.pauses == engine.resumes
    slow.pause_reading()
    with pytest.raises(ClientGoneError):
        await asyncio.wait_for(slow.read(), 1)
    slow.left()
    assert (engine.pauses, engine.resumes, abandoned.times) == (3, 3, 0)
    shared.write(b"b")
    shared.finish()
    await asyncio.wait_for(quick.read(), 1)
    assert [answer.body for answer in answers] == [b"ab", b"a"]


async def test_readers_get_what_was_sent_before_a_failure_and_then_the_failure() -> None:
    shared, answer = Shared(Abandoned()), Recorded()
    reader = shared.join(answer)
    shared.start(200, [])
    shared.write(b"a")
    shared.fail(ValueError("lost"))
    with pytest.raises(ValueError, match="lost"):
        await reader.read()
    assert (answer.status, answer.body, answer.is_ended) == (200, b"a", False)
    assert not shared.can_join


# Through the front -------------------------------------------------------------------------------------------------


def counting(front: Front) -> Callable[[], int]:
    """Return what says how many requests reached the engine."""
    app, seen = front.apps["m"], []
    answer = app._answer

    async def counted(*args: object) -> object:
        seen.append(1)
        return await answer(*args)

    app._answer = counted
    return lambda: len(seen)


async def contents(front: Front, **fields: Any) -> str:
    async with front.ask(**fields) as response:
        text = (await response.read()).decode()
        assert response.status == 200, text
    if not fields.get("stream"):
        return str(json.loads(text)["choices"][0]["message"]["content"])
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["delta"]["content"] for event in events)


@pytest.mark.parametrize("stream", [True, False])
async def test_identical_requests_share_one_generation(front: Front, stream: bool) -> None:
    await front.host(behaviour=SLOW, serving=MERGING)
    generations = counting(front)
    answers = await asyncio.gather(*(contents(front, tokens=5, stream=stream, seed=1) for _ in range(10)))
    assert (len(set(answers)), generations()) == (1, 1)
    others = await asyncio.gather(
        contents(front, tokens=5, stream=stream, seed=2),
        contents(front, tokens=5, stream=not stream, seed=1),
        contents(front, tokens=5, stream=stream),
        contents(front, tokens=5, stream=stream),
    )
    assert (list(others), generations()) == ([answers[0]] * 4, 5), "other requests, and random ones, have their own"


async def test_without_a_window_nothing_is_shared(front: Front) -> None:
    await front.host(behaviour=SLOW)
    generations = counting(front)
    await asyncio.gather(*(contents(front, seed=1) for _ in range(3)))
    assert generations() == 3


async def test_one_that_comes_later_hears_the_generation_from_its_beginning(front: Front) -> None:
    await front.host(behaviour=SLOW, serving=MERGING)
    generations = counting(front)
    first = asyncio.create_task(contents(front, tokens=10, stream=True, seed=1))
    await asyncio.sleep(0.2)
    assert await contents(front, tokens=10, stream=True, seed=1) == await first
    assert generations() == 1


async def test_the_first_ones_leaving_stops_nobody_and_the_last_ones_does(front: Front) -> None:
    await front.host(behaviour=SLOW, serving=MERGING)
    generations = counting(front)
    first, second, third = (asyncio.create_task(contents(front, tokens=12, stream=True, seed=1)) for _ in range(3))
    await until(lambda: len(front.api.admission.queues["m"]._readers) == 3)
    first.cancel()
    second.cancel()
    await until(lambda: len(front.api.admission.queues["m"]._readers) == 1)
    assert len((await third).split("token")) == 13
    last = asyncio.create_task(contents(front, tokens=1000, stream=True, seed=2))
    await until(lambda: generations() == 2 and front.at_engine() == 1)
    last.cancel()
    await until(lambda: front.at_engine() == 0 == front.running(), seconds=1)
    assert generations() == 2


async def test_all_readers_hear_that_the_engine_was_lost(front: Front) -> None:
    await front.host(behaviour=SLOW, serving=MERGING)
    asked = [asyncio.create_task(text_of(front, tokens=1000, stream=True, seed=1)) for _ in range(3)]
    await until(lambda: len(front.api.admission.queues["m"]._readers) == 3 and front.at_engine() == 1)
    await asyncio.sleep(0.1)
    await front.kill("m")
    for text in await asyncio.gather(*asked):
        assert "the engine ended before its answer did" in text and "[DONE]" not in text
    await until(lambda: front.running() == 0)


async def text_of(front: Front, **fields: Any) -> str:
    async with front.ask(**fields) as response:
        return str(await response.text())


async def test_routers_are_told_which_requests_were_merged() -> None:
    class Headed(Recorded):
        headers: list[Header]

        def _start(self, status: int, headers: list[Header]) -> None:
            self.headers = headers

    shared, answers = Shared(lambda: None), [Headed() for _ in range(3)]
    for answer in answers[:2]:
        shared.join(answer)
    shared.start(200, [(b"x-warmfleet-load", b"running=1;waiting=0;window=1;queue=1"), (b"a", b"b")])
    shared.join(answers[2])
    shared.finish(b"x")
    told = [dict(answer.headers)[b"x-warmfleet-load"].endswith(b";queue=1;merged=1") for answer in answers]
    assert told == [False, True, True]
    assert all(answer.headers[1] == (b"a", b"b") for answer in answers)
