"""One local cluster without a container engine: what the commands of `hack/cluster` and the tests call."""

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from localcluster import network
from localcluster.addresses import MAX_CLUSTERS, MAX_NODES, Addresses
from localcluster.api import Api
from localcluster.binaries import Binaries, ensure_binaries
from localcluster.control_plane import ControlPlane
from localcluster.errors import ClusterError
from localcluster.fleet import FleetNodes
from localcluster.images import Images
from localcluster.locks import locked
from localcluster.nodes import FakeGpus, Nodes, claim_gpus, node_name, now, zone
from localcluster.paths import ClusterFiles, clusters_directory
from localcluster.pki import KeyPair
from localcluster.processes import Processes
from localcluster.progress import Say, quiet
from localcluster.record import Fleet, Record, Wish
from localcluster.views import NodeState, ProcessState, node_state

_INOTIFY_INSTANCES = 1024
_AS_BEFORE = Wish()


@dataclass(frozen=True)
class _Parts:
    addresses: Addresses
    control_plane: ControlPlane
    nodes: Nodes
    fleet: FleetNodes
    images: Images


class Cluster:
    """The local cluster called `name`; it need not exist yet."""

    def __init__(self, name: str = "warmfleet", say: Say = quiet) -> None:
        self.name = name
        self.files = ClusterFiles(clusters_directory() / name)
        self._say = say
        self._processes = Processes(self.files.processes, self.files.logs)

    # What a test needs to know.

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        self._existing()
        return self.files.kubeconfig

    @property
    def audit_log(self) -> Path:
        """The API server's audit log; `localcluster.audit` reads it."""
        return self.files.audit_log

    @property
    def server(self) -> str:
        """URL of the API server."""
        return self.addresses.server

    @property
    def authority(self) -> Path:
        """Certificate of the authority that signed the API server's."""
        return self._parts(self._existing()).control_plane.pki.authority.certificate

    @property
    def admin(self) -> KeyPair:
        """The administrator's client certificate."""
        return self._parts(self._existing()).control_plane.admin

    @property
    def addresses(self) -> Addresses:
        """All addresses of the cluster."""
        return Addresses(self._existing().index)

    @property
    def kubectl(self) -> Path:
        """A kubectl of the cluster's own version."""
        return Path(ensure_binaries(self._say)["kubectl"])

    def api(self) -> Api:
        """A connection as administrator; use it in a `with` statement."""
        return self._parts(self._existing()).control_plane.api()

    def record(self) -> Record | None:
        """What the cluster was asked to be, None where there is none."""
        return Record.load(self.files.record)

    # What changes it.

    def up(self, wish: Wish = _AS_BEFORE) -> None:
        """Bring the cluster to what was wished, from nothing or from wherever it stopped.

        Raises:
            ClusterError: it can't be; carries what to do.
        """
        network.require_root()
        binaries = ensure_binaries(self._say)
        with self._locked():
            record = (self.record() or self._claim()).wished(wish)
            if not 0 <= record.nodes <= MAX_NODES:
                raise ClusterError(f"--nodes {record.nodes}: between 0 and {MAX_NODES}")
            record.save(self.files.record)
            parts = self._parts(record)
            _allow_many_watches()
            network.ensure_bridge(parts.addresses)
            parts.control_plane.ensure(binaries, fast_node_loss=record.fast_node_loss, say=self._say)
            self._fit_nodes(parts, record, binaries)
            if record.fleet.count:
                parts.fleet.ensure(record.fleet, binaries, self._say)

    def down(self) -> None:
        """End every process and remove every trace; does as much of it as there is to do."""
        network.require_root()
        with self._locked():
            record = self.record()
            if record is None:
                self._forget()
                return
            parts = self._parts(record)
            parts.fleet.stop()
            for number in parts.nodes.numbers():
                parts.nodes.power_off(number)
            for name in self._processes.names():
                self._processes.stop(name)
            network.remove_bridge(parts.addresses)
            self._forget()

    def kill_node(self, number: int) -> None:
        """Cut the power of real node `number`: all its processes die at once and nobody is told."""
        with self._locked():
            _, parts = self._node(number)
            parts.nodes.power_off(number)
            parts.nodes.route_services()

    def start_node(self, number: int) -> None:
        """Power real node `number` on and wait until it is Ready."""
        binaries = ensure_binaries(self._say)
        with self._locked():
            record, parts = self._node(number)
            self._start_nodes(parts, record, binaries, [number])

    def load(self, images: Sequence[Path]) -> None:
        """Put images on every node that runs; nodes that start later get them too."""
        with self._locked():
            record = self._existing()
            paths = [str(path.absolute()) for path in images]
            record = replace(record, images=tuple(dict.fromkeys([*record.images, *paths])))
            parts = self._parts(record)
            powered = [number for number in parts.nodes.numbers() if parts.nodes.powered(number)]
            self._load(parts, powered, paths)
            record.save(self.files.record)

    def fake_nodes(self, fleet: Fleet) -> None:
        """Have exactly `fleet.count` fake nodes, and one process that plays the runners on all of them."""
        binaries = ensure_binaries(self._say)
        with self._locked():
            record = replace(self._existing(), fleet=fleet)
            record.save(self.files.record)
            self._parts(record).fleet.ensure(fleet, binaries, self._say)

    def kill_zone(self, zone: str) -> None:
        """Cut the power of all fake nodes of a zone at once, and tell nobody."""
        with self._locked():
            self._parts(self._existing()).fleet.kill_zone(zone, self._say)

    def start_zone(self, zone: str) -> None:
        """Give the fake nodes of a zone their power back and wait until they are Ready."""
        with self._locked():
            self._parts(self._existing()).fleet.start_zone(zone, self._say)

    # What tells about it.

    def processes(self) -> list[ProcessState]:
        """Every daemon that was started."""
        self._existing()
        states = []
        for name in self._processes.names():
            running = self._processes.running(name)
            state, pid = ("Running", running.pid) if running else ("Gone", None)
            resident = (running.resident_bytes if running else 0) // 2**20
            states.append(ProcessState(name, state, pid, resident, str(self._processes.log(name))))
        return states

    def nodes(self) -> list[NodeState]:
        """Every node of the cluster, real ones first."""
        parts = self._parts(self._existing())
        numbers = {node_name(number): number for number in parts.nodes.numbers()}
        real, fake = [], []
        with parts.control_plane.api() as api:
            for node in api.request("GET", "/api/v1/nodes")["items"]:
                number = numbers.get(node["metadata"]["name"])
                if number is None:
                    fake.append(node_state(node, "Fake", "-"))
                else:
                    real.append(node_state(node, "Real", "On" if parts.nodes.powered(number) else "Off"))
        return real + fake

    # The rest is how.

    @property
    def _lock_file(self) -> Path:
        return self.files.root.with_name(f".{self.name}.lock")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self._lock_file, self._say, f"another command on cluster {self.name}"):
            yield

    def _forget(self) -> None:
        if self.files.root.exists():
            shutil.rmtree(self.files.root)
        self._lock_file.unlink()

    def _existing(self) -> Record:
        record = self.record()
        if record is None:
            raise ClusterError(f"there is no cluster {self.name}; make it with `hack/cluster up --name {self.name}`")
        return record

    def _node(self, number: int) -> tuple[Record, _Parts]:
        record = self._existing()
        parts = self._parts(record)
        if number not in parts.nodes.numbers():
            known = ", ".join(map(str, parts.nodes.numbers()))
            raise ClusterError(f"cluster {self.name} has no real node {number}, only {known}; see `hack/cluster nodes`")
        return record, parts

    def _parts(self, record: Record) -> _Parts:
        addresses = Addresses(record.index)
        control_plane = ControlPlane(self.name, addresses, self.files, self._processes)
        nodes = Nodes(addresses, self.files, self._processes, control_plane)
        fleet = FleetNodes(addresses, self.files, self._processes, control_plane)
        return _Parts(addresses, control_plane, nodes, fleet, Images(self.files, nodes))

    def _claim(self) -> Record:
        """A free index, written down before anything is created with it."""
        with locked(clusters_directory() / ".index.lock", self._say, "another cluster's first start"):
            taken = {
                record.index for path in clusters_directory().glob("*/cluster.json") if (record := Record.load(path))
            }
            for index in range(MAX_CLUSTERS):
                addresses = Addresses(index)
                if index in taken or network.interface_exists(addresses.bridge) or network.in_use(addresses):
                    continue
                record = Record("local", index)
                record.save(self.files.record)
                network.ensure_bridge(addresses)
                return record
        raise ClusterError(
            f"all {MAX_CLUSTERS} address ranges are taken; end a cluster with `hack/cluster down --name NAME`"
        )

    def _fit_nodes(self, parts: _Parts, record: Record, binaries: Binaries) -> None:
        surplus = [number for number in parts.nodes.numbers() if number > record.nodes]
        with parts.control_plane.api() as api:
            for number in surplus:
                parts.nodes.remove(number)
                api.delete(f"/api/v1/nodes/{node_name(number)}")
            api.delete_pods_of({node_name(number) for number in surplus})
        self._start_nodes(parts, record, binaries, range(1, record.nodes + 1))

    def _start_nodes(self, parts: _Parts, record: Record, binaries: Binaries, numbers: Sequence[int]) -> None:
        begun = now()
        started = [
            number for number in numbers if parts.nodes.power_on(number, binaries, fast_node_loss=record.fast_node_loss)
        ]
        parts.nodes.route_services()
        gpus = FakeGpus(record.gpus_per_node, record.gpu_memory_bytes)
        with parts.control_plane.api() as api:
            for number in numbers:
                if number in started:
                    parts.nodes.wait_ready(api, number, begun)
                    self._say(f"node {node_name(number)} Ready")
                claim_gpus(api, node_name(number), zone(number), gpus)
        for gone in [image for image in record.images if not Path(image).exists()]:
            self._say(f"{gone} is gone: a node that never had this image stays without it")
        self._load(parts, started, [image for image in record.images if Path(image).exists()])

    def _load(self, parts: _Parts, numbers: Sequence[int], images: Sequence[str]) -> None:
        """All nodes at once: making a hundred thousand links on each is what takes the time."""

        def load(number: int) -> None:
            parts.images.load(number, [Path(image) for image in images], self._say)

        with ThreadPoolExecutor(max_workers=os.cpu_count()) as threads:
            list(threads.map(load, numbers))  # raises what a load raised


def _allow_many_watches() -> None:
    """Each node's daemons hold some twenty inotify instances, all of one user; the usual limit is 128."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < _INOTIFY_INSTANCES:
        limit.write_text(str(_INOTIFY_INSTANCES))
