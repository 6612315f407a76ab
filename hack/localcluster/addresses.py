"""The addresses and interface names of one local cluster, all computed from its index.

Clusters run side by side because no two of them share an index, and every range, bridge and cgroup carries it.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

MAX_CLUSTERS = 16
MAX_NODES = 99


@dataclass(frozen=True)
class Addresses:
    """Where everything of cluster number `index` (0 to 15) lives."""

    index: int

    @property
    def bridge(self) -> str:
        """The host's bridge that joins all nodes; routes and addresses vanish with it."""
        return f"wf{self.index}"

    @property
    def node_network(self) -> IPv4Network:
        """The network of the bridge: host, nodes and the fleet of fake nodes."""
        return IPv4Network(f"172.30.{self.index}.0/24")

    @property
    def host(self) -> IPv4Address:
        """The host on the bridge: API server and DNS."""
        return self.node_network[1]

    @property
    def loopback(self) -> IPv4Address:
        """A loopback address of this cluster alone, for the ports nobody outside the control plane may reach."""
        return IPv4Address(f"127.30.{self.index}.1")

    @property
    def server(self) -> str:
        """URL of the API server."""
        return f"https://{self.host}:6443"

    @property
    def service_range(self) -> IPv4Network:
        """ClusterIPs."""
        return IPv4Network(f"10.{96 + self.index}.0.0/16")

    @property
    def api_service(self) -> IPv4Address:
        """ClusterIP of the Service `kubernetes`."""
        return self.service_range[1]

    @property
    def pod_range(self) -> IPv4Network:
        """Pods of all real nodes."""
        return IPv4Network(f"10.{244 - self.index}.0.0/16")

    @property
    def fleet_range(self) -> IPv4Network:
        """Pods of all fake nodes."""
        return IPv4Network(f"10.{128 + self.index}.0.0/16")

    @property
    def fleet(self) -> IPv4Address:
        """The network namespace that answers for `fleet_range`."""
        return self.node_network[5]

    @property
    def fleet_interface(self) -> str:
        """The host's end of the fleet's cable."""
        return f"wf{self.index}fleet"

    def node(self, number: int) -> IPv4Address:
        """Address of real node `number`, 1 to 99."""
        return self.node_network[100 + number]

    def node_interface(self, number: int) -> str:
        """The host's end of the cable of real node `number`."""
        return f"wf{self.index}n{number}"

    def node_pods(self, number: int) -> IPv4Network:
        """Pods of real node `number`."""
        return IPv4Network(f"10.{244 - self.index}.{number}.0/24")

    def node_cgroup(self, number: int) -> str:
        """Name of the cgroup below which all pods of real node `number` run."""
        return f"warmfleet-{self.index}-n{number}"
