"""`make bench-storm`: 100 starts of all classes for 10 GPUs on 500 fake nodes; then with the operator killed 5 times.

Simulated engines in a WarmPool of 10 runners with a GPU each. All starts wait before the first GPU is free; each model
goes as soon as it served, so its GPU is free for the next. Who got what when is read from the API server's audit log.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.load import percentile
from localcluster.audit import AuditLog
from support.cluster import REPOSITORY, Cluster
from support.fleet import fleet_cluster
from support.namespace import Namespace, new_name
from support.operator import OperatorProcess
from support.storm import Storm, Wish, bookings, double_bookings, empty_seconds, inversions, mixed

RESULT = REPOSITORY / "build" / "bench" / "storm.json"
NODES = 500
STARTS = 100
GPUS = 10
KILLS = 5
MEANINGS = {
    "starts": "models that were given a GPU",
    "inversions": "starts that were given a GPU while one of a higher class waited",
    "double_bookings": "GPUs that were given to two engines at once, models to two runners at once",
    "freed_to_given_seconds_p50": "from the moment a runner's engine was taken out until it was told the next",
    "freed_to_given_seconds_p99": "",
    "storm_seconds": "from the first GPU free until the last model had served",
}


def measure(cluster: Cluster, operator: OperatorProcess, kills: int) -> dict[str, float]:
    """Let one storm blow, and return the figures by the names they are written under."""
    namespace = Namespace(cluster, new_name("storm"), operator.log_tail)
    namespace.create()
    log = AuditLog(cluster.audit_log)
    since = log.end()
    storm = Storm(namespace, mixed(STARTS), GPUS)
    storm.begin()
    begun = datetime.now(UTC)
    every = STARTS // (kills + 1)
    disturb: Mapping[int, Callable[[], None]] = {every * (number + 1): operator.restart for number in range(kills)}
    storm.blow(disturb)
    seconds = (datetime.now(UTC) - begun).total_seconds()
    history = bookings(log.requests(since), namespace.name)
    wishes = {name: Wish(priority, begun) for name, priority in storm.models.items()}
    gaps = empty_seconds(history)
    for line in (*inversions(history, wishes), *double_bookings(history)):
        Console(stderr=True).print(line)
    namespace.delete()
    return {
        "starts": len({model for booking in history for model in booking.awake} & storm.models.keys()),
        "inversions": len(inversions(history, wishes)),
        "double_bookings": len(double_bookings(history)),
        "freed_to_given_seconds_p50": round(percentile(gaps, 0.5), 3),
        "freed_to_given_seconds_p99": round(percentile(gaps, 0.99), 3),
        "storm_seconds": round(seconds, 1),
    }


def main() -> int:
    """Bring a cluster up, measure, write and print the figures."""
    with (
        tempfile.TemporaryDirectory() as directory,
        fleet_cluster("bench-storm", NODES) as cluster,
        OperatorProcess(cluster.kubeconfig, Path(directory)) as operator,
    ):
        operator.wait_ready()
        undisturbed = measure(cluster, operator, 0)
        killed = measure(cluster, operator, KILLS)
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"undisturbed": undisturbed, f"killed_{KILLS}_times": killed}, indent=2) + "\n")
    title = f"{STARTS} starts for {GPUS} GPUs, {NODES} fake nodes"
    table = Table(title=title, title_justify="left")
    table.add_column("figure")
    table.add_column("undisturbed", justify="right")
    table.add_column(f"operator killed {KILLS} times", justify="right")
    table.add_column("meaning")
    for name, meaning in MEANINGS.items():
        table.add_row(name, f"{undisturbed[name]:,}", f"{killed[name]:,}", meaning)
    console = Console()
    console.print(table)
    console.print(str(RESULT.relative_to(REPOSITORY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
