"""The router: `python -m warmfleet_router`.

Where things happen: this module starts the process → `process.py` starts the tasks → `serve.py` is a request's way →
`dispatch.py` holds and gives out, `pick/` chooses, `forward.py` tries.
"""

import signal
import sys

# PID 1 of a container passes over a signal that nobody handles: without this a pod that is deleted while the imports
# below run would linger for all of its grace period.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import asyncio
import logging

import uvloop
from prometheus_client import disable_created_metrics

from warmfleet_http.collector import calm_the_collector
from warmfleet_http.slices import ask_for_short_slices
from warmfleet_kube import credentials as kube_credentials
from warmfleet_kube.client import KubeClient, open_session
from warmfleet_kube.command import begin_log, cause, exit_code, take_arguments
from warmfleet_router.metrics import Metrics
from warmfleet_router.process import RouterProcess
from warmfleet_router.settings import VERSION, Settings, load

logger = logging.getLogger("warmfleet_router")


def main() -> int:
    """Run until a signal; return the exit code."""
    take_arguments("warmfleet_router", "Routes requests to models until a signal ends it.", Settings, VERSION)
    return exit_code("warmfleet-router", _start)


def _start() -> None:
    settings = load()
    begin_log(settings.log_level)
    disable_created_metrics()  # type: ignore[no-untyped-call]
    calm_the_collector()
    if not ask_for_short_slices():
        logger.info("the kernel gives no short slices: on a busy node answers may wait for others' turns")
    uvloop.run(_run(settings))


async def _run(settings: Settings) -> None:
    """Run the router until a signal and the end of its requests.

    Raises:
        ProcessError: what ended it, unless it was a signal.
    """
    credentials = kube_credentials.load(settings.kubeconfig)
    metrics = Metrics()
    async with open_session(credentials) as session:
        client = KubeClient(
            credentials, session, metrics.kube, request_seconds=settings.request_seconds, agent="warmfleet-router"
        )
        process = RouterProcess(client, settings, metrics)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, process.stop)
        try:
            await process.run()
        except Exception as error:
            raise cause(error, logger) from error


if __name__ == "__main__":
    sys.exit(main())
