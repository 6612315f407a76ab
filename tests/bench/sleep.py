"""`make bench-sleep`: what an engine's sleep frees and what its wake costs; a model of 0.8 GB on real vLLM.

In two runners, one that forks its engine and one that executes it: the PSS of the engine's processes awake, asleep and
awake again, the time to fall asleep, and the time from the wish to the first token.
"""

import argparse
import asyncio
import json
import math
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from bench.start import first_token
from model import tiny_llama
from support import engine, process_group
from support.cluster import REPOSITORY
from support.runner_process import RunnerProcess, running_runner, state_of
from warmfleet_api import names
from warmfleet_api.vocabulary import DesiredState, EngineState, Launch

RESULT = REPOSITORY / "build" / "bench" / "sleep.json"
ROUNDS = 5
LIMIT_SECONDS = 300.0
MIB = 1024 * 1024
KV_CACHE_BYTES = 256 * MIB
LAYERS = 24
GROWN = {tiny_llama.MODEL.hidden: 1024, tiny_llama.MODEL.intermediate: 4096}
"""The tiny model's dimensions, and those of the large one in their place."""


@dataclass(frozen=True)
class Round:
    """One sleep and one wake."""

    awake_pss_bytes: int
    asleep_pss_bytes: int
    woken_pss_bytes: int
    sleep_seconds: float
    """From the assignment to the status that says Asleep."""
    wake_seconds: float
    """From the assignment to the first token."""


def write_large_model(folder: Path) -> int:
    """Write the tiny model with larger matrices, whose numbers repeat; return the size of its weights in bytes."""
    tiny_llama.write_model(folder)
    small = tiny_llama.Size(**{**asdict(tiny_llama.MODEL), "layers": LAYERS})
    block = tiny_llama.noise((65521,), random.Random(0))
    tensors: dict[str, tiny_llama.Tensor] = {}
    for name, (small_shape, _) in tiny_llama.weights(small).items():
        shape = tuple(GROWN.get(length, length) for length in small_shape)
        size = 2 * math.prod(shape)
        content = tiny_llama.ones(shape) if len(shape) == 1 else (block * (size // len(block) + 1))[:size]
        tensors[name] = (shape, content)
    (folder / "model.safetensors").write_bytes(tiny_llama.safetensors(tensors))
    hidden, intermediate = GROWN[small.hidden], GROWN[small.intermediate]
    large = tiny_llama.Size(hidden, intermediate, LAYERS, hidden // 64, seed=0)
    (folder / "config.json").write_text(json.dumps(tiny_llama.config(large)))
    return sum(len(content) for _, content in tensors.values())


async def measure(runner: RunnerProcess, http: aiohttp.ClientSession, model: Path, rounds: int) -> list[Round]:
    """Start the model in a runner, and let it sleep and wake; the first round is not counted."""
    awake = engine.assigned("large", model, "--kv-cache-memory-bytes", str(KV_CACHE_BYTES))
    asleep = engine.assigned("large", model, "--kv-cache-memory-bytes", str(KV_CACHE_BYTES), state=DesiredState.ASLEEP)
    runner.assign(1, awake)
    await runner.wait_ready("large", seconds=LIMIT_SECONDS)
    (group,) = [pid for pid in runner.processes("/large.sock") if os.getpgid(pid) == pid]
    found: list[Round] = []
    for turn in range(rounds + 1):
        before = process_group.pss_bytes(group)
        began = time.monotonic()
        runner.assign(2 * turn + 2, asleep)
        await runner.wait(lambda status: state_of(status, "large") is EngineState.ASLEEP, LIMIT_SECONDS)
        sleep_seconds = time.monotonic() - began
        while_asleep = process_group.pss_bytes(group)
        began = time.monotonic()
        runner.assign(2 * turn + 3, awake)
        wake_seconds = await first_token(http, runner.api, "large") - began
        found.append(Round(before, while_asleep, process_group.pss_bytes(group), sleep_seconds, wake_seconds))
    return found[1:]


async def measure_all(folders: dict[Launch, Path], model: Path, rounds: int) -> dict[Launch, list[Round]]:
    """Return the rounds by the way the engine was launched; each runner has a folder of its own."""
    found: dict[Launch, list[Round]] = {}
    for launch, folder in folders.items():
        off = {names.ENV_ZYGOTE: "Off"} if launch is Launch.EXEC else {}
        async with (
            running_runner(folder, python=engine.RUNTIME_PYTHON, environment=off) as runner,
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=LIMIT_SECONDS)) as http,
        ):
            found[launch] = await measure(runner, http, model, rounds)
    return found


def figures(weight_bytes: int, found: dict[Launch, list[Round]]) -> dict[str, object]:
    """Return what is written, by the names it is written under: medians."""
    medians = {
        f"{launch.lower()}_{name}": statistics.median(asdict(each)[name] for each in rounds)
        for launch, rounds in found.items()
        for name in Round.__dataclass_fields__
    }
    sizes = {"weight_bytes": weight_bytes, "kv_cache_bytes": KV_CACHE_BYTES}
    rounded = {name: int(value) if name.endswith("_bytes") else round(value, 3) for name, value in medians.items()}
    return {"rounds": len(found[Launch.FORK]), **sizes, **rounded}


def table(weight_bytes: int, found: dict[Launch, list[Round]]) -> Table:
    """Show the figures as people read them."""
    title = f"{weight_bytes // MIB} MiB of weights, {KV_CACHE_BYTES // MIB} MiB of KV cache; medians"
    shown = Table(title=title, title_justify="left")
    for heading in ("launch", "awake MiB", "asleep MiB", "awake again MiB", "falls asleep s", "wakes s"):
        shown.add_column(heading, justify="left" if heading == "launch" else "right")
    for launch, rounds in found.items():
        memory = [
            str(int(statistics.median(asdict(each)[name] for each in rounds)) // MIB)
            for name in ("awake_pss_bytes", "asleep_pss_bytes", "woken_pss_bytes")
        ]
        seconds = [
            f"{statistics.median(asdict(each)[name] for each in rounds):.2f}"
            for name in ("sleep_seconds", "wake_seconds")
        ]
        shown.add_row(launch, *memory, *seconds)
    return shown


def main() -> int:
    """Measure, write and print the figures."""
    parser = argparse.ArgumentParser(description="Measure sleep and wake of a large model on real vLLM.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds that count (default: {ROUNDS})")
    rounds = max(1, parser.parse_args().rounds)
    console = Console()
    with tempfile.TemporaryDirectory() as directory:
        folders = {launch: Path(directory, launch) for launch in Launch}
        model = Path(directory, "model")
        for folder in (*folders.values(), model):
            folder.mkdir()
        weight_bytes = write_large_model(model)
        found = asyncio.run(measure_all(folders, model, rounds))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures(weight_bytes, found), indent=2) + "\n")
    console.print(table(weight_bytes, found))
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
