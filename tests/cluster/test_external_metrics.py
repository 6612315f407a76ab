"""External metrics on a real API server: who is answered what, and whose they are."""

import asyncio
import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kubernetes_validate
import pytest
import yaml

from localcluster.cluster import Cluster as LocalCluster
from localcluster.pki import Pki
from support.cluster import REPOSITORY, Cluster
from support.external_metrics import API, LOOK_SECONDS, REGISTRATION, HostServer, host_server
from support.kubeapi import ApiError
from support.models import simulated
from support.namespace import Namespace
from support.operator import ProxiedOperator
from support.operator_calls import OperatorCalls
from support.waiting import wait_for
from warmfleet_api import names
from warmfleet_external_metrics.certificate import RENEW_BEFORE, VALID
from warmfleet_external_metrics.levels import Levels
from warmfleet_external_metrics.metrics import Metrics
from warmfleet_external_metrics.registration import Registration
from warmfleet_external_metrics.rights import Rights
from warmfleet_external_metrics.server import Server
from warmfleet_kube import credentials as kube_credentials
from warmfleet_kube.client import KubeClient, open_session

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("operator")]

KEDA = {"namespace": "keda", "name": "keda-operator-metrics-apiserver", "port": 443}
RIGHTS = "apis/rbac.authorization.k8s.io/v1"
READER = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"


@pytest.fixture(scope="module")
def served(
    cluster: Cluster, shared_operator: ProxiedOperator, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HostServer]:
    """The server, to which the API server sends its requests."""
    with host_server(cluster, tmp_path_factory.mktemp("external"), shared_operator.api_url("")) as server:
        server.wait_ready()
        yield server


@pytest.fixture
def front_proxy(cluster: Cluster) -> tuple[Path, Path]:
    """The certificate and key that the API server shows to servers behind it."""
    return issued(cluster, "front-proxy-client")


def issued(cluster: Cluster, name: str) -> tuple[Path, Path]:
    """Return a certificate and its key, of the authority that signs those of front proxies."""
    pki = Pki(LocalCluster(cluster.name).files.pki)
    pair = pki.issue(name, name, authority=pki.front_proxy_authority)
    return pair.certificate, pair.key


def metric(namespace: str, selector: str = "", name: str = names.METRIC_DEMAND) -> str:
    """Return the path of a metric."""
    return f"{API}/namespaces/{namespace}/{name}" + (f"?labelSelector={quote(selector)}" if selector else "")


def test_it_is_an_api_of_the_cluster_that_says_in_words_what_it_lacks(cluster: Cluster, served: HostServer) -> None:
    assert cluster.api.request("GET", API)["resources"][0]["name"] == names.METRIC_DEMAND
    listed = cluster.kubectl("get", "--raw", f"/apis/{names.EXTERNAL_METRICS_GROUP}")
    assert json.loads(listed)["preferredVersion"]["version"] == names.EXTERNAL_METRICS_VERSION
    for path, status, said in (
        (metric("default", name="queue_length"), 404, "there is no external metric queue_length"),
        (metric("default", "model in llama"), 400, "unreadable label selector"),
    ):
        with pytest.raises(ApiError, match=said) as refusal:
            cluster.api.request("GET", path)
        assert refusal.value.status == status


def test_who_has_no_right_to_a_metric_is_refused_it_by_the_api_server_and_by_the_server(
    cluster: Cluster, namespace: Namespace, served: HostServer, front_proxy: tuple[Path, Path]
) -> None:
    path = metric(namespace.name)
    with pytest.raises(AssertionError, match="forbidden"):
        cluster.kubectl("get", "--raw", f"/{path}", "--as", "erin")
    code, answer = served.ask(path, {"X-Remote-User": "erin"}, front_proxy)
    assert (code, answer["kind"], answer["reason"]) == (403, "Status", "Forbidden")
    assert answer["message"].startswith(f"erin may not list {names.METRIC_DEMAND}.{names.EXTERNAL_METRICS_GROUP}")
    assert served.ask(path, {"X-Remote-User": READER}, front_proxy)[0] == 200
    # Not by `kubectl create role`: the API server shows resources of a new API in its discovery up to a minute later.
    rule = {"apiGroups": [names.EXTERNAL_METRICS_GROUP], "resources": [names.METRIC_DEMAND], "verbs": ["list"]}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "demand"}}
    namespace.api.create(f"{RIGHTS}/namespaces/{namespace.name}/roles", {**role, "rules": [rule]})
    namespace.kubectl("create", "rolebinding", "demand", "--role=demand", "--user=frida")
    # A refusal in the moment before the API server knows of the role is remembered for some seconds.
    wait_for("frida may", lambda: served.ask(path, {"X-Remote-User": "frida"}, front_proxy)[0] == 200, 30)
    assert served.ask(metric("default"), {"X-Remote-User": "frida"}, front_proxy)[0] == 403


def test_without_the_front_proxys_certificate_nobody_is_believed(
    cluster: Cluster, served: HostServer, front_proxy: tuple[Path, Path]
) -> None:
    claimed = {"X-Remote-User": "system:admin", "X-Remote-Group": "system:masters"}
    path = metric("default")
    code, answer = served.ask(path, claimed)
    assert (code, answer["reason"]) == (401, "Unauthorized")
    assert "kubectl get --raw" in answer["message"]
    administrator = LocalCluster(cluster.name).admin
    with pytest.raises((ssl.SSLError, ConnectionError)):
        served.ask(path, claimed, (administrator.certificate, administrator.key))
    code, answer = served.ask(path, claimed, issued(cluster, "somebody-else"))
    assert code == 401
    assert "that of somebody-else, which is no name of the API server's front proxy" in answer["message"]


def test_what_another_serves_is_left_alone_until_it_is_gone(cluster: Cluster, served: HostServer) -> None:
    def registration() -> dict[str, Any]:
        found = cluster.api.get(REGISTRATION)
        return found if found is not None else {}

    ours = registration()["spec"]
    assert ours["service"]["name"] == names.EXTERNAL_METRICS_SERVICE
    role = cluster.api.get(f"{RIGHTS}/clusterroles/{names.EXTERNAL_METRICS_SERVICE}")
    assert role is not None
    assert [each["uid"] for each in registration()["metadata"]["ownerReferences"]] == [role["metadata"]["uid"]]
    cluster.api.merge(REGISTRATION, {"spec": {"service": KEDA, "caBundle": None, "insecureSkipTLSVerify": True}})
    said = "external metrics are served by keda/keda-operator-metrics-apiserver"
    wait_for("it says whose they are", lambda: said in served.ready()[1], LOOK_SECONDS, served.explain)
    assert not served.ready()[0]
    assert registration()["spec"]["service"] == KEDA
    cluster.api.delete(REGISTRATION)
    wait_for("it takes what nobody serves", lambda: served.ready()[0], LOOK_SECONDS, served.explain)
    assert registration()["spec"]["service"] == ours["service"]
    wait_for("it answers", lambda: cluster.api.get(API) is not None, LOOK_SECONDS, served.explain)


def rendered(cluster: Cluster, folder: Path, *components: str, resource: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return what kustomize makes of components beside a resource, by kind and name."""
    there = Path(os.path.relpath(REPOSITORY / "manifests", folder))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [resource or str(there / "base")],
        "components": [str(there / "components" / each) for each in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    found = yaml.safe_load_all(cluster.kubectl("kustomize", str(folder), "--load-restrictor=LoadRestrictionsNone"))
    return {(each["kind"], each["metadata"]["name"]): each for each in found}


def test_keda_scales_a_model_by_the_operators_metric(cluster: Cluster, tmp_path: Path) -> None:
    model = simulated("llama", autoscaling={"policy": "External", "targetRequests": 12, "maxReplicas": 7})
    model["metadata"]["namespace"] = "team"
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    made = rendered(cluster, tmp_path, "keda", resource="model.yaml")[("ScaledObject", "llama")]
    assert made["metadata"]["namespace"] == "team"
    assert made["spec"]["scaleTargetRef"]["name"] == "llama"
    assert (made["spec"]["minReplicaCount"], made["spec"]["maxReplicaCount"]) == (1, 7)
    (trigger,) = made["spec"]["triggers"]
    assert trigger["metadata"]["query"] == f'max({names.METRIC_DEMAND}{{namespace="team",model="llama"}})'
    assert (trigger["metadata"]["threshold"], trigger["metadata"]["ignoreNullValues"]) == ("12", "false")


def test_prometheus_adapter_serves_the_metric_by_its_own_name(cluster: Cluster, tmp_path: Path) -> None:
    made = rendered(cluster, tmp_path, "prometheus", "prometheus-adapter", resource="")
    config = yaml.safe_load(made["ConfigMap", "warmfleet-prometheus-adapter"]["data"]["config.yaml"])
    (rule,) = config["externalRules"]
    assert rule["name"]["as"] == names.METRIC_DEMAND
    assert f'__name__="{names.METRIC_DEMAND}"' in rule["seriesQuery"]
    kubernetes_validate.validate(made["APIService", names.EXTERNAL_METRICS_API], "1.35", strict=True)
    for each in ("operator", "router"):
        monitor = made["PodMonitor", f"warmfleet-{each}"]["spec"]
        pod = made["Deployment", f"warmfleet-{each}"]["spec"]["template"]
        assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]} <= ports


@contextmanager
def demand(namespace: Namespace, operator: ProxiedOperator, model: str, queued: int) -> Iterator[None]:
    """Tell the operator again and again, as a router does, that so many requests are under way."""
    cluster, audience = namespace.cluster, f"--audience={names.TOKEN_AUDIENCE}"
    token = cluster.kubectl("-n", names.SYSTEM_NAMESPACE, "create", "token", "warmfleet-router", audience).strip()
    level = {"namespace": namespace.name, "model": model, "queued": queued}
    calls, ending = OperatorCalls(cluster, operator), threading.Event()

    def tell() -> None:
        while not ending.wait(1.0):
            calls.call("POST", names.PATH_DEMAND, {"router": "of-a-test", "models": [level]}, token)

    thread = threading.Thread(target=tell, name="router")
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


async def test_a_certificate_is_replaced_in_time_and_no_request_fails_meanwhile(
    cluster: Cluster, served: HostServer
) -> None:
    served.kill()
    now = datetime.now(UTC) - VALID + RENEW_BEFORE - timedelta(minutes=1)
    failed: list[str] = []

    async def ask(ending: asyncio.Event) -> int:
        for number in count():
            if ending.is_set():
                return number
            try:
                await asyncio.to_thread(cluster.api.request, "GET", API)
            except ApiError as error:
                failed.append(str(error))
        raise AssertionError("unreachable: counts for ever")

    async def looks() -> str:
        async with asyncio.timeout(LOOK_SECONDS):
            while not await registration.look():  # noqa: ASYNC110 - it looks only when it is told to
                await asyncio.sleep(0.2)
        return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", served.api_port))

    metrics = Metrics()
    credentials = kube_credentials.load(served.environment["WARMFLEET_KUBECONFIG"])
    async with open_session(credentials) as session:
        client = KubeClient(credentials, session, metrics.kube, agent="test")
        levels = Levels("http://127.0.0.1:1", Path("/dev/null"), metrics.operator_failures)
        async with Server(served.api_port, Rights(client), levels, metrics.requests) as server:
            registration = Registration(
                client,
                namespace=names.SYSTEM_NAMESPACE,
                process="of-a-test",
                registered=metrics.registered,
                present=server.present,
                clock=lambda: now,
            )
            former = await looks()
            await asyncio.to_thread(
                wait_for, "it answers", lambda: cluster.api.get(API) is not None, LOOK_SECONDS, lambda: ""
            )
            ending = asyncio.Event()
            asking = asyncio.create_task(ask(ending))
            now = datetime.now(UTC)
            present = await looks()
            ending.set()
            asked = await asking
    served.start()
    served.wait_ready()
    assert present != former
    assert (failed, asked > 0) == ([], True)


def test_while_nobody_answers_replicas_stay_and_autoscaler_and_model_say_why(
    cluster: Cluster, operator: ProxiedOperator, namespace: Namespace, served: HostServer
) -> None:
    model = simulated("alone", autoscaling={"maxReplicas": 3, "targetRequests": 1})
    del model["spec"]["replicas"]
    path = f"apis/autoscaling/v2/namespaces/{namespace.name}/horizontalpodautoscalers/alone"

    def active() -> dict[str, Any]:
        found = (cluster.api.get(path) or {}).get("status", {}).get("conditions", [])
        return next((each for each in found if each["type"] == "ScalingActive"), {})

    served.kill()
    try:
        with demand(namespace, operator, "alone", queued=40):
            namespace.apply(model)
            namespace.wait("its autoscaler says so", lambda: active().get("reason") == "FailedGetExternalMetric")
            said = namespace.wait_condition("alone", "Degraded", "True", "MetricsUnavailable")["message"]
            assert f"served by {names.SYSTEM_NAMESPACE}/{names.EXTERNAL_METRICS_SERVICE}, which does not answer" in said
            assert namespace.model("alone")["spec"].get("replicas", 1) == 1
    finally:
        served.start()
        served.wait_ready()
