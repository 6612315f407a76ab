"""Whether a node suits a runner, apart from room: labels, taints, kind of GPU, condition."""

from collections.abc import Iterable, Sequence

from warmfleet_api import names
from warmfleet_api.pod_template import Toleration
from warmfleet_operator.records import Node, Taint

_LIFECYCLE_TAINTS = "node.kubernetes.io/"
"""Taints of a node's condition (not-ready, unschedulable, memory-pressure, …): they come and go by themselves."""
_MIB = 1024 * 1024


def has_labels(node: Node, selector: Iterable[tuple[str, str]]) -> bool:
    """Whether the node has all these labels."""
    labels = node.metadata.labels
    for key, value in selector:  # noqa: SIM110 - no generator: this is asked of every node in every round
        if labels.get(key) != value:
            return False
    return True


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether the toleration covers the taint, by the rules of Kubernetes."""
    if toleration.effect is not None and toleration.effect != taint.effect:
        return False
    if not toleration.key:
        return toleration.operator == "Exists"
    return toleration.key == taint.key and (toleration.operator == "Exists" or (toleration.value or "") == taint.value)


def repelling(node: Node, tolerations: Sequence[Toleration]) -> list[Taint]:
    """Return the taints that keep a pod with these tolerations from the node, those of its condition left out."""
    untolerated = _untolerated(node, tolerations)
    return [taint for taint in untolerated if not taint.key.startswith(_LIFECYCLE_TAINTS)] if untolerated else []


def takes_pods(node: Node, tolerations: Sequence[Toleration]) -> bool:
    """Whether the node takes new pods now: Ready, not cordoned, under no pressure that isn't tolerated."""
    return node.is_ready and not node.is_cordoned and not _untolerated(node, tolerations)


def gpu_memory_bytes(node: Node) -> int | None:
    """Return the memory of each of the node's GPUs, None where nobody labelled the node with it."""
    text = node.metadata.labels.get(names.NODE_LABEL_GPU_MEMORY_MIB, "")
    return int(text) * _MIB if text.isdigit() else None


def has_gpu_memory(node: Node, wanted_bytes: int) -> bool:
    """Whether the node's GPUs are large enough, as far as its labels tell."""
    present = gpu_memory_bytes(node) if wanted_bytes else None
    return present is None or present >= wanted_bytes


def zone_of(node: Node) -> str:
    """Return the node's zone; nodes without one are all in the same."""
    return node.metadata.labels.get(names.NODE_LABEL_ZONE, "")


def _untolerated(node: Node, tolerations: Sequence[Toleration]) -> list[Taint]:
    return [
        taint
        for taint in node.spec.taints
        if taint.effect in {"NoSchedule", "NoExecute"} and not any(tolerates(each, taint) for each in tolerations)
    ]
