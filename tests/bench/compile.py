"""`make bench-compile`: what a start saves that begins with what another node compiled.

Two nodes without a cluster, each with a store and a runner of real vLLM on CPU, one after the other in one run: the
first compiles the tiny model and offers it, its node's store takes it, the second node's fetches it, and the second
node's runner starts the same model with it.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from support import engine
from support.cluster import REPOSITORY
from support.compile_node import Node, compiled_files, compiling, last_start, node
from support.runner_process import RunnerProcess
from warmfleet_api import artifacts
from warmfleet_api.runner_status import StartRecord
from warmfleet_api.vocabulary import Stage

RESULT = REPOSITORY / "build" / "bench" / "compile.json"
MODEL = "tiny"
START_SECONDS = 900.0
OFFER_SECONDS = 60.0


@dataclass(frozen=True)
class Start:
    """One start that compiled, or had no need to."""

    record: StartRecord
    objects: frozenset[str]
    """Shared objects in its cache once it was Ready."""

    def seconds(self, stage: Stage) -> float:
        """Return how long a stage took."""
        return sum(each.milliseconds for each in self.record.stages if each.name is stage) / 1000

    @property
    def compiled_cpu_seconds(self) -> float:
        """Return the processor time of the stage Compiled: the same on a busy machine."""
        return sum(each.cpu_milliseconds for each in self.record.stages if each.name is Stage.COMPILED) / 1000


@dataclass(frozen=True)
class Handing:
    """How the pack got from one node to the other."""

    pack_bytes: int
    offer_seconds: float
    take_seconds: float
    fetch_seconds: float


async def start(runner: RunnerProcess, place: Node, folder: Path) -> Start:
    """Start the engine and return how that went."""
    wanted = compiling(MODEL, folder)
    runner.assign(1, wanted)
    await runner.wait_ready(MODEL, seconds=START_SECONDS)
    cache = place.cache / artifacts.cache_name(wanted.engine)
    return Start(await last_start(runner), compiled_files(cache))


async def measure(model: Path, folder: Path) -> tuple[Start, Handing, Start]:
    """Start once on each node."""
    weights = folder / "weights"
    async with node(folder, "first") as first, node(folder, "second") as second:
        key = await first.keep(model)
        first.show(key, weights)
        async with first.runner(weights) as runner:
            compiled = await start(runner, first, weights / key)
            began = time.monotonic()
            status = await runner.wait(lambda status: bool(status.offers), OFFER_SECONDS)
            offered = time.monotonic()
            artifact = await first.take(status.offers[0].name)
            taken = time.monotonic()
            await second.fetch(artifact, first)
            fetched = time.monotonic()
            first.show(artifact, weights)
            await runner.wait(lambda status: not status.offers, OFFER_SECONDS)
        size = first.store.entries[artifact].bytes
        # The same path, as /weights is the same in every runner, with what this node shows.
        shutil.rmtree(weights)
        for shown in (await second.keep(model), artifact):
            second.show(shown, weights)
        async with second.runner(weights) as runner:
            reused = await start(runner, second, weights / key)
    return compiled, Handing(size, offered - began, taken - offered, fetched - taken), reused


def figures(compiled: Start, handing: Handing, reused: Start) -> dict[str, float | int]:
    """Return what is written, by the names it is written under."""
    found: dict[str, float | int] = {}
    for name, each in (("first", compiled), ("second", reused)):
        found[f"{name}_start_seconds"] = each.record.milliseconds / 1000
        found[f"{name}_compiled_stage_seconds"] = each.seconds(Stage.COMPILED)
        found[f"{name}_compiled_stage_cpu_seconds"] = each.compiled_cpu_seconds
        found[f"{name}_shared_objects"] = len(each.objects)
    found["second_shared_objects_compiled_anew"] = len(reused.objects - compiled.objects)
    found["second_files_from_the_store"] = reused.record.compile_cache_files
    found["first_over_second_compiled"] = round(compiled.seconds(Stage.COMPILED) / reused.seconds(Stage.COMPILED), 1)
    found["first_over_second_compiled_cpu"] = round(compiled.compiled_cpu_seconds / reused.compiled_cpu_seconds, 1)
    found["first_over_second_start"] = round(compiled.record.milliseconds / reused.record.milliseconds, 1)
    found["pack_bytes"] = handing.pack_bytes
    for name in ("offer", "take", "fetch"):
        found[f"{name}_seconds"] = round(getattr(handing, f"{name}_seconds"), 3)
    return found


def table(found: dict[str, float | int]) -> Table:
    """Show the figures as people read them."""
    shown = Table(title="One model, started on two nodes", title_justify="left")
    for heading in ("", "first", "second"):
        shown.add_column(heading, justify="right" if heading else "left")
    for text, name in (
        ("whole start, s", "start_seconds"),
        ("stage Compiled, s", "compiled_stage_seconds"),
        ("stage Compiled, CPU s", "compiled_stage_cpu_seconds"),
        ("shared objects", "shared_objects"),
    ):
        shown.add_row(text, *(str(found[f"{side}_{name}"]) for side in ("first", "second")))
    shown.caption = (
        f"first / second = {found['first_over_second_compiled']} (Compiled); {found['pack_bytes']} bytes, offered "
        f"after {found['offer_seconds']} s, taken in {found['take_seconds']} s, fetched in {found['fetch_seconds']} s; "
        f"compiled anew: {found['second_shared_objects_compiled_anew']}"
    )
    return shown


def main() -> int:
    """Measure, write and print the figures."""
    parser = argparse.ArgumentParser(
        description="Measure the reuse of compile caches with the tiny model on real vLLM."
    )
    parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="warmfleet-bench-") as directory:
        found = figures(*asyncio.run(measure(engine.tiny_model(), Path(directory))))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    console = Console()
    console.print(table(found))
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
