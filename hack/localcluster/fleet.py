"""Fake nodes by the hundred: KWOK plays their kubelets, one process plays all their runners.

Pods of fake nodes get addresses of a range of their own. The network namespace of the player answers for the whole
range (a local route), so whoever connects to a fake pod reaches the player, which sees the address that was called.
"""

import shlex
import socket
import sys
from pathlib import Path
from typing import Any

from localcluster import network, zone_power
from localcluster.addresses import Addresses
from localcluster.api import Api, wait_until
from localcluster.binaries import Binaries
from localcluster.control_plane import ControlPlane
from localcluster.errors import ClusterError
from localcluster.nodes import FakeGpus
from localcluster.paths import ClusterFiles
from localcluster.processes import Identity, Processes
from localcluster.progress import Say
from localcluster.record import Fleet

FAKE_NODE = "kwok.x-k8s.io/node"
"""Annotation by which KWOK knows its nodes, and key of the taint that keeps other pods away; the value is `fake`."""
PLAYER_PORT = 8001
_KWOK, _PLAYER = "kwok", "fleet-player"
_HERE = Path(__file__).parent


def fake_node_name(number: int) -> str:
    """Name of fake node `number`, from 0."""
    return f"fake-{number}"


def fake_node(number: int, fleet: Fleet) -> dict[str, Any]:
    """The Node object of fake node `number`."""
    gpus = FakeGpus(fleet.gpus, fleet.gpu_memory_bytes)
    resources = {"cpu": "64", "memory": "512Gi", "pods": "250", **gpus.resources()}
    resources = {name: value for name, value in resources.items() if value is not None}
    labels = {
        "kubernetes.io/hostname": fake_node_name(number),
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "topology.kubernetes.io/zone": f"zone-{chr(ord('a') + number % fleet.zones)}",
        **gpus.labels(),
    }
    taints = [{"key": FAKE_NODE, "value": "fake", "effect": "NoSchedule"}] if fleet.tainted else []
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": fake_node_name(number),
            "annotations": {FAKE_NODE: "fake", "node.alpha.kubernetes.io/ttl": "0"},
            "labels": {name: value for name, value in labels.items() if value is not None},
        },
        "spec": {"taints": taints},
        "status": {"capacity": resources, "allocatable": resources},
    }


class FleetNodes:
    """The fake nodes of one cluster."""

    def __init__(
        self, addresses: Addresses, files: ClusterFiles, processes: Processes, control_plane: ControlPlane
    ) -> None:
        self._addresses = addresses
        self._files = files
        self._processes = processes
        self._control_plane = control_plane

    def ensure(self, fleet: Fleet, binaries: Binaries, say: Say) -> None:
        """Have exactly these fake nodes, Ready, and their player.

        Raises:
            ClusterError: KWOK or the player did not come up.
        """
        with self._control_plane.api() as api:
            if fleet.count:
                self._ensure_kwok(binaries, say)
                self._ensure_player(fleet, say)
            self._fit(api, fleet, say)
        if not fleet.count:
            self.stop()

    def stop(self) -> None:
        """End KWOK and the player; their nodes become NotReady unless they were removed before."""
        for name in (_KWOK, _PLAYER):
            self._processes.stop(name)
        network.unplug(self._addresses.fleet_interface)

    def kill_zone(self, zone: str, say: Say) -> None:
        """Cut the power of all fake nodes of a zone at once."""
        with self._control_plane.api() as api:
            count = zone_power.cut(api, self._player(), zone, f"{FAKE_NODE}=fake")
        say(f"{count} fake nodes of {zone} have no power any more")

    def start_zone(self, zone: str, say: Say) -> None:
        """Give the fake nodes of a zone their power back and wait until they are Ready."""
        with self._control_plane.api() as api:
            nodes = zone_power.restore(api, self._player(), zone, f"{FAKE_NODE}=fake")
            wait_until(
                f"fake nodes of {zone} Ready",
                120,
                lambda: _all_ready(api, nodes),
                lambda: self._processes.log_tail(_KWOK),
            )
        say(f"{len(nodes)} fake nodes of {zone} have power")

    def _player(self) -> Identity:
        player = self._processes.running(_PLAYER)
        if player is None:
            raise ClusterError("nobody plays fake nodes here; make them with `hack/cluster fake-nodes COUNT`")
        return player

    def _ensure_kwok(self, binaries: Binaries, say: Say) -> None:
        command = [
            binaries["kwok"],
            f"--kubeconfig={self._files.kubeconfig}",
            f"--config={_HERE / 'kwok.yaml'}",
            f"--manage-nodes-with-annotation-selector={FAKE_NODE}=fake",
            f"--cidr={self._addresses.fleet_range[1]}/{self._addresses.fleet_range.prefixlen}",
            f"--node-ip={self._addresses.fleet}",
            f"--server-address={self._addresses.loopback}:10247",
            "--node-lease-duration-seconds=40",
        ]
        if self._processes.ensure(_KWOK, command):
            say("started kwok")

    def _ensure_player(self, fleet: Fleet, say: Say) -> None:
        addresses = self._addresses
        player = fleet.player_command or (sys.executable, "-m", "warmfleet_runtime.player")
        command = [
            *("unshare", "--net", "bash", str(_HERE / "fleet.sh")),
            *(*player, "--kubeconfig", str(self._files.kubeconfig), "--cidr", str(addresses.fleet_range)),
        ]
        environment = {
            "FLEET_ADDRESS": f"{addresses.fleet}/{addresses.node_network.prefixlen}",
            "FLEET_RANGE": str(addresses.fleet_range),
            "GATEWAY": str(addresses.host),
        }
        if self._processes.running(_PLAYER) is not None and not network.interface_exists(addresses.fleet_interface):
            self._processes.stop(_PLAYER)  # half started: it would wait for its cable in vain
        if self._processes.ensure(_PLAYER, command, environment):
            process = self._processes.running(_PLAYER)
            if process is None:
                raise self._player_ended(player)
            network.plug(addresses.bridge, addresses.fleet_interface, process, addresses.fleet)
            say("started the fleet player")
        network.route(addresses.fleet_range, addresses.fleet)

        def answers() -> bool:
            if self._processes.running(_PLAYER) is None:
                raise self._player_ended(player)
            with socket.create_connection((str(addresses.fleet_range[1]), PLAYER_PORT), timeout=1):
                return True

        wait_until("the fleet player answers", 30, answers, lambda: self._processes.log_tail(_PLAYER))

    def _player_ended(self, player: tuple[str, ...]) -> ClusterError:
        log = self._processes.log_tail(_PLAYER)
        return ClusterError(f"the fleet player (`{shlex.join(player)}`) ended; another one: --player-command\n{log}")

    def _fit(self, api: Api, fleet: Fleet, say: Say) -> None:
        listed = api.request("GET", "/api/v1/nodes")["items"]
        present = {
            node["metadata"]["name"]: node
            for node in listed
            if node["metadata"].get("annotations", {}).get(FAKE_NODE) == "fake"
        }
        wanted = {fake_node_name(number): fake_node(number, fleet) for number in range(fleet.count)}
        new, gone = wanted.keys() - present.keys(), present.keys() - wanted.keys()
        for name in gone:
            api.delete(f"/api/v1/nodes/{name}")
        api.delete_pods_of(gone)
        for name, node in wanted.items():
            if name in new:
                api.request("POST", "/api/v1/nodes", node)
            else:
                _update(api, node)
        say(f"{len(wanted)} fake nodes: {len(new)} new, {len(gone)} gone")
        wait_until(
            "fake nodes Ready", 120, lambda: _all_ready(api, set(wanted)), lambda: self._processes.log_tail(_KWOK)
        )


def _update(api: Api, node: dict[str, Any]) -> None:
    path = f"/api/v1/nodes/{node['metadata']['name']}"
    api.merge(path, {"metadata": {"labels": node["metadata"]["labels"]}, "spec": {"taints": node["spec"]["taints"]}})
    api.merge(f"{path}/status", {"status": node["status"]})


def _all_ready(api: Api, names: set[str]) -> bool:
    nodes = api.request("GET", "/api/v1/nodes?resourceVersion=0")["items"]
    ready = {node["metadata"]["name"] for node in nodes if is_ready(node)}
    return names <= ready


def is_ready(node: dict[str, Any]) -> bool:
    """Whether the Node's condition Ready is True."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)
