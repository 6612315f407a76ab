"""What a local cluster has left on the machine: empty after `hack/cluster down`."""

import ipaddress
import json
import subprocess
from dataclasses import dataclass, fields
from pathlib import Path

from localcluster.addresses import Addresses

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Footprint:
    """Traces of one cluster, by kind."""

    processes: frozenset[str]
    mounts: frozenset[str]
    interfaces: frozenset[str]
    routes: frozenset[str]
    network_namespaces: frozenset[str]
    cgroups: frozenset[str]
    files: frozenset[str]

    def kinds(self) -> set[str]:
        """The kinds of which there is something."""
        return {field.name for field in fields(self) if getattr(self, field.name)}


def footprint(addresses: Addresses, root: Path) -> Footprint:
    """Look for all traces of the cluster with these addresses and this state directory."""
    cgroup = f"warmfleet-{addresses.index}-"
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found = [path for path in CGROUPS.glob("*") if path.name.startswith(cgroup)]
    found += [path for path in CGROUPS.glob("*/*") if path.name.startswith(cgroup)]
    return Footprint(
        processes=frozenset(_processes(root, cgroup)),
        mounts=frozenset(line for line in mounts if str(root) in line),
        interfaces=frozenset(path.name for path in Path("/sys/class/net").iterdir() if _ours(path.name, addresses)),
        routes=frozenset(_routes(addresses)),
        network_namespaces=frozenset(_network_namespaces(root, cgroup)),
        cgroups=frozenset(map(str, found)),
        files=frozenset(str(path) for path in (root, root.with_name(f".{root.name}.lock")) if path.exists()),
    )


def _ours(interface: str, addresses: Addresses) -> bool:
    rest = interface.removeprefix(addresses.bridge)
    return rest != interface and not rest[:1].isdigit()


def _processes(root: Path, cgroup: str) -> dict[str, Path]:
    """Processes that name the state directory in their command or environment, or run in a node's cgroup."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            named = (directory / "cmdline").read_bytes() + (directory / "environ").read_bytes()
            if f"{root}/".encode() in named or cgroup in (directory / "cgroup").read_text():
                found[f"{directory.name} {named[:80]!r}"] = directory
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # gone meanwhile, or the kernel's own
    return found


def _network_namespaces(root: Path, cgroup: str) -> set[str]:
    """Namespaces of those processes, and those that a mounted file below the state directory keeps."""
    host = Path("/proc/self/ns/net").readlink()
    found = set()
    for directory in _processes(root, cgroup).values():
        try:
            found.add(str((directory / "ns/net").readlink()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    kept = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " nsfs " in line]
    return (found - {str(host)}) | {line for line in kept if str(root) in line}


def _routes(addresses: Addresses) -> set[str]:
    listed = json.loads(subprocess.check_output(["ip", "-json", "route", "show", "table", "all"], text=True))
    ours = [addresses.node_network, addresses.service_range, addresses.pod_range, addresses.fleet_range]
    found = set()
    for route in listed:
        try:
            destination = ipaddress.ip_network(route["dst"], strict=False)
        except ValueError:
            continue  # `default`
        if isinstance(destination, ipaddress.IPv4Network) and any(destination.overlaps(range_) for range_ in ours):
            found.add(str(route["dst"]))
    return found
