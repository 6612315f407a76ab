"""Daemons that outlive the command which started them, and are ended by nobody else's mistake.

A process is known by its pid *and* its start time, written by the process itself before it becomes the daemon: there is
no moment in which a daemon runs unrecorded, and a recycled pid is never taken for one of ours.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from localcluster.errors import ClusterError

# Field numbers of /proc/PID/stat, counted after the parenthesised name (proc(5) counts from 1 and before it).
_STATE, _START_TICKS = 0, 19
_RECORD_AND_EXEC = 'read -r line < /proc/$$/stat && printf "%s\\n" "$line" > "$1" && shift && exec "$@"'


@dataclass(frozen=True)
class Identity:
    """One process for as long as the machine runs."""

    pid: int
    start_ticks: int
    boot: str

    @property
    def alive(self) -> bool:
        """Whether exactly this process still runs."""
        if self.boot != _boot():
            return False
        _reap(self.pid)
        try:
            fields = _stat_fields(Path(f"/proc/{self.pid}/stat").read_text())
        except (FileNotFoundError, ProcessLookupError):
            return False
        return fields[_STATE] not in "ZX" and int(fields[_START_TICKS]) == self.start_ticks

    @property
    def children(self) -> list[int]:
        """Pids of its children."""
        try:
            return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            return []

    @property
    def resident_bytes(self) -> int:
        """Resident memory of the process itself, 0 when it is gone."""
        try:
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _stat_fields(stat: str) -> list[str]:
    return stat[stat.rindex(")") + 1 :].split()


def _reap(pid: int) -> None:
    """Collect the process if it is this process's own child; else its parent does."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


class Processes:
    """The daemons of one cluster, recorded in `directory`, their output in `logs`."""

    def __init__(self, directory: Path, logs: Path) -> None:
        self._directory = directory
        self._logs = logs

    def names(self) -> list[str]:
        """All recorded daemons, running or not."""
        return sorted(path.stem for path in self._directory.glob("*.stat"))

    def identity(self, name: str) -> Identity | None:
        """The recorded process, or None when none was ever started."""
        try:
            stat = (self._directory / f"{name}.stat").read_text()
            boot = json.loads((self._directory / f"{name}.json").read_text())["boot"]
        except FileNotFoundError:
            return None
        if not stat.endswith("\n"):  # killed while it wrote this: it never became the daemon
            return None
        return Identity(int(stat.split()[0]), int(_stat_fields(stat)[_START_TICKS]), boot)

    def running(self, name: str) -> Identity | None:
        """The recorded process if it runs."""
        identity = self.identity(name)
        return identity if identity is not None and identity.alive else None

    def log(self, name: str) -> Path:
        """The daemon's output."""
        return self._logs / f"{name}.log"

    def log_tail(self, name: str, lines: int = 15) -> str:
        """The last lines of the daemon's output, for an error message."""
        try:
            return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return "(no output)"

    def ensure(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        inputs: Sequence[Path] = (),
    ) -> bool:
        """Run `command` as daemon `name`; True when it had to be started.

        A daemon that runs already is left alone unless the command, its environment or the content of an input file
        changed: then it is replaced.
        """
        extra = dict(environment or {})
        fingerprint = _fingerprint(command, extra, inputs)
        if self.running(name) is not None:
            if json.loads((self._directory / f"{name}.json").read_text())["fingerprint"] == fingerprint:
                return False
            self.stop(name)
        self._start(name, command, extra, fingerprint)
        return True

    def _start(self, name: str, command: Sequence[str], extra: Mapping[str, str], fingerprint: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        record = self._directory / f"{name}.stat"
        record.unlink(missing_ok=True)
        (self._directory / f"{name}.json").write_text(json.dumps({"boot": _boot(), "fingerprint": fingerprint}))
        output = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _RECORD_AND_EXEC, "sh", str(record), *command],
            {**os.environ, **extra},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log(name)), output, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
        deadline = time.monotonic() + 10
        while self.identity(name) is None:
            if time.monotonic() > deadline:
                raise ClusterError(f"process {name} (pid {pid}) did not start:\n{self.log_tail(name)}")
            time.sleep(0.005)

    def stop(self, name: str) -> None:
        """Kill the daemon and forget it. SIGKILL: nothing of the cluster is worth a clean shutdown."""
        identity = self.identity(name)
        if identity is not None and identity.alive:
            os.kill(identity.pid, signal.SIGKILL)
            wait_gone(identity)
        (self._directory / f"{name}.stat").unlink(missing_ok=True)
        (self._directory / f"{name}.json").unlink(missing_ok=True)


def wait_gone(identity: Identity, seconds: float = 20) -> None:
    """Wait until the process is gone.

    Raises:
        ClusterError: it is still there after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while identity.alive:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"process {identity.pid} survived SIGKILL for {seconds:.0f} s; look at /proc/{identity.pid}/stack"
            )
        time.sleep(0.01)


def child_identity(pid: int) -> Identity | None:
    """The identity of a process now running, None when there is none."""
    try:
        fields = _stat_fields(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Identity(pid, int(fields[_START_TICKS]), _boot())


def _fingerprint(command: Sequence[str], environment: Mapping[str, str], inputs: Sequence[Path]) -> str:
    parts: list[object] = [list(command), sorted(environment.items())]
    parts += [hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
