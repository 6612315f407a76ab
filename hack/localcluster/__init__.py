"""A real Kubernetes cluster on one machine, for people and tests: see `hack/cluster --help`."""

from localcluster.cluster import Cluster
from localcluster.errors import ClusterError
from localcluster.record import Fleet, Wish

__all__ = ["Cluster", "ClusterError", "Fleet", "Wish"]
