"""Clients that leave, wherever their request is by then, leave nothing behind."""

import asyncio
import random
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import generate_latest

from support.front import Front, running_front, until
from support.runner_process import RunnerProcess, engine_of, running_runner, simulated
from warmfleet_api.assignment import Serving, SimulatedEngine
from warmfleet_http.messages import Limits

ENDLESS = 100_000
SLOW = SimulatedEngine(load_milliseconds=0, initialize_milliseconds=0, first_token_milliseconds=5, tokens_per_second=20)
FAST = SimulatedEngine(
    load_milliseconds=0, initialize_milliseconds=0, first_token_milliseconds=1, tokens_per_second=100_000
)


def tasks_of_the_front() -> list[str]:
    """Names of the tasks that belong to requests."""
    return [name for task in asyncio.all_tasks() if (name := task.get_name()).startswith(("request", "generation"))]


async def leave(front: Front, chance: random.Random, **fields: Any) -> None:
    """Send a request and leave at some moment: before it started, before its first byte, or in the midst of it."""
    try:
        async with asyncio.timeout(chance.choice((0.001, 0.02, 0.1, 0.2))):
            async with front.ask(tokens=ENDLESS, **fields) as response:
                await response.read()
    except TimeoutError:
        return


async def test_two_thousand_cancelled_requests_leave_no_slot_task_or_descriptor(front: Front) -> None:
    await front.host(behaviour=SLOW, max_sequences=10, serving=Serving(merge_window_milliseconds=20, max_requests=500))
    assert await front.status_of() == 200
    before = descriptors()
    chance, seen = random.Random(1), {"waiting": 0, "at the engine": 0, "tasks": 0}
    for wave in range(20):
        kinds: list[dict[str, Any]] = [{"stream": True}, {}, {"stream": True, "seed": wave}, {"seed": wave}]
        leaving = [asyncio.create_task(leave(front, chance, **kinds[index % 4])) for index in range(100)]
        while not all(task.done() for task in leaving):
            seen["waiting"] = max(seen["waiting"], front.waiting())
            seen["at the engine"] = max(seen["at the engine"], front.at_engine())
            seen["tasks"] = max(seen["tasks"], len(tasks_of_the_front()))
            await asyncio.sleep(0.005)
        await asyncio.gather(*leaving)
    assert min(seen.values()) >= 10, f"control: requests left from everywhere: {seen}"
    await until(lambda: front.running() == 0 == front.waiting(), what="the front to be empty")
    await until(lambda: front.at_engine() == 0, seconds=1, what="the engine's slots to be free within a second")
    await until(lambda: not tasks_of_the_front(), what="all tasks to end")
    queue = front.api.admission.queues["m"]
    held = (queue._waiting, queue._running, queue._generations, queue._readers, queue.queue._entries)
    assert not any(held), held
    assert 'warmfleet_requests_in_flight{model="m"} 0.0' in generate_latest(front.registry).decode()
    assert await front.status_of() == 200
    await front.upstream.keep_only(set())
    connector = front.http.connector
    assert isinstance(connector, aiohttp.TCPConnector)
    await connector.close()
    await until(lambda: descriptors() <= before, what="all descriptors to be closed")


async def test_a_runner_forgets_requests_whose_clients_left(tmp_path: Path) -> None:
    async with running_runner(tmp_path) as runner:
        runner.assign(1, simulated("m", SLOW))
        await runner.wait_ready("m")
        (pid,) = runner.processes("warmfleet_runtime.front")
        before = descriptors(pid)
        leaving = [asyncio.create_task(leave_runner(runner, stream=index % 2 == 0)) for index in range(100)]
        await runner.wait(lambda status: (m := engine_of(status, "m")) is not None and m.running > 50)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await runner.wait_metric('warmfleet_requests_in_flight{model="m"}', 0)
        await runner.wait_metric('vllm:num_requests_running{model="m"}', 0, seconds=2)
        # Connections of this test's own client idle for a while.
        await until(lambda: descriptors(pid) <= before + 4, what="the front to close what the clients left open")


def descriptors(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def leave_runner(runner: RunnerProcess, *, stream: bool) -> None:
    async with runner.chat("m", tokens=ENDLESS, stream=stream) as response:
        await response.read()


@pytest.mark.parametrize("plain", [False, True])
async def test_a_client_that_never_reads_is_cut_and_frees_its_slot(tmp_path: Path, plain: bool) -> None:
    async with running_front(tmp_path, limits=Limits(write_seconds=0.3), plain=plain) as front:
        await never_read(front)


async def never_read(front: Front) -> None:
    await front.host(behaviour=FAST, max_sequences=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port, limit=1024)
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9999999, "stream": true}'
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    writer.write(head + body)
    await reader.readline()
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await until(lambda: front.at_engine() == 1, what="its generation to run")
    assert len(front.server.server_state.connections) == 1, "control: its connection is there"
    await until(lambda: front.at_engine() == 0 == front.running(), what="it to be cut")
    await until(lambda: not front.server.server_state.connections, what="its connection to be closed, unread as it is")
    assert await front.status_of() == 200, "the slot is free"
    writer.transport.abort()


async def test_a_slow_client_that_reads_at_all_gets_everything(front: Front) -> None:
    await front.host(behaviour=FAST)
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port, limit=1024)
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20000, "stream": true}'
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n")
    writer.write(b"content-length: %d\r\n\r\n" % len(body) + body)
    got = b""
    while piece := await reader.read(64 * 1024):
        got = got[-100:] + piece
        await asyncio.sleep(0.005)
    assert b"data: [DONE]" in got
    writer.close()
