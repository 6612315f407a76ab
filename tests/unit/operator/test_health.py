"""Health: a red answer says what is wrong, and for how long."""

import asyncio
import socket

import aiohttp
import pytest

from support.scripted import until
from warmfleet_kube.errors import BadSetting
from warmfleet_kube.health import Check, serve
from warmfleet_operator.metrics import Metrics


async def test_each_check_is_named_with_its_age_and_the_failing_one_makes_the_answer_red() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    checks = (
        Check("watch of pods", lambda: 200.0, 120.0, lambda: "connection refused"),
        Check("queue", lambda: 0.1, 60.0),
    )
    task = asyncio.create_task(serve(port, checks, lambda: (True, "ok leads"), Metrics().render))
    answers: dict[str, tuple[int, str]] = {}
    async with aiohttp.ClientSession() as session:

        async def ask() -> None:
            for path in ("/livez", "/readyz", "/metrics"):
                async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                    answers[path] = (response.status, await response.text())

        for _ in range(100):
            try:
                await ask()
                break
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    status, text = answers["/livez"]
    assert status == 503
    assert text.splitlines() == [
        "FAILED watch of pods: 200.0 s (limit 120 s) connection refused",
        "ok queue: 0.1 s (limit 60 s)",
    ]
    assert answers["/readyz"] == (200, "ok leads\n")
    assert "warmfleet_leader 0.0" in answers["/metrics"][1]


async def test_a_port_that_is_taken_is_said_to_be_so() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        task = asyncio.create_task(serve(port, (), lambda: (True, ""), Metrics().render))
        await until(task.done)
    with pytest.raises(BadSetting, match=f"WARMFLEET_PORT={port}: .*in use; set it to a free port"):
        task.result()
