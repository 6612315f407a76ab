"""Processes of a whole runner killed at random times under load: who is not affected notices nothing."""

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from support.runner_process import RunnerProcess, is_running, running_runner, simulated, state_of
from support.scripted import until
from support.waiting import wait_for
from warmfleet_api.assignment import SimulatedEngine
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import DesiredState, EngineState, WakePolicy

pytestmark = pytest.mark.timeout(90)
STEADY = SimulatedEngine(
    load_milliseconds=10, initialize_milliseconds=10, first_token_milliseconds=5, tokens_per_second=100
)
CLIENTS_PER_MODEL = 4
KILLS = 3
"""Each doubles the engine's back-off."""


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    async with running_runner(tmp_path, "--stop-seconds=2", "--drain-seconds=5") as runner:
        runner.assign(1, simulated("a", STEADY), simulated("b", STEADY))
        await runner.wait_ready("a", "b")
        yield runner


class Load:
    """Clients that ask without a pause, and what became of their requests."""

    def __init__(self, runner: RunnerProcess) -> None:
        self.outcomes: dict[str, Counter[str]] = {"a": Counter(), "b": Counter()}
        self._runner = runner

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        ending = asyncio.Event()
        clients = [asyncio.create_task(self._ask(model, ending)) for model in "ab" for _ in range(CLIENTS_PER_MODEL)]
        try:
            yield self
        finally:
            ending.set()
            await asyncio.wait_for(asyncio.gather(*clients), 30)

    async def _ask(self, model: str, ending: asyncio.Event) -> None:
        stream = True
        while not ending.is_set():
            outcome = await self._outcome(model, stream)
            self.outcomes[model][outcome] += 1
            if outcome != "answered":
                await asyncio.sleep(0.05)
            stream = not stream

    async def _outcome(self, model: str, stream: bool) -> str:
        try:
            async with self._runner.chat(model, tokens=8, stream=stream) as response:
                text = (await response.text()).strip()
        except (aiohttp.ClientError, ConnectionError):
            return "lost"
        if response.status != 200:
            return "refused" if response.status in {500, 502, 503} and '"error"' in text else f"odd {response.status}"
        if stream:
            return "answered" if text.endswith("[DONE]") else "ended with an error" if '"error"' in text else "cut"
        return "answered" if '"completion_tokens":8' in text else "cut"


async def test_an_engine_that_is_killed_costs_its_own_requests_alone(runner: RunnerProcess) -> None:
    chance = random.Random(1)
    async with Load(runner).running() as load:
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.05, 0.4))
            await runner.wait_ready("a", seconds=30)
            os.kill(chance.choice(pids_of(runner, "a")), signal.SIGKILL)
        await runner.wait(lambda status: state_of(status, "a") is not EngineState.READY)
    assert set(load.outcomes["b"]) == {"answered"}, load.outcomes
    assert set(load.outcomes["a"]) <= {"answered", "refused", "ended with an error"}, load.outcomes
    assert len(load.outcomes["a"]) > 1, "control: the harness sees requests that were not answered"


async def test_a_front_that_is_killed_costs_what_it_carried_and_no_engine(runner: RunnerProcess) -> None:
    chance = random.Random(2)
    engines = runner.processes("warmfleet_runtime.simulated")
    async with Load(runner).running() as load:
        for _ in range(2):
            await asyncio.sleep(chance.uniform(0.1, 0.5))
            (front,) = runner.processes("warmfleet_runtime.front")
            os.kill(front, signal.SIGKILL)
            await runner.wait(partial(_is_gone, runner, front))
            await runner.wait_ready("a", "b")
        before = {model: outcomes.copy() for model, outcomes in load.outcomes.items()}
        await until(
            lambda: all(each["answered"] > before[model]["answered"] for model, each in load.outcomes.items())
        )  # It serves again.
    assert runner.processes("warmfleet_runtime.simulated") == engines
    for outcomes in load.outcomes.values():
        assert outcomes["lost"] > 0, "control: the harness sees a loss"
        assert outcomes["cut"] == 0, "nobody takes half an answer for a whole one"


async def test_no_request_is_lost_while_an_engine_falls_asleep_and_wakes_over_and_over(runner: RunnerProcess) -> None:
    naps = {"state": DesiredState.ASLEEP, "wake": WakePolicy.ON_REQUEST, "idle_seconds": 0}
    runner.assign(2, simulated("a", STEADY, **naps), simulated("b", STEADY))
    await runner.wait(lambda status: state_of(status, "a") is EngineState.ASLEEP)

    async def ask(index: int) -> str:
        await asyncio.sleep(index * 0.02)
        async with runner.chat("a", tokens=1) as response:
            text: str = await response.text()
            return text.strip()[-6:]

    assert await asyncio.gather(*(ask(index) for index in range(100))) == ["[DONE]"] * 100
    status = await runner.status()
    a = next(engine for engine in status.engines if engine.id == "a")
    assert a.starts >= 3, "control: it did sleep meanwhile"


async def test_a_front_that_is_killed_wakes_sleepers_as_before(runner: RunnerProcess) -> None:
    naps = {"state": DesiredState.ASLEEP, "wake": WakePolicy.ON_REQUEST, "idle_seconds": 0}
    runner.assign(2, simulated("a", STEADY, **naps), simulated("b", STEADY))
    await runner.wait(lambda status: state_of(status, "a") is EngineState.ASLEEP)
    before = runner.processes("warmfleet_runtime.simulated")
    (front,) = runner.processes("warmfleet_runtime.front")
    os.kill(front, signal.SIGKILL)
    await runner.wait(lambda status: runner.processes("warmfleet_runtime.front") not in ([], [front]))
    async with runner.chat("a", tokens=1) as response:
        assert (await response.text()).strip().endswith("[DONE]")
    assert runner.processes("warmfleet_runtime.simulated") == before


async def test_nothing_outlives_a_supervisor_that_is_killed_under_load(runner: RunnerProcess) -> None:
    pids = runner.processes("warmfleet_runtime")
    assert len(pids) == 3, "control: front and engines are there"
    async with Load(runner).running():
        await asyncio.sleep(0.2)
        runner.process.kill()
        await runner.process.wait()
        await asyncio.to_thread(wait_for, "its processes to be gone", lambda: not any(map(is_running, pids)), 3)


def pids_of(runner: RunnerProcess, engine: str) -> list[int]:
    return runner.processes(f"{engine}.sock")


def _is_gone(runner: RunnerProcess, front: int, _: RunnerStatus) -> bool:
    return front not in runner.processes("warmfleet_runtime.front")
