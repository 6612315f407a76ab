"""The node agent: `python -m warmfleet_agent`.

Where things happen: this module starts the process → `agent.py` is the loop → `plan/` decides, pure → `work.py` and
`transfers.py` carry out, with `store/`, `sources/` and `csi/`.
"""

import signal
import sys

# PID 1 of a container passes over a signal that nobody handles: without this a pod that is deleted while the imports
# below run would linger for all of its grace period.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import asyncio
import logging
import os
import threading

from warmfleet_agent.agent import Agent
from warmfleet_agent.metrics import Metrics
from warmfleet_agent.records import NODE_CACHES
from warmfleet_agent.settings import VERSION, Settings, load
from warmfleet_kube import credentials as kube_credentials
from warmfleet_kube.client import KubeClient, open_session
from warmfleet_kube.command import begin_log, cause, exit_code, take_arguments
from warmfleet_kube.errors import Forbidden, KubeError, NotFound, ProcessError

logger = logging.getLogger("warmfleet_agent")

STOP_SECONDS = 8.0
"""Time for a clean end after a signal. A thread that reserves or frees much memory can't be hurried; what it leaves is
what a killed agent leaves, and the next one tidies up."""


def main() -> int:
    """Run until a signal; return the exit code."""
    take_arguments("warmfleet_agent", "Keeps the weights of one node until a signal ends it.", Settings, VERSION)
    return exit_code("warmfleet-agent", _start)


def _start() -> None:
    settings = load()
    begin_log(settings.log_level)
    asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    """Run the agent until a signal.

    Raises:
        ProcessError: what ended it, unless it was a signal.
    """
    credentials = kube_credentials.load(settings.kubeconfig)
    metrics = Metrics()
    async with open_session(credentials) as session:
        client = KubeClient(
            credentials, session, metrics.kube, request_seconds=settings.request_seconds, agent="warmfleet-agent"
        )
        await _first_contact(client, settings)
        logger.info("the agent of WeightCache %s on node %s", settings.cache or "(not said)", settings.node_name)
        agent = Agent(client, settings, metrics)
        running = asyncio.create_task(agent.run(), name="agent")

        def stop() -> None:
            logger.info("a signal ends the agent; whole entries stay")
            watchdog = threading.Timer(STOP_SECONDS, os._exit, (0,))
            watchdog.daemon = True
            watchdog.start()
            agent.end_transfers()
            running.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        try:
            await running
        except asyncio.CancelledError:
            return
        except Exception as error:
            raise cause(error, logger) from error


async def _first_contact(client: KubeClient, settings: Settings) -> None:
    """Say a person's mistake in one line; an API server that is away is waited for, the node's entries stay.

    Raises:
        ProcessError: CRDs or rights are missing.
    """
    try:
        await client.check(NODE_CACHES)
    except NotFound as error:
        raise ProcessError("the cluster does not know NodeCaches; apply crds/: kubectl apply -k crds") from error
    except Forbidden as error:
        raise ProcessError(f"{error}; apply the agents' rights: kubectl apply -k manifests/base") from error
    except KubeError as error:
        logger.warning("node %s: waiting for the Kubernetes API: %s", settings.node_name, error)


if __name__ == "__main__":
    sys.exit(main())
