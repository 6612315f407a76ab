"""The server of external metrics: `python -m warmfleet_external_metrics`.

Where things happen: this module starts the process → `process.py` starts the tasks → `registration.py` sees to it that
the API server sends requests here, and to no other's → `server.py` is a request's way.
"""

import signal
import sys

# PID 1 of a container passes over a signal that nobody handles: without this a pod that is deleted while the imports
# below run would linger for all of its grace period.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import asyncio
import logging

from warmfleet_external_metrics.metrics import Metrics
from warmfleet_external_metrics.process import ExternalMetrics
from warmfleet_external_metrics.settings import VERSION, Settings, load
from warmfleet_kube import credentials as kube_credentials
from warmfleet_kube.client import KubeClient, open_session
from warmfleet_kube.command import begin_log, cause, exit_code, take_arguments

logger = logging.getLogger("warmfleet_external_metrics")


def main() -> int:
    """Run until a signal; return the exit code."""
    what = "Serves external.metrics.k8s.io until a signal ends it."
    take_arguments("warmfleet_external_metrics", what, Settings, VERSION)
    return exit_code("warmfleet-external-metrics", _start)


def _start() -> None:
    settings = load()
    begin_log(settings.log_level)
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    """Run the server until a signal.

    Raises:
        ProcessError: what ended it, unless it was a signal.
    """
    credentials = kube_credentials.load(settings.kubeconfig)
    metrics = Metrics()
    async with open_session(credentials) as session:
        client = KubeClient(
            credentials,
            session,
            metrics.kube,
            request_seconds=settings.request_seconds,
            agent="warmfleet-external-metrics",
        )
        running = asyncio.create_task(ExternalMetrics(client, settings, metrics).run(), name="external metrics")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.cancel)
        try:
            await running
        except asyncio.CancelledError:
            return
        except Exception as error:
            raise cause(error, logger) from error


if __name__ == "__main__":
    sys.exit(main())
