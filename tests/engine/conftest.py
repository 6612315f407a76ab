"""A runner with real vLLM on this machine: the runtime image's environment, this tree's code, loopback, no cluster."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from support import engine
from support.runner_process import RunnerProcess, running_runner


@pytest.fixture(scope="session")
def tiny() -> Path:
    """The folder of the tiny model."""
    return engine.tiny_model()


@pytest.fixture
async def runner(tmp_path: Path) -> AsyncIterator[RunnerProcess]:
    """A runner without engines; `support.engine.assigned` gives it one."""
    async with running_runner(tmp_path, "--stop-seconds=5", python=engine.RUNTIME_PYTHON) as runner:
        yield runner
