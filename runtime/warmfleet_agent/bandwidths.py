"""How fast the tiers of this node are, measured on what passes anyway, and on a short read of what has just arrived."""

from dataclasses import dataclass, replace

from warmfleet_api.node_cache import NodeCacheStatus

WEIGHT = 0.3
"""Of the newest measurement; the last five make up five sixths of what is told."""
LEAST_BYTES = 4 * 1024**2
"""Smaller transfers measure latency."""
LEAST_SECONDS = 0.001


@dataclass(frozen=True, slots=True)
class Bandwidths:
    """Bytes per second; 0: not measured yet."""

    remote: int = 0
    """From afar to this node."""
    disk: int = 0
    """From its disk to its memory."""
    memory: int = 0
    """Read from its memory by one thread."""

    def with_remote(self, size_bytes: int, seconds: float) -> "Bandwidths":
        """Return them after a fetch."""
        return replace(self, remote=_moved(self.remote, size_bytes, seconds))

    def with_disk(self, size_bytes: int, seconds: float) -> "Bandwidths":
        """Return them after a promotion."""
        return replace(self, disk=_moved(self.disk, size_bytes, seconds))

    def with_memory(self, size_bytes: int, seconds: float) -> "Bandwidths":
        """Return them after a read of memory."""
        return replace(self, memory=_moved(self.memory, size_bytes, seconds))


def recalled(status: NodeCacheStatus) -> Bandwidths:
    """Return what was measured before the agent was restarted."""
    return Bandwidths(
        remote=status.remote_bytes_per_second,
        disk=status.disk.bytes_per_second if status.disk is not None else 0,
        memory=status.memory.bytes_per_second,
    )


def _moved(before: int, size_bytes: int, seconds: float) -> int:
    if size_bytes < LEAST_BYTES:
        return before
    measured = size_bytes / max(seconds, LEAST_SECONDS)
    return int(measured) if not before else int(before + WEIGHT * (measured - before))
