"""The node agent on a real node, without the operator: what its kubelet mounts, keeps and takes away.

The cluster is the module's own, as here the test plays the operator: it makes the DaemonSet and the NodeCache.
"""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.paths import images_directory
from support.cluster import (
    DOWN_SECONDS,
    HACK_CLUSTER,
    KEEP_VARIABLE,
    REPOSITORY,
    UP_SECONDS,
    Cluster,
    CommandError,
    run,
)
from support.kubeapi import ApiError, Object
from support.waiting import wait_for
from warmfleet_api import names, weights
from warmfleet_api.weight_cache import WeightCacheSpec
from warmfleet_operator.build.agent import agent_daemon_set, agent_name, image_daemon_set
from warmfleet_operator.decide.caches_groups import AgentGroup
from warmfleet_operator.decide.fleet import Limits

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

IMAGE = "ghcr.io/warmfleet/warmfleet:dev"
NODE = "n1"
MANIFESTS = (
    "agent-namespace.yaml",
    "agent-role.yaml",
    "agent-policy.yaml",
    "agent-network-policy.yaml",
    "csi-driver.yaml",
)
CACHES = f"apis/{names.API_VERSION}/{names.WEIGHT_CACHE_PLURAL}"
NODE_CACHES = f"apis/{names.API_VERSION}/{names.NODE_CACHE_PLURAL}"
AGENTS = f"api/v1/namespaces/{names.AGENT_NAMESPACE}/pods"
SPEC: Object = {"memory": {"size": "256Mi"}}
STORE = "/dev/shm/model_cache"
WEIGHT_BYTES = 8 * 1024**2
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
ROOT = {"runAsUser": 0}
"""With the capabilities that a container has by default, DAC_OVERRIDE among them."""


class Node:
    """One node with an agent, the NodeCache that the test writes, and pods with views."""

    def __init__(self, cluster: Cluster, models: Path) -> None:
        self.cluster = cluster
        self.models = models
        self.spec: Object = {
            "cache": "default",
            "memory": {"bytes": 256 * 1024**2, "path": STORE},
            "fileRoots": [str(models)],
            "entries": [],
            "views": [],
        }

    def agent(self) -> Object:
        """The agent's pod, once it is ready."""

        def ready() -> Object | None:
            pods = self.cluster.api.list(AGENTS, labelSelector=f"{names.LABEL_COMPONENT}={names.COMPONENT_AGENT}")
            alive = [each for each in pods if "deletionTimestamp" not in each["metadata"]]
            if len(alive) != 1:
                return None
            conditions = alive[0]["status"].get("conditions", [])
            is_ready = any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
            return alive[0] if is_ready else None

        return wait_for("the agent is ready", ready, 60, self.explain)

    def in_agent(self, *command: str, stdin: str | None = None) -> str:
        """Run a command in the agent's container, which sees what the node sees."""
        name = self.agent()["metadata"]["name"]
        arguments = ["--namespace", names.AGENT_NAMESPACE, "exec", *(["-i"] if stdin else []), name, "--", *command]
        return self.cluster.kubectl(*arguments, stdin=stdin)

    def write(self) -> None:
        """Apply the NodeCache as the operator does."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.NODE_CACHE_KIND,
            "metadata": {"name": NODE},
            "spec": self.spec,
        }
        path = f"{NODE_CACHES}/{NODE}?fieldManager={names.MANAGER_CACHES}&force=true&fieldValidation=Strict"
        self.cluster.api.request("PATCH", path, body, "application/apply-patch+yaml")

    def seen(self, key: str) -> Object:
        """What the agent says of an entry."""
        found = self.cluster.api.get(f"{NODE_CACHES}/{NODE}") or {}
        entries: list[Object] = found.get("status", {}).get("entries", [])
        return next((each for each in entries if each["key"] == key), {})

    def keep(self, model: str) -> str:
        """Have a model in memory, and return its key."""
        uri = f"file://{self.models / model}"
        kept: str | None = next((each["key"] for each in self.spec["entries"] if each["uri"] == uri), None)
        if kept is not None:
            return kept
        asked = weights.entry_key(uri, "")
        others = self.spec["entries"]
        self.spec["entries"] = [*others, {"key": asked, "uri": uri, "tier": "Remote"}]
        self.write()
        revision = wait_for(f"{model}'s revision", lambda: self.seen(asked).get("revision"), 30, self.explain)
        key = weights.entry_key(uri, revision)
        self.spec["entries"] = [*others, {"key": key, "uri": uri, "revision": revision, "tier": "Memory"}]
        self.write()
        wait_for(
            f"{model} in memory",
            lambda: (self.seen(key).get("tier"), self.seen(key).get("state")) == ("Memory", "Present"),
            60,
            self.explain,
        )
        return key

    def show(self, uid: str, *keys: str) -> None:
        """Let a pod see entries."""
        self.spec["views"] = [each for each in self.spec["views"] if each["uid"] != uid]
        self.spec["views"].append({"uid": uid, "keys": list(keys)})
        self.write()

    def views(self) -> set[str]:
        return set(self.in_agent("ls", f"{STORE}/views").split())

    def mounts(self, point: str) -> list[str]:
        """Lines of the node's mount table for one place."""
        lines = self.in_agent("cat", "/proc/self/mountinfo").splitlines()
        return [line for line in lines if line.split(" ")[4] == point]

    def kubelet(self) -> int:
        """The process of the node's kubelet."""
        config = f"{self.cluster.kubeconfig.parent}/nodes/{NODE}/config/kubelet.json"
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                arguments = (process / "cmdline").read_bytes().decode().split("\0")
                if arguments[0].endswith("/kubelet") and config in arguments:
                    return int(process.name)
        raise AssertionError(f"no kubelet runs with {config}")

    def explain(self) -> str:
        parts = [
            self.cluster.kubectl("get", "nodecaches", "--output", "yaml"),
            self.cluster.kubectl("get", "events", "--all-namespaces"),
            self.cluster.kubectl("--namespace", names.AGENT_NAMESPACE, "describe", "pods"),
            self.cluster.kubectl(
                "--namespace", names.AGENT_NAMESPACE, "logs", "--tail=40", f"daemonset/{agent_name('default')}"
            ),
        ]
        return "\n---\n".join(parts)


class Viewer:
    """A pod with a view."""

    def __init__(self, node: Node, namespace: str, name: str) -> None:
        self.node = node
        self.namespace = namespace
        self.name = name

    def create(self, security: Object) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": False,
                "containers": [
                    {
                        "name": "viewer",
                        "image": IMAGE,
                        "imagePullPolicy": "Never",
                        "command": ["sleep", "infinity"],
                        "securityContext": security,
                        "volumeMounts": [{"name": "weights", "mountPath": names.WEIGHTS_DIRECTORY}],
                    }
                ],
                # Nothing says that it is read-only; it is nevertheless.
                "volumes": [{"name": "weights", "csi": {"driver": names.CSI_DRIVER}}],
            },
        }
        self.node.cluster.api.create(f"api/v1/namespaces/{self.namespace}/pods", body)

    @property
    def pod(self) -> Object:
        return self.node.cluster.api.get(f"api/v1/namespaces/{self.namespace}/pods/{self.name}") or {}

    @property
    def uid(self) -> str:
        uid: str = self.pod["metadata"]["uid"]
        return uid

    def wait_running(self) -> None:
        wait_for(
            f"{self.name} runs",
            lambda: self.pod["status"].get("phase") == "Running",
            60,
            lambda: self.node.cluster.kubectl("--namespace", self.namespace, "describe", "pod", self.name),
        )

    def run(self, *command: str) -> str:
        return self.node.cluster.kubectl("--namespace", self.namespace, "exec", self.name, "--", *command)

    def files(self) -> dict[str, list[str]]:
        """Return inode, number of names, and time of writing of each file it sees."""
        lines = self.run("find", "-L", names.WEIGHTS_DIRECTORY, "-type", "f", "-printf", "%P %i %n %T@\n").splitlines()
        return {line.split(" ")[0]: line.split(" ")[1:] for line in lines}

    def wait_file(self, path: str) -> None:
        wait_for(f"{self.name} sees {path}", lambda: path in self.files(), 30, self.node.explain)

    def delete(self) -> None:
        self.node.cluster.api.delete(f"api/v1/namespaces/{self.namespace}/pods/{self.name}")
        wait_for(f"{self.name} is gone", lambda: not self.pod, 60)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A cluster of one node, with the agent as the operator would make it."""
    run([str(REPOSITORY / "hack" / "images" / "build"), "--image", "warmfleet"], UP_SECONDS)
    kept = os.environ.get(KEEP_VARIABLE)
    name = f"{kept}-views" if kept else f"views-{os.getpid()}"
    models = Path(f"/var/lib/warmfleet/{name}")
    try:
        for model in ("one", "two"):
            _make_model(models / model)
        run([str(HACK_CLUSTER), "up", "--name", name, "--nodes", "1"], UP_SECONDS)
        cluster = Cluster(name)
        cluster.hack("load", str(images_directory() / "warmfleet" / "image.json"))
        _install(cluster, models)
        node = Node(cluster, models)
        node.write()
        node.agent()
        yield node
    finally:
        if not kept:
            run([str(HACK_CLUSTER), "down", "--name", name], DOWN_SECONDS)
            # Not before: the agent's container would go on showing the folder that was removed.
            shutil.rmtree(models, ignore_errors=True)


@pytest.fixture
def viewer(node: Node) -> Iterator[Callable[..., Viewer]]:
    """Make pods with views, by default in a namespace that enforces `restricted`; they are gone when the test ends."""
    made: list[Viewer] = []

    def make(name: str, security: Object = RESTRICTED, level: str = "restricted") -> Viewer:
        found = Viewer(node, f"views-{level}", name)
        found.create(security)
        made.append(found)
        found.wait_running()
        return found

    for level in ("restricted", "baseline"):
        body = {"metadata": {"name": f"views-{level}", "labels": {"pod-security.kubernetes.io/enforce": level}}}
        if node.cluster.api.get(f"api/v1/namespaces/views-{level}") is None:
            node.cluster.api.create("api/v1/namespaces", body)
            account = partial(node.cluster.api.get, f"api/v1/namespaces/views-{level}/serviceaccounts/default")
            wait_for("its service account", account, 20)
    yield make
    for each in made:
        each.delete()
    node.spec["views"] = []
    node.write()


def test_a_restricted_namespace_takes_a_view_and_no_folder_of_the_node(
    node: Node, viewer: Callable[..., Viewer]
) -> None:
    """The control: the same namespace refuses a hostPath, so what lets the view in is its kind."""
    viewer("control")
    pod: dict[str, Any] = {
        "metadata": {"name": "refused"},
        "spec": {
            "containers": [{"name": "c", "image": IMAGE, "securityContext": RESTRICTED}],
            "volumes": [{"name": "v", "hostPath": {"path": STORE}}],
        },
    }
    with pytest.raises(ApiError, match="violates PodSecurity"):
        node.cluster.api.create("api/v1/namespaces/views-restricted/pods", pod)


def test_a_running_pod_sees_what_is_linked_after_its_start(node: Node, viewer: Callable[..., Viewer]) -> None:
    reader = viewer("reader")
    assert reader.files() == {}
    key = node.keep("one")
    assert reader.files() == {}
    node.show(reader.uid, key)
    reader.wait_file(f"{key}/{names.MANIFEST_FILE}")
    read = reader.run("sha256sum", f"{weights.folder_of(key)}/model.safetensors").split()[0]
    wanted = run(["sha256sum", str(node.models / "one" / "model.safetensors")], 10).split()[0]
    assert read == wanted
    assert reader.files()[f"{key}/model.safetensors"][1] == "2"


def test_nobody_in_a_pod_writes_into_the_store(node: Node, viewer: Callable[..., Viewer]) -> None:
    """Not root either, whom no mode of a file holds back: in its own /tmp it writes."""
    key = node.keep("one")
    root = viewer("root", ROOT, "baseline")
    node.show(root.uid, key)
    root.wait_file(f"{key}/{names.MANIFEST_FILE}")
    file = f"{weights.folder_of(key)}/model.safetensors"
    before = root.files()
    root.run("sh", "-c", "echo x > /tmp/control")
    for command in (
        ["sh", "-c", f"echo x >> {file}"],
        ["rm", file],
        ["chmod", "777", file],
        ["touch", f"{names.WEIGHTS_DIRECTORY}/new"],
        ["mv", file, f"{names.WEIGHTS_DIRECTORY}/moved"],
        ["ln", file, f"{names.WEIGHTS_DIRECTORY}/linked"],
        ["truncate", "--size=0", file],
    ):
        with pytest.raises(CommandError, match="Read-only file system"):
            root.run(*command)
    with pytest.raises(CommandError, match=r"permission denied|not permitted|must be superuser"):
        root.run("mount", "-o", "remount,bind,rw", names.WEIGHTS_DIRECTORY)
    assert root.files() == before


def test_a_killed_agent_costs_a_running_pod_nothing(node: Node, viewer: Callable[..., Viewer]) -> None:
    """The view stays, nothing is written anew, no second tmpfs hides the first, and links go on where they were."""
    key = node.keep("one")
    reader = viewer("survivor")
    node.show(reader.uid, key)
    reader.wait_file(f"{key}/{names.MANIFEST_FILE}")
    before, agent = reader.files(), node.agent()["metadata"]
    node.cluster.api.delete(f"{AGENTS}/{agent['name']}", gracePeriodSeconds=0)
    assert reader.files() == before
    wait_for("another agent", lambda: node.agent()["metadata"]["uid"] != agent["uid"], 60, node.explain)
    other = node.keep("two")
    node.show(reader.uid, key, other)
    reader.wait_file(f"{other}/{names.MANIFEST_FILE}")
    after = reader.files()
    assert {path: after[path] for path in before} == before
    (mount,) = node.mounts(STORE)
    assert " - tmpfs warmfleet " in mount


def test_the_view_goes_with_the_pod_also_while_the_agent_was_away(node: Node, viewer: Callable[..., Viewer]) -> None:
    first, second = viewer("first"), viewer("second")
    uids = {first.uid, second.uid}
    assert uids <= node.views()
    first.delete()
    wait_for("the first view is gone", lambda: node.views() & uids == {second.uid}, 30, node.explain)
    agent = node.agent()["metadata"]
    node.cluster.api.delete(f"{AGENTS}/{agent['name']}", gracePeriodSeconds=0)
    second.delete()
    wait_for("no view is left", lambda: not node.views() & uids, 90, node.explain)


def test_a_restarted_kubelet_finds_the_driver_again(node: Node, viewer: Callable[..., Viewer]) -> None:
    before = viewer("before")
    os.kill(node.kubelet(), signal.SIGKILL)
    after = viewer("after")
    assert {before.uid, after.uid} <= node.views()
    uid = before.uid
    before.delete()
    wait_for("its view is gone", lambda: uid not in node.views(), 60, node.explain)


def test_a_pod_with_attributes_is_told_what_to_remove(node: Node) -> None:
    """Kubelet puts the driver's words into the pod's events."""
    namespace = "default"
    pod = {
        "metadata": {"name": "attributes"},
        "spec": {
            "containers": [{"name": "c", "image": IMAGE, "volumeMounts": [{"name": "w", "mountPath": "/weights"}]}],
            "volumes": [{"name": "w", "csi": {"driver": names.CSI_DRIVER, "volumeAttributes": {"model": "x"}}}],
        },
    }
    node.cluster.api.create(f"api/v1/namespaces/{namespace}/pods", pod)
    try:
        wait_for(
            "the event",
            lambda: "remove 'model' from volumeAttributes" in node.cluster.kubectl("get", "events"),
            60,
            node.explain,
        )
    finally:
        node.cluster.api.delete(f"api/v1/namespaces/{namespace}/pods/attributes", gracePeriodSeconds=0)


def test_an_agent_writes_only_the_status_of_its_own_node(node: Node) -> None:
    """Asked with the token of the agent's own pod. Its own node is the control."""
    for name in ("elsewhere",):
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.NODE_CACHE_KIND,
            "metadata": {"name": name},
            "spec": {"cache": "default", "memory": {"bytes": 1, "path": STORE}},
        }
        if node.cluster.api.get(f"{NODE_CACHES}/{name}") is None:
            node.cluster.api.create(NODE_CACHES, body)
    answers = json.loads(node.in_agent("python", "-", stdin=_ASK))
    assert answers["own status"][0] == 200
    assert answers["other status"][0] == 403
    assert "an agent writes the NodeCache of its own node only: elsewhere is not n1" in answers["other status"][1]
    for refused in ("own spec", "own deletion", "a secret", "all secrets"):
        assert answers[refused][0] == 403, refused
    node.cluster.api.delete(f"{NODE_CACHES}/elsewhere")


_ASK = """
import json, os, ssl, urllib.error, urllib.request
folder = "/var/run/secrets/kubernetes.io/serviceaccount"
token = open(folder + "/token").read()
tls = ssl.create_default_context(cafile=folder + "/ca.crt")
def ask(method, path, body=None):
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    headers = {"Authorization": "Bearer " + token, "Content-Type": "application/merge-patch+json"}
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(f"https://{host}:{port}/{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, context=tls) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
caches = "apis/warmfleet.dev/v1alpha1/nodecaches"
status = {"status": {"activity": "asked by a test"}}
print(json.dumps({
    "own status": ask("PATCH", caches + "/n1/status", status),
    "other status": ask("PATCH", caches + "/elsewhere/status", status),
    "own spec": ask("PATCH", caches + "/n1", {"spec": {"parallel": 3}}),
    "own deletion": ask("DELETE", caches + "/n1"),
    "a secret": ask("GET", "api/v1/namespaces/default/secrets/hf-token"),
    "all secrets": ask("GET", "api/v1/secrets"),
}))
"""


def _install(cluster: Cluster, models: Path) -> None:
    cluster.kubectl("apply", "--server-side", "--kustomize", "crds")
    cluster.kubectl("wait", "--for=condition=Established", "--all", "crds", "--timeout=120s")
    for manifest in MANIFESTS:
        cluster.kubectl("apply", "--server-side", "--filename", f"manifests/base/{manifest}")
    spec = SPEC | {"fileRoots": [str(models)]}
    body = {"metadata": {"name": "default"}, "apiVersion": names.API_VERSION, "kind": names.WEIGHT_CACHE_KIND}
    cluster.kubectl("apply", "--server-side", "--filename", "-", stdin=yaml.safe_dump(body | {"spec": spec}))
    cache = cluster.api.get(f"{CACHES}/default")
    assert cache is not None
    group = AgentGroup("default", cache["metadata"]["uid"], WeightCacheSpec.model_validate(spec), ())
    limits = Limits(default_image=IMAGE, agent_image=IMAGE)
    for build in (agent_daemon_set, image_daemon_set):
        cluster.kubectl(
            "apply",
            "--server-side",
            "--filename",
            "-",
            stdin=yaml.safe_dump(json.loads(json.dumps(build(group, limits)))),
        )


def _make_model(folder: Path) -> None:
    """A model of one tensor; one that is there stays."""
    if folder.exists():
        return
    folder.mkdir(parents=True)
    header = json.dumps({"w": {"dtype": "U8", "shape": [WEIGHT_BYTES], "data_offsets": [0, WEIGHT_BYTES]}}).encode()
    content = len(header).to_bytes(8, "little") + header + os.urandom(WEIGHT_BYTES)
    (folder / "model.safetensors").write_bytes(content)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
