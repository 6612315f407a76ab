"""How a runner is set up: flags with the names of the contract as defaults, and what the pod says of itself.

Plain argparse on purpose: PID 1 and the front start with every runner and stay small.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from warmfleet_api import names


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """Set-up of one runner."""

    run_directory: Path
    """Sockets and logs."""
    assignment: Path
    cache: Path
    weights: Path
    """Folders below it are entries of the weight store."""
    host: str
    api_port: int
    status_port: int
    drain_seconds: float
    stop_seconds: float
    pod_uid: str
    memory_limit_bytes: int

    def flags(self) -> list[str]:
        """Return the flags that give this set-up; the environment is inherited."""
        return [
            f"--run-directory={self.run_directory}",
            f"--assignment={self.assignment}",
            f"--cache={self.cache}",
            f"--weights={self.weights}",
            f"--host={self.host}",
            f"--api-port={self.api_port}",
            f"--status-port={self.status_port}",
            f"--drain-seconds={self.drain_seconds}",
            f"--stop-seconds={self.stop_seconds}",
        ]

    def socket(self, engine_id: str) -> Path:
        """Return the unix socket of an engine."""
        return self.run_directory / f"{engine_id}.sock"

    def log(self, process: str) -> Path:
        """Return the log file of an engine or of the front."""
        return self.run_directory / f"{process}.log"


def parse(arguments: Sequence[str], environment: Mapping[str, str] = os.environ, *, prog: str) -> RunnerConfig:
    """Read flags and environment; exits with a message on a bad flag."""
    parser = argparse.ArgumentParser(prog=prog, description="Run the engines of the assignment file.")
    parser.add_argument("--run-directory", type=Path, default=Path(names.RUN_DIRECTORY), help="sockets and logs")
    parser.add_argument("--assignment", type=Path, default=Path(names.ASSIGNMENT_DIRECTORY, names.ASSIGNMENT_FILE))
    parser.add_argument("--cache", type=Path, default=Path(names.CACHE_DIRECTORY), help="HOME and compile caches")
    parser.add_argument("--weights", type=Path, default=Path(names.WEIGHTS_DIRECTORY), help="view of the weight store")
    parser.add_argument("--host", default="::", help="address of both ports; :: is all, IPv4 included")
    parser.add_argument("--api-port", type=int, default=names.API_PORT)
    parser.add_argument("--status-port", type=int, default=names.STATUS_PORT)
    parser.add_argument("--drain-seconds", type=float, default=40.0, help="how long requests may finish")
    parser.add_argument("--stop-seconds", type=float, default=5.0, help="from SIGTERM to SIGKILL of an engine")
    flags = parser.parse_args(arguments)
    return RunnerConfig(
        **vars(flags),
        pod_uid=environment.get(names.ENV_POD_UID, ""),
        memory_limit_bytes=int(environment.get(names.ENV_MEMORY_LIMIT_BYTES) or 0),
    )
