"""Sleep in place of real vLLM on CPU: memory goes, everything else stays, and the model comes back as it was."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from model import tiny_llama
from support import engine
from support.runner_process import RunnerProcess
from support.waiting import PATIENCE
from warmfleet_api.assignment import EngineAssignment
from warmfleet_api.runner_status import EngineStatus, RunnerStatus
from warmfleet_api.vocabulary import DesiredState, EngineState, Launch, StartType, WakePolicy
from warmfleet_runtime.engines.vllm import environment_of
from warmfleet_runtime.engines.vllm_serve import serve_arguments

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

MIB = 1024 * 1024
ROUNDS = 50
BOUND_SECONDS = 60.0
PROMPTS = ("Hello we", "the sea of light", "before the night a ship", "up")


@dataclass(frozen=True)
class Served:
    """vLLM itself, on a socket."""

    process: int
    socket: Path
    folder: Path
    log: Path

    @asynccontextmanager
    async def client(self) -> AsyncIterator["Client"]:
        timeout = aiohttp.ClientTimeout(total=PATIENCE * BOUND_SECONDS)
        # vLLM closes the connection of a request that failed, which the next request would find out the hard way.
        connector = aiohttp.UnixConnector(str(self.socket), force_close=True)
        async with aiohttp.ClientSession("http://engine", connector=connector, timeout=timeout) as http:
            yield Client(http)

    def memory_bytes(self) -> int:
        """What the process group holds of its own, without what it shares."""
        return sum(_anonymous_bytes(path) for path in Path("/proc").glob("[0-9]*") if _group(path) == self.process)


@dataclass(frozen=True)
class Client:
    http: aiohttp.ClientSession

    async def post(self, path: str, body: Any = None) -> Any:
        async with self.http.post(path, json=body) as response:
            answer = await response.json()
            assert response.status == 200, answer
            return answer

    async def answers(self) -> list[Any]:
        """Greedy answers, with the logarithms of their tokens' probabilities: they differ where a weight does."""
        return [await self.answer(prompt) for prompt in PROMPTS]

    async def answer(self, prompt: str) -> Any:
        body = {"model": "m", "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True, "logprobs": 1}
        choice = (await self.post("/v1/completions", body))["choices"][0]
        return choice["text"], choice["logprobs"]["token_logprobs"]

    async def fall_asleep(self) -> None:
        await self.post("/sleep?level=1&mode=wait")

    async def wake_up(self) -> None:
        await self.post("/wake_up")


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Served]:
    """The tiny model, nothing compiled."""
    folder = tmp_path_factory.mktemp("eager")
    shutil.copytree(tiny, folder / "model")
    with served(folder, engine.assigned("m", folder / "model")) as running:
        yield running


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A model whose output layer is its embedding, compiled: its code has the tensors' addresses built in."""
    folder = tmp_path_factory.mktemp("compiled")
    write_tied_model(folder / "model")
    assigned = engine.assigned("m", folder / "model")
    args = tuple(each for each in assigned.engine.args if each != "--enforce-eager")
    spec = msgspec.structs.replace(assigned.engine, args=args)
    with served(folder, msgspec.structs.replace(assigned, engine=spec)) as running:
        yield running


async def test_weights_and_cache_are_freed_and_the_answers_stay(eager: Served) -> None:
    """The first test of its engine: after a wake, pages of the cache come back only as they are used."""
    async with eager.client() as client:
        before, awake = await client.answers(), eager.memory_bytes()
        await client.fall_asleep()
        asleep = eager.memory_bytes()
        await client.wake_up()
        assert await client.answers() == before
    # 64 MiB of KV cache, and 1 MiB of weights.
    assert awake - asleep > 60 * MIB


async def test_many_rounds_leave_nothing_behind(eager: Served) -> None:
    async with eager.client() as client:
        before = await client.answers()
        memory = []
        for _ in range(ROUNDS):
            await client.fall_asleep()
            memory.append(eager.memory_bytes())
            await client.wake_up()
            assert await client.answer(PROMPTS[0]) == before[0]
        assert await client.answers() == before
    # The weights alone would be 1 MiB in each round.
    assert memory[-1] - memory[4] < 10 * MIB


async def test_requests_that_meet_a_sleeping_engine_wait_in_it(eager: Served) -> None:
    async with eager.client() as client:
        before = await client.answers()
        await client.fall_asleep()
        waiting = [asyncio.create_task(client.answer(prompt)) for prompt in PROMPTS]
        left, _ = await asyncio.wait(waiting, timeout=1.0)
        assert not left
        await client.wake_up()
        assert [await each for each in waiting] == before


async def test_sleep_and_wake_said_twice_are_said_once(eager: Served) -> None:
    async with eager.client() as client:
        before = await client.answers()
        await asyncio.gather(client.fall_asleep(), client.fall_asleep())
        await asyncio.gather(client.wake_up(), client.wake_up())
        assert await client.answers() == before


async def test_answers_tell_when_weights_are_lost_and_a_wake_brings_them_back(eager: Served) -> None:
    async with eager.client() as client:
        before = await client.answers()
        async with client.http.post("/collective_rpc", json={"method": "reset_weights"}) as response:
            assert response.status == 200
        await client.post("/reset_prefix_cache")
        assert await client.answers() != before
        await client.fall_asleep()
        await client.wake_up()
        assert await client.answers() == before


async def test_other_weights_under_the_same_stamps_do_not_wake(compiled: Served) -> None:
    """The first test of its engine: the first wake is the one that looks at the weights."""
    weights = compiled.folder / "model.safetensors"
    stamps, content = weights.stat(), weights.read_bytes()
    async with compiled.client() as client:
        before = await client.answers()
        await client.fall_asleep()
        rewrite(weights, content[:-1] + bytes([content[-1] ^ 1]), stamps)
        async with client.http.post("/wake_up") as response:
            assert response.status == 500
        assert "the weights loaded on wake differ from those before sleep" in compiled.log.read_text()
        rewrite(weights, content, stamps)
        await client.wake_up()
        assert await client.answers() == before


async def test_a_model_that_is_compiled_and_tied_comes_back_too(compiled: Served) -> None:
    async with compiled.client() as client:
        before = await client.answers()
        for _ in range(3):
            await client.fall_asleep()
            await client.wake_up()
            assert await client.answers() == before


async def test_a_model_whose_files_changed_does_not_wake(compiled: Served) -> None:
    """The last test of its engine."""
    async with compiled.client() as client:
        await client.fall_asleep()
        weights = compiled.folder / "model.safetensors"
        other = weights.with_suffix(".new")
        shutil.copy(weights, other)
        other.rename(weights)
        async with client.http.post("/wake_up") as response:
            assert response.status == 500
    assert "the model's files changed while it slept" in compiled.log.read_text()


async def test_a_forked_engine_sleeps_when_idle_and_a_request_wakes_it(runner: RunnerProcess, tiny: Path) -> None:
    # Its last word counts: a cache so large that what else an engine takes and gives meanwhile is small beside it.
    engine_ready = engine.assigned("m", tiny, "--kv-cache-memory-bytes", str(256 * MIB))
    runner.assign(1, engine_ready)
    awake = told(await runner.wait_ready("m", seconds=engine.START_SECONDS))
    before = await completion(runner)
    drowsy = {"state": DesiredState.ASLEEP, "wake": WakePolicy.ON_REQUEST, "idle_seconds": 1}
    runner.assign(2, msgspec.structs.replace(engine_ready, **drowsy))
    slept = await runner.wait(lambda status: told(status).asleep_memory_bytes > 0, BOUND_SECONDS)
    asleep = told(slept)
    assert asleep.state is EngineState.ASLEEP
    assert awake.launch is Launch.FORK
    assert asleep.asleep_memory_bytes < asleep.awake_memory_bytes - 240 * MIB
    assert await completion(runner) == before
    woken = told(await runner.status())
    assert (woken.state, woken.start_type) == (EngineState.READY, StartType.HOT)


async def completion(runner: RunnerProcess) -> Any:
    body = {"model": "m", "prompt": PROMPTS[0], "max_tokens": 12, "temperature": 0, "logprobs": 1}
    async with runner.http.post(runner.api + "/v1/completions", json=body) as response:
        answer = await response.json()
        assert response.status == 200, answer
        return answer["choices"][0]["text"], answer["choices"][0]["logprobs"]["token_logprobs"]


def told(status: RunnerStatus) -> EngineStatus:
    (only,) = status.engines
    return only


def rewrite(path: Path, content: bytes, stamps: os.stat_result) -> None:
    """Change what a file holds, and nothing that is told of it."""
    path.write_bytes(content)
    os.utime(path, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))


def write_tied_model(folder: Path) -> None:
    """Write the tiny model with one matrix for its first and its last layer."""
    folder.mkdir()
    tiny_llama.write_model(folder)
    tensors = tiny_llama.weights()
    del tensors["lm_head.weight"]
    config = {**tiny_llama.config(), "tie_word_embeddings": True}
    (folder / "model.safetensors").write_bytes(tiny_llama.safetensors(tensors))
    (folder / "config.json").write_text(json.dumps(config))


@contextmanager
def served(folder: Path, assigned: EngineAssignment) -> Iterator[Served]:
    """Serve an engine as a runner would, and end all of it."""
    socket, log = folder / "s", folder / "log"
    command = [engine.RUNTIME_PYTHON, "-m", "vllm.entrypoints.cli.main", *serve_arguments(assigned, socket)]
    # The engine gets a home of its own, in which the image's environment would not be found.
    cache = os.environ.get("WARMFLEET_CACHE") or str(Path.home() / ".cache" / "warmfleet")
    environment = {**os.environ, **environment_of("m", (), folder / "cache"), "WARMFLEET_CACHE": cache}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + engine.START_SECONDS
        while not (socket.exists() and "Application startup complete" in log.read_text()):
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.25)
        yield Served(process.pid, socket, Path(assigned.engine.folder), log)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(BOUND_SECONDS)


def _group(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[2])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _anonymous_bytes(path: Path) -> int:
    try:
        lines = (path / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))
