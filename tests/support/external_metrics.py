"""The server of external metrics as a process on the host, to which the API server of a cluster sends its requests."""

import http.client
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from support.cluster import Cluster
from support.faultproxy import FaultProxy
from support.kubeapi import Object
from support.operator import proxy_kubeconfig
from support.ports import free_port
from support.waiting import wait_for
from warmfleet_api import names

COMPONENT = names.EXTERNAL_METRICS_SERVICE
ACCOUNT = f"{names.SYSTEM_NAMESPACE}:{COMPONENT}"
API = f"apis/{names.EXTERNAL_METRICS_GROUP}/{names.EXTERNAL_METRICS_VERSION}"
REGISTRATION = f"apis/apiregistration.k8s.io/v1/apiservices/{names.EXTERNAL_METRICS_API}"
START_SECONDS = 60
STOP_SECONDS = 30
LOOK_SECONDS = 25
"""The server looks every 10 s, and so does the operator."""
_open = build_opener(ProxyHandler({})).open


@dataclass
class HostServer:
    """One that can be started and killed; its port is the same for all its processes."""

    folder: Path
    environment: Mapping[str, str]
    api_port: int
    port: int
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; `wait_ready` tells when the API server sends requests to it."""
        command = [sys.executable, "-m", "warmfleet_external_metrics"]
        with (self.folder / "external-metrics.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env={**self.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End the process as a power-off would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_SECONDS)

    def ready(self) -> tuple[bool, str]:
        """Return what it says of itself."""
        try:
            with _open(f"http://127.0.0.1:{self.port}{names.PATH_READY}", timeout=3) as answer:
                return True, answer.read().decode()
        except HTTPError as error:
            return False, error.read().decode()
        except OSError as error:
            return False, str(error)

    def wait_ready(self) -> None:
        """Wait until it says that the API server sends requests to it."""
        wait_for("external metrics are served", lambda: self.ready()[0], START_SECONDS, self.explain)

    def explain(self) -> str:
        """Return what it says, and the end of its log."""
        return self.ready()[1] + "\n" + "\n".join((self.folder / "external-metrics.log").read_text().splitlines()[-20:])

    def ask(
        self, path: str, headers: Mapping[str, str], certificate: tuple[Path, Path] | None = None
    ) -> tuple[int, Any]:
        """Ask it directly, with a client certificate or none; return the status and the answer."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate is not None:
            context.load_cert_chain(*certificate)
        connection = http.client.HTTPSConnection("127.0.0.1", self.api_port, timeout=10, context=context)
        try:
            connection.request("GET", f"/{path}", headers=dict(headers))
            answer = connection.getresponse()
            return answer.status, json.load(answer)
        finally:
            connection.close()


@contextmanager
def host_server(cluster: Cluster, folder: Path, operator_url: str) -> Iterator[HostServer]:
    """Run it with the rights of the component's account, behind a Service that leads to this machine."""
    system = ("--namespace", names.SYSTEM_NAMESPACE)
    cluster.kubectl("apply", "--server-side", "--filename", "manifests/components/external-metrics/role.yaml")
    token = folder / "token"
    made = cluster.kubectl(*system, "create", "token", COMPONENT, f"--audience={names.TOKEN_AUDIENCE}")
    token.write_text(made)
    port, api_port = free_port(), free_port()
    lead_here(cluster, api_port)
    with FaultProxy(cluster.credentials, ACCOUNT) as proxy:
        kubeconfig = folder / "external-metrics.kubeconfig"
        kubeconfig.write_text(proxy_kubeconfig(proxy.url))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WARMFLEET_")}
        settings = {
            "KUBECONFIG": kubeconfig,
            "NAMESPACE": names.SYSTEM_NAMESPACE,
            "PORT": port,
            "API_PORT": api_port,
            "OPERATOR_URL": operator_url,
            "OPERATOR_TOKEN_FILE": token,
        }
        environment |= {f"WARMFLEET_{name}": str(value) for name, value in settings.items()}
        server = HostServer(folder, environment, api_port, port)
        try:
            server.start()
            yield server
        finally:
            server.kill()
            cluster.api.delete(REGISTRATION)


def lead_here(cluster: Cluster, port: int) -> None:
    """Make the component's Service, without pods: it leads to a port of this machine, where the API server is too."""
    metadata = {"name": COMPONENT, "namespace": names.SYSTEM_NAMESPACE}
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"ports": [{"name": "api", "port": 443, "targetPort": port}]},
    }
    slices: Object = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**metadata, "labels": {"kubernetes.io/service-name": COMPONENT}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [urlsplit(cluster.credentials.server).hostname]}],
        "ports": [{"name": "api", "port": port, "protocol": "TCP"}],
    }
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, slices]})
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "--filename", "-", stdin=listed)
