"""How the operator is asked: seldom, and only while somebody asks; and what is said when it is silent."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from support.scripted import Answer, Script, refuses, says, scripted
from warmfleet_api import names
from warmfleet_external_metrics.levels import FRESH_SECONDS, KEPT_SECONDS, Levels, OperatorSilent
from warmfleet_external_metrics.metrics import Metrics

ANSWER = says({"time": "2026-11-22T00:55:00Z", "models": [{"namespace": "team", "model": "llama", "value": 60}]})


@dataclass
class World:
    """An operator that says what a test wrote, and who asks it."""

    script: Script
    session: aiohttp.ClientSession
    token: Path
    metrics: Metrics
    now: float = 0.0

    def levels(self) -> Levels:
        return Levels(self.script.url, self.token, self.metrics.operator_failures, lambda: self.now)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    token = tmp_path / "token"
    token.write_text("secret\n")
    async with scripted() as script, aiohttp.ClientSession() as session:
        yield World(script, session, token, Metrics())


async def test_however_many_ask_the_operator_hears_one_question_a_second(world: World) -> None:
    world.script.on("GET", ANSWER)
    levels = world.levels()
    answers = await asyncio.gather(*(levels.now(world.session) for _ in range(50)))
    assert {each.models[0].value for each in answers} == {60.0}
    (seen,) = world.script.seen
    assert (seen.path, seen.headers["Authorization"]) == (names.PATH_SCALING, "Bearer secret")
    world.now += FRESH_SECONDS
    world.token.write_text("renewed")
    await levels.now(world.session)
    assert [each.headers["Authorization"] for each in world.script.seen] == ["Bearer secret", "Bearer renewed"]


async def test_the_last_answer_stands_in_while_the_lead_changes_and_no_longer(world: World) -> None:
    world.script.on("GET", ANSWER, refuses(503))
    levels = world.levels()
    first = await levels.now(world.session)
    world.now += KEPT_SECONDS
    assert await levels.now(world.session) == first
    assert "503" in levels.trouble
    world.now += 0.1
    with pytest.raises(OperatorSilent, match="503"):
        await levels.now(world.session)


@pytest.mark.parametrize(
    ("answer", "said"),
    [(refuses(403), "403"), (says({"time": 1}), "unreadable answer"), (says([], 302, Location="/elsewhere"), "302")],
)
async def test_an_operator_that_does_not_say_what_it_wants_is_asked_again_and_heard_again(
    world: World, answer: Answer, said: str
) -> None:
    world.script.on("GET", answer, ANSWER)
    levels = world.levels()
    for _ in range(3):
        with pytest.raises(OperatorSilent, match=said):
            await levels.now(world.session)
    assert len(world.script.seen) == 1
    world.now += FRESH_SECONDS
    assert (await levels.now(world.session)).models[0].value == 60
    assert levels.trouble == ""


async def test_without_a_token_nobody_is_asked(world: World) -> None:
    world.token.unlink()
    with pytest.raises(OperatorSilent, match="WARMFLEET_OPERATOR_TOKEN_FILE"):
        await world.levels().now(world.session)
    assert world.script.seen == []


async def test_an_operator_that_is_away_is_named(world: World) -> None:
    levels = Levels("http://127.0.0.1:9", world.token, world.metrics.operator_failures)
    with pytest.raises(OperatorSilent, match=r"http://127\.0\.0\.1:9/v1/scaling"):
        await levels.now(world.session)
