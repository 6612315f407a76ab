"""`make bench-zone`: 1,000 models on 500 fake nodes in three zones, and one zone loses its power.

Simulated engines in a WarmPool with a runner on each node; a quarter of the models each has a Hot, a Warm, a Cold
standby in another zone, and none. Packets to the zone's runners vanish at one moment and nobody renews its nodes'
leases; who is told to serve what, and when it is said to, is read from the API server's audit log. The same fleet goes
through the emulator. `--models`, `--nodes`, `--zones` and `--gpus` make it smaller or larger.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import localcluster.cluster
from bench import figures
from bench.figures import p
from localcluster.audit import AuditLog
from support import fleet
from support.cluster import REPOSITORY, Cluster
from support.kubeapi import Object
from support.lost_zone import NONE, POOL, STANDBYS, Member, Recovery, Zoned, overtaken, recoveries_in, recoveries_of
from support.namespace import Namespace, new_name, settled
from support.operator import OperatorProcess
from support.storm import bookings, double_bookings
from support.waiting import wait_for
from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState, Priority
from warmfleet_emulator.world import World
from warmfleet_operator.decide.schedule import schedule

RESULT = REPOSITORY / "build" / "bench" / "zone.json"
CONVERGE_SECONDS = 1800
RECOVER_SECONDS = 600
POLL_SECONDS = 2.0
POLL_SHARE = 0.2
"""Of the time may go into looking: a list of 1,000 models costs the API server more than what is measured."""
TABLE_WIDTH = 150


@dataclass(frozen=True, slots=True)
class Row:
    """Models of one class with one kind of standby; seconds since the loss, until the label said Ready elsewhere."""

    standby: str
    priority: str
    lost: int
    recovered: int
    placed_seconds_last: float | None
    ready_seconds_p50: float | None
    ready_seconds_last: float | None
    predicted_seconds_p50: float | None
    predicted_seconds_last: float | None


@dataclass(frozen=True, slots=True)
class Loss:
    """What came of the loss in the cluster."""

    lost: Sequence[Member]
    """Models that served in the zone."""
    recovered: Sequence[Recovery]
    inversions: Sequence[str]
    double_bookings: Sequence[str]


class Show:
    """Bars of how far each part has come, while an operator that ends is started again as its Deployment would."""

    def __init__(self) -> None:
        self.operator: OperatorProcess | None = None
        self.restarts = 0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.progress = Progress(*columns, console=Console(stderr=True))

    def until(self, what: str, total: int, count: Callable[[], int], within: float, explain: Callable[[], str]) -> None:
        """Wait until `count` is `total`."""
        bar = self.progress.add_task(what, total=total)

        def complete() -> bool:
            if self.operator is not None and not self.operator.running:
                self.operator.start()
                self.restarts += 1
            began = time.monotonic()
            done = count()
            self.progress.update(bar, completed=done)
            if done < total:
                time.sleep(max(POLL_SECONDS, (time.monotonic() - began) / POLL_SHARE))
            return done >= total

        wait_for(what, complete, within, explain)


def converge(namespace: Namespace, zoned: Zoned, show: Show) -> None:
    """Apply pool and models, and wait until all serve and all standbys stand by."""
    pool, models = zoned.objects()
    namespace.apply(pool)
    show.until("runners up", zoned.nodes, lambda: _up(namespace.pool(POOL)), CONVERGE_SECONDS, namespace.log_tail)
    namespace.apply(*models)
    show.until(
        "models with their standbys",
        zoned.models,
        lambda: sum(map(_stands, namespace.models().values())),
        CONVERGE_SECONDS,
        namespace.log_tail,
    )


def lose(cluster: Cluster, namespace: Namespace, zoned: Zoned, show: Show) -> Loss:
    """Cut the power of the first zone, and wait until every model with a standby elsewhere serves again."""
    zone = zoned.zone_names()[0]
    there = {each["metadata"]["name"] for each in cluster.api.list("api/v1/nodes") if zone_of(each) == zone}
    runners = [each for each in namespace.runners(POOL) if each["spec"].get("nodeName") in there]
    lost = {each["metadata"]["name"] for each in runners}
    serving = {model for each in runners for model in served_in(each)}
    members = [each for each in zoned.members() if each.name in serving]
    awaited = {each.name for each in members if each.standby != NONE}
    log = AuditLog(cluster.audit_log)
    since = log.end()
    localcluster.cluster.Cluster(cluster.name).kill_zone(zone)
    lost_at = datetime.now(UTC)

    def recovered() -> list[Recovery]:
        return recoveries_in(list(log.requests(since)), namespace.name, lost_at, members, lost)

    show.until(
        f"of {len(members)} models of {zone}, those with a standby",
        len(awaited),
        lambda: len({each.member.name for each in recovered()} & awaited),
        RECOVER_SECONDS,
        namespace.log_tail,
    )
    requests = list(log.requests(since))
    # A runner that is lost still has what it was told: what is given elsewhere meanwhile is no double booking.
    elsewhere = [each for each in bookings(requests, namespace.name) if each.runner not in lost]
    return Loss(members, recovered(), overtaken(requests, namespace.name, members, lost), double_bookings(elsewhere))


def predict(zoned: Zoned, show: Show) -> list[Recovery]:
    """Lose the zone of the same fleet in the emulator."""
    bar = show.progress.add_task("the emulator's prediction", total=1)
    outcome = World(zoned.scenario(), schedule, "ours").run()
    assert not outcome.problems, f"the emulated fleet broke what must hold: {outcome.problems[0]}"
    show.progress.update(bar, completed=1)
    return recoveries_of(outcome, zoned.members())


def rows_of(loss: Loss, predicted: Sequence[Recovery]) -> list[Row]:
    """Return a row for each kind of standby and class."""
    return [
        _row(standby, priority, loss, predicted)
        for standby in STANDBYS
        for priority in Priority
        if any(each.standby == standby and each.priority is priority for each in loss.lost)
    ]


def _row(standby: str, priority: Priority, loss: Loss, predicted: Sequence[Recovery]) -> Row:
    def mine(recoveries: Sequence[Recovery]) -> list[Recovery]:
        return [each for each in recoveries if (each.member.standby, each.member.priority) == (standby, priority)]

    ready = [each.ready_seconds for each in mine(loss.recovered)]
    foretold = [each.ready_seconds for each in mine(predicted)]
    return Row(
        standby=standby,
        priority=priority.value,
        lost=sum((each.standby, each.priority) == (standby, priority) for each in loss.lost),
        recovered=len(ready),
        placed_seconds_last=_last(each.placed_seconds for each in mine(loss.recovered)),
        ready_seconds_p50=p(ready, 0.5, 2),
        ready_seconds_last=_last(ready),
        predicted_seconds_p50=p(foretold, 0.5, 2),
        predicted_seconds_last=_last(foretold),
    )


def _last(seconds: Iterable[float]) -> float | None:
    return max((round(each, 2) for each in seconds), default=None)


def _up(pool: Object) -> int:
    return int(pool.get("status", {}).get("readyReplicas", 0))


def _stands(model: Object) -> bool:
    standby = model.get("status", {}).get("standby", {"readyReplicas": 0, "replicas": 0})
    return settled(model) and bool(standby.get("readyReplicas", 0) == standby["replicas"])


def zone_of(node: Object) -> str:
    """Return the zone of a node."""
    return str(node["metadata"].get("labels", {}).get(names.NODE_LABEL_ZONE, ""))


def served_in(runner: Object) -> list[str]:
    """Return the models that a runner serves, by its labels."""
    labels = runner["metadata"].get("labels", {}).items()
    found = (label.removeprefix(names.SERVE_LABEL_PREFIX) for label, state in labels if state == EngineState.READY)
    return [model for model in found if "/" not in model]


def main() -> int:
    """Bring a cluster up, lose a zone of it, print and write the figures."""
    parser = argparse.ArgumentParser(prog="bench.zone", description="Lose a zone of a large fleet of fake nodes.")
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=500)
    parser.add_argument("--zones", type=int, default=3)
    parser.add_argument(
        "--gpus", type=int, default=4, choices=range(1, 9), metavar="1..8", help="of each node's runner"
    )
    zoned = Zoned(**vars(parser.parse_args()))
    show = Show()
    with (
        show.progress,
        tempfile.TemporaryDirectory() as directory,
        fleet.fleet_cluster("bench-zone", zoned.nodes, zones=zoned.zones) as cluster,
        OperatorProcess(cluster.kubeconfig, Path(directory)) as operator,
    ):
        operator.wait_ready()
        show.operator = operator
        namespace = Namespace(cluster, new_name("zone"), operator.log_tail)
        namespace.create()
        begun = time.monotonic()
        converge(namespace, zoned, show)
        converged = time.monotonic() - begun
        loss = lose(cluster, namespace, zoned, show)
        rss = operator.peak_rss_bytes()
        show.operator = None
    with show.progress:
        predicted = predict(zoned, show)
    rows = rows_of(loss, predicted)
    with_standby = [each.ready_seconds for each in loss.recovered if each.member.standby != NONE]
    foretold = [each.ready_seconds for each in predicted if each.member.standby != NONE]
    console = Console(width=max(Console().width, TABLE_WIDTH))
    title = f"{zoned.models} models on {zoned.nodes} fake nodes in {zoned.zones} zones; one zone lost"
    figures.show(console, title, rows)
    for line in (*loss.inversions, *loss.double_bookings):
        console.print(line)
    totals = {
        "recovered_with_standby": len(with_standby),
        "inversions": len(loss.inversions),
        "double_bookings": len(loss.double_bookings),
        "last_seconds": _last(with_standby),
        "predicted_last_seconds": _last(foretold),
        "converge_seconds": round(converged, 1),
        "operator_rss_bytes": rss,
        "operator_restarts": show.restarts,
    }
    console.print(", ".join(f"{name} {value:,}" for name, value in totals.items()))
    figures.write(RESULT, {**asdict(zoned), **totals, "rows": [asdict(each) for each in rows]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
