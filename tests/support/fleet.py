"""A large simulated fleet, and what the operator writes, read from the API server's audit log."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from localcluster.audit import AuditLog, Position, Request, writes
from support.cluster import Cluster, local_cluster
from support.models import simulated
from support.namespace import Namespace, settled
from support.waiting import POLL_SECONDS, wait_for

MODELS = 200
NODES = 100
ZONES = 3
GPUS_OF_A_NODE = 8
GPUS_OF_A_MODEL = 2
CONVERGE_BOUND_SECONDS = 400
QUIET_SECONDS = 10
REST_SECONDS = 120
LOOKS_PER_SECOND = 400
"""Models a second that whoever waits for a fleet asks for: it must not take the API server's time for itself."""
OPERATOR_AGENT = "warmfleet-operator/"


@contextmanager
def fleet_cluster(tier: str, nodes: int = NODES, zones: int = ZONES) -> Iterator[Cluster]:
    """Bring up a cluster of fake nodes alone, with Warmfleet's CRDs and rights but no operator."""
    with local_cluster(tier, "--nodes", "0") as cluster:
        cluster.install("manifests/base")
        cluster.kubectl("--namespace", "warmfleet-system", "scale", "deployment/warmfleet-operator", "--replicas=0")
        # Fake nodes have no agents: tests of weight stores make caches of their own, for few nodes.
        cluster.kubectl("delete", "weightcache", "default")
        cluster.hack("fake-nodes", str(nodes), "--gpus", str(GPUS_OF_A_NODE), "--zones", str(zones), "--no-taint")
        yield cluster


def apply_fleet(namespace: Namespace, models: int = MODELS, *, replicas: int = 1, gpus: int = GPUS_OF_A_MODEL) -> None:
    """Apply all models, one after the other as fast as the API server takes them."""
    namespace.apply(*(simulated(f"model-{number}", replicas=replicas, gpus=gpus) for number in range(models)))


def wait_converged(namespace: Namespace, within: float = CONVERGE_BOUND_SECONDS) -> None:
    """Wait until every model of the fleet is settled."""

    def unsettled() -> list[str]:
        return [name for name, model in namespace.models().items() if not settled(model)]

    def explain() -> str:
        return f"unsettled: {', '.join(unsettled())}\n{namespace.log_tail()}"

    poll_seconds = max(POLL_SECONDS, len(namespace.models()) / LOOKS_PER_SECOND)
    wait_for("all models settled", lambda: not unsettled(), within, explain, poll_seconds=poll_seconds)


def operator_writes(log: AuditLog, since: Position) -> list[Request]:
    """Return the operator's writes since then, save the renewals of its Lease."""
    found = writes(log.requests(since), user_agent=OPERATOR_AGENT)
    return [request for request in found if request.resource != "leases"]


def wait_quiet(log: AuditLog) -> None:
    """Wait until the operator has written nothing for `QUIET_SECONDS`: its events come last."""

    def quiet() -> bool:
        since = log.end()
        time.sleep(QUIET_SECONDS)
        return not operator_writes(log, since)

    wait_for("the operator writes nothing more", quiet, CONVERGE_BOUND_SECONDS)


def writes_at_rest(log: AuditLog, seconds: float = REST_SECONDS) -> list[Request]:
    """Return what the operator writes in `seconds` in which nobody asks anything of it."""
    since = log.end()
    time.sleep(seconds)
    return operator_writes(log, since)
