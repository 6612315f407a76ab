"""What every kind of local cluster can do, and which kind a command means."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from localcluster.cluster import Cluster
from localcluster.errors import ClusterError
from localcluster.kind import KindCluster
from localcluster.paths import ClusterFiles, clusters_directory
from localcluster.progress import Say
from localcluster.record import Fleet, Record, Wish
from localcluster.views import NodeState, ProcessState

PROVIDERS = ("local", "kind")


class Provider(Protocol):
    """A local cluster; each method raises ClusterError when it can't."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""

    def up(self, wish: Wish) -> None:
        """Bring the cluster to what was wished."""

    def down(self) -> None:
        """End it without a trace."""

    def kill_node(self, number: int) -> None:
        """Cut a node's power."""

    def start_node(self, number: int) -> None:
        """Power a node on and wait until it is Ready."""

    def load(self, images: Sequence[Path]) -> None:
        """Put images on every node."""

    def fake_nodes(self, fleet: Fleet) -> None:
        """Have exactly these fake nodes."""

    def kill_zone(self, zone: str) -> None:
        """Cut the power of all fake nodes of a zone."""

    def start_zone(self, zone: str) -> None:
        """Give them their power back."""

    def processes(self) -> list[ProcessState]:
        """The processes or containers the cluster consists of."""

    def nodes(self) -> list[NodeState]:
        """Its nodes."""


def open_cluster(name: str, provider: str | None, say: Say) -> Provider:
    """The cluster called `name`: as it was made, else with `provider`, else kind where Docker works, else local.

    Raises:
        ClusterError: it was made with another provider.
    """
    record = Record.load(ClusterFiles(clusters_directory() / name).record)
    if record is not None and provider not in (None, record.provider):
        made_with = f"cluster {name} was made with --provider {record.provider}"
        raise ClusterError(f"{made_with}; end it first with `hack/cluster down --name {name}`")
    chosen = record.provider if record is not None else provider or ("kind" if docker_works() else "local")
    return KindCluster(name, say) if chosen == "kind" else Cluster(name, say)


def docker_works() -> bool:
    """Whether a Docker engine answers."""
    try:
        done = subprocess.run(["docker", "info"], check=False, capture_output=True, timeout=10)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
