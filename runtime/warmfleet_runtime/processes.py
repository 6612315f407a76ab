"""Process groups: start, signal, reap, measure. Linux only.

Each child leads a session of its own, so that its group is everything it started. As PID 1 (or subreaper) the
supervisor inherits and reaps what they leave behind.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
ENGINE_NICENESS = 5
"""Of engines: a third of the front's weight where both want a core."""
_PARENT = "WARMFLEET_PARENT_PID"
"""Tells what `spawn` started who started it."""


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies; holds across exec.

    Raises:
        SystemExit: the parent is gone already.
    """
    # Without the variable a parent that died while this process was being loaded would not be missed.
    parent = int(os.environ.pop(_PARENT, 0)) or os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent process is gone")


def become_subreaper() -> None:
    """Inherit the orphans of all descendants, as PID 1 does anyway."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def let_front_go_first() -> None:
    """Let the front and PID 1 go first where this process, and those it will start, compute on the same cores.

    They need little, and at once: a client that is refused, or another engine's next token, waits for no turn of ours.
    It acts inside the pod's control group; against other pods nothing changes, as these are weighed as wholes.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(ENGINE_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def spawn(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    log: Path | None = None,
    descriptor: tuple[int, int] | None = None,
) -> int:
    """Start `command` as the leader of a new session and return its pid, which is its group's id too.

    Output is appended to `log` (default: our own output), so that the file may be cut while it is written.
    `descriptor` (ours, theirs) is handed on. Nothing of this process runs in the child before exec.

    Raises:
        OSError: the program can't be started.
    """
    actions: list[tuple[object, ...]] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    if log:
        actions.append((os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640))
        actions.append((os.POSIX_SPAWN_DUP2, 1, 2))
    if descriptor:
        actions.append((os.POSIX_SPAWN_DUP2, *descriptor))
    return os.posix_spawn(
        command[0],
        list(command),
        {**environment, _PARENT: str(os.getpid())},
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
    )


@dataclass(frozen=True, slots=True)
class Exit:
    """A child that was reaped."""

    pid: int
    exit_code: int
    """Negative: the signal that ended it."""


def reap() -> Iterator[Exit]:
    """Reap every child that has ended, own and inherited; never waits."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield Exit(pid, os.waitstatus_to_exitcode(status))


def signal_group(group: int, number: signal.Signals) -> bool:
    """Signal a process group; return whether any process of it was left, unreaped ones included."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def members_of(groups: Collection[int]) -> dict[int, list[int]]:
    """Return the processes of each group. Looks at every process there is, once."""
    members: dict[int, list[int]] = {group: [] for group in groups}
    if not members:
        return members
    for name in os.listdir("/proc"):  # noqa: PTH208 - a third of the cost of Path.iterdir, several times a second
        if not name.isdecimal():
            continue
        try:
            group = os.getpgid(int(name))
        except ProcessLookupError:
            continue
        if group in members:
            members[group].append(int(name))
    return members


def cpu_milliseconds(pids: Iterable[int]) -> int:
    """Return the CPU time processes have used, the children they reaped included."""
    ticks = 0
    for pid in pids:
        try:
            # utime, stime, cutime and cstime: the 14th to 17th of all fields.
            ticks += sum(map(int, _stat_fields(pid)[11:15]))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return round(1000 * ticks / os.sysconf("SC_CLK_TCK"))


def _stat_fields(pid: int | str) -> list[str]:
    """Return the fields of `/proc/<pid>/stat` from the third on: the second, a name, may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def seconds_since_start() -> float:
    """Return how long this process exists, the interpreter's own start included."""
    # The 22nd of all fields is the start in ticks since boot.
    start_ticks = int(_stat_fields("self")[19])
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    return max(0.0, uptime - start_ticks / os.sysconf("SC_CLK_TCK"))
