"""`make bench-failover`: the node where a model serves loses its power under load, with each kind of standby and none.

Real vLLM on three real nodes. Clients ask all the time through a router; measured is from the last answer before the
power-off to the first one after it, as they see both, and how many of their requests failed. Hot and Warm stand by in a
pool with a runner on each node, Cold and none have runners of the model's own. Last the reference case: eight models on
one node that dies, with room for all of them in a second runner; first free room (Warm), then asleep in it (Hot).
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.figures import write
from bench.load import percentile
from bench.recovery import MODEL, node_loss
from support.caches import Caches
from support.cluster import REPOSITORY, Cluster
from support.crowd import Crowd, crowd, crowds
from support.front_door import host_router
from support.kubeapi import Object
from support.leading import lead_off, leading_node
from support.models import vllm
from support.namespace import Namespace, new_name
from support.pools import warm_pool
from support.real_cluster import model_folder, operator_log, real_cluster
from support.waiting import wait_for
from warmfleet_api import names
from warmfleet_api.vocabulary import EngineState

RESULT = REPOSITORY / "build" / "bench" / "failover.json"
ROUNDS = 10
SETTLE_SECONDS = 400
BACK_SECONDS = 120
"""Longest time to an answer that is waited for; a round that takes longer is an error."""
ANSWERS = 10
"""So many of each model are waited for after the power-off."""
MODES = ("hot", "warm", "cold", "none")
EIGHTS = {"eight": "Warm", "eight-hot": "Hot"}
EIGHT = [f"tiny-{number}" for number in range(8)]
REFERENCE_SECONDS = 60
REQUIRED_SECONDS = 15
TARGET_SECONDS = 5
_console = Console(stderr=True, soft_wrap=True)


@dataclass(slots=True)
class Figures:
    """What rounds of one kind gave."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    starts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Of each round, or of each of eight models, the milliseconds of the start's stages by name, and `total`."""

    def take(self, what: str, seconds: float, failures: list[str], start: dict[str, int]) -> None:
        """Add a round, or one of eight models, and print it."""
        self.seconds.append(seconds)
        self.failures += failures
        self.starts[what] = start
        _console.print(f"{what}: {seconds:.2f} s, {len(failures)} failed; start {start}")
        for each in failures[:3]:
            _console.print(f"  {each}")


def tiny(models: Path, name: str = MODEL, memory: str = "2Gi", **fields: Any) -> Object:
    """Return a small model of the folder."""
    made = vllm(name, f"{models}/tiny-llama", coldStart={"preloadNodes": 0}, priority="High", **fields)
    made["spec"]["resources"]["memory"] = memory
    return made


def serving_pod(namespace: Namespace, model: str) -> Object | None:
    """Return the runner's pod whose label says that it serves the model."""
    pods = namespace.api.list(f"{namespace.core_path}/pods")
    label = names.serve_label(model)
    return next((each for each in pods if each["metadata"].get("labels", {}).get(label) == EngineState.READY), None)


def stands_by(namespace: Namespace, model: str) -> bool:
    """Whether the status says that all that is to stand by does."""
    standby = namespace.model(model).get("status", {}).get("standby")
    return standby is not None and standby.get("readyReplicas", 0) == standby["replicas"]


def rounds_of(cluster: Cluster, namespace: Namespace, url: str, mode: str, rounds: int) -> Figures:
    """Take the power from the serving node a few times."""
    figures = Figures()
    for number in range(1, rounds + 1):
        settle(cluster, namespace, [MODEL], has_standby=mode != "none")
        with crowd(url, MODEL) as seen:
            restore, since = lose(cluster, namespace, MODEL)
            try:
                wait_back([seen])
            finally:
                restore()
        what = f"{mode} {number} of {rounds}"
        figures.take(what, seen.silence_from(since), seen.failures, last_start(namespace, MODEL))
    return figures


def settle(cluster: Cluster, namespace: Namespace, models: list[str], *, has_standby: bool) -> None:
    """Wait until the models serve and what is to stand by does, and no operator leads where they serve.

    The pool has all its runners by then, and every node its agent: what the former power-off left to be done would take
    the cores from what is measured.
    """
    if namespace.api.list(namespace.pools_path):
        namespace.wait_pool("default", within=SETTLE_SECONDS)
    Caches(cluster).wait_ready()
    for model in models:
        namespace.wait_ready(model, within=SETTLE_SECONDS)
        if has_standby:
            wait_for(
                f"{model} has its standby", partial(stands_by, namespace, model), SETTLE_SECONDS, namespace.explain
            )
    pod = serving_pod(namespace, models[0])
    assert pod is not None
    node = pod["spec"]["nodeName"]
    if leading_node(cluster) == node:
        lead_off(cluster, node)


def lose(cluster: Cluster, namespace: Namespace, model: str) -> tuple[Callable[[], None], float]:
    """Take the power from the node that serves; return what gives it back, and when it was taken at the earliest."""
    pod = serving_pod(namespace, model)
    assert pod is not None
    since = time.monotonic()
    return node_loss(cluster).lose(pod), since


def wait_back(crowds_: list[Crowd]) -> None:
    """Wait until everybody is answered what was asked after the power was gone."""
    gone = time.monotonic()
    wait_for(
        "answers after the power-off",
        lambda: all(each.answers_begun_after(gone) >= ANSWERS for each in crowds_),
        BACK_SECONDS,
        lambda: "\n".join(failure for each in crowds_ for failure in each.failures[-3:]),
    )


def eight(cluster: Cluster, namespace: Namespace, url: str, models: Path, standby: str) -> Figures:
    """Lose the node on which eight models serve, with all of them standing by in a runner elsewhere."""
    namespace.apply(warm_pool("default", replicas=1, cpu="100m", memory="14Gi", maxEngines=8))
    namespace.wait_pool("default", within=SETTLE_SECONDS)
    for name in EIGHT:
        namespace.apply(tiny(models, name, "1Gi", standby={"mode": standby}))
    for name in EIGHT:
        namespace.wait_ready(name, within=SETTLE_SECONDS)
    namespace.kubectl("scale", "wp/default", "--replicas=2")
    namespace.wait_pool("default", within=SETTLE_SECONDS)
    settle(cluster, namespace, EIGHT, has_standby=True)
    figures = Figures()
    with crowds(url, EIGHT) as seen:
        restore, since = lose(cluster, namespace, EIGHT[0])
        try:
            wait_back(list(seen.values()))
        finally:
            restore()
    for name, each in seen.items():
        figures.take(name, each.silence_from(since), each.failures, last_start(namespace, name))
    return figures


def last_start(namespace: Namespace, model: str) -> dict[str, int]:
    """Return the milliseconds of the stages of a model's last start, and `total`, once none is under way."""

    def told() -> Object | None:
        status = namespace.model(model)["status"]
        found: Object | None = status.get("lastStart") if "pendingStart" not in status else None
        return found

    last = namespace.wait(f"{model} tells of its start", told, SETTLE_SECONDS)
    stages = {stage["name"]: stage["milliseconds"] for stage in last.get("stages", ())}
    return {**stages, "total": last["durationMilliseconds"]}


def measure(cluster: Cluster, models: Path, modes: list[str], rounds: int) -> dict[str, Figures]:
    """Measure every mode in a namespace of its own."""
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder, host_router(cluster, Path(folder)) as router:
        for mode in modes:
            namespace = Namespace(cluster, new_name(f"failover-{mode}"), lambda: operator_log(cluster))
            namespace.create()
            if mode in EIGHTS:
                found[mode] = eight(cluster, namespace, f"{router}/v1", models, EIGHTS[mode])
            else:
                if mode in {"hot", "warm"}:
                    namespace.apply(warm_pool("default", replicas=3, cpu="100m", memory="4Gi"))
                    namespace.wait_pool("default", within=SETTLE_SECONDS)
                standby: dict[str, Any] = {} if mode == "none" else {"standby": {"mode": mode.capitalize()}}
                namespace.apply(tiny(models, **standby))
                found[mode] = rounds_of(cluster, namespace, f"{router}/v1", mode, rounds)
            namespace.delete()
            Caches(cluster).wait_ready()
    return found


def summary(found: dict[str, Figures]) -> dict[str, Any]:
    """Return the figures by the names they are written under."""
    result: dict[str, Any] = {}
    for mode, figures in found.items():
        if mode in EIGHTS:
            kind = f"eight_models_{EIGHTS[mode].lower()}"
            result |= {
                f"{kind}_mean_seconds": round(statistics.mean(figures.seconds), 2),
                f"{kind}_max_seconds": round(max(figures.seconds), 2),
                "eight_models_reference_seconds": REFERENCE_SECONDS,
                "eight_models_required_seconds": REQUIRED_SECONDS,
                "eight_models_target_seconds": TARGET_SECONDS,
            }
            continue
        result[f"{mode}_seconds_p50"] = round(statistics.median(figures.seconds), 2)
        result[f"{mode}_seconds_p95"] = round(percentile(figures.seconds, 0.95), 2)
        result[f"{mode}_rounds"] = len(figures.seconds)
    result["failed_requests"] = sum(len(each.failures) for each in found.values())
    result["seconds"] = {mode: [round(each, 2) for each in figures.seconds] for mode, figures in found.items()}
    result["starts_milliseconds"] = {mode: figures.starts for mode, figures in found.items()}
    result["failures"] = [each for figures in found.values() for each in figures.failures][:50]
    return result


def main() -> int:
    """Bring a cluster up, measure, write and print the figures."""
    parser = argparse.ArgumentParser(prog="make bench-failover", description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="power-offs of each kind (default: %(default)s)")
    parser.add_argument("--modes", nargs="+", choices=[*MODES, *EIGHTS], default=[*MODES, *EIGHTS])
    given = parser.parse_args()
    with model_folder("bench-failover") as models, real_cluster("bench-failover", models) as cluster:
        result = summary(measure(cluster, models, given.modes, given.rounds))
    table = Table(title="Power-off of the node that serves, to the first answer after it", title_justify="left")
    for column in ("figure", "value"):
        table.add_column(column, justify="right" if column == "value" else "left")
    for name, value in result.items():
        if not isinstance(value, dict | list):
            table.add_row(name, f"{value}")
    Console().print(table)
    write(RESULT, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
