"""Warmfleet on real nodes, installed as people install it: two operators, agents, real rights, the built images."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.caches import Caches
from support.cluster import REPOSITORY, Cluster, local_cluster, run

SYSTEM = "warmfleet-system"
BUILD_SECONDS = 1800


@contextmanager
def model_folder(tier: str) -> Iterator[Path]:
    """Make a folder of models that the nodes see, with `tiny-llama` and `large-llama` in it."""
    folder = Path(f"/var/lib/warmfleet/{tier}-{os.getpid()}")
    try:
        for option in ([], ["--large"]):
            made = run([str(REPOSITORY / "hack" / "model" / "tiny"), *option], BUILD_SECONDS)
            path = Path(made.strip().splitlines()[-1])
            shutil.copytree(path, folder / path.name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def real_cluster(tier: str, models: Path) -> Iterator[Cluster]:
    """Bring up three real nodes with Warmfleet, whose WeightCache allows the folder of models."""
    run([str(REPOSITORY / "hack" / "images" / "build")], BUILD_SECONDS)
    with local_cluster(tier, "--nodes", "3", "--fast-node-loss") as cluster:
        cluster.hack("load", "--all")
        cluster.install("manifests/overlays/local")
        caches = Caches(cluster)
        caches.change(fileRoots=[str(models)])
        for deployment in ("warmfleet-operator", "warmfleet-router"):
            rollout = ("rollout", "status", f"deployment/{deployment}", "--timeout=480s")
            cluster.kubectl("--namespace", SYSTEM, *rollout, bound_seconds=150)
        caches.wait_ready()
        yield cluster


def operator_log(cluster: Cluster) -> str:
    """Return the end of both operators' logs."""
    selector = "app.kubernetes.io/component=operator"
    return cluster.kubectl("--namespace", SYSTEM, "logs", "--selector", selector, "--tail=30", "--prefix")
