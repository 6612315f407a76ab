"""What `nodes` and `status` show: plain records, and a table of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class NodeState:
    """A node as a person sees it."""

    name: str
    kind: str
    """`Real`, or `Fake` when KWOK plays it."""
    power: str
    """`On`, `Off`, or `-` where there is no switch."""
    ready: str
    """Status of the Node's condition Ready: `True`, `False` or `Unknown`."""
    address: str
    zone: str
    gpus: int
    gpu_memory_mebibytes: int


@dataclass(frozen=True)
class ProcessState:
    """A daemon of the cluster."""

    name: str
    state: str
    """`Running` or `Gone`."""
    pid: int | None
    resident_mebibytes: int
    log: str


def node_state(node: dict[str, Any], kind: str, power: str) -> NodeState:
    """Read a Node object."""
    labels, status = node["metadata"].get("labels", {}), node.get("status", {})
    ready = next((item["status"] for item in status.get("conditions", []) if item["type"] == "Ready"), "Unknown")
    address = next((item["address"] for item in status.get("addresses", []) if item["type"] == "InternalIP"), "-")
    return NodeState(
        name=node["metadata"]["name"],
        kind=kind,
        power=power,
        ready=ready,
        address=address,
        zone=labels.get("topology.kubernetes.io/zone", "-"),
        gpus=int(status.get("allocatable", {}).get("nvidia.com/gpu", "0")),
        gpu_memory_mebibytes=int(labels.get("nvidia.com/gpu.memory", "0")),
    )


def table(rows: Sequence[NodeState | ProcessState]) -> str:
    """The rows below a header, in columns."""
    records = [asdict(row) for row in rows]
    if not records:
        return "(none)"
    header = [name.replace("_", "-").upper() for name in records[0]]
    lines = [header, *(["-" if value is None else str(value) for value in record.values()] for record in records)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
