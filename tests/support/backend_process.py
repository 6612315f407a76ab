"""A backend for benchmarks of routers: OpenAI's API as cheap as it can be, so that what is measured is the router.

A request's body may say `stream: true`, with `max_tokens` events, one each `user` milliseconds, each with the moment at
which it was sent (`time.monotonic`, the same on the whole machine).
"""

import asyncio
import random
import signal
import socket
import sys
import time
from typing import Any

import msgspec
import uvloop

from warmfleet_http.answer import Answer
from warmfleet_http.collector import calm_the_collector
from warmfleet_http.messages import Limits, Request
from warmfleet_http.server import server

EVENTS = [(b"content-type", b"text/event-stream")]
WHOLE = msgspec.json.encode({"object": "chat.completion", "model": "m", "choices": [{"text": "token " * 20}]})
MODELS = msgspec.json.encode({"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}]})


class Body(msgspec.Struct):
    model: str = ""
    stream: bool = False
    max_tokens: int = 16
    user: str = "0"


async def handle(request: Request, answer: Answer) -> None:
    if request.method == "GET":
        answer.reply(200, MODELS if request.path == "/v1/models" else b"")
        return
    body = msgspec.json.decode(request.body, type=Body)
    if not body.stream:
        answer.reply(200, WHOLE, [(b"content-type", b"application/json")])
        return
    pause = float(body.user) / 1000
    answer.start(200, EVENTS)
    if pause:
        await asyncio.sleep(random.uniform(0, pause))
    for _ in range(body.max_tokens):
        answer.write(b'data: {"at": %.6f, "choices": [{"delta": {"content": "token"}}]}\n\n' % time.monotonic())
        await asyncio.sleep(pause)
    answer.write(b"data: [DONE]\n\n")
    answer.finish()


async def main(port: int) -> None:
    serving: Any = server(handle, shutdown_seconds=1, limits=Limits(idle_seconds=300))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, setattr, serving, "should_exit", True)
    await serving.serve([socket.create_server(("127.0.0.1", port), backlog=8192)])


if __name__ == "__main__":
    calm_the_collector()
    uvloop.run(main(int(sys.argv[1])))
