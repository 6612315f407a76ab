"""Real nodes: each a set of namespaces with its own containerd, kubelet and kube-proxy, and a power switch."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from localcluster import cgroups, network
from localcluster.addresses import Addresses
from localcluster.api import Api, wait_until
from localcluster.binaries import Binaries
from localcluster.control_plane import ControlPlane
from localcluster.errors import ClusterError
from localcluster.paths import ClusterFiles
from localcluster.processes import Identity, Processes, child_identity, wait_gone

ZONES = ("zone-a", "zone-b", "zone-c")
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class FakeGpus:
    """GPUs a node claims to have."""

    count: int
    memory_bytes: int

    def labels(self) -> dict[str, str | None]:
        """Labels as NVIDIA's GPU feature discovery sets them; memory of one GPU in MiB."""
        return {"nvidia.com/gpu.memory": str(self.memory_bytes // 2**20) if self.count else None}

    def resources(self) -> dict[str, str | None]:
        """The extended resource; None removes it."""
        return {"nvidia.com/gpu": str(self.count) if self.count else None}


def node_name(number: int) -> str:
    """Name of real node `number`."""
    return f"n{number}"


class Nodes:
    """The real nodes of one cluster."""

    def __init__(
        self, addresses: Addresses, files: ClusterFiles, processes: Processes, control_plane: ControlPlane
    ) -> None:
        self._addresses = addresses
        self._files = files
        self._processes = processes
        self._control_plane = control_plane

    def numbers(self) -> list[int]:
        """The nodes that exist, powered or not."""
        found = (self._files.root / "nodes").glob("n*")
        return sorted(int(path.name[1:]) for path in found)

    def powered(self, number: int) -> bool:
        """Whether the node runs."""
        return self._processes.running(_process(number)) is not None

    def init(self, number: int) -> Identity:
        """The node's first process.

        Raises:
            ClusterError: the node is off.
        """
        outer = self._processes.running(_process(number))
        for pid in outer.children if outer else []:
            inner = child_identity(pid)
            if inner is not None:
                return inner
        raise ClusterError(f"node {node_name(number)} is off; start it with `hack/cluster start-node {number}`")

    def power_on(self, number: int, binaries: Binaries, *, fast_node_loss: bool) -> bool:
        """Start the node unless it runs already with this configuration; True when it was started."""
        disk = self._files.node(number)
        inputs = list(self._write_config(number, fast_node_loss=fast_node_loss))
        address = self._addresses.node(number)
        environment = {
            "NODE_NAME": node_name(number),
            "NODE_ADDRESS": f"{address}/{self._addresses.node_network.prefixlen}",
            "GATEWAY": str(self._addresses.host),
            "NODE_DISK": str(disk),
            "BINARIES": str(binaries.directory),
            "PAUSE_ARCHIVE": str(binaries.pause_archive),
        }
        namespaces = ["unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--mount-proc"]
        interface = self._addresses.node_interface(number)
        if self.powered(number) and not network.interface_exists(interface):
            self.power_off(number)  # half started: it would wait for its cable in vain
        cgroups.ensure(self._addresses.node_cgroup(number))
        script = str(disk / "config" / "node.sh")
        started = self._processes.ensure(_process(number), [*namespaces, "bash", script], environment, inputs)
        if started:
            process = self._processes.running(_process(number))
            if process is None:
                raise ClusterError(f"node {node_name(number)} ended:\n{self._processes.log_tail(_process(number))}")
            network.plug(self._addresses.bridge, interface, process, address)
        network.route(self._addresses.node_pods(number), address)
        return started

    def power_off(self, number: int) -> None:
        """Cut the node's power: every process in it is gone when this returns."""
        outer = self._processes.running(_process(number))
        for pid in outer.children if outer else []:
            inner = child_identity(pid)
            if inner is not None:
                os.kill(pid, signal.SIGKILL)
                wait_gone(inner)
        self._processes.stop(_process(number))
        network.unplug(self._addresses.node_interface(number))
        cgroups.remove(self._addresses.node_cgroup(number))

    def remove(self, number: int) -> None:
        """Power off and throw the disk away."""
        self.power_off(number)
        network.unroute(self._addresses.node_pods(number))
        shutil.rmtree(self._files.node(number))

    def wait_ready(self, api: Api, number: int, since: datetime, seconds: float = 60) -> None:
        """Wait until the node reports Ready, in a report younger than `since`.

        Raises:
            ClusterError: it did not; carries the end of the kubelet's log.
        """

        def ready() -> bool:
            if not self.powered(number):
                raise ClusterError(f"node {node_name(number)} ended:\n{self._processes.log_tail(_process(number))}")
            return node_is_ready(api, node_name(number), since)

        wait_until(f"node {node_name(number)} Ready", seconds, ready, lambda: self._kubelet_log(number))

    def route_services(self) -> None:
        """Let the host reach ClusterIPs through the first node that runs: its kube-proxy answers for all of them."""
        for number in self.numbers():
            if self.powered(number):
                network.route(self._addresses.service_range, self._addresses.node(number))
                return
        network.unroute(self._addresses.service_range)

    def _kubelet_log(self, number: int) -> str:
        path = self._files.node(number) / "log" / "kubelet.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-15:]) if path.exists() else ""

    def _write_config(self, number: int, *, fast_node_loss: bool) -> Iterator[Path]:
        disk, name = self._files.node(number), node_name(number)
        config = disk / "config"
        for directory in (config / "cni", disk / "log"):
            directory.mkdir(parents=True, exist_ok=True)
        pki = self._control_plane.pki
        address = str(self._addresses.node(number))
        serving = pki.issue(f"node-{name}", f"system:node:{name}", "system:nodes", [name, address])
        self._control_plane.kubeconfig(config / "kubelet.kubeconfig", serving)
        proxy_kubeconfig = config / "kube-proxy.kubeconfig"
        self._control_plane.kubeconfig(proxy_kubeconfig, pki.issue("kube-proxy", "system:kube-proxy"))
        (config / "resolv.conf").write_text(f"nameserver {self._addresses.host}\n")
        shutil.copyfile(_HERE / "containerd.toml", config / "containerd.toml")
        yield config / "containerd.toml"
        # A copy, so that another checkout with the same script finds the node as it wants it; replaced as a whole,
        # because the shell of a running node reads on in the former one.
        new = config / "node.sh.new"
        shutil.copyfile(_HERE / "node.sh", new)
        yield new.replace(config / "node.sh")
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki.authority.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving.certificate),
            "tlsPrivateKeyFile": str(serving.key),
            "address": address,
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._addresses.node_cgroup(number)}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
            "volumePluginDir": "/var/lib/kubelet/volume-plugins",
            "clusterDNS": [str(self._addresses.host)],
            "clusterDomain": "cluster.local",
            "resolvConf": str(config / "resolv.conf"),
            "maxPods": 250,
            "nodeStatusUpdateFrequency": "5s",
            "nodeLeaseDurationSeconds": 8 if fast_node_loss else 40,
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "200Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "serializeImagePulls": False,
            "kubeAPIQPS": 100,
            "kubeAPIBurst": 200,
        }
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(proxy_kubeconfig)},
            "hostnameOverride": name,
            "clusterCIDR": str(self._addresses.pod_range),
            "bindAddress": address,
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        # Point-to-point links, all pod traffic routed: Services work within a node without netfilter on a bridge.
        pods = [[{"subnet": str(self._addresses.node_pods(number))}]]
        pod_network = {
            "cniVersion": "0.4.0",
            "name": "warmfleet",
            "plugins": [
                {"type": "ptp", "ipam": {"type": "host-local", "ranges": pods, "routes": [{"dst": "0.0.0.0/0"}]}},
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        yield _write_json(config / "kubelet.json", kubelet)
        yield _write_json(config / "kube-proxy.json", proxy)
        yield _write_json(config / "cni" / "10-warmfleet.conflist", pod_network)


def zone(number: int) -> str:
    """Zone of real node `number`."""
    return ZONES[(number - 1) % len(ZONES)]


def claim_gpus(api: Api, name: str, in_zone: str, gpus: FakeGpus) -> None:
    """Make a node claim GPUs and a zone; its kubelet keeps both, also over its own restarts."""
    path = f"/api/v1/nodes/{name}"
    api.merge(path, {"metadata": {"labels": {"topology.kubernetes.io/zone": in_zone, **gpus.labels()}}})
    resources = gpus.resources()
    api.merge(f"{path}/status", {"status": {"capacity": resources, "allocatable": resources}})


def node_is_ready(api: Api, name: str, since: datetime) -> bool:
    """Whether a node said after `since` that it is Ready."""
    node = api.get(f"/api/v1/nodes/{name}")
    for condition in node["status"].get("conditions", []) if node else []:
        if condition["type"] == "Ready":
            beat = datetime.fromisoformat(condition["lastHeartbeatTime"])
            # The API's times have no fractions.
            return condition["status"] == "True" and beat >= since.replace(microsecond=0)
    return False


def _process(number: int) -> str:
    return f"node-{node_name(number)}"


def _write_json(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content, indent=2))
    return path


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)
