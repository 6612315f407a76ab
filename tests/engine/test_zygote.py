"""Engines of a real runner: vLLM forked from the zygote, or executed where that can't be."""

import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support import engine, process_group
from support.runner_process import RunnerProcess, engine_of, is_running
from support.waiting import PATIENCE
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vocabulary import Launch, Stage, ZygoteState

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PROMPTS = ("Once upon a time", "the quick brown fox", "a")
TOKENS = 12
ANSWER_SECONDS = aiohttp.ClientTimeout(total=PATIENCE * 120)
"""An answer may take on a machine that is busy with others."""
FORKED_STAGES = {Stage.ENGINE_FORKED, Stage.WEIGHTS_LOADED, Stage.CACHE_ALLOCATED, Stage.WARMED_UP}


async def greedy(runner: RunnerProcess, model: str) -> list[dict[str, Any]]:
    """Return tokens and their log probabilities for all prompts."""
    answers = []
    for prompt in PROMPTS:
        body = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "logprobs": 3}
        async with runner.http.post(f"{runner.api}/v1/completions", json=body, timeout=ANSWER_SECONDS) as response:
            assert response.status == 200
            answers.append((await response.json())["choices"][0]["logprobs"])
    return answers


def launch_of(status: RunnerStatus, name: str) -> Launch | None:
    """Return how an engine came to be."""
    found = engine_of(status, name)
    return found.launch if found else None


def is_ready(status: RunnerStatus) -> bool:
    """Whether the runner's zygote is."""
    return status.zygote is not None and status.zygote.state is ZygoteState.READY


async def wait_serving(runner: RunnerProcess, *models: str) -> RunnerStatus:
    """Wait until these models are Ready."""
    return await runner.wait_ready(*models, seconds=engine.START_SECONDS)


async def test_a_forked_engine_says_what_an_executed_one_says(runner: RunnerProcess, tiny: Path) -> None:
    await runner.wait(is_ready, engine.START_SECONDS)
    # The imports have used this variable up, so its engine can't be forked.
    executed = engine.assigned("executed", tiny, env={"HF_HUB_VERBOSITY": "error"})
    runner.assign(1, engine.assigned("forked", tiny), executed)
    status = await wait_serving(runner, "forked", "executed")
    assert [launch_of(status, name) for name in ("forked", "executed")] == [Launch.FORK, Launch.EXEC]
    for one, other in zip(await greedy(runner, "forked"), await greedy(runner, "executed"), strict=True):
        assert len(one["tokens"]) == TOKENS
        assert one["tokens"] == other["tokens"]
        assert one["token_logprobs"] == pytest.approx(other["token_logprobs"], abs=1e-4)


async def test_two_engines_live_by_one_zygote_and_without_it(runner: RunnerProcess, tiny: Path) -> None:
    """Zygotes take ten seconds to import, so the whole life of one is one test."""
    first, second = engine.assigned("first", tiny), engine.assigned("second", tiny)
    runner.assign(1, first, second)
    status = await wait_serving(runner, "first", "second")
    assert [launch_of(status, name) for name in ("first", "second")] == [Launch.FORK, Launch.FORK]
    stages = engine_of(status, "first")
    assert stages and {stage.name for stage in stages.stages} >= FORKED_STAGES
    assert await greedy(runner, "first") == await greedy(runner, "second")

    (zygote,) = runner.processes("warmfleet zygote")
    leaders = runner.processes("vllm serve")
    assert sorted(os.getpgid(leader) for leader in leaders) == sorted(leaders)
    assert all(_shares_memory(leader) for leader in leaders)

    os.kill(zygote, signal.SIGKILL)
    await runner.wait(lambda status: not is_ready(status))
    assert await greedy(runner, "first") == await greedy(runner, "second")
    await runner.wait(is_ready, engine.START_SECONDS)
    assert runner.processes("vllm serve") == leaders

    group = process_group.members(leaders[0])
    os.kill(leaders[0], signal.SIGKILL)
    await runner.wait(lambda _: not any(is_running(pid) for pid in group), 30)
    runner.assign(2, first, second, engine.assigned("third", tiny))
    status = await wait_serving(runner, "first", "second", "third")
    assert launch_of(status, "third") is Launch.FORK
    assert await greedy(runner, "first") == await greedy(runner, "third")


def _shares_memory(group: int) -> bool:
    """Whether its processes hold less than what they map, by more than they share with each other."""
    mapped = sum(_rss_bytes(pid) for pid in process_group.members(group))
    return process_group.pss_bytes(group) < mapped / 2


def _rss_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss:"))
