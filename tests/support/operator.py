"""The operator as a process on the host."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Self
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import yaml

from support.faultproxy import FaultProxy
from support.ports import free_port
from support.waiting import wait_for
from warmfleet_api import names

LEASE_SECONDS = 5
LEASE_PATH = f"apis/coordination.k8s.io/v1/namespaces/warmfleet-system/leases/{names.LEASE_NAME}"
SETTINGS: dict[str, str | int] = {"lease_seconds": LEASE_SECONDS}
"""Settings of the operators of the cluster tier; a test may override them."""
START_SECONDS = 60
STOP_SECONDS = 30
PROBE_SECONDS = 3
_open = build_opener(ProxyHandler({})).open


class OperatorProcess:
    """`python -m warmfleet_operator`. Settings are those of its environment.

    The process ends with the context; its log stays in `directory`.
    """

    def __init__(self, kubeconfig: Path, directory: Path, **settings: str | int) -> None:
        self.log = directory / "operator.log"
        self._kubeconfig = kubeconfig
        self._settings = {f"WARMFLEET_{key.upper()}": str(value) for key, value in (SETTINGS | settings).items()}
        # The same for every process of this place, as those of a pod's containers.
        self._port, self._api_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """Process id of the running operator."""
        assert self._process is not None, "the operator was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How the operator ended; None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the process; `wait_ready` tells when it watches."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WARMFLEET_")}
        environment |= {
            "WARMFLEET_KUBECONFIG": str(self._kubeconfig),
            "WARMFLEET_PORT": str(self._port),
            "WARMFLEET_API_PORT": str(self._api_port),
            **self._settings,
        }
        command = [sys.executable, "-m", "warmfleet_operator"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def wait_ready(self) -> None:
        """Wait until /readyz is green."""
        wait_for("the operator is ready", self._ready_or_ended, START_SECONDS, self.log_tail)
        assert self.exit_code is None, f"the operator ended with {self.exit_code}\n{self.log_tail()}"

    def wait_leads(self) -> None:
        """Wait until it holds the lease, which one that was killed elsewhere may have left to run out."""
        wait_for("the operator leads", lambda: self.metrics()["warmfleet_leader"] == 1, START_SECONDS, self.log_tail)

    def kill(self) -> None:
        """End the process as a power-off would, and reap it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def restart(self) -> None:
        """Kill the process and start another with empty memory."""
        self.kill()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, e.g. SIGSTOP and SIGCONT to take its time away; one that has ended is past it."""
        assert self._process is not None, "the operator was not started"
        self._process.send_signal(number)

    def wait_ended(self, bound_seconds: float) -> int:
        """Wait until the process has ended and return its exit code."""
        wait_for("the operator ends", lambda: self.exit_code is not None, bound_seconds, self.log_tail)
        assert self.exit_code is not None
        return self.exit_code

    def probe(self, path: str) -> int:
        """Return the HTTP status of a health path; 0 where nothing answers."""
        try:
            with _open(self._url(path), timeout=PROBE_SECONDS) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except (URLError, TimeoutError, ConnectionError):
            return 0

    def metrics(self) -> dict[str, float]:
        """Return /metrics by sample, its labels included as they are written."""
        with _open(self._url("/metrics"), timeout=PROBE_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def cpu_seconds(self) -> float:
        """Return the processor time the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_rss_bytes(self) -> int:
        """Return the most memory the process has held."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))

    def api_url(self, path: str) -> str:
        """Return the URL of a path of its API."""
        return f"http://127.0.0.1:{self._api_port}{path}"

    def log_tail(self, lines: int = 25) -> str:
        """Return the end of the log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def log_about(self, *words: str) -> str:
        """Return the lines of the log that hold all these words."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else ()
        return "\n".join(line for line in lines if all(word in line for word in words))

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}{path}"

    def _ready_or_ended(self) -> bool:
        return self.exit_code is not None or self.probe("/readyz") == 200


class ProxiedOperator(OperatorProcess):
    """An operator whose API server is a fault proxy that was started."""

    def __init__(self, proxy: FaultProxy, directory: Path, **settings: str | int) -> None:
        kubeconfig = directory / "operator.kubeconfig"
        kubeconfig.write_text(proxy_kubeconfig(proxy.url))
        super().__init__(kubeconfig, directory, **settings)
        self.proxy = proxy


StartOperator = Callable[..., ProxiedOperator]
"""Starts an operator with these settings; the test's fixture ends it."""


def proxy_kubeconfig(server: str) -> str:
    name = "proxy"
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [{"name": name, "cluster": {"server": server}}],
            "users": [{"name": name, "user": {}}],
        }
    )
