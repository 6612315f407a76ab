"""Engines of a real runner: vLLM forked from the zygote, or executed where that can't be."""

from pathlib import Path

import pytest

from support import engine
from support.runner_process import RunnerProcess

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


async def test_an_assigned_engine_answers(runner: RunnerProcess, tiny: Path) -> None:
    runner.assign(1, engine.assigned("tiny", tiny))
    await runner.wait_ready("tiny", seconds=engine.START_SECONDS)
    async with runner.chat("tiny", tokens=5, stream=False) as response:
        assert (response.status, (await response.json())["usage"]["completion_tokens"]) == (200, 5)
