"""Where the local cluster keeps its files."""

import os
from dataclasses import dataclass
from pathlib import Path


def cache_directory() -> Path:
    """The cache of the whole project: `$WARMFLEET_CACHE`, else `~/.cache/warmfleet`."""
    return Path(os.environ.get("WARMFLEET_CACHE") or "~/.cache/warmfleet").expanduser().absolute()


def binaries_directory() -> Path:
    """Built and downloaded binaries, one directory per Kubernetes version."""
    return cache_directory() / "bin"


def images_directory() -> Path:
    """Images built here, each a directory with an `image.json`."""
    return cache_directory() / "images"


def clusters_directory() -> Path:
    """One directory per cluster."""
    return cache_directory() / "clusters"


@dataclass(frozen=True)
class ClusterFiles:
    """The files of one cluster, all below `root`; removing `root` forgets the cluster."""

    root: Path

    @property
    def record(self) -> Path:
        """What the cluster was asked to be."""
        return self.root / "cluster.json"

    @property
    def processes(self) -> Path:
        """Identities of the processes that were started."""
        return self.root / "processes"

    @property
    def logs(self) -> Path:
        """Output of the control plane's processes."""
        return self.root / "logs"

    @property
    def audit_log(self) -> Path:
        """The API server's audit log, JSON lines; older parts lie beside it."""
        return self.root / "audit" / "audit.log"

    @property
    def pki(self) -> Path:
        """Certificates, keys and kubeconfigs."""
        return self.root / "pki"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    @property
    def etcd(self) -> Path:
        """The data of etcd."""
        return self.root / "etcd"

    @property
    def config(self) -> Path:
        """Configuration of the control plane's processes."""
        return self.root / "config"

    def node(self, number: int) -> Path:
        """The disk of real node `number`."""
        return self.root / "nodes" / f"n{number}"
