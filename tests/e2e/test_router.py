"""The installed routers in front of real vLLM: classes that count, models that are woken by a request, real clients."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.cluster import Cluster
from support.endpoint import metric
from support.front_door import client, service_address
from support.kubeapi import MDL
from support.models import simulated, vllm
from support.namespace import Namespace
from support.pools import warm_pool
from support.terminal import Terminal
from warmfleet_api import names

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

START_SECONDS = 300
"""Until a free runner has imported vLLM on two busy cores, which is also what a model lets a request be held."""
WAKE_SECONDS = 60
IDLE_SECONDS = 10
KEY = "sk-of-the-search-team"
KEY_SECONDS = 150
"""Kubelet brings a changed Secret within two minutes."""
ACCEPTED = "warmfleet_queue_accepted_total"


def test_a_request_of_a_critical_tenant_is_critical_at_the_runner(cluster: Cluster, namespace: Namespace) -> None:
    namespace.apply(simulated("searched", priority="Low"))
    namespace.kubectl("create", "secret", "generic", "keys", f"--from-literal=first={KEY}")
    role = "--clusterrole=warmfleet-router-secrets"
    namespace.kubectl("create", "rolebinding", "r", role, "--serviceaccount=warmfleet-system:warmfleet-router")
    tenant = {"secretRef": {"name": "keys"}, "priority": "Critical"}
    body = {"apiVersion": names.API_VERSION, "kind": "Tenant", "metadata": {"name": "search"}, "spec": tenant}
    namespace.api.create(f"{MDL}/namespaces/{namespace.name}/tenants", body)
    namespace.wait_ready("searched")
    namespace.kubectl("wait", "--for=condition=Ready", "tenant/search", "--timeout=240s")
    runner = namespace.runners("searched")[0]

    def is_critical() -> bool:
        ask(cluster, f"{namespace.name}/searched", KEY)
        return metric(runner, ACCEPTED, model="searched", **{"class": "Critical"}) > 0

    namespace.wait("a request counts as Critical", is_critical, KEY_SECONDS)


def test_a_request_for_a_model_without_an_engine_is_held_and_the_start_is_shown(
    cluster: Cluster, namespace: Namespace, models: Path
) -> None:
    """A runner takes most of a minute to come up on two cores, so one start serves all of it."""
    model = vllm("sleeper", f"{models}/tiny-llama", idle={"afterSeconds": IDLE_SECONDS})
    model["spec"]["resources"]["memory"] = "2Gi"
    namespace.apply(warm_pool("default", cpu="100m", memory="6Gi"), model)
    name = f"{namespace.name}/sleeper"
    namespace.wait("it waits", lambda: "pendingStart" in namespace.model("sleeper").get("status", {}))
    assert not namespace.model("sleeper")["status"].get("readyReplicas")

    assert curl(cluster, name)["choices"][0]["message"]["content"]
    namespace.wait("its start is over", lambda: "lastStart" in namespace.model("sleeper")["status"])
    waterfall = Terminal(namespace).shown("starts", "sleeper")
    for stage in ("Queued", "EngineForked", "WeightsLoaded", "Routable"):
        assert stage in waterfall

    # Dormant is said first: until its engine sleeps too, that answers and there is no wake.
    namespace.wait("its engine sleeps", lambda: engine_states(namespace) == ["Asleep"], WAKE_SECONDS)
    with client(f"http://{service_address(cluster)}") as asker:
        assert any(each.id.endswith("sleeper") for each in asker.models.list())
        pieces = asker.completions.create(model=name, prompt="Once upon a time", max_tokens=8, stream=True)
        assert [piece.choices[0].finish_reason for piece in pieces][-1] == "length"
    # The runner wakes the engine itself: the answer may be there before the operator has told of the start.
    namespace.wait("its wake is told", lambda: last_start(namespace) == ("Hot", "Succeeded"))


def engine_states(namespace: Namespace) -> list[str]:
    return [engine["state"] for engine in namespace.model("sleeper")["status"].get("engines", [])]


def last_start(namespace: Namespace) -> tuple[str, str]:
    started = namespace.model("sleeper")["status"]["lastStart"]
    return started["startType"], started["result"]


def ask(cluster: Cluster, model: str, key: str) -> None:
    with client(f"http://{service_address(cluster)}", key) as asker:
        asker.completions.create(model=model, prompt="hello", max_tokens=1)


def curl(cluster: Cluster, model: str) -> Any:
    """Ask as people do who try it out; return the answer."""
    question = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    command = ["curl", "--silent", "--show-error", "--fail-with-body", "--max-time", str(START_SECONDS)]
    command += [f"http://{service_address(cluster)}/v1/chat/completions", "--json", json.dumps(question)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=START_SECONDS + 10)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)
