"""`make bench-drain`: `kubectl drain` of one node after the other while requests come, as in an upgrade of the nodes.

On the nodes are a model with one replica, one with two, a pool's runner with several models, one of them asleep, and
routers and operators. Each drain has to end by itself, without a request that is lost, and without a model's last Ready
engine being taken. The controls drain without the budget: with grace, which takes last Ready engines, and without any,
which has to lose streams.
"""

import argparse
import heapq
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from bench import figures
from bench.phases import CALM_SECONDS, Phases, Progress, report
from bench.traffic import Summary, mixed, traffic, wait_answered
from support.cluster import REPOSITORY, Cluster
from support.front_door import service_address, wait_routers
from support.kubeapi import Object
from support.leading import wait_operators
from support.models import simulated
from support.namespace import Namespace, new_name
from support.pools import warm_pool
from support.ready_watch import ReadyWatch, watching
from support.real_cluster import model_folder, operator_log, real_cluster
from warmfleet_api import names

RESULT = REPOSITORY / "build" / "bench" / "drain.json"
SINGLE, DOUBLE = "single", "double"
POOLED = ("pooled-0", "pooled-1", "pooled-2")
SLEEPER = "sleeper"
LAST = (SINGLE, *POOLED)
"""Models of one replica: their only engine is the last Ready one."""
SERVING = {SINGLE: 1, DOUBLE: 2, **dict.fromkeys(POOLED, 1)}
TOKENS = 12
WAIT_SECONDS = 300
DRAIN_SECONDS = 240
BEHAVIOUR = {"loadMilliseconds": 200, "firstTokenMilliseconds": 20, "tokensPerSecond": 10}
"""Slow, so that streams outlast the second that the last control gives them."""
ORDINARY = ("--ignore-daemonsets", "--delete-emptydir-data")
UNPROTECTED = (*ORDINARY, "--disable-eviction")
TORN = (*UNPROTECTED, "--grace-period=1")
DRAINED = "drained"
CONTROL_UNPROTECTED = "control: without the budget"
CONTROL_TORN = "control: without budget and grace"
console = Console()


@dataclass(frozen=True, slots=True)
class Drain:
    """One node that was drained."""

    how: str
    node: str
    seconds: float
    """Until `kubectl drain` had ended."""
    runners: int
    """That were on it."""
    least_ready_single: int
    least_ready_double: int
    least_ready_pooled: int
    """Of the model of the pool that had the fewest."""


@dataclass(frozen=True, slots=True)
class Run:
    """A cluster under requests, and who serves there."""

    cluster: Cluster
    namespace: Namespace
    phases: Phases
    ready: dict[str, ReadyWatch]

    def drain(self, how: str, node: str) -> Drain:
        """Drain a node, note what it did to the models, and give the node back."""
        cluster, namespace, name = self.cluster, self.namespace, f"{how}: {node}"
        options = {DRAINED: ORDINARY, CONTROL_UNPROTECTED: UNPROTECTED, CONTROL_TORN: TORN}[how]
        runners = sum(each["spec"].get("nodeName") == node for each in namespace.runners())
        try:
            with self.phases.phase(name):
                time.sleep(CALM_SECONDS)  # what is on its way when the drain begins counts to it
                begun = time.monotonic()
                timeout = f"--timeout={DRAIN_SECONDS}s"
                cluster.kubectl("drain", node, *options, timeout, bound_seconds=DRAIN_SECONDS + 30)
                seconds = time.monotonic() - begun
                wait_whole(namespace)
            least = {model: each.least_serving(*self.phases.spans[name]) for model, each in self.ready.items()}
        finally:
            cluster.kubectl("uncordon", node)
        wait_routers(cluster, WAIT_SECONDS)
        wait_operators(cluster)
        pooled = min(least[model] for model in POOLED)
        found = Drain(how, node, round(seconds, 1), runners, least[SINGLE], least[DOUBLE], pooled)
        console.print(f"    {found.seconds} s, {runners} runners, least Ready {least}", highlight=False)
        return found


def wait_whole(namespace: Namespace) -> None:
    """Wait until all models and the pool have what they want."""
    namespace.wait_pool("pool", within=WAIT_SECONDS)
    namespace.wait_ready(*SERVING, within=WAIT_SECONDS)


def fullest(namespace: Namespace, without: Sequence[str] = ()) -> str:
    """Return the node with the most last Ready engines, others preferred to those in `without`."""
    last: Counter[str] = Counter()
    for runner in namespace.runners():
        labels = runner["metadata"]["labels"]
        last[runner["spec"]["nodeName"]] += sum(labels.get(names.serve_label(model)) == "Ready" for model in LAST)
    return max(last, key=lambda node: (node not in without, last[node], node))


def objects() -> list[Object]:
    """Return what stands on the nodes."""
    models = [
        simulated(SINGLE),
        simulated(DOUBLE, replicas=2),
        *(simulated(name, pools=["pool"]) for name in POOLED),
        simulated(SLEEPER, pools=["pool"], idle={"afterSeconds": 10}),
    ]
    for each in models:
        each["spec"]["engine"]["simulated"] |= BEHAVIOUR
    return [warm_pool("pool", cpu="100m", memory="6Gi", maxEngines=8), *models]


def drain_all(
    cluster: Cluster, namespace: Namespace, rate: float, nodes: int
) -> tuple[list[Drain], dict[str, Summary]]:
    """Drain nodes one after the other under the whole rate, then the controls."""
    namespace.apply(*objects())
    wait_whole(namespace)
    namespace.wait_condition(SLEEPER, "Ready", "True", "Asleep", within=WAIT_SECONDS)
    arrivals = heapq.merge(
        *(mixed(f"{namespace.name}/{model}", rate / len(SERVING), tokens=TOKENS) for model in SERVING),
        key=lambda each: each[0],
    )
    found: list[Drain] = []
    with (
        watching(namespace, *SERVING) as ready,
        traffic(service_address(cluster), names.SERVICE_PORT, arrivals, Progress(console, "drains")) as seen,
    ):
        run = Run(cluster, namespace, Phases(seen, console), ready)
        wait_answered(seen, 10, WAIT_SECONDS)
        for how in (*[DRAINED] * nodes, CONTROL_UNPROTECTED, CONTROL_TORN):
            done = [each.node for each in found] if how == DRAINED else []
            found.append(run.drain(how, fullest(namespace, done)))
    return found, run.phases.summaries()


def main() -> int:
    """Bring a cluster up, measure, write and print the figures."""
    arguments = argparse.ArgumentParser(prog="bench.drain", description=__doc__.splitlines()[0])
    arguments.add_argument("--rate", type=float, default=100.0, help="requests a second")
    arguments.add_argument("--nodes", type=int, default=3, help="how many are drained, one after the other")
    chosen = arguments.parse_args()
    with model_folder("bench-drain") as models, real_cluster("bench-drain", models) as cluster:
        namespace = Namespace(cluster, new_name("drain"), lambda: operator_log(cluster))
        namespace.create()
        try:
            found, summaries = drain_all(cluster, namespace, chosen.rate, chosen.nodes)
        finally:
            namespace.delete()
    broken = broken_promises(found, summaries)
    figures.show(console, "Drained nodes", found)
    for each in broken:
        console.print(f"does not hold: {each}")
    ordinary = [each for each in found if each.how == DRAINED]
    settings = {
        "rate_per_second": chosen.rate,
        "drain_seconds_p50": round(statistics.median(each.seconds for each in ordinary), 1),
        "drain_seconds_max": max(each.seconds for each in ordinary),
        "failed_requests": sum(each.lost for name, each in summaries.items() if name.startswith(DRAINED)),
        "drains": [
            {
                "how": each.how,
                "node": each.node,
                "seconds": each.seconds,
                "runners": each.runners,
                "least_ready": {
                    SINGLE: each.least_ready_single,
                    DOUBLE: each.least_ready_double,
                    "pooled": each.least_ready_pooled,
                },
            }
            for each in found
        ],
    }
    title = f"{chosen.rate:g} requests a second to {len(SERVING)} models, three of four streams"
    report(console, RESULT, title, summaries, settings)
    return 1 if broken else 0


def broken_promises(found: Sequence[Drain], summaries: dict[str, Summary]) -> list[str]:
    """Return what does not hold of what is promised, in words."""
    broken = [
        f"{name}: {each.lost} of {each.requests} lost"
        for name, each in summaries.items()
        if name.startswith(DRAINED) and each.lost
    ]
    for each in found:
        least = min(each.least_ready_single, each.least_ready_double, each.least_ready_pooled)
        if each.how == DRAINED and least < 1:
            broken.append(f"{each.how}: {each.node}: a model lost its last Ready engine")
    controls = [each for each in found if each.how != DRAINED]
    if all(min(each.least_ready_single, each.least_ready_pooled) > 0 for each in controls):
        broken.append("no control took a last Ready engine, so the budget says nothing")
    if not any(each.lost for name, each in summaries.items() if name.startswith(CONTROL_TORN)):
        broken.append(f"{CONTROL_TORN}: none lost, so the others say nothing")
    return broken


if __name__ == "__main__":
    sys.exit(main())
