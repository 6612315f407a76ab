"""The command `warmfleet`, typed by a person whose kubeconfig is that of a test's cluster."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.namespace import Namespace

COMMAND = Path(sys.executable).with_name("warmfleet")
COMMAND_SECONDS = 60


class Terminal:
    """Types commands for one namespace."""

    def __init__(self, namespace: Namespace) -> None:
        kubectl, *flags = namespace.cluster.kubectl_command()
        self._cluster = [f"--kubectl={kubectl}", f"--kubeconfig={flags[flags.index('--kubeconfig') + 1]}"]
        self._namespace = f"--namespace={namespace.name}"

    def type(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [COMMAND, command, *arguments, *self._cluster, self._namespace],
            check=False,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            env={"COLUMNS": "240", "HOME": "/nonexistent"},
        )

    def shown(self, command: str, *arguments: str) -> str:
        """Return what a command writes that has to succeed."""
        done = self.type(command, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def read(self, command: str, *arguments: str) -> Any:
        """Return what a command writes for machines."""
        return json.loads(self.shown(command, *arguments, "--output=json"))
