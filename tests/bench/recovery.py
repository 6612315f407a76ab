"""`make bench-recovery`: a model loses its pod, then its node; a free runner elsewhere has the weights in memory.

Real vLLM on three real nodes. A client asks all the time through the model's Service; measured is from the loss until
somebody answers again, as the client sees both, and how much of that passed before the operator took the old runner
for lost. A node is lost with the leading operator on another one, and with the leading operator on it.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from support.caches import Caches
from support.cluster import REPOSITORY, Cluster
from support.endpoint import base_url
from support.kubeapi import Object
from support.leading import lead_off, lead_on, leading_node, wait_operators
from support.models import vllm
from support.namespace import Namespace, new_name
from support.pools import warm_pool
from support.probe import probing
from support.real_cluster import model_folder, operator_log, real_cluster
from support.waiting import wait_for
from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState

RESULT = REPOSITORY / "build" / "bench" / "recovery.json"
ROUNDS = 3
POOL_SECONDS = 400
BOUND_SECONDS = 120
STEADY_SECONDS = 3.0
MODEL = "tiny-llama"
MEANINGS = {
    "seconds": "from the loss until somebody answers again (median)",
    "seconds_max": "the longest",
    "leader_seconds": "of it: until an operator on another node led (median)",
    "detection_seconds": "of it: until an engine elsewhere was assigned (median)",
    "after_detection_seconds": "of it: from there on (median)",
    "ready_to_answer_seconds": "of that: from the label Ready elsewhere on (median)",
}


@dataclass(frozen=True, slots=True)
class Loss:
    """A way to lose a runner."""

    lose: Callable[[Object], Callable[[], None]]
    """Loses that runner; returns what gives back what was taken."""
    takes_node: bool


@dataclass(frozen=True, slots=True)
class Outage:
    """What one loss cost; all in seconds since the last answer before it."""

    answered: float
    led: float
    assigned: float
    ready: float


def measure(
    cluster: Cluster, namespace: Namespace, loss: Loss, arrange: Callable[[str], None] = lambda _: None
) -> dict[str, float]:
    """Lose the runner that serves the model a few times, and return the figures by the names they are written under.

    `arrange` is told the node of that runner before each loss.
    """
    outages = []
    for number in range(ROUNDS):
        settle(namespace)
        arrange(serving_runner(namespace)["spec"]["nodeName"])
        settle(namespace)
        outages.append(outage_of(cluster, namespace, loss))
        Console(stderr=True, soft_wrap=True).print(f"{number + 1} of {ROUNDS}: {outages[-1]}")
    figures = {
        "seconds": [each.answered for each in outages],
        "leader_seconds": [each.led for each in outages],
        "detection_seconds": [each.assigned for each in outages],
        "after_detection_seconds": [each.answered - each.assigned for each in outages],
        "ready_to_answer_seconds": [each.answered - each.ready for each in outages],
    }
    medians = {name: round(statistics.median(values), 2) for name, values in figures.items()}
    return {**medians, "seconds_max": round(max(figures["seconds"]), 2)}


def outage_of(cluster: Cluster, namespace: Namespace, loss: Loss) -> Outage:
    """Lose the runner that serves the model once, and give back what was taken."""
    serving = serving_runner(namespace)
    node = serving["spec"]["nodeName"]

    def leads() -> bool:
        return leading_node(cluster) not in ({"", node} if loss.takes_node else {""})

    with probing(base_url(namespace, MODEL), MODEL) as probe:
        before = time.monotonic()
        restore = loss.lose(serving)
        led = seen(namespace, "an operator leads that is still there", leads)
        assigned = seen(namespace, "another runner hosts the model", lambda: hosted_elsewhere(namespace, serving))
        ready = seen(namespace, "another engine is Ready", lambda: ready_elsewhere(namespace, serving))
        probe.wait_steady(STEADY_SECONDS, BOUND_SECONDS)
        # Not from the command on: on a loaded machine it takes a while until the runner is lost.
        lost_at, answered = probe.longest_silence(before)
    restore()
    return Outage(answered - lost_at, max(0.0, led - lost_at), assigned - lost_at, ready - lost_at)


def seen(namespace: Namespace, what: str, condition: Callable[[], bool]) -> float:
    """Wait for something and return when it was seen, in monotonic seconds."""
    wait_for(what, condition, BOUND_SECONDS, namespace.explain)
    return time.monotonic()


def settle(namespace: Namespace) -> None:
    """Wait until the model serves and a second runner is free on another node."""
    namespace.wait_pool("default", within=POOL_SECONDS)
    namespace.wait_ready(MODEL, within=POOL_SECONDS)


def serving_runner(namespace: Namespace) -> Object:
    """Return the runner whose label says that it serves the model."""
    return next(each for each in namespace.runners("default") if _serves(each))


def ready_elsewhere(namespace: Namespace, former: Object) -> bool:
    """Whether another runner is said to serve the model."""
    return any(_serves(each) for each in namespace.runners("default") if _uid(each) != _uid(former))


def hosted_elsewhere(namespace: Namespace, former: Object) -> bool:
    """Whether another runner is told to host the model."""
    for runner in namespace.runners("default"):
        told = json.loads(runner["metadata"].get("annotations", {}).get(names.ANNOTATION_ASSIGNMENT, "{}"))
        if _uid(runner) != _uid(former) and any(engine["model"] == MODEL for engine in told.get("engines", ())):
            return True
    return False


def _serves(runner: Object) -> bool:
    return bool(runner["metadata"]["labels"].get(names.serve_label(MODEL)) == EngineState.READY)


def _uid(runner: Object) -> str:
    return str(runner["metadata"]["uid"])


def pod_loss(namespace: Namespace) -> Loss:
    """Return what kills a runner's pod without a word to it."""

    def lose(runner: Object) -> Callable[[], None]:
        namespace.kubectl("delete", "pod", runner["metadata"]["name"], "--force", "--grace-period=0")
        return lambda: None

    return Loss(lose, takes_node=False)


def node_loss(cluster: Cluster) -> Loss:
    """Return what takes the power from a runner's node, and gives it back afterwards."""

    def lose(runner: Object) -> Callable[[], None]:
        node = runner["spec"]["nodeName"]
        cluster.hack("kill-node", node)
        return lambda: _start_node(cluster, node)

    return Loss(lose, takes_node=True)


def _start_node(cluster: Cluster, node: str) -> None:
    cluster.hack("start-node", node)
    cluster.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=60s", bound_seconds=70)
    Caches(cluster).wait_ready()
    wait_operators(cluster)


def prepare(namespace: Namespace, models: Path) -> None:
    """Have a model serve in one of two runners, its weights in memory of both nodes."""
    namespace.apply(warm_pool("default", replicas=2, cpu="100m", memory="6Gi"))
    namespace.wait_pool("default", within=POOL_SECONDS)
    model = vllm(MODEL, f"{models}/tiny-llama", coldStart={"preloadNodes": 3}, priority="High")
    model["spec"]["resources"]["memory"] = "2Gi"
    namespace.apply(model)
    namespace.wait_ready(MODEL, within=POOL_SECONDS)
    Caches(namespace.cluster).wait_in_memory(model["spec"]["model"]["uri"], 3)


def main() -> int:
    """Bring a cluster up, measure, write and print the figures."""
    with model_folder("bench-recovery") as models, real_cluster("bench-recovery", models) as cluster:
        namespace = Namespace(cluster, new_name("recovery"), lambda: operator_log(cluster))
        namespace.create()
        prepare(namespace, models)
        losses = {
            "pod_killed": measure(cluster, namespace, pod_loss(namespace)),
            "node_off_leader_elsewhere": measure(
                cluster, namespace, node_loss(cluster), lambda node: lead_off(cluster, node)
            ),
            "node_off_leader_on_it": measure(
                cluster, namespace, node_loss(cluster), lambda node: lead_on(cluster, node)
            ),
        }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(losses, indent=2) + "\n")
    table = Table(title=f"Loss of the runner that serves, {ROUNDS} times each", title_justify="left")
    table.add_column("figure")
    for loss in losses:
        table.add_column(loss.replace("_", " "), justify="right")
    table.add_column("meaning")
    for name, meaning in MEANINGS.items():
        table.add_row(name, *(f"{figures[name]:.2f}" for figures in losses.values()), meaning)
    console = Console()
    console.print(table)
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
