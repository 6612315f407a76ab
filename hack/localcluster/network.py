"""Bridge, cables and routes. All of it hangs on the cluster's bridge: deleting that deletes the routes too."""

import ipaddress
import json
import os
import subprocess
import time
from pathlib import Path

from localcluster.addresses import Addresses
from localcluster.errors import ClusterError
from localcluster.processes import Identity


def run(*command: str, seconds: float = 30, stdin: str | None = None) -> str:
    """Run a short system command, which reads `stdin`.

    Raises:
        ClusterError: it failed; carries what it wrote.
    """
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds, input=stdin)
    except FileNotFoundError:
        raise ClusterError(f"{command[0]} is not installed; run hack/setup") from None
    except subprocess.TimeoutExpired:
        raise ClusterError(f"`{' '.join(command)}` took longer than {seconds:.0f} s") from None
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def require_root() -> None:
    """Raise ClusterError unless this process may create interfaces and namespaces."""
    if os.geteuid() != 0:
        raise ClusterError("namespaces and interfaces need root; run `sudo -E hack/cluster ...`")


def interface_exists(name: str) -> bool:
    """Whether the host has this interface."""
    return Path(f"/sys/class/net/{name}").exists()


def in_use(addresses: Addresses) -> bool:
    """Whether another interface or route of the host lies in one of the cluster's ranges."""
    ours = [addresses.node_network, addresses.service_range, addresses.pod_range, addresses.fleet_range]
    for route in json.loads(run("ip", "-json", "route", "show")):
        if route["dst"] != "default":
            taken = ipaddress.ip_network(route["dst"], strict=False)
            if isinstance(taken, ipaddress.IPv4Network) and any(taken.overlaps(range_) for range_ in ours):
                return True
    return False


def ensure_bridge(addresses: Addresses) -> None:
    """The bridge with the host's address on it, forwarding what arrives there."""
    bridge = addresses.bridge
    if not interface_exists(bridge):
        # Without one of its own a bridge takes the lowest of its cables', and changes it when that one is pulled: the
        # loss of one node would cut the others off.
        run("ip", "link", "add", bridge, "address", _hardware(addresses.host), "type", "bridge")
    run("ip", "address", "replace", f"{addresses.host}/{addresses.node_network.prefixlen}", "dev", bridge)
    run("ip", "link", "set", bridge, "up")
    # Of this interface alone: nothing of the host's own setting is touched.
    Path(f"/proc/sys/net/ipv4/conf/{bridge}/forwarding").write_text("1")


def route(destination: ipaddress.IPv4Network, via: ipaddress.IPv4Address) -> None:
    """Send what the host has for `destination` to `via`."""
    run("ip", "route", "replace", str(destination), "via", str(via))


def unroute(destination: ipaddress.IPv4Network) -> None:
    """Forget a route, if there is one."""
    if run("ip", "route", "show", "exact", str(destination)):
        run("ip", "route", "del", str(destination))


def plug(bridge: str, interface: str, process: Identity, address: ipaddress.IPv4Address) -> None:
    """Lay a cable from the bridge into the network namespace of `process`, whose end is called `eth0`.

    That end's hardware address follows from `address`, which it is to have: who has spoken with a former holder
    reaches the new one at once. It would send to hardware that is gone for as long as it believes its neighbour
    table otherwise (up to 45 s).

    Raises:
        ClusterError: the process has no network namespace of its own within 10 s.
    """
    unplug(interface)
    own = Path("/proc/self/ns/net").readlink()
    deadline = time.monotonic() + 10
    while not process.alive or Path(f"/proc/{process.pid}/ns/net").readlink() == own:
        if not process.alive or time.monotonic() > deadline:
            raise ClusterError(f"process {process.pid} behind {interface} has no network namespace; are you root?")
        time.sleep(0.005)
    peer = ("name", "eth0", "address", _hardware(address), "netns", str(process.pid))
    run("ip", "link", "add", interface, "type", "veth", "peer", *peer)
    run("ip", "link", "set", interface, "master", bridge, "up")


def unplug(interface: str) -> None:
    """Remove a cable; gone already is fine (its namespace may take it along at any moment)."""
    if interface_exists(interface):
        try:
            run("ip", "link", "delete", interface)
        except ClusterError:
            if interface_exists(interface):
                raise


def remove_bridge(addresses: Addresses) -> None:
    """Remove the bridge, its cables and with them all routes."""
    ports = Path(f"/sys/class/net/{addresses.bridge}/brif")
    for interface in [port.name for port in ports.iterdir()] if ports.exists() else []:
        unplug(interface)
    unplug(addresses.bridge)


def _hardware(address: ipaddress.IPv4Address) -> str:
    """The hardware address of whoever has `address`, administered locally (IEEE 802: 02)."""
    return (b"\x02\x00" + address.packed).hex(":")
