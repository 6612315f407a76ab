"""`make bench-start`: how long a model takes from the wish to its first token, by the way it is started.

All ways take turns in one run, so that they meet the same machine: the tiny model on real vLLM, no cluster.

    ordinary  `vllm serve`, as anybody starts it
    exec      an assignment written, in a runner whose zygote is switched off
    zygote    an assignment written, in a runner whose zygote is ready
    wake      an assignment written that says Ready again, for an engine that sleeps
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from rich.console import Console
from rich.table import Table

from support import engine, process_group
from support.cluster import REPOSITORY
from support.runner_process import RunnerProcess, running_runner, state_of
from warmfleet_api import names
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.vocabulary import DesiredState, EngineState, Launch, ZygoteState
from warmfleet_runtime import processes

RESULT = REPOSITORY / "build" / "bench" / "start.json"
WAYS = ("ordinary", "exec", "zygote", "wake")
AT_ONCE = (1, 2, 4, 8)
REPEATS = 5
POLL_SECONDS = 0.02
LIMIT_SECONDS = 300.0
ENDS_SECONDS = 60.0


@dataclass(frozen=True)
class Start:
    """One start that ended with a token."""

    seconds: float
    cpu_seconds: float
    """Of the engine's processes, until then."""
    pss_bytes: int
    """Of the engine's processes, right after."""


async def first_token(http: aiohttp.ClientSession, url: str, model: str) -> float:
    """Ask until a token comes, and return when that was."""
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 1, "stream": True}
    async with asyncio.timeout(LIMIT_SECONDS):
        while True:
            try:
                async with http.post(f"{url}/v1/completions", json=body) as response:
                    if response.status == 200:
                        async for line in response.content:
                            if line.startswith(b"data: {") and b'"choices"' in line and b'"error"' not in line:
                                return time.monotonic()
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(POLL_SECONDS)


async def ordinary(folder: Path, model: Path) -> Start:
    """Start `vllm serve` and end it again."""
    socket = folder / "ordinary.sock"
    socket.unlink(missing_ok=True)
    options = (*engine.SMALL, "--max-model-len", str(engine.MAX_MODEL_LEN), "--served-model-name", "tiny")
    command = ("-m", "vllm.entrypoints.cli.main", "serve", str(model), "--uds", str(socket), *options)
    environment = {**os.environ, "WARMFLEET_RUNTIME_CACHE": str(folder / "ordinary"), "DO_NOT_TRACK": "1"}
    began = time.monotonic()
    with (folder / "ordinary.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            engine.RUNTIME_PYTHON, *command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as http:
            seconds = await first_token(http, "http://engine", "tiny") - began
        return Start(seconds, process_group.cpu_seconds(process.pid), process_group.pss_bytes(process.pid))
    finally:
        processes.signal_group(process.pid, signal.SIGKILL)
        await asyncio.wait_for(process.wait(), ENDS_SECONDS)


class Runner:
    """A runner that is told to host engines, again and again."""

    def __init__(self, process: RunnerProcess, model: Path) -> None:
        self._process = process
        self._model = model
        self._revision = 0

    async def idle(self) -> None:
        """Wait until it has no engine, and imports nothing."""
        self._assign()
        await self._process.wait(
            lambda status: (
                not status.engines
                and status.revision == self._revision
                and (status.zygote is None or status.zygote.state is not ZygoteState.IMPORTING)
            ),
            LIMIT_SECONDS,
        )

    async def start(self, count: int, launch: Launch) -> list[Start]:
        """Assign engines and return what each start took until its first token; they stay."""
        wanted = [engine.assigned(f"model-{number}", self._model, order=number) for number in range(count)]
        began = time.monotonic()
        self._assign(*wanted)
        starts = await asyncio.gather(*(self._first_token(each.id, began) for each in wanted))
        status = await self._process.status()
        launches = {each.launch for each in status.engines}
        assert launches == {launch}, f"engines came by {launches} instead of {launch}"
        return list(starts)

    async def wake(self) -> Start:
        """Put the engine that is there to sleep, and wake it."""
        asleep = engine.assigned("model-0", self._model, state=DesiredState.ASLEEP)
        self._assign(asleep)
        await self._process.wait(lambda status: state_of(status, asleep.id) is EngineState.ASLEEP, LIMIT_SECONDS)
        group = self._group(asleep.id)
        used = process_group.cpu_seconds(group)
        began = time.monotonic()
        self._assign(engine.assigned("model-0", self._model))
        woken = await self._first_token(asleep.id, began)
        return Start(woken.seconds, woken.cpu_seconds - used, woken.pss_bytes)

    async def _first_token(self, name: str, began: float) -> Start:
        seconds = await first_token(self._process.http, self._process.api, name) - began
        group = self._group(name)
        return Start(seconds, process_group.cpu_seconds(group), process_group.pss_bytes(group))

    def _group(self, name: str) -> int:
        (leader,) = [pid for pid in self._process.processes(f"/{name}.sock") if os.getpgid(pid) == pid]
        return leader

    def _assign(self, *engines: EngineAssignment) -> None:
        self._revision += 1
        self._process.assign(self._revision, *engines)


@asynccontextmanager
async def runners(folder: Path, model: Path) -> AsyncIterator[dict[Launch, Runner]]:
    """A runner for each way engines are launched, both idle."""
    for launch in Launch:
        (folder / launch).mkdir()
    off = {names.ENV_ZYGOTE: "Off"}
    python = engine.RUNTIME_PYTHON
    async with (
        running_runner(folder / Launch.EXEC, python=python, environment=off) as executing,
        running_runner(folder / Launch.FORK, python=python) as forking,
    ):
        found = {Launch.EXEC: Runner(executing, model), Launch.FORK: Runner(forking, model)}
        for runner in found.values():
            await runner.idle()
        yield found


async def measure(repeats: int, console: Console) -> tuple[dict[str, list[Start]], dict[int, list[list[Start]]]]:
    """Return the starts by way, and the starts at once by their number; a first round of each is not counted."""
    ways: dict[str, list[Start]] = {way: [] for way in WAYS}
    at_once: dict[int, list[list[Start]]] = {count: [] for count in AT_ONCE}
    model = engine.tiny_model()
    with tempfile.TemporaryDirectory() as directory:
        async with runners(Path(directory), model) as by_launch:
            forking, executing = by_launch[Launch.FORK], by_launch[Launch.EXEC]
            for turn in range(repeats + 1):
                taken = {"ordinary": await ordinary(Path(directory), model)}
                (taken["exec"],) = await executing.start(1, Launch.EXEC)
                await executing.idle()
                (taken["zygote"],) = await forking.start(1, Launch.FORK)
                taken["wake"] = await forking.wake()
                await forking.idle()
                said = ", ".join(f"{way} {start.seconds:.2f} s" for way, start in taken.items())
                console.print(f"round {turn} of {repeats}: {said}" + ("" if turn else " (not counted)"))
                for way, start in taken.items():
                    ways[way] += [start] if turn else []
            for count in AT_ONCE:
                for turn in range(repeats + 1):
                    starts = await forking.start(count, Launch.FORK)
                    await forking.idle()
                    at_once[count] += [starts] if turn else []
                console.print(f"{count} at once: {max(start.seconds for start in at_once[count][-1]):.2f} s")
    return ways, at_once


def p95(values: list[float]) -> float:
    """Return the value that 95 % of the values do not exceed (interpolated)."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def figures(ways: dict[str, list[Start]], at_once: dict[int, list[list[Start]]]) -> dict[str, object]:
    """Return what is written, by the names it is written under."""
    found: dict[str, object] = {"repeats": len(ways["ordinary"])}
    for way, starts in ways.items():
        seconds = [start.seconds for start in starts]
        found[f"{way}_seconds_median"] = round(statistics.median(seconds), 3)
        found[f"{way}_seconds_p95"] = round(p95(seconds), 3)
        found[f"{way}_cpu_seconds_median"] = round(statistics.median(start.cpu_seconds for start in starts), 2)
        found[f"{way}_pss_bytes_median"] = int(statistics.median(start.pss_bytes for start in starts))
    median = {way: statistics.median(start.seconds for start in starts) for way, starts in ways.items()}
    found["ordinary_over_zygote"] = round(median["ordinary"] / median["zygote"], 1)
    found["makespan_seconds"] = {
        str(count): round(statistics.median(max(start.seconds for start in starts) for starts in rounds), 3)
        for count, rounds in at_once.items()
    }
    found["makespan_seconds_p95"] = {
        str(count): round(p95([max(start.seconds for start in starts) for starts in rounds]), 3)
        for count, rounds in at_once.items()
    }
    found["pss_bytes_per_engine"] = {
        str(count): int(statistics.median(start.pss_bytes for starts in rounds for start in starts))
        for count, rounds in at_once.items()
    }
    return found


def tables(found: dict[str, object], at_once: dict[int, list[list[Start]]]) -> list[Table]:
    """Show the figures as people read them."""
    ways = Table(title=f"From the wish to the first token, n = {found['repeats']}", title_justify="left")
    for heading in ("start", "median s", "p95 s", "CPU s", "PSS MiB"):
        ways.add_column(heading, justify="left" if heading == "start" else "right")
    for way in WAYS:
        row = [found[f"{way}_{name}"] for name in ("seconds_median", "seconds_p95", "cpu_seconds_median")]
        mebibytes = int(str(found[f"{way}_pss_bytes_median"])) >> 20
        ways.add_row(way, *map(str, row), str(mebibytes))
    ways.caption = f"ordinary / zygote = {found['ordinary_over_zygote']}"
    together = Table(title="Starts from the zygote at once", title_justify="left")
    for heading in ("models", "all answer after s", "the first after s", "PSS MiB each"):
        together.add_column(heading, justify="right")
    for count, rounds in at_once.items():
        makespan = statistics.median(max(start.seconds for start in starts) for starts in rounds)
        first = statistics.median(min(start.seconds for start in starts) for starts in rounds)
        share = int(statistics.median(start.pss_bytes for starts in rounds for start in starts))
        together.add_row(str(count), f"{makespan:.2f}", f"{first:.2f}", str(share >> 20))
    return [ways, together]


def main() -> int:
    """Measure, write and print the figures."""
    parser = argparse.ArgumentParser(description="Measure starts of the tiny model on real vLLM.")
    parser.add_argument("--repeats", type=int, default=REPEATS, help=f"rounds that count (default: {REPEATS})")
    repeats = max(2, parser.parse_args().repeats)
    console = Console()
    ways, at_once = asyncio.run(measure(repeats, Console(stderr=True)))
    found = figures(ways, at_once)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    for table in tables(found, at_once):
        console.print(table)
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
