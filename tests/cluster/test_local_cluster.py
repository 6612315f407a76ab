"""The local cluster is a real one: pods run, nodes lose power, and nothing is left afterwards."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from typing import Any

import pytest

from localcluster import Cluster, Fleet, Wish
from localcluster.addresses import Addresses
from localcluster.api import ApiError
from localcluster.audit import AuditLog, writes
from localcluster.processes import Identity, Processes, child_identity
from support.footprint import footprint
from support.waiting import stays_true, wait_for

# The first one may build Kubernetes.
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

IMAGE = "ghcr.io/warmfleet/busybox:test"
PLAYER = """
import http.server

class Echo(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.connection.getsockname()[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", 8001), Echo).serve_forever()
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded image with a shell."""
    busybox = shutil.which("busybox")
    assert busybox is not None, "busybox is missing; run hack/setup"
    directory = tmp_path_factory.mktemp("busybox")
    binaries = directory / "tree" / "bin"
    binaries.mkdir(parents=True)
    shutil.copy(busybox, binaries / "busybox")
    for name in ("sh", "httpd", "wget", "nslookup", "cat", "mkdir", "sleep"):
        (binaries / name).symlink_to("busybox")
    with tarfile.open(directory / "layer.tar", "w") as archive:
        archive.add(directory / "tree", arcname=".")
    with (directory / "layer.tar").open("rb") as stream:
        diff_id = "sha256:" + file_digest(stream, "sha256").hexdigest()
    layers = f'[{{"directory": "tree", "diffID": "{diff_id}"}}]'
    description = f'{{"name": "{IMAGE}", "config": {{"Env": ["PATH=/bin"]}}, "layers": {layers}}}'
    path = directory / "image.json"
    path.write_text(description)
    return path


@pytest.fixture(scope="module")
def cluster(image: Path) -> Iterator[Cluster]:
    """Two nodes with fake GPUs and the image, one pod and a Service on each."""
    cluster = Cluster(f"own-{os.getpid()}")
    try:
        cluster.up(Wish(nodes=2, gpus_per_node=4, gpu_memory_bytes=40 * 2**30, fast_node_loss=True))
        cluster.load([image])
        with cluster.api() as api:
            for number in (1, 2):
                api.request("POST", "/api/v1/namespaces/default/pods", web_pod(number))
                api.request("POST", "/api/v1/namespaces/default/services", web_service(number))
        for number in (1, 2):
            wait_pod_ready(cluster, f"web-{number}")
        yield cluster
    finally:
        cluster.down()


def web_pod(number: int) -> dict[str, Any]:
    name = f"web-{number}"
    serve = f"echo serving; mkdir -p /tmp/w && echo {name} > /tmp/w/index.html && exec httpd -f -p 8080 -h /tmp/w"
    container = {
        "name": "web",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", serve],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": f"n{number}",
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
        },
    }


def web_service(number: int) -> dict[str, Any]:
    name = f"web-{number}"
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": 8080}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def wait_pod_ready(cluster: Cluster, name: str, after_restarts: int = 0) -> dict[str, Any]:
    def ready() -> dict[str, Any] | None:
        with cluster.api() as api:
            pod: dict[str, Any] = api.get(f"/api/v1/namespaces/default/pods/{name}")
        for status in pod["status"].get("containerStatuses", []):
            if status["ready"] and status["restartCount"] >= after_restarts:
                return pod
        return None

    return wait_for(f"pod {name} is ready", ready, 60)


def kubectl(cluster: Cluster, *arguments: str) -> str:
    command = [str(cluster.kubectl), "--kubeconfig", str(cluster.kubeconfig), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def fetch(url: str) -> str:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(url, timeout=10) as answer:
        return str(answer.read().decode().strip())


def processes(cluster: Cluster) -> Processes:
    return Processes(cluster.files.processes, cluster.files.logs)


def test_logs_and_exec_reach_a_pod(cluster: Cluster) -> None:
    assert kubectl(cluster, "logs", "web-1").strip() == "serving"
    assert kubectl(cluster, "exec", "web-2", "--", "cat", "/tmp/w/index.html").strip() == "web-2"


def test_a_pod_reaches_a_service_of_another_node_by_its_name(cluster: Cluster) -> None:
    url = "http://web-2.default.svc.cluster.local"
    assert kubectl(cluster, "exec", "web-1", "--", "wget", "-qO-", url).strip() == "web-2"


def test_the_host_reaches_pods_and_services(cluster: Cluster) -> None:
    with cluster.api() as api:
        pod = api.get("/api/v1/namespaces/default/pods/web-2")["status"]["podIP"]
        service = api.get("/api/v1/namespaces/default/services/web-2")["spec"]["clusterIP"]
    assert fetch(f"http://{pod}:8080/") == "web-2"
    assert fetch(f"http://{service}/") == "web-2"


def test_nodes_claim_their_gpus_and_zones(cluster: Cluster) -> None:
    nodes = cluster.nodes()
    assert [(node.name, node.power, node.ready, node.gpus, node.gpu_memory_mebibytes) for node in nodes] == [
        ("n1", "On", "True", 4, 40 * 1024),
        ("n2", "On", "True", 4, 40 * 1024),
    ]
    assert len({node.zone for node in nodes}) == 2


def test_the_audit_log_tells_who_wrote_what(cluster: Cluster) -> None:
    log = AuditLog(cluster.audit_log)
    position = log.end()
    with cluster.api() as api:
        path = "/api/v1/namespaces/default/configmaps"
        api.request("POST", path, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "written"}})
        api.get(f"{path}/written")

    def own() -> list[tuple[str, str, str, int]]:
        found = writes(log.requests(position), user="warmfleet-local-admin", user_agent="warmfleet-localcluster")
        return [(request.verb, request.resource, request.namespace, request.code) for request in found]

    wait_for("the write is in the audit log", own, 10)
    assert own() == [("create", "configmaps", "default", 201)]


def test_a_node_without_power_is_not_ready_and_comes_back_with_its_pods(cluster: Cluster) -> None:
    initial = child_identity(node_init(cluster, 2))
    assert initial is not None
    cut = time.monotonic()
    cluster.kill_node(2)
    assert not initial.alive
    assert [node.power for node in cluster.nodes()] == ["On", "Off"]
    wait_for("node n2 is NotReady", lambda: cluster.nodes()[1].ready == "Unknown", 60)
    assert time.monotonic() - cut > 5, "NotReady before the kubelet could have missed a lease: something else broke"
    cluster.start_node(2)
    assert cluster.nodes()[1].ready == "True"
    assert cluster.nodes()[1].gpus == 4
    wait_pod_ready(cluster, "web-2", after_restarts=1)
    assert kubectl(cluster, "exec", "web-1", "--", "wget", "-qO-", "http://web-2").strip() == "web-2"


def node_init(cluster: Cluster, number: int) -> int:
    outer = processes(cluster).running(f"node-n{number}")
    assert outer is not None
    (pid,) = outer.children
    return pid


def test_up_repairs_a_cluster_that_is_half_gone(cluster: Cluster) -> None:
    subprocess.run(["ip", "link", "delete", cluster.addresses.node_interface(1)], check=True)
    for name in ("etcd", "kube-apiserver", "coredns"):
        kill(processes(cluster).running(name))
    with pytest.raises(Exception, match="the API server does not answer"):
        cluster.nodes()
    cluster.up()
    assert [node.ready for node in cluster.nodes()] == ["True", "True"]
    wait_pod_ready(cluster, "web-1", after_restarts=1)
    assert kubectl(cluster, "exec", "web-2", "--", "wget", "-qO-", "http://web-1").strip() == "web-1"


def kill(process: Identity | None) -> None:
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)


def test_up_on_a_whole_cluster_changes_nothing(cluster: Cluster) -> None:
    before = {process.name: process.pid for process in cluster.processes()}
    cluster.up()
    assert {process.name: process.pid for process in cluster.processes()} == before


def test_one_process_answers_for_the_pods_of_all_fake_nodes(cluster: Cluster, tmp_path: Path) -> None:
    player = tmp_path / "player.py"
    player.write_text(PLAYER)
    fleet = Fleet(count=5, gpus=8, zones=2, player_command=(sys.executable, str(player)))
    cluster.fake_nodes(fleet)
    fakes = [node for node in cluster.nodes() if node.kind == "Fake"]
    assert [(node.ready, node.gpus) for node in fakes] == [("True", 8)] * 5
    pod = web_pod(1) | {"metadata": {"name": "faked"}}
    pod["spec"] = pod["spec"] | {"nodeName": "fake-3", "tolerations": [{"operator": "Exists"}]}
    with cluster.api() as api:
        api.request("POST", "/api/v1/namespaces/default/pods", pod)
    address = wait_pod_ready(cluster, "faked")["status"]["podIP"]
    assert fetch(f"http://{address}:8001/") == address, "the player sees the address that was called"
    assert kubectl(cluster, "exec", "web-2", "--", "wget", "-qO-", f"http://{address}:8001/") == address
    cluster.fake_nodes(Fleet(count=0))
    assert not [node for node in cluster.nodes() if node.kind == "Fake"]
    with cluster.api() as api:
        wait_for("its pod is gone", lambda: api.get("/api/v1/namespaces/default/pods/faked") is None, 10)


def test_whoever_gets_an_address_again_answers_at_once(cluster: Cluster, tmp_path: Path) -> None:
    """Without a hardware address that follows from it, the host calls one that is gone for up to 45 s."""
    player = tmp_path / "player.py"
    player.write_text(PLAYER)
    first = str(cluster.addresses.fleet_range[1])
    for _ in range(2):
        cluster.fake_nodes(Fleet(count=1, player_command=(sys.executable, str(player))))
        assert fetch(f"http://{first}:8001/") == first
        cluster.fake_nodes(Fleet(count=0))


def test_the_bridge_keeps_its_hardware_address_when_any_of_its_cables_is_pulled(cluster: Cluster) -> None:
    """Nodes would send to an address that the host no longer has until their neighbour tables forget it."""
    bridge = Path(f"/sys/class/net/{cluster.addresses.bridge}")
    before = (bridge / "address").read_text()
    lower = f"{cluster.addresses.bridge}-low"
    cable = ("type", "veth", "peer", "name", f"{lower}-end")
    subprocess.run(["ip", "link", "add", lower, "address", "02:00:00:00:00:01", *cable], check=True)
    try:
        subprocess.run(["ip", "link", "set", lower, "master", bridge.name, "up"], check=True)
        assert (bridge / "address").read_text() == before
    finally:
        subprocess.run(["ip", "link", "delete", lower], check=True)
    assert (bridge / "address").read_text() == before


def test_fake_nodes_of_a_zone_without_power_are_not_ready_until_they_have_it_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    player = tmp_path / "player.py"
    player.write_text(PLAYER)
    cluster.fake_nodes(Fleet(count=4, zones=2, player_command=(sys.executable, str(player))))

    def ready() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {"zone-a": [], "zone-b": []}
        for node in cluster.nodes():
            if node.kind == "Fake":
                found[node.zone].append(node.ready)
        return found

    cluster.kill_zone("zone-a")
    lost = {"zone-a": ["Unknown"] * 2, "zone-b": ["True"] * 2}
    wait_for("the zone is NotReady", lambda: ready() == lost, 60, lambda: str(ready()))
    # Longer than KWOK leaves between two heartbeats of its own.
    stays_true("and nobody says otherwise", lambda: ready() == lost, 30, lambda: str(ready()))
    cluster.start_zone("zone-a")
    assert ready() == {"zone-a": ["True"] * 2, "zone-b": ["True"] * 2}
    cluster.fake_nodes(Fleet(count=0))


def test_two_clusters_run_side_by_side_and_each_goes_without_a_trace(cluster: Cluster) -> None:
    other = Cluster(f"{cluster.name}-b")
    try:
        other.up(Wish(nodes=1))
        addresses = other.addresses
        assert addresses.index != cluster.addresses.index
        with other.api() as api, pytest.raises(ApiError, match="web-1"):
            api.request("GET", "/api/v1/namespaces/default/pods/web-1")
        seen = footprint(addresses, other.files.root).kinds()
        assert seen == {"processes", "interfaces", "routes", "network_namespaces", "cgroups", "files"}
        ours = [identity for name in processes(other).names() if (identity := processes(other).running(name))]
        assert len(ours) == 6
    finally:
        other.down()
    assert footprint(addresses, other.files.root).kinds() == set()
    assert not [identity for identity in ours if identity.alive]
    assert [node.ready for node in cluster.nodes()] == ["True", "True"]


@pytest.mark.parametrize("survivors", [[], ["etcd"], ["etcd", "kube-apiserver", "node-n1"]])
def test_down_clears_what_a_broken_start_left(survivors: list[str]) -> None:
    cluster = Cluster(f"half-{os.getpid()}")
    try:
        cluster.up(Wish(nodes=1))
        addresses = cluster.addresses
        for name in processes(cluster).names():
            if name not in survivors:
                kill(processes(cluster).running(name))
        if "etcd" not in survivors:
            shutil.rmtree(cluster.files.pki)
            shutil.rmtree(cluster.files.processes)
    finally:
        cluster.down()
    assert footprint(addresses, cluster.files.root).kinds() == set()


def test_the_footprint_shows_every_kind_of_leftover(tmp_path: Path) -> None:
    """The control of the tests above: what `down` could forget would be seen."""
    addresses = Addresses(15)
    root = tmp_path / "left"
    (root / "mounted").mkdir(parents=True)
    assert footprint(addresses, root).kinds() == {"files"}
    cgroup = next(path for path in Path("/sys/fs/cgroup").iterdir() if (path / "cgroup.procs").exists())
    left = cgroup / addresses.node_cgroup(1)
    sleeper = subprocess.Popen(["unshare", "--net", "sleep", "60"], env={**os.environ, "LEFT": f"{root}/"})
    try:
        subprocess.run(["ip", "link", "add", addresses.bridge, "type", "bridge"], check=True)
        subprocess.run(["ip", "address", "add", f"{addresses.host}/24", "dev", addresses.bridge], check=True)
        subprocess.run(["ip", "link", "set", addresses.bridge, "up"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(root / "mounted")], check=True)
        left.mkdir()
        kinds = wait_for("the sleeper has its namespace", lambda: all_kinds(addresses, root), 10)
        assert kinds == {"processes", "mounts", "interfaces", "routes", "network_namespaces", "cgroups", "files"}
    finally:
        sleeper.kill()
        sleeper.wait()
        left.rmdir()
        subprocess.run(["umount", str(root / "mounted")], check=True)
        subprocess.run(["ip", "link", "delete", addresses.bridge], check=True)


def all_kinds(addresses: Addresses, root: Path) -> set[str] | None:
    kinds = footprint(addresses, root).kinds()
    return kinds if "network_namespaces" in kinds else None
