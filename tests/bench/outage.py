"""`make bench-outage`: the API server and the operator are away for five minutes while requests come.

The routers keep the table they have. In the middle one of them is killed, and kubelet starts it again without the API
server: it has to serve from what it wrote down before. Afterwards both come back, and the load goes on for a while.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import track

import localcluster.cluster
from bench.phases import Phases, report
from bench.traffic import Summary, mixed, traffic, wait_answered
from support.cluster import REPOSITORY, Cluster
from support.front_door import is_ready, kill_process, router_pods, service_address, wait_routers
from support.models import simulated
from support.namespace import Namespace, new_name
from support.real_cluster import model_folder, operator_log, real_cluster
from support.waiting import wait_for
from warmfleet_api import names

RESULT = REPOSITORY / "build" / "bench" / "outage.json"
REPLICAS = 2
TOKENS = 12
BEFORE_SECONDS = 10
AFTER_SECONDS = 60
RETURN_SECONDS = 300
MODEL = "steady"
OUTAGE = "from the outage on"
SUCCESS = 0.999
console = Console(width=120)


@contextmanager
def away(cluster: Cluster) -> Iterator[None]:
    """End the operators, then kill the API server; at the end both come back."""
    operator = ("--namespace", names.SYSTEM_NAMESPACE, "scale", "deployment/warmfleet-operator")
    cluster.kubectl(*operator, "--replicas=0")
    pods = f"api/v1/namespaces/{names.SYSTEM_NAMESPACE}/pods"
    selector = f"{names.LABEL_COMPONENT}=operator"
    wait_for("no operator runs", lambda: not cluster.api.list(pods, labelSelector=selector), RETURN_SECONDS)
    processes = localcluster.cluster.Cluster(cluster.name).processes()
    os.kill(next(each.pid for each in processes if each.name == "kube-apiserver" and each.pid), signal.SIGKILL)
    try:
        yield
    finally:
        cluster.hack("up", bound_seconds=RETURN_SECONDS)
        cluster.kubectl(*operator, "--replicas=2")


def measure(cluster: Cluster, namespace: Namespace, rate: float, seconds: float) -> dict[str, Summary]:
    """Send requests before, during and after the outage; return the figures of each time."""
    namespace.apply(simulated(MODEL, replicas=REPLICAS))
    namespace.wait_ready(MODEL, within=RETURN_SECONDS)
    restarted = router_pods(cluster)[0]
    arrivals = mixed(f"{namespace.name}/{MODEL}", rate, tokens=TOKENS)
    with traffic(service_address(cluster), names.SERVICE_PORT, arrivals) as seen:
        phases = Phases(seen, console)
        wait_answered(seen, 10, RETURN_SECONDS)
        with phases.phase("before", calm_seconds=0):
            _pass("before", BEFORE_SECONDS)
        with phases.phase(OUTAGE):
            with away(cluster):
                with phases.phase("away", calm_seconds=0):
                    _pass("API server and operator are away", seconds / 2)
                with phases.phase("away, a router killed", calm_seconds=0):
                    killed_at = time.monotonic()
                    kill_process(restarted, "warmfleet_router")
                    wait_for("the killed router is ready", lambda: is_ready(restarted), RETURN_SECONDS)
                    console.print(f"  a killed router is ready {time.monotonic() - killed_at:.1f} s later")
                    _pass("and a router was killed", seconds / 2 - (time.monotonic() - killed_at))
            with phases.phase("they come back", calm_seconds=0):
                wait_routers(cluster, RETURN_SECONDS)
                namespace.wait_ready(MODEL, within=RETURN_SECONDS)
                _pass("both are back", AFTER_SECONDS)
    return phases.summaries()


def _pass(what: str, seconds: float) -> None:
    for _ in track(range(max(0, round(seconds))), description=what, console=console, transient=True):
        time.sleep(1)


def main() -> int:
    """Bring a cluster up, measure, write and print the figures."""
    arguments = argparse.ArgumentParser(prog="bench.outage", description=__doc__.splitlines()[0])
    arguments.add_argument("--seconds", type=float, default=300.0, help="how long both are away")
    arguments.add_argument("--rate", type=float, default=50.0, help="requests a second")
    chosen = arguments.parse_args()
    with model_folder("bench-outage") as models, real_cluster("bench-outage", models) as cluster:
        namespace = Namespace(cluster, new_name("outage"), lambda: operator_log(cluster))
        namespace.create()
        try:
            found = measure(cluster, namespace, chosen.rate, chosen.seconds)
        finally:
            namespace.delete()
    title = f"API server and operator away for {chosen.seconds:g} s, {chosen.rate:g} requests a second"
    holds = found[OUTAGE].success >= SUCCESS
    if not holds:
        console.print(f"does not hold: {found[OUTAGE].success:.3%} answered {OUTAGE}, wanted {SUCCESS:.1%}")
    report(console, RESULT, title, found, {"away_seconds": chosen.seconds, "rate_per_second": chosen.rate})
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
