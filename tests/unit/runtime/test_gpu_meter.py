"""How busy GPUs are, as a tool tells that the test puts in the place of the driver's."""

from pathlib import Path

import pytest

from warmfleet_runtime import gpu_meter
from warmfleet_runtime.gpu_meter import busy_percents, mean_percent


def tool(folder: Path, script: str) -> None:
    """Put a program named nvidia-smi into a folder."""
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_each_gpu_has_its_line_and_one_that_is_not_told_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool(
        tmp_path,
        'test "$*" = "--query-gpu=utilization.gpu --format=csv,noheader,nounits" && printf "97\\n3\\n[N/A]\\n"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert busy_percents() == (97, 3, None)


def test_without_the_tool_or_its_answer_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert busy_percents() == ()
    monkeypatch.setattr(gpu_meter, "ANSWER_SECONDS", 0.1)
    tool(tmp_path, "exec sleep 5")
    assert busy_percents() == ()


def test_an_engine_has_the_mean_of_its_gpus_if_all_are_known() -> None:
    assert mean_percent((0, 1), (97, 3, None)) == 50
    assert mean_percent((0, 2), (97, 3, None)) is None
    assert mean_percent((0, 1), (97,)) is None
    assert mean_percent((), (97,)) is None
