"""`python -m warmfleet_runtime.player --kubeconfig PATH --cidr RANGE`."""

import argparse
import asyncio
import ipaddress
import itertools
import signal
from pathlib import Path

import aiohttp
import uvloop
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route

from warmfleet_api import names
from warmfleet_http.server import asgi_server, bind
from warmfleet_runtime import logs
from warmfleet_runtime.front.metrics import RequestMetrics
from warmfleet_runtime.front.status import StartsEndpoint, StatusEndpoint
from warmfleet_runtime.player import kubeconfig
from warmfleet_runtime.player.fleet import BEATS, Fleet, Network, RunnerPod
from warmfleet_runtime.player.watch import Watch, Watched, session

_SHUTDOWN_SECONDS = 2.0


def main() -> None:
    """Play until SIGTERM."""
    parser = argparse.ArgumentParser(prog="warmfleet_runtime.player", description="Play the runners of fake nodes.")
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--cidr", type=ipaddress.ip_network, required=True, help="addresses whose pods are played")
    parser.add_argument("--host", default="0.0.0.0", help="where to listen; all played addresses lead here")
    parser.add_argument("--api-port", type=int, default=names.API_PORT)
    parser.add_argument("--status-port", type=int, default=names.STATUS_PORT)
    arguments = parser.parse_args()
    logs.configure()
    access = kubeconfig.load(arguments.kubeconfig)
    uvloop.run(play(access, arguments.cidr, arguments.host, arguments.api_port, arguments.status_port))


async def play(access: kubeconfig.Access, network: Network, host: str, api_port: int, status_port: int) -> None:
    """Play until SIGTERM or SIGINT."""
    fleet = Fleet(network, RequestMetrics(CollectorRegistry()))
    status_app = Starlette(
        routes=[
            Route(names.PATH_STATUS, StatusEndpoint(fleet.find_feed)),
            Route(names.PATH_STARTS, StartsEndpoint(fleet.find_starts)),
        ]
    )
    servers = {
        asgi_server(fleet.api, shutdown_seconds=_SHUTDOWN_SECONDS): bind(host, api_port),
        asgi_server(status_app, shutdown_seconds=_SHUTDOWN_SECONDS): bind(host, status_port),
    }
    nodes = Watch("/api/v1/nodes", Watched, fleet.node_seen, fleet.node_gone, metadata_only=True)
    pods = Watch(
        "/api/v1/pods",
        RunnerPod,
        fleet.pod_seen,
        fleet.pod_gone,
        parameters={"labelSelector": names.LABEL_RUNNER},
    )
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)

    async def beat() -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        for part in itertools.cycle(range(BEATS)):
            fleet.beat(part)
            # By the clock: each runner has its heartbeat once a second, however long the parts take.
            due = max(due + 1 / BEATS, loop.time() - 1)
            await asyncio.sleep(due - loop.time())

    async with session(access) as http:
        serving = [asyncio.create_task(each.serve([listening])) for each, listening in servers.items()]
        following = [
            asyncio.create_task(nodes.run(http), name="nodes"),
            asyncio.create_task(_after(nodes.synced, pods, http), name="pods"),
            asyncio.create_task(beat(), name="heartbeats"),
        ]
        stop = asyncio.create_task(ending.wait(), name="signal")
        done, _ = await asyncio.wait({*serving, *following, stop}, return_when=asyncio.FIRST_COMPLETED)
        for each in servers:
            each.should_exit = True
        fleet.close()
        await asyncio.gather(*serving, return_exceptions=True)
        for task in (*following, stop):
            task.cancel()
        await asyncio.gather(*following, stop, return_exceptions=True)
    for task in done:
        task.result()


async def _after(synced: asyncio.Event, watch: Watch[RunnerPod], http: aiohttp.ClientSession) -> None:
    await synced.wait()
    await watch.run(http)


if __name__ == "__main__":
    main()
