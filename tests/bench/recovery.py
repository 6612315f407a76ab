"""`make bench-recovery`: a model loses its pod, then its node; a free runner elsewhere has the weights in memory.

Real vLLM on three real nodes. A client asks all the time through the model's Service; measured is from the loss until
somebody answers again, and how much of that passed before the operator took the old runner for lost.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from support.caches import Caches
from support.cluster import REPOSITORY, Cluster
from support.endpoint import base_url
from support.kubeapi import Object
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
    "detection_seconds": "of it: until an engine elsewhere was assigned (median)",
    "after_detection_seconds": "of it: from there on (median)",
}


def measure(cluster: Cluster, namespace: Namespace, lose: Callable[[Object], Callable[[], None]]) -> dict[str, float]:
    """Lose the runner that serves the model a few times, and return the figures by the names they are written under."""
    outages, detections = [], []
    for _ in range(ROUNDS):
        settle(namespace)
        serving = runner_of(namespace, EngineState.READY)
        assert serving is not None
        with probing(base_url(namespace, MODEL), MODEL) as probe:
            lost_at = time.monotonic()
            restore = lose(serving)
            detections.append(assigned_elsewhere(namespace, serving) - lost_at)
            probe.wait_steady(STEADY_SECONDS, BOUND_SECONDS)
            outages.append(probe.longest_silence_seconds(lost_at))
        restore()
    after = [outage - detection for outage, detection in zip(outages, detections, strict=True)]
    return {
        "seconds": round(statistics.median(outages), 2),
        "seconds_max": round(max(outages), 2),
        "detection_seconds": round(statistics.median(detections), 2),
        "after_detection_seconds": round(statistics.median(after), 2),
    }


def settle(namespace: Namespace) -> None:
    """Wait until the model serves and a second runner is free on another node."""
    namespace.wait_pool("default", within=POOL_SECONDS)
    namespace.wait_ready(MODEL, within=POOL_SECONDS)


def runner_of(namespace: Namespace, state: str) -> Object | None:
    """Return the runner whose label says that of the model's engine."""
    label = names.serve_label(MODEL)
    runners = namespace.runners("default")
    return next((each for each in runners if each["metadata"]["labels"].get(label) == state), None)


def assigned_elsewhere(namespace: Namespace, former: Object) -> float:
    """Wait until another runner is told to host the model; return when that was seen."""

    def assigned() -> bool:
        for runner in namespace.runners("default"):
            told = json.loads(runner["metadata"].get("annotations", {}).get(names.ANNOTATION_ASSIGNMENT, "{}"))
            is_other = runner["metadata"]["uid"] != former["metadata"]["uid"]
            if is_other and any(engine["model"] == MODEL for engine in told.get("engines", ())):
                return True
        return False

    wait_for("another runner hosts the model", assigned, BOUND_SECONDS, namespace.explain)
    return time.monotonic()


def lose_pod(namespace: Namespace) -> Callable[[Object], Callable[[], None]]:
    """Return what kills a runner's pod without a word to it."""

    def lose(runner: Object) -> Callable[[], None]:
        namespace.kubectl("delete", "pod", runner["metadata"]["name"], "--force", "--grace-period=0")
        return lambda: None

    return lose


def lose_node(cluster: Cluster) -> Callable[[Object], Callable[[], None]]:
    """Return what takes the power from a runner's node, and gives it back afterwards."""

    def lose(runner: Object) -> Callable[[], None]:
        node = runner["spec"]["nodeName"]
        cluster.hack("kill-node", node)
        return lambda: _start_node(cluster, node)

    return lose


def _start_node(cluster: Cluster, node: str) -> None:
    cluster.hack("start-node", node)
    cluster.kubectl("wait", "--for=condition=Ready", f"node/{node}", "--timeout=60s", bound_seconds=70)
    Caches(cluster).wait_ready()


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
        pod = measure(cluster, namespace, lose_pod(namespace))
        node = measure(cluster, namespace, lose_node(cluster))
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"pod_killed": pod, "node_powered_off": node}, indent=2) + "\n")
    table = Table(title=f"Loss of the runner that serves, {ROUNDS} times each", title_justify="left")
    table.add_column("figure")
    table.add_column("pod killed", justify="right")
    table.add_column("node powered off", justify="right")
    table.add_column("meaning")
    for name, meaning in MEANINGS.items():
        table.add_row(name, f"{pod[name]:.2f}", f"{node[name]:.2f}", meaning)
    console = Console()
    console.print(table)
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
