"""Routers of a cluster: those that are installed, by their Service, and one on the host behind a fault proxy."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import openai

from support.cluster import Cluster
from support.faultproxy import FaultProxy
from support.kubeapi import Object
from support.operator import proxy_kubeconfig
from support.ports import free_port
from support.waiting import wait_for
from warmfleet_api import names

ROUTER = "warmfleet-router"
ROUTER_ACCOUNT = f"{names.SYSTEM_NAMESPACE}:{ROUTER}"
SELECTOR = f"{names.LABEL_COMPONENT}=router"
START_SECONDS = 60
STOP_SECONDS = 30
REQUEST_SECONDS = 240
_open = build_opener(ProxyHandler({})).open


def service_address(cluster: Cluster) -> str:
    """Return the address of the routers' Service; this machine routes ClusterIPs."""
    service = cluster.api.get(f"api/v1/namespaces/{names.SYSTEM_NAMESPACE}/services/{ROUTER}")
    assert service is not None, "no Service of the routers"
    return str(service["spec"]["clusterIP"])


def client(url: str, key: str = "none") -> openai.OpenAI:
    """Return an OpenAI client that never retries; `url` is that of a router."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, timeout=REQUEST_SECONDS, max_retries=0)


@contextmanager
def host_router(cluster: Cluster, folder: Path) -> Iterator[str]:
    """Run a router on this machine with the rights of those that are installed; give its URL. It wakes nothing."""
    port, status_port = free_port(), free_port()
    with FaultProxy(cluster.credentials, ROUTER_ACCOUNT) as proxy, (folder / "router.log").open("ab") as log:
        kubeconfig = folder / "router.kubeconfig"
        kubeconfig.write_text(proxy_kubeconfig(proxy.url))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WARMFLEET_")}
        settings = {"KUBECONFIG": kubeconfig, "PORT": port, "STATUS_PORT": status_port, "HOST": "127.0.0.1"}
        environment |= {f"WARMFLEET_{name}": str(value) for name, value in settings.items()}
        environment["WARMFLEET_OPERATOR_URL"] = ""
        command = [sys.executable, "-m", "warmfleet_router"]
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_for("the router is ready", lambda: _says_ready("127.0.0.1", status_port), START_SECONDS)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait(STOP_SECONDS)


def is_ready(pod: Object) -> bool:
    """Whether the router in a pod says that it is ready, whatever the API server knows."""
    return _says_ready(pod["status"]["podIP"], names.STATUS_PORT)


def _says_ready(host: str, status_port: int) -> bool:
    try:
        with _open(f"http://{host}:{status_port}{names.PATH_READY}", timeout=1) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def router_pods(cluster: Cluster) -> list[Object]:
    """Return the pods of the installed routers that are not ending."""
    path = f"api/v1/namespaces/{names.SYSTEM_NAMESPACE}/pods"
    found = cluster.api.list(path, labelSelector=SELECTOR)
    return [each for each in found if "deletionTimestamp" not in each["metadata"]]


def wait_routers(cluster: Cluster, within: float = START_SECONDS) -> None:
    """Wait until all installed routers are Ready."""
    rollout = ("rollout", "status", f"deployment/{ROUTER}", f"--timeout={within:.0f}s")
    cluster.kubectl("--namespace", names.SYSTEM_NAMESPACE, *rollout, bound_seconds=within + 30)


def kill_process(pod: Object, module: str) -> None:
    """SIGKILL the process of a pod that runs a module; a node of a local cluster is this machine.

    Raises:
        AssertionError: there is none.
    """
    # The first one is the container's own: its children end with it.
    os.kill(_pids(pod, module)[0], signal.SIGKILL)


def router_cpu_seconds(cluster: Cluster) -> float:
    """Return the processor time that the installed routers have used."""
    pids = [_pids(pod, "warmfleet_router")[0] for pod in router_pods(cluster)]
    fields = [_read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split() for pid in pids]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


def _pids(pod: Object, module: str) -> list[int]:
    uid = pod["metadata"]["uid"]
    uids = (uid, uid.replace("-", "_"))  # cgroups name pods by either
    found = [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdecimal() and _runs(path, module) and any(each in _read(path / "cgroup") for each in uids)
    ]
    assert found, f"no process of pod {pod['metadata']['name']} runs {module}"
    return sorted(found)


def _runs(process: Path, module: str) -> bool:
    return f"-m\0{module}\0" in _read(process / "cmdline")


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""
