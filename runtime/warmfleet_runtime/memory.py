"""Memory and CPU: what process groups hold and use, and how much of the container's limit is used up. Linux only.

A group's share is measured as PSS, because forked engines share pages with the zygote: RSS counts those for each of
them. Pages of files, weights in the page cache among them, are left out: the kernel takes them back when it has to.
"""

import asyncio
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from warmfleet_runtime import processes
from warmfleet_runtime.gpu_meter import busy_percents

SHARE_OF_TIME = 0.01
"""At most this much of the time goes into measuring: the kernel walks every page table for it."""
MEASURE_SECONDS = 1.0
_UNLIMITED_BYTES = 1 << 60
_MOUNT = Path("/sys/fs/cgroup")


class MemoryMeter:
    """The memory and CPU of process groups, and how busy GPUs are.

    All is measured beside everything else, and no more often than is cheap.
    One vLLM engine's three processes take the kernel 55 ms, so a few are measured every ten or twenty seconds.
    """

    def __init__(self, *, has_gpus: bool = False) -> None:
        self.bytes_by_group: dict[int, int] = {}
        """As measured last."""
        self.millicores_by_group: dict[int, int] = {}
        """On average between the last two measures."""
        self.gpu_percents: tuple[int | None, ...] = ()
        """By index of the GPU, as measured last."""
        self._has_gpus = has_gpus
        self._cpu: dict[int, tuple[float, int]] = {}
        """By group: when it was measured, and how many milliseconds it had used."""
        self._measured_cpu_at = float("-inf")
        self._due_at = 0.0
        self._measuring: asyncio.Task[dict[int, int]] | None = None
        self._is_outdated = False
        """What is being measured has changed meanwhile."""

    def poll(self, groups: Collection[int]) -> bool:
        """Measure in the background when it is time for it; return whether there is something new."""
        if self._measuring is None:
            if groups and time.monotonic() >= self._due_at:
                self._is_outdated = False
                measuring = asyncio.to_thread(self._measure, tuple(groups))
                self._measuring = asyncio.create_task(measuring, name="measure memory")
            return False
        if not self._measuring.done():
            return False
        measured, self._measuring = self._measuring.result(), None
        if self._is_outdated:
            self._due_at = 0.0
            return False
        self.bytes_by_group = measured
        return True

    def hasten(self) -> None:
        """Measure as soon as can be: an engine has just got ready or fallen asleep."""
        self._due_at = 0.0
        self._is_outdated = True

    def measure_now(self, groups: Collection[int]) -> None:
        """Measure, and wait for it."""
        self.bytes_by_group = self._measure(tuple(groups))

    async def close(self) -> None:
        """Wait for the measure under way."""
        if self._measuring:
            await asyncio.gather(self._measuring, return_exceptions=True)

    def _measure(self, groups: Collection[int]) -> dict[int, int]:
        began = time.thread_time()
        members = processes.members_of(groups)
        measured = {group: sum(map(_held_bytes, pids)) for group, pids in members.items()}
        if time.monotonic() - self._measured_cpu_at >= MEASURE_SECONDS:
            self._measure_cpu(members)
            if self._has_gpus:
                self.gpu_percents = busy_percents()
        cost = time.thread_time() - began
        self._due_at = time.monotonic() + max(MEASURE_SECONDS, cost / SHARE_OF_TIME)
        return measured

    def _measure_cpu(self, members: Mapping[int, Collection[int]]) -> None:
        now = self._measured_cpu_at = time.monotonic()
        before, self._cpu = self._cpu, {key: (now, processes.cpu_milliseconds(pids)) for key, pids in members.items()}
        self.millicores_by_group = {
            group: round(max(0, used - before[group][1]) / (now - before[group][0]))
            for group, (_, used) in self._cpu.items()
            if group in before
        }


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """The memory control group of the container, version 1 or 2."""

    folder: Path
    limit_bytes: int
    used: str
    """File with all that is charged to it."""
    reclaimable: tuple[str, ...]
    """Lines of its `memory.stat` that the kernel takes back before it kills."""

    def used_bytes(self) -> int:
        """Return what is charged to it: an upper bound of `held_bytes`, and cheap."""
        return int((self.folder / self.used).read_text())

    def held_bytes(self) -> int:
        """Return what the kernel can't take back. The kubelet's working set counts the active page cache as well."""
        stat = dict(line.split() for line in (self.folder / "memory.stat").read_text().splitlines())
        return max(0, self.used_bytes() - sum(int(stat.get(name, 0)) for name in self.reclaimable))


def control_group(mount: Path = _MOUNT, membership: Path = Path("/proc/self/cgroup")) -> ControlGroup | None:
    """Return this process's memory control group, None if it has no limit."""
    paths = {line.split(":")[1]: line.split(":", 2)[2] for line in membership.read_text().splitlines()}
    found: list[tuple[Path, str, str, tuple[str, ...]]] = []
    if "memory" in paths:
        lines: tuple[str, ...] = ("total_inactive_file", "total_active_file")
        for folder in _folders(mount / "memory", paths["memory"]):
            found += [(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", lines)]
    if "" in paths:
        lines = ("inactive_file", "active_file", "slab_reclaimable")
        for folder in _folders(mount, paths[""]):
            found += [(folder, "memory.max", "memory.current", lines)]
    for folder, limit, used, lines in found:
        try:
            text = (folder / limit).read_text().strip()
        except OSError:
            continue
        if text != "max" and int(text) < _UNLIMITED_BYTES:
            return ControlGroup(folder, int(text), used, lines)
        return None
    return None


def _folders(mount: Path, path: str) -> tuple[Path, ...]:
    """Where the control group is seen: below the mount, or as the mount itself in a container of its own."""
    return mount / path.lstrip("/"), mount


def _held_bytes(pid: int) -> int:
    """Return the anonymous and shared memory a process answers for, 0 if it is gone.

    A process that may not be looked at (it has dropped its rights) counts by its resident pages.
    """
    try:
        return _sum_of(Path(f"/proc/{pid}/smaps_rollup").read_text(), ("Pss_Anon:", "Pss_Shmem:", "SwapPss:"))
    except PermissionError:
        return _sum_of(Path(f"/proc/{pid}/status").read_text(), ("RssAnon:", "RssShmem:"))
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _sum_of(text: str, names: tuple[str, ...]) -> int:
    lines = (line.split() for line in text.splitlines() if line.startswith(names))
    return sum(int(kibibytes) * 1024 for _, kibibytes, *_ in lines)
