"""The power of a zone of fake nodes: cut, and given back.

Fake nodes have no machines, so what others notice of a loss is made: packets to and from the addresses of their pods
vanish at one moment, connections that stand included, and nobody renews their leases or plays their pods any more.
Nothing is told to anybody: the control plane finds out as it does with a machine.
"""

from collections.abc import Iterable
from typing import Any

from localcluster import network
from localcluster.api import Api
from localcluster.errors import ClusterError
from localcluster.processes import Identity

ZONE_LABEL = "topology.kubernetes.io/zone"
_API = "coordination.k8s.io/v1"
_LEASES = f"/apis/{_API}/namespaces/kube-node-lease/leases"
_NOBODY = "power-off"
_FOREVER_SECONDS = 10_000_000


def cut(api: Api, player: Identity, zone: str, selector: str) -> int:
    """Cut the power of the zone's nodes that have this annotation as `key=value`; return how many they are.

    Raises:
        ClusterError: no such node is in the zone.
    """
    nodes = _nodes(api, zone, selector)
    for name in nodes:
        # KWOK plays no node whose lease somebody else holds (kwok.yaml). The time of the last renewal stays as it is.
        held = {"holderIdentity": _NOBODY, "leaseDurationSeconds": _FOREVER_SECONDS}
        # Applied, not patched: a node that was given its power back a moment ago has no lease yet.
        lease = {"apiVersion": _API, "kind": "Lease", "metadata": {"name": name}, "spec": held}
        api.apply(f"{_LEASES}/{name}", lease)
    pods = api.request("GET", "/api/v1/pods")["items"]
    addresses = [_address(pod) for pod in pods if pod["spec"].get("nodeName") in nodes]
    network.run("nsenter", f"--net=/proc/{player.pid}/ns/net", "nft", "-f", "-", stdin=_rules(zone, addresses))
    return len(nodes)


def restore(api: Api, player: Identity, zone: str, selector: str) -> set[str]:
    """Give the zone's nodes their power back; return their names."""
    nodes = _nodes(api, zone, selector)
    network.run("nsenter", f"--net=/proc/{player.pid}/ns/net", "nft", "-f", "-", stdin=_no_rules(zone))
    for name in nodes:
        api.delete(f"{_LEASES}/{name}")
    return nodes


def _nodes(api: Api, zone: str, selector: str) -> set[str]:
    key, _, value = selector.partition("=")
    nodes = api.request("GET", "/api/v1/nodes")["items"]
    fake = [node for node in nodes if node["metadata"].get("annotations", {}).get(key) == value]
    found = {node["metadata"]["name"] for node in fake if node["metadata"]["labels"].get(ZONE_LABEL) == zone}
    if not found:
        zones = sorted({node["metadata"]["labels"].get(ZONE_LABEL, "") for node in fake})
        known = (
            f"only in {', '.join(zones)}" if zones else "the cluster has none; make them with `hack/cluster fake-nodes`"
        )
        raise ClusterError(f"no fake node is in the zone {zone}, {known}")
    return found


def _address(pod: dict[str, Any]) -> str:
    return str(pod.get("status", {}).get("podIP") or "")


def _rules(zone: str, addresses: Iterable[str]) -> str:
    """Return what nftables is told: a set that is filled in the moment in which its rules begin to count."""
    lost = ", ".join(address for address in addresses if address)
    elements = f"elements = {{ {lost} }}" if lost else ""
    return f"""{_no_rules(zone)}
table ip {_table(zone)} {{
  set lost {{ type ipv4_addr; {elements} }}
  chain into {{ type filter hook input priority 0; ip daddr @lost drop; }}
  chain out {{ type filter hook output priority 0; ip saddr @lost drop; }}
}}
"""


def _no_rules(zone: str) -> str:
    """Return how nftables forgets them, whether or not there are any."""
    return f"table ip {_table(zone)}\ndelete table ip {_table(zone)}\n"


def _table(zone: str) -> str:
    return f"power-{zone}"
