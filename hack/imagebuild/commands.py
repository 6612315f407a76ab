"""Runs the programs that build images, so that a waiting person sees that they run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagebuild.errors import BuildError
from localcluster.progress import Say

_SAY_EVERY_SECONDS = 15.0


def run_visibly(
    say: Say, command: Sequence[str], directory: Path, environment: Mapping[str, str] | None = None
) -> None:
    """Run a command in `directory`, its output shown; say every 15 s that it still runs.

    When it is left early, by Ctrl-C for one, the command and its children get SIGTERM and time to clean up.

    Raises:
        BuildError: It failed.
    """
    started = time.monotonic()
    everything = {**os.environ, **(environment or {})}
    with subprocess.Popen(command, cwd=directory, env=everything, umask=0o022, process_group=0) as process:
        while process.returncode is None:
            try:
                process.wait(_SAY_EVERY_SECONDS)
            except subprocess.TimeoutExpired:
                say(f"still at it after {time.monotonic() - started:.0f} s")
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                raise
    if process.returncode != 0:
        raise BuildError(f"`{' '.join(command)}` ended with status {process.returncode}; its output is above")


def docker_answers() -> bool:
    """Whether a Docker engine runs here; the command alone is not enough."""
    try:
        return subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
