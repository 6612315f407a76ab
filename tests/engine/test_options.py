"""Typed options on real vLLM: what they do, how it says that one is wrong, and that we refuse nothing it takes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from support import engine
from support.arguments import CONTRADICTING, REFUSED, TAKEN
from support.cluster import REPOSITORY, run
from support.runner_process import RunnerProcess, engine_of
from support.waiting import PATIENCE
from warmfleet_api.assignment import EngineAssignment, LoraAdapter, Parallelism, Speculative
from warmfleet_api.runner_status import RunnerStatus
from warmfleet_api.vllm_options import pinned_table
from warmfleet_api.vocabulary import Reason
from warmfleet_operator.decide.arguments import complaints

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

JUDGE_SECONDS = 400
ANSWER_SECONDS = aiohttp.ClientTimeout(total=PATIENCE * 120)
VALUES = ("7", "0", "-1", "1.5", "8k", "1.5K", "1_000", "auto", "Auto", "None", "", "word", "{}", "{x", "a=1", "inf")
"""Given to every option in turn."""


def made(what: str) -> Path:
    """Return the folder of the tiny model's draft or adapter; it is made where it is missing."""
    command = [str(REPOSITORY / "hack" / "model" / "tiny"), f"--{what}"]
    return Path(run(command, engine.MAKE_SECONDS).strip().splitlines()[-1])


def assigned(name: str, folder: Path, *args: str, **options: Any) -> EngineAssignment:
    """Return an engine with typed options."""
    plain = engine.assigned(name, folder, *args)
    return msgspec.structs.replace(plain, engine=msgspec.structs.replace(plain.engine, **options))


def adapter(name: str, folder: Path) -> LoraAdapter:
    """Return an adapter of an assignment."""
    return LoraAdapter(name=name, uri=f"file://{folder}", folder=str(folder))


def draft(folder: Path) -> Speculative:
    """Return a draft model of an assignment."""
    return Speculative(uri=f"file://{folder}", folder=str(folder), tokens=3)


async def greedy(runner: RunnerProcess, model: str) -> str:
    """Return what the model says."""
    body = {"model": model, "prompt": "the sea", "max_tokens": 12, "temperature": 0}
    async with runner.http.post(f"{runner.api}/v1/completions", json=body, timeout=ANSWER_SECONDS) as response:
        assert response.status == 200, await response.text()
        text: str = (await response.json())["choices"][0]["text"]
        return text


async def test_adapters_say_something_else_and_drafts_say_the_same_sooner(runner: RunnerProcess, tiny: Path) -> None:
    runner.assign(
        1,
        assigned("base", tiny, adapters=(adapter("org/sql:1", made("adapter")),)),
        assigned("drafted", tiny, speculative=draft(tiny)),
        assigned("ill-drafted", tiny, speculative=draft(made("draft"))),
    )
    await runner.wait_ready("base", "drafted", "ill-drafted", seconds=engine.START_SECONDS)
    said = await greedy(runner, "base")
    assert await greedy(runner, "org/sql:1") != said
    assert await greedy(runner, "base") == said, "an adapter leaves the model as it is"
    assert await greedy(runner, "drafted") == said
    assert await greedy(runner, "ill-drafted") == said
    metrics = await metrics_of(runner)
    assert sum_of(metrics, "vllm:spec_decode_num_accepted_tokens_total", "drafted") > 0
    assert sum_of(metrics, "vllm:spec_decode_num_draft_tokens_total", "ill-drafted") > 0
    async with runner.http.get(f"{runner.api}/v1/models") as response:
        served = {each["id"] for each in (await response.json())["data"]}
    assert served == {"base", "org/sql:1", "drafted", "ill-drafted"}


async def metrics_of(runner: RunnerProcess) -> list[str]:
    """Return the lines of the runner's metrics."""
    async with runner.http.get(f"{runner.status_url}/metrics") as response:
        return (await response.text()).splitlines()


def sum_of(metrics: list[str], name: str, model: str) -> float:
    """Return the sum of a metric over a model's samples."""
    lines = [line for line in metrics if line.startswith(name + "{") and f'"{model}"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_an_option_that_the_model_does_not_bear_is_said_with_what_to_change(
    runner: RunnerProcess, tiny: Path, tmp_path: Path
) -> None:
    sql = made("adapter")
    wrong = {
        "heads": (
            assigned("heads", tiny, parallelism=Parallelism(tensor=3)),
            "heads (4) must be divisible by tensor parallel size (3); correct engine.parallelism",
        ),
        "awq": (
            assigned("awq", tiny, quantization="awq"),
            "the weights are not quantized so; correct engine.quantization",
        ),
        "rank": (
            assigned("rank", tiny, "--max-lora-rank", "1", adapters=(adapter("sql", sql),)),
            "LoRA rank 4 is greater than max_lora_rank 1; raise --max-lora-rank in engine.args",
        ),
        "second": (
            assigned("second", tiny, adapters=(adapter("sql", sql), adapter("dora", dora(sql, tmp_path / "dora")))),
            "the adapter after sql of model.adapters can't be served with this model: vLLM does not yet support DoRA",
        ),
        "words": (
            assigned("words", tiny, speculative=draft(other_words(made("draft"), tmp_path / "draft"))),
            "should have the same vocabulary size",
        ),
    }
    runner.assign(1, *(assignment for assignment, _ in wrong.values()))
    status = await runner.wait(
        lambda status: all(error_of(status, name) for name in wrong), seconds=2 * engine.START_SECONDS
    )
    for name, (_, words) in wrong.items():
        found = engine_of(status, name)
        assert found is not None and found.error is not None
        assert (found.error.reason, words in found.error.message) == (Reason.INVALID_ARGS, True), found.error.message


def error_of(status: RunnerStatus, name: str) -> str:
    """Return why an engine did not start; empty while that is not known."""
    found = engine_of(status, name)
    return found.error.message if found is not None and found.error is not None else ""


def dora(original: Path, folder: Path) -> Path:
    """Return a copy of an adapter that claims to be of a kind that vLLM does not serve."""
    copy(original, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    return folder


def other_words(original: Path, folder: Path) -> Path:
    """Return a copy of a draft model that claims to know one token less."""
    copy(original, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] - 1}))
    return folder


def copy(original: Path, folder: Path) -> None:
    """Copy a folder of files."""
    folder.mkdir()
    for file in original.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())


def lists() -> Iterator[list[str]]:
    """Yield every option without a value, with each of `VALUES`, abbreviated, with underscores, and with two values."""
    for option in pinned_table().options:
        flag = option.flags[0]
        yield from ([each] for each in option.flags)
        yield from ([flag, value] for value in (*VALUES, *(option.choices or ())[:1]))
        yield [f"{flag}=7"]
        yield [flag, "1", "2"]
        yield [flag[:-1], "7"]
        yield [f"--{flag[2:].replace('-', '_')}", "7"]


def test_nothing_is_refused_that_vllm_takes(tiny: Path) -> None:
    table = [*TAKEN, *(arguments for arguments, _ in (*REFUSED, *CONTRADICTING))]
    every = list(lists())
    refused = [arguments for arguments in (*every, *table) if any(complaints(arguments))]
    passed = [arguments for arguments in every if not any(complaints(arguments))]
    asked = {"parse": passed, "start": [*refused, *TAKEN]}
    done = subprocess.run(
        [engine.RUNTIME_PYTHON, str(REPOSITORY / "tests" / "engine" / "vllm_verdicts.py"), str(tiny)],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        timeout=PATIENCE * JUDGE_SECONDS,
        check=True,
    )
    verdicts = json.loads(done.stdout)
    start = list(zip(asked["start"], verdicts["start"], strict=True))
    assert [arguments for arguments, verdict in start[: len(refused)] if verdict is None] == []
    assert [(arguments, verdict) for arguments, verdict in start[len(refused) :] if verdict is not None] == []
    let_pass = sum(verdict is not None for verdict in verdicts["parse"])
    assert let_pass < len(refused) / 10, "control: most of what its parser refuses is known ahead of a start"
