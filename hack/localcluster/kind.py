"""The same cluster where Docker runs: kind makes the nodes, Docker is their power switch."""

import base64
import json
import shutil
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from localcluster.api import Api, wait_until
from localcluster.binaries import ensure_kind
from localcluster.control_plane import AUDIT_POLICY
from localcluster.errors import ClusterError
from localcluster.images import SeededImage, docker_image
from localcluster.network import run
from localcluster.nodes import FakeGpus, claim_gpus, node_is_ready, now, zone
from localcluster.oci import Layer, write_archive
from localcluster.paths import ClusterFiles, clusters_directory
from localcluster.progress import Say, quiet
from localcluster.record import Fleet, Record, Wish
from localcluster.views import NodeState, ProcessState, node_state

_KIND_SECONDS = 900  # creating pulls the node image
_READY_SECONDS = 300
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_NO_INDEX = -1  # Docker gives out the addresses


class KindCluster:
    """The kind cluster called `name`; it need not exist yet."""

    def __init__(self, name: str = "warmfleet", say: Say = quiet) -> None:
        self.name = name
        self.files = ClusterFiles(clusters_directory() / name)
        self._say = say
        self._kind_name = f"warmfleet-{name}"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        self._existing()
        return self.files.kubeconfig

    @property
    def audit_log(self) -> Path:
        """The API server's audit log."""
        return self.files.audit_log

    def up(self, wish: Wish) -> None:
        """Create the cluster, or start its stopped containers.

        Raises:
            ClusterError: kind failed, or the running cluster would have to be another one.
        """
        before, begun = Record.load(self.files.record), now()
        record = (before or Record("kind", _NO_INDEX)).wished(wish)
        if self._kind_name in self._kind("get", "clusters").split():
            if before is not None and (record.nodes, record.fast_node_loss) != (before.nodes, before.fast_node_loss):
                raise ClusterError(
                    "a kind cluster keeps its nodes and --fast-node-loss; "
                    f"`hack/cluster down --name {self.name}` first, or use --provider local"
                )
            record.save(self.files.record)
            if stopped := sorted(set(self._containers()) - self._running()):
                run("docker", "start", *stopped, seconds=_READY_SECONDS)
        else:
            record.save(self.files.record)
            config = self.files.root / "kind.json"
            config.write_text(json.dumps(kind_config(record, self.files), indent=2))
            self.files.audit_log.parent.mkdir(parents=True, exist_ok=True)
            (self.files.root / "audit-policy.json").write_text(json.dumps(AUDIT_POLICY))
            self._say("kind create cluster (pulls the node image once)")
            self._kind("create", "cluster", "--config", str(config), "--kubeconfig", str(self.files.kubeconfig))
            stopped = self._containers()
        with self._api() as api:
            for number in range(1, record.nodes + 1):
                self._wait_ready(api, record, number, begun if self._node_name(number) in stopped else _LONG_AGO)

    def down(self) -> None:
        """Delete the cluster and forget it."""
        self._kind("delete", "cluster")
        if self.files.root.exists():
            shutil.rmtree(self.files.root)

    def kill_node(self, number: int) -> None:
        """Kill the node's container."""
        run("docker", "kill", self._node(number))

    def start_node(self, number: int) -> None:
        """Start the node's container and wait until the node is Ready."""
        record, container, begun = self._existing(), self._node(number), now()
        run("docker", "start", container)
        with self._api() as api:
            self._wait_ready(api, record, number, begun)

    def load(self, images: Sequence[Path]) -> None:
        """Import images on every node: Docker's own as they are, a seeded image packed into an archive first."""
        self._existing()
        for path in images:
            if path.suffix != ".json":
                self._kind("load", "image-archive", str(path))
                continue
            if name := docker_image(path):
                self._kind("load", "docker-image", name)
                self._say(f"{name} loaded")
                continue
            image = SeededImage.load(path)
            with tempfile.TemporaryDirectory(dir=self.files.root) as scratch:
                archive = Path(scratch) / "image.tar"
                write_archive(image.name, image.config, [Layer(item.directory) for item in image.layers], archive)
                self._kind("load", "image-archive", str(archive))
            self._say(f"{image.name} loaded")

    def fake_nodes(self, fleet: Fleet) -> None:
        """Not with kind: the fleet's addresses need a network namespace on the host."""
        raise _no_fake_nodes(f"{fleet.count} fake nodes")

    def kill_zone(self, zone: str) -> None:
        """Not with kind: it has no fake nodes."""
        raise _no_fake_nodes(f"the fake nodes of {zone}")

    def start_zone(self, zone: str) -> None:
        """Not with kind: it has no fake nodes."""
        raise _no_fake_nodes(f"the fake nodes of {zone}")

    def processes(self) -> list[ProcessState]:
        """The containers of the cluster."""
        self._existing()
        states = []
        for name in self._containers():
            state = json.loads(run("docker", "inspect", "--format", "{{json .State}}", name))
            running = bool(state["Running"])
            shown, pid = ("Running", int(state["Pid"])) if running else ("Gone", None)
            states.append(ProcessState(name, shown, pid, 0, f"docker logs {name}"))
        return states

    def nodes(self) -> list[NodeState]:
        """The worker nodes."""
        record = self._existing()
        running = self._running()
        names = [self._node_name(number) for number in range(1, record.nodes + 1)]
        with self._api() as api:
            found = [(name, api.get(f"/api/v1/nodes/{name}")) for name in names]
        return [node_state(node, "Real", "On" if name in running else "Off") for name, node in found if node]

    def _wait_ready(self, api: Api, record: Record, number: int, begun: datetime) -> None:
        name = self._node_name(number)
        wait_until(f"node {name} Ready", _READY_SECONDS, lambda: node_is_ready(api, name, begun))
        claim_gpus(api, name, zone(number), FakeGpus(record.gpus_per_node, record.gpu_memory_bytes))
        self._say(f"node {name} Ready")

    def _kind(self, *arguments: str) -> str:
        named = [] if arguments[0] == "get" else ["--name", self._kind_name]
        return run(str(ensure_kind(self._say)), *arguments, *named, seconds=_KIND_SECONDS)

    def _containers(self) -> list[str]:
        return self._kind("get", "nodes", "--name", self._kind_name).split()

    def _running(self) -> set[str]:
        return set(run("docker", "ps", "--format", "{{.Names}}").split())

    def _node_name(self, number: int) -> str:
        return f"{self._kind_name}-worker{number if number > 1 else ''}"

    def _node(self, number: int) -> str:
        if not 1 <= number <= self._existing().nodes:
            raise ClusterError(f"cluster {self.name} has no node {number}; see `hack/cluster nodes --name {self.name}`")
        return self._node_name(number)

    def _existing(self) -> Record:
        record = Record.load(self.files.record)
        if record is None:
            raise ClusterError(f"there is no cluster {self.name}; make it with `hack/cluster up --name {self.name}`")
        return record

    def _api(self) -> Api:
        """A connection as administrator, with the certificates kind wrote into the kubeconfig."""
        config = yaml.safe_load(self.files.kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        pki = self.files.pki
        pki.mkdir(parents=True, exist_ok=True, mode=0o700)
        parts = {
            "ca.crt": cluster["certificate-authority-data"],
            "admin.crt": user["client-certificate-data"],
            "admin.key": user["client-key-data"],
        }
        for name, encoded in parts.items():
            (pki / name).write_bytes(base64.b64decode(encoded))
        return Api(cluster["server"], pki / "ca.crt", pki / "admin.crt", pki / "admin.key")


def _no_fake_nodes(what: str) -> ClusterError:
    return ClusterError(
        f"{what} need --provider local, which runs beside Docker: "
        "`hack/cluster up --provider local --name fleet`, then `hack/cluster fake-nodes ... --name fleet`"
    )


def kind_config(record: Record, files: ClusterFiles) -> dict[str, Any]:
    """What kind is told: one control plane with the audit log on, and the workers."""
    policy, log = "/etc/kubernetes/audit-policy.json", "/var/log/kubernetes"
    controllers = {"node-monitor-grace-period": "12s", "node-monitor-period": "1s"} if record.fast_node_loss else {}
    patches: list[dict[str, Any]] = [
        {
            "apiVersion": "kubeadm.k8s.io/v1beta4",
            "kind": "ClusterConfiguration",
            "apiServer": {
                "extraArgs": _arguments({"audit-policy-file": policy, "audit-log-path": f"{log}/audit.log"}),
                "extraVolumes": [
                    _volume("audit-policy", policy, "File", read_only=True),
                    _volume("audit-log", log, "DirectoryOrCreate", read_only=False),
                ],
            },
            "controllerManager": {"extraArgs": _arguments({"enable-hostpath-provisioner": "true", **controllers})},
        },
    ]
    if record.fast_node_loss:
        kubelet = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration"}
        patches.append({**kubelet, "nodeLeaseDurationSeconds": 8})
    mounts = [
        {"hostPath": str(files.root / "audit-policy.json"), "containerPath": policy, "readOnly": True},
        {"hostPath": str(files.audit_log.parent), "containerPath": log},
    ]
    return {
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "kind": "Cluster",
        "kubeadmConfigPatches": [json.dumps(patch) for patch in patches],
        "nodes": [{"role": "control-plane", "extraMounts": mounts}, *[{"role": "worker"}] * record.nodes],
    }


def _arguments(values: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _volume(name: str, path: str, kind: str, *, read_only: bool) -> dict[str, Any]:
    return {"name": name, "hostPath": path, "mountPath": path, "pathType": kind, "readOnly": read_only}
