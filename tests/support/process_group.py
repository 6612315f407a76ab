"""What a process group of this machine holds: its processes, memory and processor time."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def members(group: int) -> list[int]:
    """Return the pids of a process group, unreaped ones left out."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal() and _is_member(path, group)]


def pss_bytes(group: int) -> int:
    """Return its proportional share of memory: a page that n processes share counts as 1/n for each."""
    return sum(_pss_bytes(pid) for pid in members(group))


def cpu_seconds(group: int) -> float:
    """Return the processor time its living processes used, with that of children they have reaped."""
    return sum(_cpu_seconds(pid) for pid in members(group))


def _is_member(process: Path, group: int) -> bool:
    try:
        # After the parenthesised name: state, parent, group.
        fields = process.joinpath("stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return int(fields[2]) == group and fields[0] != "Z"


def _pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    # utime, stime, cutime, cstime: fields 14 to 17 of all, the first two of which are before the parenthesis' end.
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS
