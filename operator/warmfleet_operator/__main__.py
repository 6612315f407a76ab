"""The operator: `python -m warmfleet_operator`.

Where things happen: this module starts the process → `process.py` starts the tasks → `reconcile.py` is the loop's
body → `decide/schedule.py` and `decide/model.py` are the decisions, pure functions.

kopf gives the process: start-up, signals, clean-up in order, and the end of whatever hangs. It is given credentials
and nothing to watch. Its own watching is left alone on purpose: a watch of it that ends can leave a zombie
(nolar/kopf#1276), its index starts in quadratic time and keeps ghosts after a 410, and it has neither server-side
apply nor a leader's lease. Mirrors, queue and lease are in this package instead.
"""

import signal
import sys

# PID 1 of a container passes over a signal that nobody handles: without this a pod that is deleted while the imports
# below run would linger for all of its grace period.
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

import asyncio
import gc
import logging
from typing import Any

import kopf
import uvloop

from warmfleet_kube import credentials as kube_credentials
from warmfleet_kube.client import KubeClient, open_session
from warmfleet_kube.command import begin_log, cause, exit_code, take_arguments
from warmfleet_kube.credentials import Credentials
from warmfleet_kube.errors import (
    Forbidden,
    KubeError,
    NotFound,
    ProcessError,
    ServerError,
    TooManyRequests,
    Unreachable,
)
from warmfleet_operator.errors import NotInstalled
from warmfleet_operator.metrics import Metrics
from warmfleet_operator.process import Operator
from warmfleet_operator.resources import MODEL_DEPLOYMENTS
from warmfleet_operator.settings import VERSION, Settings, load

logger = logging.getLogger("warmfleet_operator")

STOP_SECONDS = 20.0
"""Time for a clean end after a signal; what hangs longer is killed."""
FIRST_CONTACT_SECONDS = 30.0
"""How long the API server may be out of reach at the start."""
FIRST_CONTACT_RETRY_SECONDS = 1.0


def main() -> int:
    """Run until a signal; return the exit code."""
    take_arguments("warmfleet_operator", "Runs Warmfleet's operator until a signal ends it.", Settings, VERSION)
    return exit_code("warmfleet-operator", _start)


def _start() -> None:
    settings = load()
    begin_log(settings.log_level)
    # kopf's own steps are of interest to kopf's users; ours are told by our loggers.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLevelName(settings.log_level)))
    calm_the_collector()
    uvloop.run(_run(settings))


def calm_the_collector() -> None:
    """Look for cycles less often, and not among what lives as long as the process: a seventh of a round's cost."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _run(settings: Settings) -> None:
    """Run the operator inside kopf.

    Raises:
        ProcessError: what ended it, unless it was a signal.
    """
    credentials = kube_credentials.load(settings.kubeconfig)
    metrics = Metrics()
    async with open_session(credentials) as session:
        client = KubeClient(
            credentials, session, metrics.kube, request_seconds=settings.request_seconds, agent="warmfleet-operator"
        )
        await _first_contact(client, credentials)
        operator = Operator(client, settings, metrics)
        stop = asyncio.Event()
        registry, started = _registry(operator, credentials, stop)
        await kopf.operator(
            registry=registry, settings=_kopf_settings(), standalone=True, clusterwide=True, stop_flag=stop
        )
        for task in started:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise cause(error, logger)


async def _first_contact(client: KubeClient, credentials: Credentials) -> None:
    """Ask for what everything else needs, so that a person's mistake is said in one line.

    Raises:
        NotInstalled: CRDs or rights are missing.
        ProcessError: the API server can't be reached.
    """
    trouble = "no answer"
    try:
        async with asyncio.timeout(FIRST_CONTACT_SECONDS):
            while True:
                try:
                    return await client.check(MODEL_DEPLOYMENTS)
                except (Unreachable, ServerError, TooManyRequests) as error:
                    trouble = str(error)
                    logger.warning("waiting for the Kubernetes API: %s", error)
                await asyncio.sleep(FIRST_CONTACT_RETRY_SECONDS)
    except NotFound as error:
        message = "the cluster does not know ModelDeployments; apply crds/ first: kubectl apply -k crds"
        raise NotInstalled(message) from error
    except Forbidden as error:
        raise NotInstalled(f"{error}; apply the operator's rights: kubectl apply -k manifests/base") from error
    except (KubeError, TimeoutError) as error:
        raise ProcessError(
            f"can't use the Kubernetes API at {credentials.server}: {str(error) or trouble}; try: kubectl cluster-info"
        ) from error


def _registry(
    operator: Operator, credentials: Credentials, stop: asyncio.Event
) -> tuple[kopf.OperatorRegistry, list[asyncio.Task[None]]]:
    """Return what kopf calls at start-up, login and clean-up, and the list that will hold the operator's task."""
    registry = kopf.OperatorRegistry()
    started: list[asyncio.Task[None]] = []

    @kopf.on.startup(registry=registry)
    async def start(**_: Any) -> None:
        task = asyncio.create_task(operator.run(), name="operator")
        task.add_done_callback(lambda _: stop.set())
        started.append(task)

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:
        session = open_session(credentials)
        session.headers.update(credentials.headers())
        return kopf.AiohttpSession(server=credentials.server, aiohttp_session=session)

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:
        for task in started:
            task.cancel()
            await asyncio.wait([task], timeout=STOP_SECONDS / 2)

    return registry, started


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = STOP_SECONDS
    return settings


if __name__ == "__main__":
    sys.exit(main())
