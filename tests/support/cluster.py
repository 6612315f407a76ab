"""A local cluster for a whole test session, through the command that people use."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import localcluster.cluster
from support.kubeapi import Credentials, KubeApi
from support.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[2]
HACK_CLUSTER = REPOSITORY / "hack" / "cluster"
KEEP_VARIABLE = "WARMFLEET_TEST_CLUSTER"
DOWN_SECONDS = 120
UP_SECONDS = 1500  # building Kubernetes once takes most of it
OPERATOR_ACCOUNT = "warmfleet-system:warmfleet-operator"


class Cluster:
    """A running local cluster."""

    def __init__(self, name: str) -> None:
        self.name = name
        local = localcluster.cluster.Cluster(name)
        self.kubeconfig = local.kubeconfig
        self.audit_log = local.audit_log
        self.credentials = Credentials.from_kubeconfig(self.kubeconfig)
        self.api = KubeApi(self.credentials)
        self._kubectl = str(local.kubectl)
        # Clusters follow each other at the same address, so the usual cache would tell of a former one.
        self._discovery = self.kubeconfig.parent / "kubectl-cache"

    def hack(self, *arguments: str, bound_seconds: float = 300) -> str:
        """Run `hack/cluster` on this cluster and return what it prints."""
        return run([str(HACK_CLUSTER), *arguments, "--name", self.name], bound_seconds)

    def kubectl(self, *arguments: str, stdin: str | None = None, bound_seconds: float = 90) -> str:
        """Run kubectl with an administrator's rights and return what it prints."""
        return run(self.kubectl_command(*arguments), bound_seconds, stdin)

    def kubectl_command(self, *arguments: str) -> list[str]:
        """Return the command that runs kubectl with an administrator's rights."""
        return [self._kubectl, "--kubeconfig", str(self.kubeconfig), "--cache-dir", str(self._discovery), *arguments]

    def install(self, kustomization: str) -> None:
        """Apply Warmfleet's manifests and wait until its kinds are served."""
        self.kubectl("apply", "--server-side", "--kustomize", "crds")
        kinds = ("modeldeployments", "warmpools", "weightcaches", "nodecaches", "tenants")
        definitions = [f"crd/{kind}.warmfleet.dev" for kind in kinds]
        self.kubectl("wait", "--for=condition=Established", *definitions, "--timeout=120s")
        shutil.rmtree(self._discovery)
        self.kubectl("apply", "--server-side", "--kustomize", kustomization)


class CommandError(AssertionError):
    """A command ended with an error; the message carries its output, `output` is both streams."""

    def __init__(self, command: list[str], code: int, output: str) -> None:
        super().__init__(f"{' '.join(command)} ended with {code}:\n{output}")
        self.output = output


@contextmanager
def local_cluster(tier: str, *up: str) -> Iterator[Cluster]:
    """Bring up a cluster of this process's own and take it down again. Further arguments go to `hack/cluster up`.

    For whoever writes tests: with WARMFLEET_TEST_CLUSTER=NAME the cluster is called so and stays up for the next run.
    """
    kept = os.environ.get(KEEP_VARIABLE)
    name = kept or f"{tier}-{os.getpid()}"
    try:
        run([str(HACK_CLUSTER), "up", "--name", name, *up], UP_SECONDS)
        yield Cluster(name)
    finally:
        if not kept:
            run([str(HACK_CLUSTER), "down", "--name", name], DOWN_SECONDS)


def run(command: list[str], bound_seconds: float, stdin: str | None = None) -> str:
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE * bound_seconds,
        input=stdin,
        cwd=REPOSITORY,
    )
    if done.returncode:
        raise CommandError(command, done.returncode, done.stdout + done.stderr)
    return done.stdout
