"""`make bench-store`: how fast the weight store fills, promotes and evicts, and what N runners of one model cost.

Everything is done twice in a tmpfs of its own, with pages of 2 MiB (as agents mount it) and of 4 KiB; needs root.

    fetch     a file:// model listed, copied, hashed and committed, beside `cp -r` of the same folder in the same tmpfs
    promote   an entry of a store on disk, copied, hashed and compared, into the one in memory
    evict     until its space is free again
    mapped    N processes that map all tensors of the entry, as vLLM's loader does on its way to a GPU, and read them
    engines   N runners with real vLLM that read the entry through views of their own, from the wish to the first token
"""

import argparse
import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.sleep import write_large_model
from bench.start import first_token
from support import engine, process_group
from support.cluster import REPOSITORY
from support.runner_process import RunnerProcess, engine_of, running_runner
from support.store_folders import MIB, mounted
from warmfleet_agent.sources import SourceRules, open_source
from warmfleet_agent.sources.download import Bandwidth, download
from warmfleet_agent.store import Store
from warmfleet_api.vocabulary import Stage, ZygoteState

RESULT = REPOSITORY / "build" / "bench" / "store.json"
ROUNDS = 5
RUNNERS = 4
PAGES = {"always": "2 MiB", "never": "4 KiB"}
"""The pages of a tmpfs by its option `huge`."""
KEY = "large"
TMPFS_BYTES = 8 * 1024 * MIB
LIMIT_SECONDS = 600.0
READER = """
import sys, time
from safetensors import safe_open
import torch
torch.set_num_threads(1)
print("ready", flush=True)
for path in sys.stdin:
    tensors = None
    if path.strip():
        began = time.monotonic()
        with safe_open(path.strip(), "pt") as file:
            tensors = [file.get_tensor(name) for name in file.keys()]
        sum(int(tensor.view(torch.uint8).flatten()[::64].sum()) for tensor in tensors)
        print(time.monotonic() - began, flush=True)
    else:
        print("unmapped", flush=True)
"""
"""Maps every tensor of a file that a line names, reads a byte of each cache line, and keeps it until the next line."""


@dataclass
class Figures:
    """What was measured with one size of pages; seconds of every round, or by N those of every process or engine."""

    cp_seconds: list[float] = field(default_factory=list)
    fetch_seconds: list[float] = field(default_factory=list)
    promote_seconds: list[float] = field(default_factory=list)
    evict_seconds: list[float] = field(default_factory=list)
    mapped_seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    mapped_pss_bytes: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    load_seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Of the stage WeightsLoaded."""
    first_token_seconds: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Until the last of N engines answered."""
    pss_bytes: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    node_bytes: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """What the tmpfs held while N runners read from it."""


def counts(most: int) -> list[int]:
    """Return how many read at once: 1, 2, 4 and so on."""
    return [2**power for power in range(most.bit_length())]


def view_of(number: int) -> str:
    """Return the name of a runner's view."""
    return f"runner-{number}"


def seconds_of(action: Callable[[], object]) -> float:
    """Return how long something takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


async def fetch(store: Store, model: Path) -> None:
    """Make an entry of a folder as the agent does."""
    rules = SourceRules(file_roots=(model.parent,))
    async with open_source(f"file://{model}", None, {}, rules) as source:
        listing = await source.list()
        with store.begin(KEY, listing.sizes, listing.uri) as draft:
            await download(source, listing, draft, bandwidth=Bandwidth(), on_progress=lambda _: None)
            draft.commit(listing.uri, listing.revision)


def promote(disk: Store, memory: Store) -> None:
    """Copy an entry from one store into the other as the agent does."""
    entry = disk.entries[KEY]
    with memory.begin(KEY, {piece.path: piece.bytes for piece in entry.files}, entry.uri) as draft:
        for piece in entry.files:
            descriptor = disk.open_entry_file(KEY, piece.path)
            try:
                draft.fill(piece.path, descriptor)
            finally:
                os.close(descriptor)
        draft.commit(entry.uri, entry.revision, entry.files)


def measure_transfers(folder: Path, store: Store, disk: Store, model: Path, rounds: int) -> Figures:
    """Let `cp` and the store take turns; a first round of each is not counted. The entry stays in the store."""
    # The source lies beside the store: both read and write the same file system.
    found, source, copied = Figures(), folder / "source", folder / "copied"
    subprocess.run(["cp", "-r", str(model), str(source)], check=True)
    for turn in range(rounds + 1):
        cp_seconds = seconds_of(lambda: subprocess.run(["cp", "-r", str(source), str(copied)], check=True))
        subprocess.run(["rm", "-r", str(copied)], check=True)
        fetch_seconds = seconds_of(lambda: asyncio.run(fetch(store, source)))
        evict_seconds = seconds_of(lambda: store.evict(KEY))
        promote_seconds = seconds_of(lambda: promote(disk, store))
        if turn:
            found.cp_seconds.append(cp_seconds)
            found.fetch_seconds.append(fetch_seconds)
            found.evict_seconds.append(evict_seconds)
            found.promote_seconds.append(promote_seconds)
        if turn < rounds:
            store.evict(KEY)
    subprocess.run(["rm", "-r", str(source)], check=True)
    return found


class Reader:
    """A process that maps files."""

    def __init__(self) -> None:
        command, pipe = [engine.RUNTIME_PYTHON, "-c", READER], subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def ask(self, path: Path | None) -> None:
        """Let it map a file, or let go of the one that is mapped."""
        assert self._process.stdin
        self._process.stdin.write(f"{path or ''}\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Return its next line."""
        assert self._process.stdout
        line = self._process.stdout.readline().strip()
        assert line, "a process that maps files has ended"
        return line

    def pss_bytes(self) -> int:
        """Return its share of mapped tmpfs pages."""
        return shared_pss_bytes(self._process.pid)

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate(timeout=LIMIT_SECONDS)


@contextmanager
def reading(count: int) -> Iterator[list[Reader]]:
    """Processes that have imported what they need; they are gone afterwards."""
    with ExitStack() as stack:
        started = []
        for _ in range(count):
            started.append(Reader())
            stack.callback(started[-1].kill)
        for reader in started:
            assert reader.answer() == "ready"
        yield started


def measure_mapped(found: Figures, readers: Sequence[Reader], file: Path, rounds: int) -> None:
    """Let N processes map a file of the store at once; memory is counted when all have read all of it."""
    for count in counts(len(readers)):
        chosen = readers[:count]
        for turn in range(rounds + 1):
            for reader in chosen:
                reader.ask(file)
            seconds = [float(reader.answer()) for reader in chosen]
            if turn:
                found.mapped_seconds[count] += seconds
                found.mapped_pss_bytes[count] += [reader.pss_bytes() for reader in chosen]
            for reader in chosen:
                reader.ask(None)
                reader.answer()


def shared_pss_bytes(pid: int) -> int:
    """Return a process's proportional share of mapped tmpfs pages."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Shmem:"))


class Runner:
    """A runner that is told to host an engine, or none."""

    def __init__(self, process: RunnerProcess) -> None:
        self._process = process
        self._revision = 0

    async def idle(self) -> None:
        """Wait until it has no engine, and imports nothing."""
        self._revision += 1
        self._process.assign(self._revision)
        await self._process.wait(
            lambda status: (
                not status.engines
                and status.revision == self._revision
                and (status.zygote is None or status.zygote.state is not ZygoteState.IMPORTING)
            ),
            LIMIT_SECONDS,
        )

    async def start(self, model: Path) -> float:
        """Start an engine of a folder, and return when its first token came."""
        self._revision += 1
        self._process.assign(self._revision, engine.assigned(KEY, model))
        return await first_token(self._process.http, self._process.api, KEY)

    async def load_seconds(self) -> float:
        """Return how long the stage WeightsLoaded took."""
        status = engine_of(await self._process.status(), KEY)
        assert status
        return sum(stage.milliseconds for stage in status.stages if stage.name is Stage.WEIGHTS_LOADED) / 1000

    def pss_bytes(self) -> int:
        """Return what the engine's processes hold."""
        (leader,) = [pid for pid in self._process.processes(f"/{KEY}.sock") if os.getpgid(pid) == pid]
        return process_group.pss_bytes(leader)


@asynccontextmanager
async def running_runners(directory: Path, count: int) -> AsyncIterator[list[Runner]]:
    """Runners that are ready to start engines."""
    async with AsyncExitStack() as running:
        started = []
        for number in range(count):
            folder = directory / f"runner-{number}"
            folder.mkdir()
            process = await running.enter_async_context(running_runner(folder, python=engine.RUNTIME_PYTHON))
            started.append(Runner(process))
            await started[-1].idle()
        yield started


async def measure_engines(
    directory: Path, found: dict[str, Figures], roots: dict[str, Path], most: int, rounds: int
) -> None:
    """Let N runners start an engine of the entry at once, each from a view; a first round is not counted.

    `roots` are the stores' folders by the option `huge` of their tmpfs.
    """
    async with running_runners(directory, most) as runners:
        for huge, root in roots.items():
            for count in counts(most):
                chosen = runners[:count]
                for turn in range(rounds + 1):
                    began = time.monotonic()
                    starts = (each.start(root / "views" / view_of(number) / KEY) for number, each in enumerate(chosen))
                    answered = await asyncio.gather(*starts)
                    if turn:
                        each = found[huge]
                        each.first_token_seconds[count].append(max(answered) - began)
                        each.load_seconds[count] += [await runner.load_seconds() for runner in chosen]
                        each.pss_bytes[count] += [runner.pss_bytes() for runner in chosen]
                        each.node_bytes[count].append(used_bytes(root))
                    await asyncio.gather(*(runner.idle() for runner in chosen))


def used_bytes(folder: Path) -> int:
    """Return what a file system holds."""
    system = os.statvfs(folder)
    return (system.f_blocks - system.f_bfree) * system.f_frsize


def measure(
    directory: Path, rounds: int, engine_rounds: int, most: int, console: Console
) -> tuple[int, dict[str, Figures]]:
    """Return the size of the model and what was measured, by the option `huge` of the tmpfs."""
    found: dict[str, Figures] = {}
    roots: dict[str, Path] = {}
    model = directory / "model"
    model.mkdir()
    weight_bytes = write_large_model(model)
    (directory / "disk").mkdir()
    with ExitStack() as opened:
        disk = opened.enter_context(Store(directory / "disk", TMPFS_BYTES, is_durable=True))
        asyncio.run(fetch(disk, model))
        readers = opened.enter_context(reading(most))
        for huge, pages in PAGES.items():
            memory = directory / huge
            memory.mkdir()
            opened.enter_context(mounted(memory, TMPFS_BYTES, huge))
            roots[huge] = memory / "store"
            roots[huge].mkdir()
            store = opened.enter_context(Store(roots[huge], TMPFS_BYTES // 2))
            console.print(f"{pages} pages, {weight_bytes // MIB} MiB: cp, fetch, evict, promote")
            found[huge] = measure_transfers(memory, store, disk, model, rounds)
            console.print(f"{pages} pages: 1 to {most} processes map the entry")
            measure_mapped(found[huge], readers, roots[huge] / "entries" / KEY / "model.safetensors", rounds)
            for number in range(most):
                store.link(view_of(number), KEY)
        for reader in readers:
            reader.kill()
        console.print(f"{most} runners import vLLM, then 1 to {most} engines start at once")
        asyncio.run(measure_engines(directory, found, roots, most, engine_rounds))
    return weight_bytes, found


def figures(weight_bytes: int, found: dict[str, Figures]) -> dict[str, object]:
    """Return what is written, by the names it is written under: medians. Those of 4 KiB pages say so at their end."""
    written: dict[str, object] = {"weight_bytes": weight_bytes, "rounds": len(found["always"].cp_seconds)}
    for huge, suffix in (("always", ""), ("never", "_4kib_pages")):
        each = found[huge]
        cp, fetched = statistics.median(each.cp_seconds), statistics.median(each.fetch_seconds)
        promoted = statistics.median(each.promote_seconds)
        values: dict[str, object] = {
            "store_over_cp": round(cp / fetched, 2),
            "cp_gigabytes_per_second": round(weight_bytes / cp / 1e9, 2),
            "fetch_gigabytes_per_second": round(weight_bytes / fetched / 1e9, 2),
            "promote_gigabytes_per_second": round(weight_bytes / promoted / 1e9, 2),
            "promote_seconds_median": round(promoted, 3),
            "evict_seconds_median": round(statistics.median(each.evict_seconds), 4),
            "mapped_seconds": by_count(each.mapped_seconds, 3),
            "mapped_pss_bytes_per_process": by_count(each.mapped_pss_bytes),
            "load_seconds": by_count(each.load_seconds, 3),
            "first_token_seconds": by_count(each.first_token_seconds, 3),
            "pss_bytes_per_runner": by_count(each.pss_bytes),
            "weights_bytes_on_node": by_count(each.node_bytes),
        }
        written |= {name + suffix: value for name, value in values.items()}
    return written


def by_count(values: dict[int, list[float]] | dict[int, list[int]], digits: int = 0) -> dict[str, float]:
    """Return the median of each N, rounded; a whole number without digits."""
    medians = {str(count): statistics.median(each) for count, each in values.items()}
    return {count: round(value, digits) if digits else int(value) for count, value in medians.items()}


def tables(weight_bytes: int, found: dict[str, Figures]) -> list[Table]:
    """Show the figures as people read them."""
    title = f"{weight_bytes // MIB} MiB of weights; medians of {len(found['always'].cp_seconds)}"
    copies = Table(title=title, title_justify="left")
    for heading in ("pages", "cp GB/s", "fetch GB/s", "fetch / cp", "promote GB/s", "evict ms"):
        copies.add_column(heading, justify="left" if heading == "pages" else "right")
    loads = Table(title="One model read by N at once", title_justify="left")
    for heading in (
        "pages",
        "N",
        "mapped s",
        "PSS MiB each",
        "loaded s",
        "first token s",
        "engine's PSS MiB",
        "node MiB",
    ):
        loads.add_column(heading, justify="left" if heading == "pages" else "right")
    loads.caption = "Engines without a GPU keep a copy of the weights of their own, where a GPU's memory would be."
    for huge, pages in PAGES.items():
        each = found[huge]
        cp, fetched = statistics.median(each.cp_seconds), statistics.median(each.fetch_seconds)
        rates = (weight_bytes / seconds / 1e9 for seconds in (cp, fetched))
        promoted = weight_bytes / statistics.median(each.promote_seconds) / 1e9
        evicted = statistics.median(each.evict_seconds) * 1000
        shown = [f"{rate:.2f}" for rate in (*rates, cp / fetched, promoted)]
        copies.add_row(pages, *shown, f"{evicted:.1f}")
        for count in each.mapped_seconds:
            seconds = [
                f"{statistics.median(values[count]):.2f}"
                for values in (each.mapped_seconds, each.load_seconds, each.first_token_seconds)
            ]
            memory = [
                str(int(statistics.median(values[count])) // MIB)
                for values in (each.mapped_pss_bytes, each.pss_bytes, each.node_bytes)
            ]
            loads.add_row(pages, str(count), seconds[0], memory[0], *seconds[1:], *memory[1:])
    return [copies, loads]


def main() -> int:
    """Measure, write and print the figures."""
    parser = argparse.ArgumentParser(description="Measure the weight store; needs root, as it mounts a tmpfs.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds that count (default: {ROUNDS})")
    parser.add_argument("--engine-rounds", type=int, default=2, help="the same of engines (default: 2)")
    parser.add_argument(
        "--runners", type=int, choices=(1, 2, 4, 8), default=RUNNERS, help=f"most at once (default: {RUNNERS})"
    )
    arguments = parser.parse_args()
    console = Console()
    rounds, engine_rounds = max(1, arguments.rounds), max(1, arguments.engine_rounds)
    # Ended politely it takes its mounts down too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with tempfile.TemporaryDirectory(prefix="warmfleet-bench-") as directory:
        weight_bytes, found = measure(Path(directory), rounds, engine_rounds, arguments.runners, Console(stderr=True))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(figures(weight_bytes, found), indent=2) + "\n")
    for table in tables(weight_bytes, found):
        console.print(table)
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
