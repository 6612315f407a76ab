"""`make bench-operator`: 200 ModelDeployments on 100 fake nodes, from nothing to rest.

`--models 1000 --replicas 5 --gpus 0 --nodes 500` is the size of the budget: 5,000 runners on 500 nodes.

Measured is one operator process on this machine, beside the API server it talks to. Writes are counted in the API
server's audit log, renewals of the Lease left out.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from localcluster.audit import AuditLog
from support import fleet
from support.cluster import REPOSITORY, Cluster
from support.namespace import Namespace, new_name
from support.operator import OperatorProcess

RESULT = REPOSITORY / "build" / "bench" / "operator.json"
WITHIN_SECONDS = 1800
MEANINGS = {
    "converge_seconds": "from the first object applied until all are Ready",
    "api_writes": "writes of the operator meanwhile",
    "api_writes_at_rest": f"writes in {fleet.REST_SECONDS} s of rest",
    "api_writes_per_object_minute_at_rest": "the same per object and minute",
    "cpu_seconds": "processor time of the operator until all were Ready",
    "rss_bytes": "most memory the operator held",
}


def measure(cluster: Cluster, operator: OperatorProcess, models: int, replicas: int, gpus: int) -> dict[str, float]:
    """Let the fleet converge and rest, and return the figures by the names they are written under."""
    namespace = Namespace(cluster, new_name("bench"), operator.log_tail)
    namespace.create()
    log = AuditLog(cluster.audit_log)
    since, started, used = log.end(), time.monotonic(), operator.cpu_seconds()
    fleet.apply_fleet(namespace, models, replicas=replicas, gpus=gpus)
    fleet.wait_converged(namespace, WITHIN_SECONDS)
    figures = {
        "converge_seconds": round(time.monotonic() - started, 2),
        "cpu_seconds": round(operator.cpu_seconds() - used, 2),
    }
    fleet.wait_quiet(log)
    figures["api_writes"] = len(fleet.operator_writes(log, since))
    figures["api_writes_at_rest"] = len(fleet.writes_at_rest(log))
    at_rest = figures["api_writes_at_rest"] * 60 / fleet.REST_SECONDS / models
    figures["api_writes_per_object_minute_at_rest"] = round(at_rest, 4)
    figures["rss_bytes"] = operator.peak_rss_bytes()
    return figures


def main() -> int:
    """Bring a cluster up, measure, write and print the figures."""
    parser = argparse.ArgumentParser(prog="bench.operator", description="Let a fleet converge and rest.")
    parser.add_argument("--models", type=int, default=fleet.MODELS)
    parser.add_argument("--replicas", type=int, default=1, help="of each model")
    parser.add_argument("--gpus", type=int, default=fleet.GPUS_OF_A_MODEL, help="of each replica")
    parser.add_argument("--nodes", type=int, default=fleet.NODES)
    size = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        fleet.fleet_cluster("bench-operator", size.nodes) as cluster,
        OperatorProcess(cluster.kubeconfig, Path(directory)) as operator,
    ):
        operator.wait_ready()
        figures = measure(cluster, operator, size.models, size.replicas, size.gpus)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({name: figures[name] for name in MEANINGS}, indent=2) + "\n")
    title = f"{size.models} ModelDeployments of {size.replicas} replicas, {size.nodes} fake nodes"
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("meaning")
    for name, meaning in MEANINGS.items():
        table.add_row(name, f"{figures[name]:,}", meaning)
    console = Console()
    console.print(table)
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
