"""When a front that says nothing is killed: soon if it spoke before, later while it starts."""

import time
from pathlib import Path

import pytest

from warmfleet_runtime import front_keeper, processes
from warmfleet_runtime.config import RunnerConfig
from warmfleet_runtime.front_keeper import FrontKeeper


def config() -> RunnerConfig:
    folder = Path("/nowhere")
    return RunnerConfig(
        run_directory=folder,
        assignment=folder,
        cache=folder,
        weights=folder,
        host="::",
        api_port=0,
        status_port=0,
        drain_seconds=0,
        stop_seconds=0,
        pod_uid="uid",
        memory_limit_bytes=0,
    )


async def test_a_front_that_starts_has_longer_than_one_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[float] = []
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(processes, "spawn", lambda *_, **__: 4711)
    monkeypatch.setattr(processes, "signal_group", lambda *_: killed.append(now))
    keeper = FrontKeeper(config(), lambda _: None)
    await keeper.keep()
    now = 100.0 + front_keeper.STARTING_SECONDS
    await keeper.keep()
    assert killed == []
    now += 0.1
    await keeper.keep()
    await keeper.keep()
    assert killed == [now]
    now += front_keeper.SILENT_SECONDS + 0.1
    await keeper.keep()
    assert len(killed) == 2
    await keeper.close()
