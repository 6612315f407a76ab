"""`python -m warmfleet_runtime.front`: started by PID 1, which hands over its end of the link."""

import asyncio
import logging
import os
import signal
import socket
import sys
from datetime import UTC, datetime

import msgspec
import uvloop
from prometheus_client import CollectorRegistry, disable_created_metrics

from warmfleet_api import names
from warmfleet_http.collector import calm_the_collector
from warmfleet_http.server import asgi_server, bind, server
from warmfleet_http.slices import ask_for_short_slices
from warmfleet_runtime import config, link, logs
from warmfleet_runtime.front.api import LIMITS, Api
from warmfleet_runtime.front.board import Board
from warmfleet_runtime.front.collectors import EngineCollector, QueueCollector, StartMetrics
from warmfleet_runtime.front.metrics import RequestMetrics
from warmfleet_runtime.front.probes import status_app
from warmfleet_runtime.front.relay import Relay
from warmfleet_runtime.front.sleeper import Sleeper
from warmfleet_runtime.front.upstream import Upstream
from warmfleet_runtime.front.warmup import WarmUps
from warmfleet_runtime.processes import die_with_parent


def main() -> None:
    """Serve both ports until SIGTERM, or until the supervisor is gone."""
    runner = config.parse(sys.argv[1:], prog="warmfleet_runtime.front")
    die_with_parent()
    logs.configure()
    calm_the_collector()
    if not ask_for_short_slices():
        logging.getLogger("front").info("the kernel gives no short slices: answers may wait for the engines' turns")
    uvloop.run(serve(runner, socket.socket(fileno=link.DESCRIPTOR)))


async def serve(runner: config.RunnerConfig, end: socket.socket) -> None:
    """Serve until SIGTERM or the end of the link."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    board = Board(runner_of=os.environ.get(names.ENV_RUNNER_OF, ""))
    upstream, registry = Upstream(), CollectorRegistry()
    sleeper = Sleeper(board, upstream)
    registry.register(EngineCollector(board))
    request_metrics, start_metrics = RequestMetrics(registry), StartMetrics(registry, datetime.now(UTC))
    requests = Api(board, Relay(upstream.pool), request_metrics)
    registry.register(QueueCollector(requests.admission))
    warm_ups = WarmUps(board, upstream, requests.admission)
    api = server(requests, limits=LIMITS, shutdown_seconds=runner.stop_seconds)
    status = asgi_server(status_app(board, registry, upstream), shutdown_seconds=runner.stop_seconds)
    reader, writer = await link.open_link(end)
    servers = [
        asyncio.create_task(each.serve([bind(runner.host, port)]), name=f"server {port}")
        for each, port in ((api, runner.api_port), (status, runner.status_port))
    ]

    async def listen() -> None:
        while line := await reader.readline():
            board.update(link.decode_table(line))
            models = {route.engine.model for route in board.table.routes.values()}
            request_metrics.keep_only(models)
            start_metrics.follow(board.table.starts, models)
            requests.follow()
            warm_ups.follow()
            sleeper.follow()
            await upstream.keep_only({(route.socket, route.attempt) for route in board.table.routes.values()})

    async def report() -> None:
        while True:
            writer.write(link.encode(board.report()))
            await writer.drain()
            await wait_at_most(board.changed, link.BEAT_SECONDS)
            board.changed.clear()

    talks = [asyncio.create_task(listen(), name="listen"), asyncio.create_task(report(), name="report")]
    end_now = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end_now.set)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, end_now.set)
    ending = asyncio.create_task(end_now.wait(), name="signal")
    await asyncio.wait({*talks, *servers, ending}, return_when=asyncio.FIRST_COMPLETED)
    api.should_exit = status.should_exit = True
    board.feed.close()
    await asyncio.gather(*servers, return_exceptions=True)
    for task in (*talks, ending):
        task.cancel()
    results = await asyncio.gather(*talks, ending, return_exceptions=True)
    await requests.close()
    await warm_ups.close()
    await sleeper.close()
    await upstream.close()
    writer.close()
    for result in results:
        if isinstance(result, (msgspec.MsgspecError, ValueError)):
            raise result


async def wait_at_most(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event, but not for longer."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


if __name__ == "__main__":
    main()
