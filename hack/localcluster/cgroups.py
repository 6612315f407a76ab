"""The cgroup of each node, in every hierarchy the machine has (version 1, hybrid and 2)."""

import os
import signal
import time
from pathlib import Path

from localcluster.errors import ClusterError

_ROOT = Path("/sys/fs/cgroup")


def hierarchies() -> list[Path]:
    """The mounted hierarchies: all of version 1 (and on hybrid machines that of version 2), or the one of version 2."""
    if (_ROOT / "cgroup.procs").exists():
        return [_ROOT]
    return [path for path in sorted(_ROOT.iterdir()) if not path.is_symlink() and (path / "cgroup.procs").exists()]


def ensure(name: str) -> None:
    """Create the cgroup; the kubelet insists that its root exists everywhere."""
    for root in hierarchies():
        (root / name).mkdir(exist_ok=True)
        for resource in ("cpuset.cpus", "cpuset.mems"):
            # In version 1 a new cpuset is empty and takes no process.
            if (root / "cgroup.clone_children").exists() and (root / resource).exists():
                (root / name / resource).write_text((root / resource).read_text())


def remove(name: str, seconds: float = 20) -> None:
    """Remove the cgroup with all below it, killing what still runs there.

    Raises:
        ClusterError: it could not be removed within `seconds`.
    """
    deadline = time.monotonic() + seconds
    for root in hierarchies():
        top = root / name
        while top.exists():
            busy = _remove_once(top)
            if busy and time.monotonic() > deadline:
                raise ClusterError(f"cgroup {top} is still in use: {busy}")
            if busy:
                time.sleep(0.05)


def _remove_once(top: Path) -> str:
    busy = ""
    for directory, _, _ in os.walk(top, topdown=False):
        try:
            for pid in (Path(directory) / "cgroup.procs").read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            Path(directory).rmdir()
        except (FileNotFoundError, ProcessLookupError):
            continue
        except OSError as error:
            busy = str(error)
    return busy
