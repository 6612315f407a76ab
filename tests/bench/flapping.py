"""`make bench-flapping`: a node loses its power for five seconds, again and again for five minutes.

Simulated engines in a WarmPool with a runner on each of six fake nodes, each node a zone of its own; a quarter of the
models each has a Hot, a Warm, a Cold standby elsewhere, and none. How often a model was told to serve in a runner where
it did not is read from the API server's audit log: once is a promotion, twice is thrash.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

import localcluster.cluster
from bench import figures
from bench.zone import Show, converge, served_in, zone_of
from localcluster.audit import AuditLog
from support import fleet
from support.cluster import REPOSITORY, Cluster
from support.kubeapi import Object
from support.lost_zone import POOL, STANDBYS, Zoned
from support.namespace import Namespace, new_name, settled
from support.operator import OperatorProcess
from support.storm import awake_in, bookings, given
from warmfleet_api import names
from warmfleet_api.assignment import decode

RESULT = REPOSITORY / "build" / "bench" / "flapping.json"
NODES, GPUS = 6, 8
SETTLE_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Row:
    """Models with one kind of standby that served on the node."""

    standby: str
    models: int
    starts_elsewhere: int
    """How often one of them was told to serve in a runner where it did not."""
    most_of_one_model: int


def flap(cluster: Cluster, zone: str, seconds: float, half_seconds: float, show: Show) -> int:
    """Take the node's power and give it back, over and over; return how often."""
    ends, times = time.monotonic() + seconds, 0
    bar = show.progress.add_task("seconds of flapping", total=round(seconds))
    local = localcluster.cluster.Cluster(cluster.name)
    while time.monotonic() < ends:
        local.kill_zone(zone)
        time.sleep(half_seconds)
        local.start_zone(zone)
        times += 1
        time.sleep(half_seconds)
        show.progress.update(bar, completed=round(seconds - max(0.0, ends - time.monotonic())))
    return times


def measure(cluster: Cluster, namespace: Namespace, zoned: Zoned, seconds: float, half: float) -> dict[str, object]:
    """Let the node flap where most models serve, and count."""
    show = Show()
    with show.progress:
        converge(namespace, zoned, show)
        runners = namespace.runners(POOL)
        zones = {each["metadata"]["name"]: zone_of(each) for each in cluster.api.list("api/v1/nodes")}
        flapping = max(runners, key=lambda each: len(served_in(each)))
        there, zone = set(served_in(flapping)), zones[flapping["spec"]["nodeName"]]
        before = {each["metadata"]["name"]: awake(each) for each in runners}
        log = AuditLog(cluster.audit_log)
        since = log.end()
        times = flap(cluster, zone, seconds, half, show)
        show.until(
            "models that serve in the end",
            zoned.models,
            lambda: sum(map(settled, namespace.models().values())),
            SETTLE_SECONDS,
            namespace.explain,
        )
    starts = given(bookings(log.requests(since), namespace.name), before)
    rows = [_row(standby, zoned, there, starts) for standby in STANDBYS]
    figures.show(Console(), f"A node that lost its power {times} times in {seconds:g} s", rows)
    others = {model: count for model, count in starts.items() if model not in there}
    return {
        "seconds": seconds,
        "power_offs": times,
        "models_there": len(there),
        "most_promotions_of_one_model": max((starts[each] for each in there), default=0),
        "starts_of_others": sum(others.values()),
        "rows": [asdict(each) for each in rows],
    }


def awake(runner: Object) -> frozenset[str]:
    """Return the models that a runner is told to serve."""
    told = runner["metadata"].get("annotations", {}).get(names.ANNOTATION_ASSIGNMENT, "")
    return frozenset(awake_in(decode(told)) if told else ())


def _row(standby: str, zoned: Zoned, there: set[str], starts: Counter[str]) -> Row:
    counts = [starts[each.name] for each in zoned.members() if each.name in there and each.standby == standby]
    return Row(standby, len(counts), sum(counts), max(counts, default=0))


def main() -> int:
    """Bring a fleet up, let a node flap, print and write the figures; 1 if a model was promoted twice, or none was."""
    parser = argparse.ArgumentParser(prog="make bench-flapping", description="A node that loses its power repeatedly.")
    parser.add_argument("--models", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long (default: %(default)g)")
    parser.add_argument("--half", type=float, default=5.0, help="seconds off, and seconds on (default: %(default)g)")
    arguments = parser.parse_args()
    zoned = Zoned(arguments.models, NODES, NODES, GPUS)
    with (
        tempfile.TemporaryDirectory() as directory,
        fleet.fleet_cluster("bench-flapping", zoned.nodes, zones=zoned.zones) as cluster,
        OperatorProcess(cluster.kubeconfig, Path(directory)) as operator,
    ):
        operator.wait_ready()
        namespace = Namespace(cluster, new_name("flapping"), operator.log_tail)
        namespace.create()
        found = measure(cluster, namespace, zoned, arguments.seconds, arguments.half)
    figures.write(RESULT, found)
    most = found["most_promotions_of_one_model"]
    if most != 1:
        wrong = "no model was promoted, so nothing was lost" if most == 0 else f"a model was promoted {most} times"
        Console(stderr=True).print(f"does not hold: {wrong}; read by which kind of standby in the table")
    return 0 if most == 1 else 1


if __name__ == "__main__":
    sys.exit(main())
